//! Unified kernel images: systemd's EFI stub with our sections appended.
//!
//! Writes PE32+ as `ukify` does (UAPI specification 5): sections follow each other in memory at multiples of the
//! section alignment, in the file at multiples of the file alignment; `.linux` is the last of the sections that all profiles
//! share and has room for the whole kernel image. Nothing is signed here: `secure_boot` appends
//! its signature to what comes out.

use crate::error::{BuildError, Result};

const SECTION_HEADER: usize = 40;
const INITIALIZED_DATA: u32 = 0x40;
const CODE: u32 = 0x20;
const EXECUTE: u32 = 0x2000_0000;
const READ: u32 = 0x4000_0000;

/// What goes into a UKI besides the stub.
pub struct Uki<'a> {
    /// Text of an os-release file. Must have no `ID=` and no `IMAGE_ID=`: either would make systemd-boot sort
    /// entries by version instead of by file name, and a trial of an older version would never be tried.
    pub os_release: &'a str,
    pub cmdline: &'a str,
    /// The kernel's release, such as `6.12.107+deb13-amd64`.
    pub uname: &'a str,
    pub initrd: &'a [u8],
    pub linux: &'a [u8],
    /// Entries that the boot menu shows, in its order. None: one entry. The first one is what boots by itself.
    pub profiles: &'a [Profile<'a>],
}

/// One entry of the boot menu (UAPI specification 5, "Multi-Profile UKIs"). In systemd-boot 262 the first is called as its
/// file, the others `<file>@<id>`; they follow their file's first entry, whatever the file's place.
pub struct Profile<'a> {
    /// One word.
    pub id: &'a str,
    /// Shown behind the name of the OS.
    pub title: Option<&'a str>,
    /// Instead of the UKI's.
    pub cmdline: Option<&'a str>,
}

impl Profile<'_> {
    fn text(&self) -> String {
        let title = self.title.map_or(String::new(), |title| format!("TITLE={title}\n"));
        format!("ID={}\n{title}", self.id)
    }
}

/// Builds the UKI's bytes from `stub` (`linuxx64.efi.stub`).
pub fn build(stub: &[u8], uki: &Uki) -> Result<Vec<u8>> {
    if uki.os_release.lines().any(|line| line.starts_with("ID=") || line.starts_with("IMAGE_ID=")) {
        return Err(error("the os-release text must not have ID= or IMAGE_ID="));
    }
    let kernel_memory = Pe::parse(uki.linux)?.size_of_image().max(uki.linux.len() as u32);
    let mut pe = Pe::parse(stub)?;
    pe.trim_to_sections();
    pe.append(".osrel", uki.os_release.as_bytes(), 0, INITIALIZED_DATA | READ)?;
    pe.append(".cmdline", uki.cmdline.as_bytes(), 0, INITIALIZED_DATA | READ)?;
    pe.append(".uname", uki.uname.as_bytes(), 0, INITIALIZED_DATA | READ)?;
    pe.append(".initrd", uki.initrd, 0, INITIALIZED_DATA | READ)?;
    pe.append(".linux", uki.linux, kernel_memory, CODE | EXECUTE | READ)?;
    for profile in uki.profiles {
        pe.append_again(".profile", profile.text().as_bytes(), 0, INITIALIZED_DATA | READ)?;
        if let Some(cmdline) = profile.cmdline {
            pe.append_again(".cmdline", cmdline.as_bytes(), 0, INITIALIZED_DATA | READ)?;
        }
    }
    Ok(pe.bytes)
}

/// A PE32+ file with the places that we read and change. All offsets were checked against its length.
struct Pe {
    bytes: Vec<u8>,
    /// Offset of the COFF header, behind the `PE` signature.
    coff: usize,
    /// Offset of the optional header.
    optional: usize,
    /// Offset of the section table.
    table: usize,
}

/// Offsets in the COFF and in the optional header (Microsoft PE format, "PE32+").
const COUNT: usize = 2;
const OPTIONAL_SIZE: usize = 16;
const INITIALIZED_SIZE: usize = 8;
const SECTION_ALIGN: usize = 32;
const FILE_ALIGN: usize = 36;
const IMAGE_SIZE: usize = 56;
const HEADERS_SIZE: usize = 60;
const CHECK_SUM: usize = 64;
const SECURITY_DIRECTORY: usize = 112 + 4 * 8;

