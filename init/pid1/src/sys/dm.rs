//! Device mapper ioctls: `linux/dm-ioctl.h`, interface 4.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;

const HEADER: usize = 312;
/// Header and one target with its parameters.
const BUFFER: usize = 4096;
const TARGET: usize = 40;
const DM_READONLY_FLAG: u32 = 1;
const DEV_CREATE: u64 = 3;
const DEV_REMOVE: u64 = 4;
const DEV_SUSPEND: u64 = 6;
const TABLE_LOAD: u64 = 9;

/// `/dev/mapper/control`.
pub struct Mapper(File);

impl Mapper {
    pub fn open() -> io::Result<Mapper> {
        OpenOptions::new().read(true).write(true).open("/dev/mapper/control").map(Mapper)
    }

    /// Makes a read-only device with one target over `sectors`; returns its device number.
    pub fn create_read_only(
        &self,
        name: &str,
        sectors: u64,
        target: &str,
        parameters: &str,
    ) -> io::Result<u64> {
        let device = self.call(DEV_CREATE, &mut request(name, 0)?)?;
        let mut load = request(name, DM_READONLY_FLAG)?;
        put_target(&mut load, sectors, target, parameters)?;
        let activate = |_| self.call(DEV_SUSPEND, &mut request(name, DM_READONLY_FLAG)?);
        match self.call(TABLE_LOAD, &mut load).and_then(activate) {
            Ok(_) => Ok(device),
            Err(error) => {
                let _ = self.remove(name);
                Err(error)
            }
        }
    }

    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.call(DEV_REMOVE, &mut request(name, 0)?).map(drop)
    }

    /// Returns the `dev` field that the kernel filled in.
    fn call(&self, number: u64, buffer: &mut [u8; BUFFER]) -> io::Result<u64> {
        // _IOWR(0xfd, number, struct dm_ioctl)
        let request = 3 << 30 | (HEADER as u64) << 16 | 0xfd << 8 | number;
        // SAFETY: the buffer is as long as its `data_size` says, and the kernel stays within it.
        let outcome = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, buffer.as_mut_ptr()) };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut device = [0; 8];
        device.copy_from_slice(&buffer[40..48]);
        Ok(u64::from_ne_bytes(device))
    }
}

fn request(name: &str, flags: u32) -> io::Result<[u8; BUFFER]> {
    let mut buffer = [0; BUFFER];
    for (at, value) in [(0, 4), (12, BUFFER as u32), (16, HEADER as u32), (28, flags)] {
        buffer[at..at + 4].copy_from_slice(&u32::to_ne_bytes(value));
    }
    put_text(&mut buffer[48..48 + 128], name)?;
    Ok(buffer)
}

fn put_target(buffer: &mut [u8; BUFFER], sectors: u64, target: &str, parameters: &str) -> io::Result<()> {
    buffer[20..24].copy_from_slice(&1u32.to_ne_bytes());
    let spec = &mut buffer[HEADER..];
    spec[8..16].copy_from_slice(&sectors.to_ne_bytes());
    put_text(&mut spec[24..40], target)?;
    put_text(&mut spec[TARGET..], parameters)
}

/// Copies `text` with a terminating NUL.
fn put_text(place: &mut [u8], text: &str) -> io::Result<()> {
    if text.len() >= place.len() || text.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "text does not fit the device mapper's field",
        ));
    }
    place[..text.len()].copy_from_slice(text.as_bytes());
    debug_assert!(CStr::from_bytes_until_nul(place).is_ok());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_layout() {
        let mut buffer = request("macula-root", DM_READONLY_FLAG).unwrap();
        put_target(&mut buffer, 80, "verity", "1 /dev/vda2").unwrap();
        assert_eq!(buffer[12..20], [0x00, 0x10, 0, 0, 0x38, 0x01, 0, 0]);
        assert_eq!((buffer[20], buffer[28], buffer[320]), (1, 1, 80));
        assert_eq!(&buffer[48..60], b"macula-root\0");
        assert_eq!(&buffer[336..343], b"verity\0");
        assert_eq!(&buffer[352..364], b"1 /dev/vda2\0");
    }

    #[test]
    fn too_long_is_an_error() {
        assert!(request(&"x".repeat(128), 0).is_err());
        assert!(put_target(&mut request("a", 0).unwrap(), 1, "verity", &"x".repeat(BUFFER)).is_err());
        assert!(put_target(&mut request("a", 0).unwrap(), 1, "verity\0", "").is_err());
    }
}
