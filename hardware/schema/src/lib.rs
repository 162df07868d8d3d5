//! The description of a board: `hardware/<family>/<board>/board.toml`.
//!
//! A file may say `inherit = "../other"` (a folder, relative to its own) and then only what differs: a value
//! replaces the inherited one, a list is added to it. What was written ([`Written`], every key optional) becomes
//! what is meant ([`Board`], complete and checked) in [`load`]. Unknown keys are refused. Reads files, writes none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Name of the file in a board's folder.
pub const FILE_NAME: &str = "board.toml";
/// How many files one board may be made of.
const INHERIT_MAX: usize = 8;
/// Longest kernel command line base; x86 gives 2048 bytes to the whole line.
const CMDLINE_MAX: usize = 1024;

/// A complete, checked board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Board {
    /// Name used in file names and in releases, such as `x86-generic`.
    pub board: String,
    pub arch: Arch,
    pub firmware: Firmware,
    /// Name of the kernel's part in `image/parts.lock.toml`.
    pub kernel_part: String,
    /// What every release of this board passes to the kernel, before the builder's own words.
    pub cmdline: String,
    /// Name of the boot loader's part.
    pub boot_part: String,
    /// Name of the part that holds the static `e2fsck`.
    pub fsck_part: String,
    /// Names of the parts that hold what encrypts the state partition, and its libraries. None: it cannot be encrypted.
    pub encryption_parts: Vec<String>,
    /// Names of the parts that hold iwd, its libraries and the radio rules of countries. None: no Wi-Fi.
    pub wifi_parts: Vec<String>,
    pub initramfs: ModuleSet,
    pub root: ModuleSet,
}

/// Kernel modules for one place. Names have underscores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModuleSet {
    /// Modules to ship, besides what they depend on; loaded when a device asks for them.
    pub modules: Vec<String>,
    /// Those loaded, if a device asks for them, before all others. Each is also in `modules`.
    pub first: Vec<String>,
    /// Those loaded at every boot. Each is also in `modules`.
    pub load_always: Vec<String>,
    /// What modules do not say of themselves, by their names.
    pub more: BTreeMap<String, More>,
}

/// Added to what a module says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct More {
    /// Modules to load before it: those that the kernel would ask `modprobe` for, of which there is none.
    pub depends: Vec<String>,
    /// Devices that ask for it.
    pub aliases: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    #[serde(rename = "x86_64")]
    X86_64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    Uefi,
}

