//! Factory reset: makes the state partition what it was in the image.
//!
//! Crash: the mark in the partition table stays until [`crate::disk::renew_table`] takes it away, so every boot starts over
//! until all of this is done. Nothing of the slots is touched.
//!
//! What becomes of the old bytes: the node key and the configuration are overwritten in their places, then the device is told
//! that the whole partition is unused, then the new file system is written over its start. Flash may keep old
//! copies of overwritten blocks where only its maker can read them (`docs/decisions/0010`). Of an encrypted partition only
//! the header with its keys is overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use image_layout::encryption::Encryption;
use image_layout::pristine::Pristine;
use image_layout::{BLOCK_BYTES, PRISTINE_STATE};
use init_plan::luks::DATA_AT;
use init_plan::reset::{ERASED, is_erased};
use init_plan::steps::{STATE, STATE_MAPPED};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::console::{self, now, say};
use crate::encryption;
use crate::node::Node;
use crate::sys::block;

/// Folders below `/state` whose files are secret, and other files that are overwritten with them.
const SECRET_FOLDERS: [&str; 1] = ["identity"];
const SECRET_FILES: [&str; 2] = ["config.toml", "config.toml.previous"];
/// Files of a folder that are looked at, and bytes of each that are overwritten: far more than there are.
const FILES_MAX: usize = 256;
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The watchdog is fed after each piece.
const PIECE: u64 = 256 << 20;
/// How long the boot menu's question waits for its answer.
const QUESTION: Duration = Duration::from_secs(30);

/// Asks whoever chose the reset in the boot menu to confirm it. Silence means no.
pub fn is_confirmed(node: &mut Node) -> bool {
    say(
        "FACTORY RESET was chosen in the boot menu. It erases this node's key, owner, configuration and content;",
    );
    say("the installed releases stay. The node starts again as a new one, without an owner.");
    confirms(node, "erase", "resetting")
}

/// The same for a node whose owner has lost the key. `update` does it, in this boot (`boot.json`).
pub fn is_recovery_confirmed(node: &mut Node) -> bool {
    say(
        "RECOVER was chosen in the boot menu. This node forgets its owner, and what the owner trusted (clients,",
    );
    say(
        "release keys, what is public); key, name, apps and content stay. It then shows a code for a new owner.",
    );
    confirms(node, "forget the owner", "the owner is forgotten")
}

fn confirms(node: &mut Node, what: &str, done: &str) -> bool {
    say(&format!(
        "Type `yes` and press Enter within {} s to {what}. Anything else starts as usual.",
        QUESTION.as_secs()
    ));
    let mut inputs = console::inputs();
    let deadline = now() + QUESTION;
    while now() < deadline {
        node.drivers.coldplug();
        node.watchdog.feed();
        if let Some(line) = inputs.line(Duration::from_secs(1)) {
            let yes = line.trim().eq_ignore_ascii_case("yes");
            match yes {
                true => say(&format!("confirmed: {done}")),
                false => say("not confirmed: starting as usual"),
            }
            return yes;
        }
    }
    say("no answer: starting as usual");
    false
}

/// Makes the state pristine, encrypted as wished. May be repeated at any time.
pub fn remake(node: &mut Node, device: &str, wish: Option<Encryption>) -> Result<()> {
    let file = Path::new("/").join(PRISTINE_STATE);
    let pristine = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let pristine = Pristine::decode(&pristine)?;
    let size = block::size(&open(device)?)?;
    let needed = pristine.bytes + if wish.is_some() { DATA_AT } else { 0 };
    if size < needed {
        bail!("{device} has {size} bytes, its file system needs {needed}");
    }
    say("factory reset: erasing the state partition");
    erase(device, size, &mut || node.watchdog.feed())?;
    match wish {
        None => write(device, &pristine, &mut || node.watchdog.feed())?,
        Some(kind) => {
            let recovery = encryption::format(node, device, kind)?;
            write(STATE_MAPPED, &pristine, &mut || node.watchdog.feed())?;
            encryption::keep(&recovery)?;
            encryption::close(&mut || node.watchdog.feed())?;
            say(&format!("the state is encrypted; it is opened by: {kind}"));
        }
    }
    say("factory reset: state is empty");
    Ok(())
}

fn erase(device: &str, size: u64, feed: &mut dyn FnMut()) -> Result<()> {
    overwrite_secrets(device, feed)?;
    let partition = open(device)?;
    for (at, length) in pieces(BLOCK_BYTES, size) {
        feed();
        if block::discard(&partition, at, length).is_err() {
            break;
        }
    }
    Ok(())
}

/// Its first block last: until then there is no file system.
fn write(volume: &str, pristine: &Pristine, feed: &mut dyn FnMut()) -> Result<()> {
    let volume_file = open(volume)?;
    zero(&volume_file, BLOCK_BYTES, pristine.bytes, feed)?;
    let (blocks, first) = pristine.writes();
    for (offset, bytes) in blocks {
        volume_file.write_all_at(bytes, offset)?;
    }
    volume_file.sync_all()?;
    volume_file.write_all_at(first, 0)?;
    volume_file.sync_all().with_context(|| format!("cannot write {volume}"))
}