impl Pe {
    fn parse(bytes: &[u8]) -> Result<Pe> {
        let signature = read_u32(bytes, 0x3c)? as usize;
        let word = |offset| read_u32(bytes, offset);
        if !bytes.starts_with(b"MZ") || word(signature)? != 0x4550 {
            return Err(error("stub or kernel is no PE file"));
        }
        let coff = signature + 4;
        let optional = coff + 20;
        if word(optional)? & 0xffff != 0x20b {
            return Err(error("stub or kernel is not PE32+"));
        }
        let table = optional + (word(coff + OPTIONAL_SIZE)? & 0xffff) as usize;
        let pe = Pe { bytes: bytes.to_vec(), coff, optional, table };
        let end = pe.table + pe.count() * SECTION_HEADER;
        if end > bytes.len() || table < optional + SECURITY_DIRECTORY + 8 || pe.count() == 0 {
            return Err(error("PE headers are cut off"));
        }
        let power = |n: u32| n.is_power_of_two() && n <= 1 << 16;
        if !power(pe.field(SECTION_ALIGN)) || !power(pe.field(FILE_ALIGN)) {
            return Err(error("PE alignment is not a small power of two"));
        }
        Ok(pe)
    }

    fn size_of_image(&self) -> u32 {
        self.field(IMAGE_SIZE)
    }

    /// Cuts off what follows the last section: symbols of old stubs.
    fn trim_to_sections(&mut self) {
        let end = (0..self.count())
            .map(|index| self.section(index, 20).saturating_add(self.section(index, 16)))
            .max();
        self.bytes.truncate(end.unwrap_or(0) as usize);
    }

    /// Appends a section that the stub must not have yet.
    fn append(&mut self, name: &str, data: &[u8], memory: u32, flags: u32) -> Result<()> {
        let names: Vec<_> = (0..self.count()).map(|index| self.name(index)).collect();
        if names.iter().any(|other| other == name.as_bytes()) {
            return Err(error(&format!("the stub already has a section {name}")));
        }
        self.append_again(name, data, memory, flags)
    }

    /// Appends a section, also one whose name is there already; in memory it takes `memory` bytes, at least the length of
    /// `data`.
    fn append_again(&mut self, name: &str, data: &[u8], memory: u32, flags: u32) -> Result<()> {
        if self.field(SECURITY_DIRECTORY) != 0 {
            return Err(error("the stub is signed and cannot be changed"));
        }
        let (section_align, file_align) = (self.field(SECTION_ALIGN), self.field(FILE_ALIGN));
        let last = self.count() - 1;
        let header = self.table + self.count() * SECTION_HEADER;
        let first_data =
            (0..=last).map(|index| self.section(index, 20)).filter(|at| *at > 0).min().unwrap_or(0);
        let room = first_data.min(self.field(HEADERS_SIZE));
        if header + SECTION_HEADER > room as usize {
            return Err(error(&format!("no room in the stub's headers for section {name}")));
        }
        let too_big = || error(&format!("section {name} does not fit a PE file"));
        let size = u32::try_from(data.len()).map_err(|_| too_big())?;
        let memory = memory.max(size);
        let address = align(self.section(last, 12).checked_add(self.section(last, 8)), section_align);
        let address = address.ok_or_else(too_big)?;
        let image = align(address.checked_add(memory), section_align).ok_or_else(too_big)?;
        let raw = align(Some(size), file_align).ok_or_else(too_big)?;
        let start = align(u32::try_from(self.bytes.len()).ok(), file_align).ok_or_else(too_big)?;
        let end = start.checked_add(raw).ok_or_else(too_big)?;

        let mut fields = [0; SECTION_HEADER];
        fields[..name.len()].copy_from_slice(name.as_bytes());
        for (at, value) in [(8, memory), (12, address), (16, raw), (20, start), (36, flags)] {
            fields[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        self.bytes[header..header + SECTION_HEADER].copy_from_slice(&fields);
        self.bytes.resize(start as usize, 0);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(end as usize, 0);

        let count = self.count() as u16 + 1;
        self.bytes[self.coff + COUNT..self.coff + COUNT + 2].copy_from_slice(&count.to_le_bytes());
        self.set(INITIALIZED_SIZE, self.field(INITIALIZED_SIZE).wrapping_add(raw));
        self.set(IMAGE_SIZE, image);
        self.set(CHECK_SUM, 0);
        Ok(())
    }

    fn count(&self) -> usize {
        let at = self.coff + COUNT;
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]) as usize
    }

