//! `modules.toml`: the kernel modules an image carries, and which of them a machine wants.
//!
//! ```toml
//! first = ["i6300esb"]
//! load_always = ["efivarfs"]
//!
//! [[module]]
//! name = "virtio_blk"
//! file = "virtio_blk.ko.xz"
//! depends = []
//! aliases = ["virtio:d00000002v*"]
//! ```
//!
//! `depends` holds hard and soft dependencies alike: the builder has put both in, so nothing is looked up at run time.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::glob;

/// Largest accepted `modules.toml`.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
const MODULES_MAX: usize = 4096;
const ALIASES_MAX: usize = 65_536;

/// One module, as written by the image builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// As in `/proc/modules`; `-` and `_` mean the same.
    pub name: String,
    /// File name in the modules folder, ending in `.ko` or `.ko.xz`.
    pub file: String,
    /// Names of modules that must be loaded before.
    #[serde(default)]
    pub depends: Vec<String>,
    /// Globs over modaliases.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// The file's form.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModulesFile {
    /// Watchdogs: inserted before all others, where a device asks for them.
    #[serde(default)]
    pub first: Vec<String>,
    #[serde(default)]
    pub load_always: Vec<String>,
    #[serde(default, rename = "module")]
    pub modules: Vec<Module>,
}

/// A checked `modules.toml`: every name resolves, no cycle, nothing out of bounds.
#[derive(Debug, Default, Clone)]
pub struct Catalogue {
    first: BTreeSet<String>,
    load_always: Vec<String>,
    modules: BTreeMap<String, Module>,
}

#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    #[error("modules.toml does not parse: {0}")]
    Syntax(#[from] toml::de::Error),
    #[error("modules.toml holds {0}, more than an image can have")]
    TooMany(&'static str),
    #[error("modules.toml names {0:?} twice")]
    Doubled(String),
    #[error("modules.toml: module {module:?} has the file name {file:?}; expected <name>.ko or <name>.ko.xz")]
    BadFile { module: String, file: String },
    #[error("modules.toml: {by:?} needs {module:?}, which it does not hold")]
    Unknown { by: String, module: String },
    #[error("modules.toml: dependency cycle through {0:?}")]
    Cycle(String),
}

impl Catalogue {
    pub fn parse(text: &str) -> Result<Catalogue, ModulesError> {
        Catalogue::new(toml::from_str(text)?)
    }

    pub fn new(file: ModulesFile) -> Result<Catalogue, ModulesError> {
        if file.modules.len() > MODULES_MAX {
            return Err(ModulesError::TooMany("modules"));
        }
        if file.modules.iter().map(|module| module.aliases.len()).sum::<usize>() > ALIASES_MAX {
            return Err(ModulesError::TooMany("aliases"));
        }
        let mut modules = BTreeMap::new();
        for module in file.modules {
            check_file(&module)?;
            let name = canonical(&module.name);
            if modules.insert(name.clone(), module).is_some() {
                return Err(ModulesError::Doubled(name));
            }
        }
        let load_always = file.load_always.iter().map(|name| canonical(name)).collect();
        let first = file.first.iter().map(|name| canonical(name)).collect();
        let catalogue = Catalogue { first, load_always, modules };
        catalogue.check_names()?;
        catalogue.visit_all()?;
        Ok(catalogue)
    }

    /// Names to load whatever the hardware is.
    pub fn load_always(&self) -> impl Iterator<Item = &str> {
        self.load_always.iter().map(String::as_str)
    }

    /// Names of the modules that claim `modalias`.
    pub fn matching<'a>(&'a self, modalias: &'a str) -> impl Iterator<Item = &'a str> {
        let claims = move |module: &Module| module.aliases.iter().any(|alias| glob::matches(alias, modalias));
        self.modules.iter().filter(move |(_, module)| claims(module)).map(|(name, _)| name.as_str())
    }

    /// Of those, the ones that go before all others.
    pub fn matching_first<'a>(&'a self, modalias: &'a str) -> impl Iterator<Item = &'a str> {
        self.matching(modalias).filter(|name| self.first.contains(*name))
    }

    /// How many modules may go before all others.
    pub fn first_count(&self) -> usize {
        self.first.len()
    }

    /// The modules to insert for `wanted`, dependencies first, without those in `loaded` (canonical names, `_` for
    /// `-`). Unknown names are left out: the machine may know devices that the image has no driver for.
    pub fn load_order<'a>(
        &'a self,
        wanted: impl IntoIterator<Item = &'a str>,
        loaded: &BTreeSet<String>,
    ) -> Vec<&'a Module> {
        let mut visit = Visit { catalogue: self, done: loaded.clone(), path: Vec::new(), order: Vec::new() };
        for name in wanted {
            // `new` has refused cycles, so a visit cannot fail.
            let _ = visit.module(name);
        }
        visit.order
    }

    fn check_names(&self) -> Result<(), ModulesError> {
        let known = |by: &str, name: &String| match self.modules.contains_key(&canonical(name)) {
            true => Ok(()),
            false => Err(ModulesError::Unknown { by: by.to_owned(), module: name.clone() }),
        };
        self.first.iter().try_for_each(|name| known("first", name))?;
        self.load_always.iter().try_for_each(|name| known("load_always", name))?;
        self.modules
            .values()
            .try_for_each(|module| module.depends.iter().try_for_each(|name| known(&module.name, name)))
    }

    fn visit_all(&self) -> Result<(), ModulesError> {
        let mut visit = Visit { catalogue: self, done: BTreeSet::new(), path: Vec::new(), order: Vec::new() };
        self.modules.keys().try_for_each(|name| visit.module(name))
    }
}

