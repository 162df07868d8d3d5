//! Kernel modules: which ones a place gets, and `modules.toml`, which tells PID 1 how to load them.
//!
//! Debian's packages ship no `modules.dep`; what depmod would say is read from each module's `.modinfo` section
//! (`depends=`, `softdep=pre: ...`, `alias=`). A name that is built into the kernel needs no file and is left out.
//! PID 1 reads the same schema from `init/plan`: `first`, `load_always`, and `[[module]]` with `name`, `file`, `depends`
//! (hard and soft alike) and `aliases`. Names have underscores; file names stay as shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hardware_schema::{ModuleSet, More};
use object::{Object, ObjectSection};
use serde::Serialize;

use crate::error::{At, BuildError, Result};

const PACKED: &str = ".xz";
/// Largest module file that is looked at.
const FILE_MAX: u64 = 32 << 20;
/// Where a soft dependency that is no module's name, such as `crypto-crc32c`, is looked for as an alias.
const ALIAS_FOLDERS: [&str; 3] = ["kernel/crypto", "kernel/arch", "kernel/lib"];

/// The modules of one kernel package.
pub struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    root: PathBuf,
    /// Alias to modules, for [`ALIAS_FOLDERS`]; read when first needed.
    aliases: Option<BTreeMap<String, Vec<String>>>,
}

/// How module files are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `.ko.xz`: small; the kernel unpacks it when it is loaded.
    Shipped,
    /// `.ko`: quicker to load, and no larger inside something that is compressed as a whole.
    Unpacked,
}

/// The chosen modules, ready to be written.
pub struct Selection {
    /// Content of `modules.toml`.
    pub toml: String,
    /// File name and content of each module, in the order of the names.
    pub files: Vec<(String, Vec<u8>)>,
}

#[derive(Serialize)]
struct ModulesFile {
    first: Vec<String>,
    load_always: Vec<String>,
    module: Vec<Module>,
}

#[derive(Clone, Serialize)]
struct Module {
    name: String,
    file: String,
    depends: Vec<String>,
    aliases: Vec<String>,
}

impl ModuleTree {
    /// Lists the modules below `root`, the `/usr/lib/modules/<release>` of an unpacked package.
    pub fn open(root: &Path) -> Result<ModuleTree> {
        let mut files = BTreeMap::new();
        collect(root, &mut files)?;
        let list = root.join("modules.builtin");
        let text = std::fs::read_to_string(&list).at("read", &list)?;
        let built_in = text.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(ModuleTree { files, built_in, root: root.to_path_buf(), aliases: None })
    }

    /// The modules of `set` and all that they depend on: as shipped, or unpacked.
    pub fn select(&mut self, set: &ModuleSet, form: Form) -> Result<Selection> {
        let mut chosen = BTreeMap::new();
        let mut contents = Vec::new();
        let mut waiting = Vec::new();
        for name in &set.modules {
            match (self.files.contains_key(name), self.built_in.contains(name)) {
                (true, _) => waiting.push(name.clone()),
                (false, true) => {}
                (false, false) => return Err(unknown(name, "the board asks for it")),
            }
        }
        while let Some(name) = waiting.pop() {
            if chosen.contains_key(&name) {
                continue;
            }
            let (mut module, content) = self.read(&name, form)?;
            if let Some(more) = set.more.get(&name) {
                self.add(&mut module, more)?;
            }
            waiting.extend(module.depends.iter().cloned());
            contents.push((module.file.clone(), content));
            chosen.insert(name, module);
        }
        contents.sort();
        let shipped = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| chosen.contains_key(*name)).cloned().collect()
        };
        let (first, load_always) = (shipped(&set.first), shipped(&set.load_always));
        let file = ModulesFile { first, load_always, module: chosen.into_values().collect() };
        let toml = toml::to_string(&file).map_err(|error| BuildError::Module {
            name: "modules.toml".to_owned(),
            reason: format!("cannot be written as TOML: {error}"),
        })?;
        Ok(Selection { toml, files: contents })
    }

    /// One module with its dependencies resolved to names of modules in this tree.
    fn read(&mut self, name: &str, form: Form) -> Result<(Module, Vec<u8>)> {
        let path = self.files.get(name).ok_or_else(|| unknown(name, "another module needs it"))?.clone();
        let ReadModule { shipped, elf, info } = read_module(name, &path)?;
        let mut depends = BTreeSet::new();
        for wanted in &info.depends {
            if self.files.contains_key(wanted) {
                depends.insert(wanted.clone());
            } else if !self.built_in.contains(wanted) {
                return Err(unknown(wanted, &format!("module `{name}` needs it")));
            }
        }
        for wanted in &info.soft {
            depends.extend(self.resolve_soft(wanted)?);
        }
        depends.remove(name);
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (file, content) = match form {
            Form::Shipped => (file, shipped),
            Form::Unpacked => (file.trim_end_matches(PACKED).to_owned(), elf),
        };
        let depends = depends.into_iter().collect();
        Ok((Module { name: name.to_owned(), file, depends, aliases: info.aliases }, content))
    }

    /// What the board says of a module beyond what it says of itself.
    fn add(&self, module: &mut Module, more: &More) -> Result<()> {
        for wanted in &more.depends {
            match (self.files.contains_key(wanted), self.built_in.contains(wanted)) {
                (true, _) => module.depends.push(wanted.clone()),
                (false, true) => {}
                (false, false) => {
                    return Err(unknown(wanted, &format!("the board wants it with `{}`", module.name)));
                }
            }
        }
        module.aliases.extend(more.aliases.iter().cloned());
        for list in [&mut module.depends, &mut module.aliases] {
            list.sort();
            list.dedup();
        }
        Ok(())
    }

    /// A soft dependency may be a name or an alias, and may lead nowhere.
    fn resolve_soft(&mut self, wanted: &str) -> Result<Vec<String>> {
        let name = canonical(wanted);
        if self.files.contains_key(&name) {
            return Ok(vec![name]);
        }
        if self.built_in.contains(&name) {
            return Ok(Vec::new());
        }
        if self.aliases.is_none() {
            self.aliases = Some(self.read_aliases()?);
        }
        let known = self.aliases.as_ref().and_then(|aliases| aliases.get(wanted));
        Ok(known.cloned().unwrap_or_default())
    }

    fn read_aliases(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let folders = ALIAS_FOLDERS.map(|folder| self.root.join(folder));
        let mut aliases: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, path) in &self.files {
            if folders.iter().any(|folder| path.starts_with(folder)) {
                for alias in read_module(name, path)?.info.aliases {
                    aliases.entry(alias).or_default().push(name.clone());
                }
            }
        }
        Ok(aliases)
    }
}

