//! The state partition: checked, grown, and given the owner's configuration.
//!
//! Crash: e2fsck and the kernel's resize are journaled or repeatable; the configuration appears whole and in two copies,
//! and only then is the file on the ESP overwritten and removed; the next boot goes on with that.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use image_layout::PROVISION_FILE;
use init_plan::ext4::{self, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use init_plan::provision;
use init_plan::steps::STATE;
use os_bootloader::esp;
use os_durable::{Form, Found};

use crate::console::say;
use crate::sys::block;
use crate::tool::Tool;

const E2FSCK: &str = "/sbin/e2fsck";
/// A check that takes longer is hanging.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
const CONFIG: &str = "/state/config.toml";
/// Largest configuration that is taken over.
const CONFIG_BYTES_MAX: usize = 64 << 10;

/// Repairs what is safe to repair, then, if that is not enough, everything.
pub fn check(device: &str, feed: &mut dyn FnMut()) -> Result<()> {
    // What was torn was in the middle of something, so everything is looked at.
    let how = if reseal(device)? { "-fp" } else { "-p" };
    match e2fsck(how, device, feed)? {
        0 | 1 => return Ok(()),
        2 => bail!("e2fsck has repaired {device} and wants a reboot"),
        code => say(&format!("e2fsck {how} ended with {code}; repairing {device} without asking")),
    }
    match e2fsck("-y", device, feed)? {
        0 | 1 => Ok(()),
        code => bail!(
            "e2fsck -y cannot repair {device} (exit code {code}); the state partition needs a new file system"
        ),
    }
}

/// Puts the checksum of a superblock right that a power cut has torn between its two sectors. Writes one sector.
fn reseal(device: &str) -> Result<bool> {
    let open = File::options().read(true).write(true).open(device);
    let partition = open.with_context(|| format!("cannot open {device}"))?;
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    partition.read_exact_at(&mut bytes, SUPERBLOCK_AT).with_context(|| format!("cannot read {device}"))?;
    let Some((at, seal)) = ext4::reseal(&bytes) else { return Ok(false) };
    partition.write_all_at(&seal, SUPERBLOCK_AT + at as u64)?;
    partition.sync_all().with_context(|| format!("cannot write {device}"))?;
    say("state: its superblock was torn and is sealed again");
    Ok(true)
}

fn e2fsck(how: &str, device: &str, feed: &mut dyn FnMut()) -> Result<i32> {
    let arguments = [how, device];
    Tool { program: E2FSCK, arguments: &arguments, input: "", environment: &[], patience: PATIENCE }.run(feed)
}

/// Grows the mounted file system to its partition.
pub fn grow(device: &str) -> Result<()> {
    let partition = File::open(device).with_context(|| format!("cannot open {device}"))?;
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    partition.read_exact_at(&mut bytes, SUPERBLOCK_AT)?;
    let superblock = Superblock::parse(&bytes).with_context(|| format!("superblock of {device}"))?;
    let room = block::size(&partition)? / superblock.block_size;
    if room <= superblock.blocks {
        return Ok(());
    }
    block::resize_ext4(&File::open(STATE)?, room)
        .with_context(|| format!("cannot grow {device} to {room} blocks"))?;
    let mib = |blocks: u64| blocks.saturating_mul(superblock.block_size) >> 20;
    say(&format!("state grown from {} to {} MiB", mib(superblock.blocks), mib(room)));
    Ok(())
}

/// The text of `/macula.toml` on the ESP; empty when there is none.
pub fn provision_text(esp_device: &str) -> Result<String> {
    let bytes = esp::read_small_file(Path::new(esp_device), PROVISION_FILE, CONFIG_BYTES_MAX)?;
    Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

/// Sees to it that both copies of the configuration are whole and the same, then takes over `/macula.toml` from the ESP if
/// there is no whole one, and wipes it there, for it may hold secrets. A file that an earlier boot has taken over but could
/// not wipe, or not all of it, is wiped, too.
pub fn provision(esp_device: &str) -> Result<()> {
    let config = Path::new(CONFIG);
    let present = heal(config);
    let device = Path::new(esp_device);
    let Some(bytes) = esp::read_small_file(device, PROVISION_FILE, CONFIG_BYTES_MAX)? else {
        return Ok(());
    };
    match present {
        Some(present) if provision::is_leftover(&present, &bytes) => {}
        Some(_) => bail!("{CONFIG} exists, so {PROVISION_FILE} on the ESP is left alone"),
        // Half wiped, or in an encoding that no node reads: left for whoever can use it.
        None if bytes.contains(&0) => {
            bail!("{PROVISION_FILE} on the ESP is no UTF-8 text, so it is left alone")
        }
        None => {
            let mut bytes = bytes;
            if !bytes.is_empty() && !bytes.ends_with(b"\n") {
                bytes.push(b'\n');
            }
            Form::Text.mirror(config, &bytes).with_context(|| format!("cannot write {CONFIG}"))?;
            say("configuration taken over from the ESP");
        }
    }
    esp::remove_file(device, PROVISION_FILE)?;
    Ok(())
}

/// The configuration's content from a whole copy, after bringing the other copy in line with it.
fn heal(config: &Path) -> Option<Vec<u8>> {
    let content = match Form::Text.read(config) {
        Found::Newest(content) => content,
        Found::Previous(content) => {
            say(&format!("{CONFIG} is damaged; its second copy is used and written back"));
            content
        }
        // By a release that wrote no checksum, or by a person. Should it be cut off: more than this is not left of it.
        Found::Unsealed(content) => content,
        Found::Damaged => {
            say(&format!(
                "{CONFIG} is damaged and so is its second copy: {PROVISION_FILE} on the ESP can replace it"
            ));
            return None;
        }
        Found::Absent => return None,
    };
    if let Err(error) = Form::Text.mirror(config, &content) {
        say(&format!("{CONFIG} cannot be given a second copy: {error}"));
    }
    Some(content)
}

/// What the configuration calls this node, or the name that every new node has.
pub fn hostname() -> String {
    let text =
        crate::sys::files::read_bounded(Path::new(CONFIG), CONFIG_BYTES_MAX as u64).unwrap_or_default();
    init_plan::hostname::from_config(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_configuration_is_healed_or_reported_but_never_made_up() {
        let dir = std::env::temp_dir().join(format!("macula-heal-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("config.toml");
        assert_eq!(heal(&path), None);
        fs::write(&path, "name = \"a\"\n").unwrap();
        let text = b"name = \"a\"\n".to_vec();
        assert_eq!(heal(&path), Some(text.clone()), "an earlier release's file, without a checksum");
        for spoilt in [path.clone(), os_durable::previous(&path)] {
            fs::write(&spoilt, "").unwrap();
            assert_eq!(heal(&path), Some(text.clone()));
        }
        fs::write(&path, "").unwrap();
        fs::write(os_durable::previous(&path), [0; 9]).unwrap();
        assert_eq!(heal(&path), None);
        assert_eq!(fs::read(&path).unwrap(), b"", "what is damaged stays for whoever can read it");
    }
}