#[derive(Debug, Error)]
pub enum BoardError {
    #[error("cannot read board file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("board file {} is not valid:\n{source}", path.display())]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("board file {}: key `{key}` is missing (here and in what it inherits)", path.display())]
    Missing { path: PathBuf, key: &'static str },
    #[error("board file {}: key `{key}`: {reason}", path.display())]
    Value { path: PathBuf, key: &'static str, reason: String },
    #[error("board file {}: key `inherit`: more than {INHERIT_MAX} files in a row; is there a circle?", path.display())]
    TooDeep { path: PathBuf },
    #[error("no board `{name}` below {}; there are: {known}", path.display())]
    Unknown { name: String, path: PathBuf, known: String },
}

/// Reads the board described in `folder`, with everything that it inherits.
pub fn load(folder: &Path) -> Result<Board, BoardError> {
    let mut written = Written::default();
    let mut folder = folder.to_path_buf();
    let first = folder.join(FILE_NAME);
    for _ in 0..INHERIT_MAX {
        let file = folder.join(FILE_NAME);
        let mut parent = read(&file)?;
        let inherit = parent.inherit.take();
        written = written.over(parent);
        match inherit {
            None => return written.finish(&first),
            Some(other) => folder = folder.join(other),
        }
    }
    Err(BoardError::TooDeep { path: first })
}

/// Finds the board called `name` among `hardware/<family>/<board>/board.toml` and loads it.
pub fn find(hardware: &Path, name: &str) -> Result<Board, BoardError> {
    let folders = board_folders(hardware)?;
    let mut known = BTreeSet::new();
    for folder in folders {
        let board = load(&folder)?;
        if board.board == name {
            return Ok(board);
        }
        known.insert(board.board);
    }
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    Err(BoardError::Unknown { name: name.to_owned(), path: hardware.to_path_buf(), known })
}

/// All folders `hardware/<family>/<board>` that hold a board, sorted.
pub fn board_folders(hardware: &Path) -> Result<Vec<PathBuf>, BoardError> {
    let mut folders = Vec::new();
    for family in sub_folders(hardware)? {
        folders.extend(sub_folders(&family)?.into_iter().filter(|folder| folder.join(FILE_NAME).is_file()));
    }
    folders.sort();
    Ok(folders)
}

fn sub_folders(folder: &Path) -> Result<Vec<PathBuf>, BoardError> {
    let failed = |source| BoardError::Read { path: folder.to_path_buf(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Written, BoardError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| BoardError::Read { path: file.to_path_buf(), source })?;
    toml::from_str(&text)
        .map_err(|source| BoardError::Syntax { path: file.to_path_buf(), source: Box::new(source) })
}

/// One file as written. Absent keys come from the inherited file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    inherit: Option<String>,
    board: Option<String>,
    arch: Option<Arch>,
    firmware: Option<Firmware>,
    #[serde(default)]
    kernel: WrittenKernel,
    #[serde(default)]
    boot: WrittenPart,
    #[serde(default)]
    fsck: WrittenPart,
    #[serde(default)]
    encryption: WrittenParts,
    #[serde(default)]
    wifi: WrittenParts,
    #[serde(default)]
    initramfs: WrittenModules,
    #[serde(default)]
    root: WrittenModules,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKernel {
    part: Option<String>,
    cmdline: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPart {
    part: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenParts {
    #[serde(default)]
    parts: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenModules {
    #[serde(default)]
    modules: Vec<String>,
    #[serde(default)]
    first: Vec<String>,
    #[serde(default)]
    load_always: Vec<String>,
    #[serde(default)]
    more: BTreeMap<String, More>,
}

impl Written {
    /// This file on top of the one that it inherits.
    fn over(self, parent: Written) -> Written {
        Written {
            inherit: None,
            board: self.board.or(parent.board),
            arch: self.arch.or(parent.arch),
            firmware: self.firmware.or(parent.firmware),
            kernel: WrittenKernel {
                part: self.kernel.part.or(parent.kernel.part),
                cmdline: self.kernel.cmdline.or(parent.kernel.cmdline),
            },
            boot: WrittenPart { part: self.boot.part.or(parent.boot.part) },
            fsck: WrittenPart { part: self.fsck.part.or(parent.fsck.part) },
            encryption: WrittenParts { parts: joined(parent.encryption.parts, self.encryption.parts) },
            wifi: WrittenParts { parts: joined(parent.wifi.parts, self.wifi.parts) },
            initramfs: self.initramfs.over(parent.initramfs),
            root: self.root.over(parent.root),
        }
    }

    fn finish(self, file: &Path) -> Result<Board, BoardError> {
        let missing = |key| BoardError::Missing { path: file.to_path_buf(), key };
        let invalid = |key, reason| BoardError::Value { path: file.to_path_buf(), key, reason };
        let board = self.board.ok_or_else(|| missing("board"))?;
        check_board_name(&board).map_err(|reason| invalid("board", reason))?;
        let cmdline = self.kernel.cmdline.ok_or_else(|| missing("kernel.cmdline"))?;
        check_cmdline(&cmdline).map_err(|reason| invalid("kernel.cmdline", reason))?;
        let initramfs = self.initramfs.finish().map_err(|reason| invalid("initramfs", reason))?;
        let root = self.root.finish().map_err(|reason| invalid("root", reason))?;
        Ok(Board {
            board,
            arch: self.arch.ok_or_else(|| missing("arch"))?,
            firmware: self.firmware.ok_or_else(|| missing("firmware"))?,
            kernel_part: self.kernel.part.ok_or_else(|| missing("kernel.part"))?,
            cmdline,
            boot_part: self.boot.part.ok_or_else(|| missing("boot.part"))?,
            fsck_part: self.fsck.part.ok_or_else(|| missing("fsck.part"))?,
            encryption_parts: self.encryption.parts,
            wifi_parts: self.wifi.parts,
            initramfs,
            root,
        })
    }
}

impl WrittenModules {
    fn over(self, parent: WrittenModules) -> WrittenModules {
        WrittenModules {
            modules: joined(parent.modules, self.modules),
            first: joined(parent.first, self.first),
            load_always: joined(parent.load_always, self.load_always),
            more: parent.more.into_iter().chain(self.more).collect(),
        }
    }

    fn finish(self) -> Result<ModuleSet, String> {
        let more = self.more.iter().flat_map(|(name, more)| more.depends.iter().chain([name]));
        for name in self.modules.iter().chain(&self.first).chain(&self.load_always).chain(more) {
            check_module_name(name)?;
        }
        for (key, names) in [("first", &self.first), ("load_always", &self.load_always)] {
            if let Some(name) = names.iter().find(|name| !self.modules.contains(name)) {
                return Err(format!("`{name}` is in {key} but not in modules"));
            }
        }
        let WrittenModules { modules, first, load_always, more } = self;
        let set = ModuleSet { modules, first, load_always, more };
        let unique: BTreeSet<_> = set.modules.iter().collect();
        if unique.len() != set.modules.len() {
            return Err("a module is listed twice".to_owned());
        }
        Ok(set)
    }
}

fn joined(mut first: Vec<String>, then: Vec<String>) -> Vec<String> {
    first.extend(then);
    first
}

fn check_board_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 32 || !name.chars().all(good) {
        return Err(format!("`{name}` is not 1 to 32 lower-case letters, digits and hyphens"));
    }
    Ok(())
}

fn check_module_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        return Err(format!("`{name}` is not a module name (letters, digits, underscores; no hyphens)"));
    }
    Ok(())
}

fn check_cmdline(line: &str) -> Result<(), String> {
    if line.len() > CMDLINE_MAX {
        return Err(format!("{} bytes are too long, at most {CMDLINE_MAX}", line.len()));
    }
    if !line.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return Err("only printable ASCII is allowed".to_owned());
    }
    if line.split(' ').any(|word| word.starts_with("macula.")) {
        return Err("words starting with `macula.` belong to the builder".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "board = 'b'\narch = 'x86_64'\nfirmware = 'uefi'\n[kernel]\npart = 'k'\ncmdline = 'panic=5'\n\
        [boot]\npart = 'l'\n[fsck]\npart = 'f'\n[initramfs]\nmodules = ['erofs']\nload_always = ['erofs']\n";

    #[test]
    fn the_boards_of_this_tree_are_valid() {
        let hardware = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let board = find(&hardware, "x86-generic").unwrap();
        assert!(board.initramfs.load_always.contains(&"erofs".to_owned()));
        let error = find(&hardware, "toaster").unwrap_err().to_string();
        assert!(error.contains("toaster") && error.contains("x86-generic"), "{error}");
    }

    #[test]
    fn a_variant_says_only_what_differs() {
        let dir = boards(&[
            ("base", FULL),
            ("kid", "inherit = '../base'\nboard = 'kid'\n[initramfs]\nmodules = ['nvme']\n"),
        ]);
        let board = load(&dir.path().join("kid")).unwrap();
        assert_eq!(board.board, "kid");
        assert_eq!(board.cmdline, "panic=5");
        assert_eq!(board.initramfs.modules, ["erofs", "nvme"]);
    }

    #[test]
    fn errors_name_file_and_key() {
        for (text, wanted) in [
            ("bord = 'x'", "bord"),
            ("board = 'x'", "kernel.cmdline"),
            (&FULL.replace("panic=5", "macula.verity=0"), "macula."),
            (&FULL.replace("['erofs']", "['nvme-core']"), "nvme-core"),
            (&FULL.replace("modules = ['erofs']", "modules = []"), "load_always"),
            (&FULL.replace("load_always = ['erofs']", "first = ['i6300esb']"), "first"),
            (&FULL.replace("board = 'b'", "board = 'a b'"), "board"),
            (&format!("{FULL}[initramfs.more.erofs]\ndepends = ['lib-crc']\n"), "lib-crc"),
            (&format!("{FULL}[initramfs.more.erofs]\nneeds = ['crc']\n"), "needs"),
            ("inherit = '.'", "circle"),
            ("inherit = '../nowhere'", "nowhere"),
        ] {
            let dir = boards(&[("it", text)]);
            let error = load(&dir.path().join("it")).unwrap_err().to_string();
            assert!(error.contains("board.toml") && error.contains(wanted), "{text}\n-> {error}");
        }
    }

    fn boards(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join(FILE_NAME), text).unwrap();
        }
        dir
    }
}
