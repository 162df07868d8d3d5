//! Kernel modules for the devices that are there.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use init_plan::cmdline::module_parameters;
use init_plan::modules::{Catalogue, FILE_BYTES_MAX, canonical};

use crate::console::say;
use crate::sys::files::read_bounded;
use crate::sys::module;

const DEVICES: &str = "/sys/devices";
const DEPTH_MAX: usize = 32;
/// Far more aliases than a machine has; the rest is left alone.
const ALIASES_MAX: usize = 32_768;

#[derive(Default)]
pub struct Drivers {
    /// The kernel's, which holds parameters for modules, too.
    command_line: String,
    folder: PathBuf,
    catalogue: Catalogue,
    /// Canonical names of modules that were inserted, or refused for good.
    tried: BTreeSet<String>,
    aliases: HashSet<String>,
}

impl Drivers {
    /// Takes a new set of modules, from the initramfs or from the root. What the earlier set inserted stays known.
    pub fn adopt(&mut self, list: &Path, folder: &Path) -> Result<()> {
        let text =
            read_bounded(list, FILE_BYTES_MAX).with_context(|| format!("cannot read {}", list.display()))?;
        self.catalogue = Catalogue::parse(&text)?;
        self.folder = folder.to_owned();
        self.aliases.clear();
        self.command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        Ok(())
    }

    /// Inserts the watchdogs' drivers that devices ask for, and no other. One of them may make the device that asks for
    /// the next.
    pub fn plug_first(&mut self) {
        for _ in 0..self.catalogue.first_count() {
            let mut found = Vec::new();
            collect_aliases(Path::new(DEVICES), 0, &mut found);
            let first = found.iter().flat_map(|alias| self.catalogue.matching_first(alias));
            let wanted: BTreeSet<String> = first.map(str::to_owned).collect();
            let before = self.tried.len();
            self.insert(&wanted.into_iter().collect::<Vec<_>>());
            if self.tried.len() == before {
                break;
            }
        }
    }

    /// Inserts what every machine wants.
    pub fn plug_always(&mut self) {
        let always: Vec<String> = self.catalogue.load_always().map(str::to_owned).collect();
        self.insert(&always);
    }

    /// Inserts modules that no device asks for, by their canonical names.
    pub fn plug_named(&mut self, names: &[&str]) {
        self.insert(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    }

    /// Inserts drivers for every device in sysfs that has not been looked at yet.
    pub fn coldplug(&mut self) {
        let mut found = Vec::new();
        collect_aliases(Path::new(DEVICES), 0, &mut found);
        self.for_aliases(found);
    }

    /// How many modules this boot has dealt with.
    pub fn count(&self) -> usize {
        self.tried.len()
    }

    /// Inserts drivers for one new device.
    pub fn hotplug(&mut self, modalias: String) {
        self.for_aliases(vec![modalias]);
    }

    fn for_aliases(&mut self, found: Vec<String>) {
        let mut wanted = Vec::new();
        for alias in found {
            if self.aliases.len() < ALIASES_MAX && !self.aliases.contains(&alias) {
                wanted.extend(self.catalogue.matching(&alias).map(str::to_owned));
                self.aliases.insert(alias);
            }
        }
        self.insert(&wanted);
    }

    fn insert(&mut self, wanted: &[String]) {
        let order = self.catalogue.load_order(wanted.iter().map(String::as_str), &self.tried);
        let order: Vec<(String, String)> =
            order.into_iter().map(|m| (m.name.clone(), m.file.clone())).collect();
        for (name, file) in order {
            let parameters = module_parameters(&self.command_line, &name);
            match module::insert(&self.folder.join(&file), &parameters) {
                Ok(()) => {}
                // ENODEV is how a driver says that its hardware is not there.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => {}
                Err(error) => say(&format!("module {name} ({file}) was not inserted: {error}")),
            }
            self.tried.insert(canonical(&name));
        }
    }
}

/// Contents of every `modalias` below `folder`; links are not followed, so it ends.
fn collect_aliases(folder: &Path, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < DEPTH_MAX {
            collect_aliases(&entry.path(), depth + 1, found);
        } else if kind.is_file() && entry.file_name() == "modalias" && found.len() < ALIASES_MAX {
            found.extend(fs::read_to_string(entry.path()).ok().map(|text| text.trim().to_owned()));
        }
    }
}