/// A module's file as shipped, unpacked, and what it says.
struct ReadModule {
    shipped: Vec<u8>,
    elf: Vec<u8>,
    info: Info,
}

/// What a module says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    depends: Vec<String>,
    soft: Vec<String>,
    aliases: Vec<String>,
}

fn read_module(name: &str, path: &Path) -> Result<ReadModule> {
    let failed = |reason: String| BuildError::Module { name: name.to_owned(), reason };
    let size = std::fs::metadata(path).at("read", path)?.len();
    if size > FILE_MAX {
        return Err(failed(format!("{} is {size} bytes, more than {FILE_MAX}", path.display())));
    }
    let shipped = std::fs::read(path).at("read", path)?;
    let mut elf = Vec::new();
    if path.to_string_lossy().ends_with(PACKED) {
        lzma_rs::xz_decompress(&mut shipped.as_slice(), &mut elf)
            .map_err(|error| failed(format!("cannot unpack {}: {error:?}", path.display())))?;
    } else {
        elf.extend_from_slice(&shipped);
    }
    let file =
        object::File::parse(elf.as_slice()).map_err(|error| failed(format!("no ELF file: {error}")))?;
    let section =
        file.section_by_name(".modinfo").ok_or_else(|| failed("has no .modinfo section".to_owned()))?;
    let data = section.data().map_err(|error| failed(format!(".modinfo cannot be read: {error}")))?;
    let info = parse_info(data);
    Ok(ReadModule { shipped, elf, info })
}

fn parse_info(data: &[u8]) -> Info {
    let mut info = Info::default();
    for line in data.split(|byte| *byte == 0) {
        let line = String::from_utf8_lossy(line);
        match line.split_once('=') {
            Some(("depends", names)) => {
                info.depends = names.split(',').filter(|n| !n.is_empty()).map(canonical).collect()
            }
            Some(("softdep", text)) => info.soft.extend(soft_before(text)),
            Some(("alias", alias)) => info.aliases.push(alias.to_owned()),
            _ => {}
        }
    }
    info.aliases.sort();
    info.aliases.dedup();
    info
}

/// The names behind `pre:` in `pre: a b post: c`.
fn soft_before(text: &str) -> Vec<String> {
    let mut before = false;
    let mut names = Vec::new();
    for word in text.split_whitespace() {
        match word {
            "pre:" => before = true,
            "post:" => before = false,
            name if before => names.push(name.to_owned()),
            _ => {}
        }
    }
    names
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).at("list", folder)? {
        let entry = entry.at("list", folder)?;
        let path = entry.path();
        if entry.file_type().at("inspect", &path)?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `kernel/drivers/nvme/host/nvme-core.ko.xz` is `nvme_core`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let name = file.strip_suffix(".ko").or_else(|| file.strip_suffix(".ko.xz"))?;
    Some(canonical(name))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn unknown(name: &str, why: &str) -> BuildError {
    let reason = format!("{why}, but the kernel has neither such a module nor is it built in");
    BuildError::Module { name: name.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modinfo_is_read_as_depmod_reads_it() {
        let text = b"license=GPL\0depends=scsi_mod,nvme-core\0softdep=pre: crypto-crc32c a post: late\0alias=fs-ext3\0\
            alias=ext3\0softdep=pre: b\0";
        assert_eq!(
            parse_info(text),
            Info {
                depends: vec!["scsi_mod".into(), "nvme_core".into()],
                soft: vec!["crypto-crc32c".into(), "a".into(), "b".into()],
                aliases: vec!["ext3".into(), "fs-ext3".into()],
            }
        );
        assert_eq!(parse_info(b"depends=\0garbage"), Info::default());
    }

    #[test]
    fn names_come_from_file_names() {
        assert_eq!(module_name(Path::new("kernel/nvme-core.ko.xz")).as_deref(), Some("nvme_core"));
        assert_eq!(module_name(Path::new("kernel/mm/zbud.ko")).as_deref(), Some("zbud"));
        assert_eq!(module_name(Path::new("modules.order")), None);
    }

    #[test]
    fn unknown_names_and_broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("modules.builtin"), "kernel/fs/fat/fat.ko\n").unwrap();
        std::fs::write(dir.path().join("broken-one.ko"), "not an ELF file").unwrap();
        let mut tree = ModuleTree::open(dir.path()).unwrap();
        let set = |name: &str| ModuleSet {
            modules: vec![name.into()],
            first: Vec::new(),
            load_always: vec![name.into()],
            more: BTreeMap::new(),
        };
        let built_in = tree.select(&set("fat"), Form::Unpacked).unwrap();
        assert_eq!(
            (built_in.files.len(), built_in.toml.trim()),
            (0, "first = []\nload_always = []\nmodule = []")
        );
        for name in ["missing", "broken_one"] {
            let error = tree.select(&set(name), Form::Shipped).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