/// Overwrites what is secret, and says so in the partition's first block, which makes the old file system unusable. If it
/// cannot be mounted any more, nobody knows where its secrets are, and everything is overwritten.
fn overwrite_secrets(device: &str, feed: &mut dyn FnMut()) -> Result<()> {
    let mut sector = [0; 512];
    File::open(device)
        .and_then(|d| d.read_exact_at(&mut sector, 0))
        .with_context(|| format!("cannot read {device}"))?;
    if is_erased(&sector) {
        return Ok(());
    }
    if encryption::of(device)?.is_some() {
        return overwrite_keys(device, feed);
    }
    let overwritten = overwrite_files(device);
    let partition = open(device)?;
    if let Err(error) = overwritten {
        say(&format!(
            "the old state cannot be searched for secrets ({error:#}); all of it is overwritten, which takes time"
        ));
        zero(&partition, BLOCK_BYTES, block::size(&partition)?, feed)?;
    }
    mark_erased(&partition).with_context(|| format!("cannot write {device}"))
}

/// Without its header, what is encrypted is noise.
fn overwrite_keys(device: &str, feed: &mut dyn FnMut()) -> Result<()> {
    let partition = open(device)?;
    zero(&partition, BLOCK_BYTES, DATA_AT, feed)?;
    partition.sync_all()?;
    mark_erased(&partition).with_context(|| format!("cannot write {device}"))
}

fn mark_erased(partition: &File) -> io::Result<()> {
    let mut mark = vec![0; BLOCK_BYTES as usize];
    mark[..ERASED.len()].copy_from_slice(ERASED);
    partition.write_all_at(&mark, 0)?;
    partition.sync_all()
}

fn overwrite_files(device: &str) -> Result<()> {
    let _ = fs::create_dir(STATE);
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(device), STATE, Some("ext4"), flags, Some("errors=remount-ro")).context("cannot mount it")?;
    let outcome = secrets(Path::new(STATE))
        .iter()
        .try_for_each(|path| overwrite(path).with_context(|| format!("cannot overwrite {}", path.display())));
    nix::unistd::sync();
    let unmounted = umount2(STATE, MntFlags::empty()).context("cannot unmount it");
    outcome.and(unmounted)
}

/// Secret files that are there.
fn secrets(state: &Path) -> Vec<PathBuf> {
    let in_folder = |folder: &str| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(state.join(folder)) else { return Vec::new() };
        entries.flatten().take(FILES_MAX).map(|entry| entry.path()).collect()
    };
    let files = SECRET_FILES.iter().map(|file| state.join(file));
    let all = SECRET_FOLDERS.iter().flat_map(|folder| in_folder(folder)).chain(files);
    all.filter(|path| fs::symlink_metadata(path).is_ok_and(|m| m.is_file())).collect()
}

/// In its place: not truncated first, for then the new bytes would go elsewhere.
fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let length = file.metadata()?.len().min(FILE_BYTES_MAX);
    file.write_all(&vec![0; length as usize])?;
    file.sync_all()
}

fn zero(partition: &File, from: u64, to: u64, feed: &mut dyn FnMut()) -> Result<()> {
    for (at, length) in pieces(from, to) {
        feed();
        block::zero(partition, at, length).context("cannot overwrite the state partition")?;
    }
    Ok(())
}

fn pieces(from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
    (from..to).step_by(PIECE as usize).map(move |at| (at, PIECE.min(to - at)))
}

fn open(device: &str) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(device).with_context(|| format!("cannot open {device}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_overwritten_in_their_places() {
        let state = std::env::temp_dir().join(format!("macula-secrets-{}", std::process::id()));
        let _ = fs::remove_dir_all(&state);
        fs::create_dir_all(state.join("identity")).unwrap();
        fs::create_dir_all(state.join("content")).unwrap();
        for (name, content) in
            [("identity/node.key", "secret"), ("config.toml", "owner"), ("content/a", "public")]
        {
            fs::write(state.join(name), content).unwrap();
        }
        std::os::unix::fs::symlink(state.join("content/a"), state.join("identity/link")).unwrap();
        let found = secrets(&state);
        assert_eq!(found, [state.join("identity/node.key"), state.join("config.toml")]);
        found.iter().for_each(|path| overwrite(path).unwrap());
        assert_eq!(fs::read(state.join("identity/node.key")).unwrap(), [0; 6]);
        assert_eq!(fs::read(state.join("config.toml")).unwrap(), [0; 5]);
        assert_eq!(fs::read(state.join("content/a")).unwrap(), b"public");
    }

    #[test]
    fn pieces_cover_the_range_once() {
        let all: Vec<_> = pieces(4096, 2 * PIECE + 4097).collect();
        assert_eq!(all, [(4096, PIECE), (4096 + PIECE, PIECE), (4096 + 2 * PIECE, 1)]);
        assert_eq!(pieces(5, 5).count(), 0);
    }
}