    fn name(&self, index: usize) -> Vec<u8> {
        let at = self.table + index * SECTION_HEADER;
        self.bytes[at..at + 8].iter().copied().take_while(|byte| *byte != 0).collect()
    }

    /// A field of a section's header, by its offset in there.
    fn section(&self, index: usize, field: usize) -> u32 {
        read_u32(&self.bytes, self.table + index * SECTION_HEADER + field).unwrap_or(0)
    }

    /// A field of the optional header, by its offset in there.
    fn field(&self, field: usize) -> u32 {
        read_u32(&self.bytes, self.optional + field).unwrap_or(0)
    }

    fn set(&mut self, field: usize, value: u32) {
        let at = self.optional + field;
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

fn align(n: Option<u32>, unit: u32) -> Option<u32> {
    n?.checked_next_multiple_of(unit)
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32> {
    let slice =
        at.checked_add(4).and_then(|end| bytes.get(at..end)).ok_or_else(|| error("PE file is cut off"))?;
    Ok(u32::from_le_bytes([slice[0], slice[1], slice[2], slice[3]]))
}

fn error(reason: &str) -> BuildError {
    BuildError::Uki(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfit_stubs_are_refused_with_the_reason() {
        let good = pe();
        type Spoil = fn(&mut Vec<u8>);
        let cases: [(&str, Spoil, &str); 6] = [
            ("no MZ", |pe| pe[0] = 0, "no PE file"),
            ("cut off", |pe| pe.truncate(0x60), "cut off"),
            ("PE32", |pe| pe[OPTIONAL + 1] = 1, "PE32+"),
            ("signed", |pe| pe[OPTIONAL + SECURITY_DIRECTORY] = 1, "signed"),
            ("small headers", |pe| pe[OPTIONAL + HEADERS_SIZE + 1] = 2, "no room"),
            ("doubled", |pe| pe[TABLE..TABLE + 6].copy_from_slice(b".osrel"), "already has"),
        ];
        build(&good, &content("NAME=x\n", &good)).unwrap();
        for (what, spoil, wanted) in cases {
            let mut bad = good.clone();
            spoil(&mut bad);
            let error = build(&bad, &content("NAME=x\n", &good)).err().map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|error| error.contains(wanted)), "{what}: {error:?}");
        }
        assert!(build(&good, &content("ID=x\n", &good)).is_err());
        assert!(build(&good, &content("NAME=x\n", b"no kernel")).is_err());
    }

    fn content<'a>(os_release: &'a str, linux: &'a [u8]) -> Uki<'a> {
        Uki { os_release, cmdline: "c", uname: "u", initrd: b"i", linux, profiles: &[] }
    }

    const OPTIONAL: usize = 0x58;
    const TABLE: usize = OPTIONAL + 240;

    /// Headers of 1024 bytes and one section of 512.
    fn pe() -> Vec<u8> {
        let mut bytes = vec![0; 1536];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0, 0x5a4d);
        put(0x3c, 0x40);
        put(0x40, 0x4550);
        put(0x44, 0x1_8664);
        put(0x54, 240);
        put(OPTIONAL, 0x20b);
        put(OPTIONAL + SECTION_ALIGN, 4096);
        put(OPTIONAL + FILE_ALIGN, 512);
        put(OPTIONAL + IMAGE_SIZE, 8192);
        put(OPTIONAL + HEADERS_SIZE, 1024);
        for (at, value) in [(8, 512), (12, 4096), (16, 512), (20, 1024)] {
            put(TABLE + at, value);
        }
        bytes
    }
}
