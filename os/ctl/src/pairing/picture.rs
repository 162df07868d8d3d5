//! The QR code in a picture: a photograph, a screenshot, a frame of a camera.

use std::io::Cursor;

use anyhow::{Context, Result, bail};
use image::{GrayImage, ImageReader, Limits, imageops};
use pairing_proto::PairCode;

/// Largest file, in bytes, and side, in pixels.
pub const MAX_FILE: u64 = 32 * 1024 * 1024;
const MAX_SIDE: u32 = 12_000;
const MAX_MEMORY: u64 = 512 * 1024 * 1024;
/// A photograph of a screen has more pixels than the reader likes; smaller copies often read better.
const SIDES: [u32; 4] = [u32::MAX, 1600, 1000, 600];

/// The first code of a node in a PNG or JPEG.
pub fn code(bytes: &[u8]) -> Result<PairCode> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let picture = reader.decode().context("the picture is no PNG or JPEG that can be read")?.to_luma8();
    let mut other = false;
    for side in
        SIDES.into_iter().filter(|side| *side == u32::MAX || *side < picture.width().max(picture.height()))
    {
        for text in texts(smaller(&picture, side)) {
            match text.parse() {
                Ok(code) => return Ok(code),
                Err(_) => other = true,
            }
        }
    }
    if other {
        bail!("the QR code in the picture is not that of a node that waits for its owner");
    }
    bail!(
        "there is no QR code to be read in the picture: it should be sharp, straight and whole, with its white edge"
    )
}

fn smaller(picture: &GrayImage, side: u32) -> GrayImage {
    let (width, height) = picture.dimensions();
    let longest = width.max(height);
    if longest <= side {
        return picture.clone();
    }
    let scaled = |length: u32| ((u64::from(length) * u64::from(side) / u64::from(longest)) as u32).max(1);
    imageops::resize(picture, scaled(width), scaled(height), imageops::FilterType::Triangle)
}

/// Dark on light, and light on dark as on a console.
fn texts(picture: GrayImage) -> Vec<String> {
    let mut inverted = picture.clone();
    imageops::invert(&mut inverted);
    [picture, inverted].into_iter().flat_map(decoded).collect()
}

fn decoded(picture: GrayImage) -> Vec<String> {
    let (width, height) = picture.dimensions();
    let pixel = |x: usize, y: usize| picture.get_pixel(x as u32, y as u32).0[0];
    let mut prepared = rqrr::PreparedImage::prepare_from_greyscale(width as usize, height as usize, pixel);
    let grids = prepared.detect_grids();
    grids.iter().filter_map(|grid| grid.decode().ok()).map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Luma};
    use qrcode::{Color, QrCode};

    use super::*;

    const URI: &str = "HTTPS://192.0.2.7:4433/PAIR#K=6WV2MRDXC49DTCC190EB6X4CK4&S=05AFMSY38DJQ";

    /// A picture of a QR code with `scale` pixels to a module, somewhere in a larger one.
    fn picture(text: &str, scale: u32, dark: u8, light: u8) -> GrayImage {
        let qr = QrCode::new(text).unwrap();
        let (side, quiet) = (qr.width() as u32, 4);
        let mut image =
            GrayImage::from_pixel((side + 2 * quiet + 30) * scale, (side + 2 * quiet) * scale, Luma([light]));
        for (n, color) in qr.to_colors().into_iter().enumerate() {
            let (x, y) = (n as u32 % side + quiet, n as u32 / side + quiet);
            if color == Color::Dark {
                for i in 0..scale * scale {
                    image.put_pixel(x * scale + i % scale, y * scale + i / scale, Luma([dark]));
                }
            }
        }
        image
    }

    fn file(image: &GrayImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_code_is_read_from_png_and_jpeg_bright_or_dark_large_or_small() {
        let wanted: PairCode = URI.parse().unwrap();
        for (scale, dark, light) in [(3, 0, 255), (8, 40, 200), (8, 220, 10), (60, 0, 255)] {
            let picture = picture(URI, scale, dark, light);
            for format in [ImageFormat::Png, ImageFormat::Jpeg] {
                assert_eq!(
                    code(&file(&picture, format)).unwrap(),
                    wanted,
                    "{scale} {dark} {light} {format:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_code_is_said_in_words() {
        let said = |bytes: &[u8]| code(bytes).unwrap_err().to_string();
        assert!(said(b"hello").contains("no PNG or JPEG"));
        assert!(said(&file(&GrayImage::new(64, 64), ImageFormat::Png)).contains("no QR code"));
        let other = picture("https://example.org/", 6, 0, 255);
        assert!(said(&file(&other, ImageFormat::Png)).contains("not that of a node"));
    }
}
