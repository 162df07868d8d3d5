//! What the firmware and the boot loader say in UEFI variables, and the one thing we tell them.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use init_plan::cmdline::Developer;
use init_plan::failure::{Booted, booted_entry};
use init_plan::firmware::{GLOBAL_VENDOR, LOADER_VENDOR, decode_flag, decode_text, encode_text};
use init_plan::guid::Guid;
use init_plan::steps::EFIVARS;
use os_slots::SecureBoot;

use crate::console::say;
use crate::sys::files::make_mutable;

/// What was booted and from which ESP: from the boot loader's variables, or, when there are none at all, from the developer's keys on
/// the kernel command line.
pub fn booted(developer: Option<&Developer>) -> Result<(Booted, Guid)> {
    let (selected, counted) = (read("LoaderEntrySelected")?, read("LoaderBootCountPath")?);
    let esp = read("LoaderDevicePartUUID")?;
    if let (None, None, None, Some(developer)) = (&selected, &counted, &esp, developer) {
        say("no boot loader variables: entry and ESP are taken from the kernel command line");
        let booted =
            booted_entry(Some(&developer.entry), Some(&developer.entry)).map_err(|error| anyhow!(error))?;
        return Ok((booted, developer.esp));
    }
    let booted = booted_entry(selected.as_deref(), counted.as_deref()).map_err(|error| anyhow!(error))?;
    let esp =
        esp.context("the boot loader does not say which ESP it was read from (LoaderDevicePartUUID)")?;
    Ok((booted, esp.parse().context("LoaderDevicePartUUID")?))
}

/// Nothing depends on it here: it is for the owner to see.
pub fn secure_boot() -> SecureBoot {
    let flag = |name| decode_flag(&fs::read(format!("{EFIVARS}/{name}-{GLOBAL_VENDOR}")).ok()?);
    SecureBoot::of(flag("SecureBoot"), flag("SetupMode"))
}

/// Makes the boot loader boot this entry once, on the next boot.
pub fn set_one_shot(entry: &str) -> Result<()> {
    let path = path("LoaderEntryOneShot");
    if let Ok(old) = File::open(&path) {
        make_mutable(&old).with_context(|| format!("cannot make {} mutable", path.display()))?;
    }
    // efivarfs takes attributes and data in one write.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    file.write_all(&encode_text(entry)).with_context(|| format!("cannot write {}", path.display()))
}

fn read(name: &str) -> Result<Option<String>> {
    match fs::read(path(name)) {
        Ok(bytes) => decode_text(&bytes).map(Some).map_err(|error| anyhow!("UEFI variable {name} {error}")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read UEFI variable {name}")),
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("{EFIVARS}/{name}-{LOADER_VENDOR}"))
}