/// The one form of a module's name: `-` becomes `_`, as in `/proc/modules`.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn check_file(module: &Module) -> Result<(), ModulesError> {
    let plain = !module.file.contains('/') && !module.file.starts_with('.') && module.file.len() < 256;
    match plain && (module.file.ends_with(".ko") || module.file.ends_with(".ko.xz")) {
        true => Ok(()),
        false => Err(ModulesError::BadFile { module: module.name.clone(), file: module.file.clone() }),
    }
}

/// Depth-first walk; `path` is the way down, so that a cycle ends in an error and depth is bounded by the modules.
struct Visit<'a> {
    catalogue: &'a Catalogue,
    done: BTreeSet<String>,
    path: Vec<String>,
    order: Vec<&'a Module>,
}

impl Visit<'_> {
    fn module(&mut self, name: &str) -> Result<(), ModulesError> {
        let name = canonical(name);
        if self.done.contains(&name) {
            return Ok(());
        }
        if self.path.contains(&name) {
            return Err(ModulesError::Cycle(name));
        }
        let Some(module) = self.catalogue.modules.get(&name) else { return Ok(()) };
        self.path.push(name.clone());
        let outcome = module.depends.iter().try_for_each(|dependency| self.module(dependency));
        self.path.pop();
        outcome?;
        self.done.insert(name);
        self.order.push(module);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        first = ["i6300esb"]
        load_always = ["dm-verity"]
        [[module]]
        name = "dm-verity"
        file = "dm-verity.ko.xz"
        depends = ["dm-bufio", "reed_solomon", "dm_mod"]
        [[module]]
        name = "dm_bufio"
        file = "dm-bufio.ko.xz"
        depends = ["dm-mod"]
        [[module]]
        name = "dm-mod"
        file = "dm-mod.ko.xz"
        [[module]]
        name = "reed_solomon"
        file = "reed_solomon.ko"
        [[module]]
        name = "virtio_blk"
        file = "virtio_blk.ko.xz"
        aliases = ["virtio:d00000002v*"]
        [[module]]
        name = "i6300esb"
        file = "i6300esb.ko.xz"
        aliases = ["pci:v00008086d000025ABsv*"]
    "#;

    fn names(modules: Vec<&Module>) -> Vec<&str> {
        modules.into_iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let catalogue = Catalogue::parse(FILE).unwrap();
        let order = catalogue.load_order(catalogue.load_always(), &BTreeSet::new());
        assert_eq!(names(order), ["dm-mod", "dm_bufio", "reed_solomon", "dm-verity"]);
        let loaded = BTreeSet::from(["dm_mod".to_owned(), "dm_bufio".to_owned()]);
        assert_eq!(
            names(catalogue.load_order(["dm_verity", "not-here"], &loaded)),
            ["reed_solomon", "dm-verity"]
        );
    }

    #[test]
    fn aliases_find_their_module() {
        let catalogue = Catalogue::parse(FILE).unwrap();
        assert_eq!(catalogue.matching("virtio:d00000002v00001AF4").collect::<Vec<_>>(), ["virtio_blk"]);
        assert_eq!(catalogue.matching("pci:v00001AF4").count(), 0);
    }

    #[test]
    fn only_what_goes_first_is_found_first() {
        let catalogue = Catalogue::parse(FILE).unwrap();
        assert_eq!(catalogue.matching_first("pci:v00008086d000025ABsv1").collect::<Vec<_>>(), ["i6300esb"]);
        assert_eq!(catalogue.matching_first("virtio:d00000002v00001AF4").count(), 0);
    }

    #[test]
    fn refuses_cycles_strangers_doubles_and_paths() {
        let module = |name: &str, depends: &str| {
            format!("[[module]]\nname=\"{name}\"\nfile=\"{name}.ko\"\ndepends=[{depends}]\n")
        };
        let cycle = Catalogue::parse(&(module("a", "\"b\"") + &module("b", "\"c\"") + &module("c", "\"a\"")));
        assert!(matches!(cycle, Err(ModulesError::Cycle(_))));
        assert!(matches!(Catalogue::parse(&module("a", "\"a\"")), Err(ModulesError::Cycle(_))));
        assert!(matches!(Catalogue::parse(&module("a", "\"z\"")), Err(ModulesError::Unknown { .. })));
        assert!(matches!(Catalogue::parse("load_always=[\"z\"]"), Err(ModulesError::Unknown { .. })));
        assert!(matches!(Catalogue::parse("first=[\"z\"]"), Err(ModulesError::Unknown { .. })));
        assert!(matches!(
            Catalogue::parse(&(module("a-b", "") + &module("a_b", ""))),
            Err(ModulesError::Doubled(_))
        ));
        assert!(matches!(
            Catalogue::parse("[[module]]\nname=\"a\"\nfile=\"../a.ko\""),
            Err(ModulesError::BadFile { .. })
        ));
        assert!(matches!(
            Catalogue::parse("[[module]]\nname=\"a\"\nfile=\"a.ko\"\nsize=1"),
            Err(ModulesError::Syntax(_))
        ));
    }

    #[test]
    fn a_long_chain_loads_in_order() {
        let chain: String = (0..1000)
            .map(|at| {
                format!(
                    "[[module]]\nname=\"m{at}\"\nfile=\"m.ko\"\ndepends=[{}]\n",
                    if at == 999 { String::new() } else { format!("\"m{}\"", at + 1) }
                )
            })
            .collect();
        let catalogue = Catalogue::parse(&chain).unwrap();
        let order = catalogue.load_order(["m0"], &BTreeSet::new());
        assert_eq!((order.len(), order[0].name.as_str()), (1000, "m999"));
    }
}
