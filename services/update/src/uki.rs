//! What a UKI will make the node do: its command line, held against the release that it came with.
//!
//! Source: UAPI Group, "Unified Kernel Image": a PE file whose section `.cmdline` is the kernel command line.

use std::fs::File;

use anyhow::{Context, Result, bail};
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageDosHeader, ImageNtHeaders64};
use object::read::coff::SectionTable;
use object::read::pe::{DataDirectories, ImageNtHeaders};
use object::{LittleEndian, ReadCache, ReadRef};
use os_release::{Release, Role};
use sha2::{Digest, Sha256};

const CMDLINE_MAX: u32 = 16 * 1024;
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
    let words = cmdline(uki).context("the release's UKI")?;
    check_named(&words, release)?;
    let verity = parse_verity(value(&words, "macula.verity")?).context("macula.verity= of the UKI")?;
    if Some(verity.root) != release.artifact(Role::Root).and_then(|a| a.verity_root) {
        bail!("the UKI opens its root with another verity root than the release names");
    }
    Ok(verity)
}

/// Checks that the release's rescue system is this release's and is one. Firmware that accepted the running slot's UKI for its
/// signature would refuse one without, and nothing tries it before the day when it matters.
pub fn check_rescue(rescue: &File, release: &Release, running: &File) -> Result<()> {
    let words = cmdline(rescue)?;
    check_named(&words, release)?;
    if !words.split_ascii_whitespace().any(|word| word == "macula.rescue") {
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

/// The text of the section `.cmdline`.
fn cmdline(uki: &File) -> Result<String> {
    let file = ReadCache::new(uki);
    let pe = Headers::read(&file)?;
    let mut sections = pe.sections.iter();
    let section = sections.find(|section| section.raw_name() == b".cmdline").context("it has no .cmdline")?;
    let (start, len) = section.pe_file_range();
    if len > CMDLINE_MAX {
        bail!("its command line is {len} bytes long");
    }
    let text = (&file).read_bytes_at(start.into(), len.into()).ok().context("it is too short")?;
    Ok(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

/// Whether a PE file has signatures; what they are worth is for the firmware to say.
fn is_signed(file: &File) -> Result<bool> {
    let file = ReadCache::new(file);
    let certificates = Headers::read(&file)?.directories.get(IMAGE_DIRECTORY_ENTRY_SECURITY);
    Ok(certificates.is_some_and(|table| table.size.get(LittleEndian) > 0))
}

/// Of a PE file, without its symbols: they have no use here, and a table of them may ask for much memory.
struct Headers<'data> {
    directories: DataDirectories<'data>,
    sections: SectionTable<'data>,
}

impl<'data> Headers<'data> {
    fn read(file: &'data ReadCache<&File>) -> Result<Self> {
        let mut offset = ImageDosHeader::parse(file)?.nt_headers_offset().into();
        let (headers, directories) = ImageNtHeaders64::parse(file, &mut offset)?;
        Ok(Self { directories, sections: headers.sections(file, offset)? })
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use super::*;

    const NT_AT: usize = 0x40;
    const OPTIONAL_AT: usize = NT_AT + 24;
    const DIRECTORIES_AT: usize = OPTIONAL_AT + 112;
    const SECTIONS_AT: usize = DIRECTORIES_AT + 16 * 8;

    /// The least PE32+ file that has a `.cmdline`.
    pub fn with_cmdline(cmdline: &str) -> Vec<u8> {
        let mut pe = vec![0; 0x200];
        let mut put = |at: usize, bytes: &[u8]| pe[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &[NT_AT as u8]);
        put(NT_AT, b"PE\0\0");
        put(NT_AT + 6, &1u16.to_le_bytes());
        put(NT_AT + 20, &240u16.to_le_bytes());
        put(OPTIONAL_AT, &0x20bu16.to_le_bytes());
        put(OPTIONAL_AT + 108, &16u32.to_le_bytes());
        put(SECTIONS_AT, b".cmdline");
        put(SECTIONS_AT + 8, &(cmdline.len() as u32).to_le_bytes());
        put(SECTIONS_AT + 16, &0x1000u32.to_le_bytes());
        put(SECTIONS_AT + 20, &0x200u32.to_le_bytes());
        pe.extend_from_slice(cmdline.as_bytes());
        pe
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn finds_the_command_line_and_survives_everything_else() {
        let good = with_cmdline("quiet macula.version=1.0.0");
        assert_eq!(cmdline(&file_of(&good)).unwrap(), "quiet macula.version=1.0.0");
        for end in 0..good.len() {
            assert!(cmdline(&file_of(&good[..end])).is_err());
        }
        for at in 0..0x200 {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = cmdline(&file_of(&bad));
        }
    }

    #[test]
    fn a_signature_is_seen_where_there_is_one() {
        let mut pe = with_cmdline("");
        assert!(!is_signed(&file_of(&pe)).unwrap());
        let certificates = DIRECTORIES_AT + 4 * 8;
        (pe[certificates], pe[certificates + 4]) = (0x80, 8);
        assert!(is_signed(&file_of(&pe)).unwrap());
        assert!(is_signed(&file_of(b"MZ")).is_err());
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
