//! What a UKI will make the node do: its command line, held against the release that it came with.
//!
//! Source: UAPI Group, "Unified Kernel Image": a PE file whose section `.cmdline` is the kernel command line.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};
use os_release::{Release, Role};
use sha2::{Digest, Sha256};

const CMDLINE_MAX: usize = 16 * 1024;
const SECTIONS_MAX: usize = 96;
const BLOCK: u64 = 4096;

/// `macula.verity=<root hash>,<salt>,<data blocks>`
#[derive(Debug, PartialEq, Eq)]
pub struct Verity {
    pub root: [u8; 32],
    pub salt: Vec<u8>,
    pub data_blocks: u64,
}

/// Reads the UKI's command line and checks that it boots this release and opens the root that the release names.
pub fn check(uki: &File, release: &Release) -> Result<Verity> {
    let cmdline = section(uki, b".cmdline").context("the release's UKI")?;
    check_named(&cmdline, release)?;
    let verity = parse_verity(value(&cmdline, "macula.verity")?).context("macula.verity= of the UKI")?;
    if Some(verity.root) != release.artifact(Role::Root).and_then(|a| a.verity_root) {
        bail!("the UKI opens its root with another verity root than the release names");
    }
    Ok(verity)
}

/// Checks that the release's rescue system is this release's and is one. Firmware that accepted the running slot's UKI for its
/// signature would refuse one without, and nothing tries it before the day when it matters.
pub fn check_rescue(rescue: &File, release: &Release, running: &File) -> Result<()> {
    let cmdline = section(rescue, b".cmdline")?;
    check_named(&cmdline, release)?;
    if !cmdline.split_ascii_whitespace().any(|word| word == "macula.rescue") {
        bail!("its command line does not say macula.rescue");
    }
    if is_signed(running)? && !is_signed(rescue)? {
        bail!("it is not signed for Secure Boot, as the running system is");
    }
    Ok(())
}

fn check_named(cmdline: &str, release: &Release) -> Result<()> {
    let (version, board) = (value(cmdline, "macula.version")?, value(cmdline, "macula.board")?);
    if version != release.version.to_string() || board != release.board {
        bail!("the UKI is {version} for {board}, the release says {} for {}", release.version, release.board);
    }
    Ok(())
}

fn value<'a>(cmdline: &'a str, key: &str) -> Result<&'a str> {
    let found = cmdline.split_ascii_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
    found.with_context(|| format!("the UKI's command line has no {key}="))
}

/// Checks that the hash tree behind the written root is the one that the verity root names: the root is the hash of
/// the tree's first block. (Everything below it was checked chunk by chunk.)
pub fn check_tree(
    verity: &Verity,
    size: u64,
    read: impl FnOnce(u64, usize) -> Result<Vec<u8>>,
) -> Result<()> {
    let at = verity.data_blocks.checked_mul(BLOCK).filter(|at| at.saturating_add(BLOCK) <= size);
    let at = at.context("the UKI says that the root has more data than the release delivers")?;
    let top = read(at, BLOCK as usize)?;
    let hash = Sha256::new().chain_update(&verity.salt).chain_update(&top).finalize();
    if hash.as_slice() != verity.root {
        bail!("the root's hash tree does not lead to the verity root that the release names");
    }
    Ok(())
}

fn parse_verity(text: &str) -> Result<Verity> {
    let mut parts = text.splitn(3, ',');
    let mut next = || parts.next().context("expected <root hash>,<salt>,<data blocks>");
    let (root, salt, blocks) = (next()?, next()?, next()?);
    Ok(Verity {
        root: unhex(root)?.try_into().ok().context("a root hash is 32 bytes")?,
        salt: unhex(salt)?,
        data_blocks: blocks.parse()?,
    })
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 128 || !text.is_ascii() {
        bail!("not hex: {text:?}");
    }
    let pairs = (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16));
    Ok(pairs.collect::<Result<_, _>>()?)
}

fn read(file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).context("it is too short")?;
    Ok(bytes)
}

fn u32_of(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Where the PE header is, and its first part.
fn header(file: &File) -> Result<(u64, Vec<u8>)> {
    let pe = u64::from(u32_of(&read(file, 0x3c, 4)?, 0));
    let header = read(file, pe, 24)?;
    if &header[..4] != b"PE\0\0" {
        bail!("it is not a PE file");
    }
    Ok((pe, header))
}

/// Whether a PE32+ file has signatures; what they are worth is for the firmware to say.
fn is_signed(file: &File) -> Result<bool> {
    /// Of the certificates' place in the data directory, from the optional header's start (PE32+).
    const CERTIFICATES_AT: u64 = 112 + 4 * 8;
    let (pe, header) = header(file)?;
    let optional_bytes = u64::from(u16::from_le_bytes([header[20], header[21]]));
    if optional_bytes < CERTIFICATES_AT + 8 {
        return Ok(false);
    }
    let place = read(file, pe + 24 + CERTIFICATES_AT, 8)?;
    Ok(u32_of(&place, 4) > 0)
}

/// The text of a PE section.
fn section(file: &File, name: &[u8]) -> Result<String> {
    let (pe, header) = header(file)?;
    let sections = usize::from(u16::from_le_bytes([header[6], header[7]])).min(SECTIONS_MAX);
    let table = pe + 24 + u64::from(u16::from_le_bytes([header[20], header[21]]));
    for row in read(file, table, sections * 40)?.chunks_exact(40) {
        let row_name = row[..8].split(|b| *b == 0).next().unwrap_or_default();
        if row_name == name {
            let len = u32_of(row, 8).min(u32_of(row, 16)) as usize;
            if len > CMDLINE_MAX {
                bail!("its command line is {len} bytes long");
            }
            let text = read(file, u64::from(u32_of(row, 20)), len)?;
            return Ok(String::from_utf8_lossy(&text).trim_end_matches('\0').to_string());
        }
    }
    bail!("it has no section {}", String::from_utf8_lossy(name))
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use super::*;

    /// The least PE file that has a `.cmdline`.
    pub fn with_cmdline(cmdline: &str) -> Vec<u8> {
        let mut pe = vec![0; 0x200];
        pe[0x3c] = 0x40;
        pe[0x40..0x44].copy_from_slice(b"PE\0\0");
        pe[0x46] = 1;
        let row = 0x40 + 24;
        pe[row..row + 8].copy_from_slice(b".cmdline");
        pe[row + 8..row + 12].copy_from_slice(&(cmdline.len() as u32).to_le_bytes());
        pe[row + 16..row + 20].copy_from_slice(&0x1000u32.to_le_bytes());
        pe[row + 20..row + 24].copy_from_slice(&0x200u32.to_le_bytes());
        pe.extend_from_slice(cmdline.as_bytes());
        pe
    }

    fn read_section(bytes: &[u8]) -> Result<String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        section(&file, b".cmdline")
    }

    #[test]
    fn finds_the_command_line_and_survives_everything_else() {
        let good = with_cmdline("quiet macula.version=1.0.0");
        assert_eq!(read_section(&good).unwrap(), "quiet macula.version=1.0.0");
        for end in 0..good.len() {
            assert!(read_section(&good[..end]).is_err());
        }
        for at in 0x3c..0x80 {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = read_section(&bad);
        }
    }

    #[test]
    fn a_signature_is_seen_where_there_is_one() {
        let optional_bytes = 240u16;
        let mut pe = vec![0; 0x200];
        pe[0x3c] = 0x40;
        pe[0x40..0x44].copy_from_slice(b"PE\0\0");
        pe[0x54..0x56].copy_from_slice(&optional_bytes.to_le_bytes());
        let signed = |pe: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(pe).unwrap();
            is_signed(&file)
        };
        assert!(!signed(&pe).unwrap());
        let certificates = 0x40 + 24 + 144;
        pe[certificates + 4] = 8;
        assert!(signed(&pe).unwrap());
        assert!(!signed(&with_cmdline("")).unwrap());
        assert!(signed(b"MZ").is_err());
    }

    #[test]
    fn verity_arguments() {
        let text = format!("{},00ff,12", "ab".repeat(32));
        let verity = parse_verity(&text).unwrap();
        assert_eq!((verity.root, verity.salt, verity.data_blocks), ([0xab; 32], vec![0, 0xff], 12));
        for bad in ["", "ab,cd", "zz,00,1", "ab,00,1", &format!("{},00,-1", "ab".repeat(32))] {
            assert!(parse_verity(bad).is_err(), "{bad}");
        }
    }
}
