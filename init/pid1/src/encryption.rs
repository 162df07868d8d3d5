//! The encrypted state partition: LUKS2, made and opened by cryptsetup, with systemd's programs for what a TPM keeps.
//! `docs/decisions/0016`.
//!
//! Crash: a partition is encrypted only while the partition table asks for a reset, so whatever is cut here is started over.
//! Opening writes nothing.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use image_layout::encryption::Encryption;
use init_plan::luks::{self, HEADER_BYTES};
use init_plan::recovery_key::RecoveryKey;
use init_plan::steps::{STATE, STATE_MAPPED, STATE_NAME};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::console::{self, now, say};
use crate::node::Node;
use crate::sys::random;
use crate::tool::Tool;

const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
const ENROLL: &str = "/usr/bin/systemd-cryptenroll";
const ATTACH: &str = "/usr/bin/systemd-cryptsetup";
const TPM: &str = "/dev/tpmrm0";
/// On the initramfs, so in memory only, and removed at once.
const KEY_FILE: &str = "/recovery.key";
/// TPMs are slow, and so is a passphrase's hash on a small machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long a node that should open by itself waits for somebody to type the recovery key before it tries another boot.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(600);
/// Times that a new secret may be mistyped before the boot starts over.
const TRIES: usize = 5;
/// Where the owner's node software finds the key that opens the state without TPM or passphrase: `update`'s folder.
const KEY_FOLDER: &str = "update";
const KEY_NAME: &str = "recovery.key";
const UPDATE: u32 = 106;
/// systemd's programs open a volume by themselves rather than through a plug-in of cryptsetup's.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("SYSTEMD_CRYPTSETUP_USE_TOKEN_MODULE", "0"),
    ("SYSTEMD_LOG_TARGET", "console"),
    ("SYSTEMD_COLORS", "0"),
    ("SYSTEMD_EMOJI", "0"),
];

/// How the partition is opened; `None` if it is not encrypted.
pub fn of(partition: &str) -> Result<Option<Encryption>> {
    let mut header = vec![0; HEADER_BYTES];
    let device = fs::File::open(partition).with_context(|| format!("cannot open {partition}"))?;
    device.read_exact_at(&mut header, 0).with_context(|| format!("cannot read {partition}"))?;
    Ok(luks::encryption(&header))
}

/// Encrypts the partition anew, and opens it. What was in it is lost. Returns the key that always opens it.
pub fn format(node: &mut Node, partition: &str, kind: Encryption) -> Result<RecoveryKey> {
    if !Path::new(CRYPTSETUP).exists() {
        bail!("this board's image cannot encrypt; take `state.encryption` out of macula.toml");
    }
    if kind != Encryption::Passphrase {
        need_tpm()?;
    }
    let secret = new_secret(node, kind)?;
    load_modules(node);
    let recovery = RecoveryKey::from_random(random::bytes()?);
    let mut feed = || node.watchdog.feed();
    // The key is random: there is nothing to slow down.
    let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let cipher =
        ["--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "4096"];
    let arguments = [&["luksFormat", "--batch-mode", "--key-file", "-"], &cipher[..], &quick, &[partition]];
    cryptsetup(&arguments.concat(), recovery.text(), &mut feed)
        .context("cannot encrypt the state partition")?;
    let key_file = KeyFile::write(recovery.text())?;
    enroll(partition, kind, secret.as_deref(), &mut feed)?;
    drop(key_file);
    open_with(partition, recovery.text(), &mut feed)?;
    node.secret = secret;
    Ok(recovery)
}

/// Leaves the recovery key inside of the opened volume, which has a new file system, for the owner to ask for.
pub fn keep(recovery: &RecoveryKey) -> Result<()> {
    let _ = fs::create_dir(STATE);
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(STATE_MAPPED), STATE, Some("ext4"), flags, None::<&str>)
        .context("cannot mount the new state")?;
    let written = write_for_update(Path::new(STATE), recovery.text()).context("cannot keep the recovery key");
    nix::unistd::sync();
    let unmounted = umount2(STATE, MntFlags::empty()).context("cannot unmount the new state");
    written.and(unmounted)
}

fn write_for_update(state: &Path, text: &str) -> Result<()> {
    let folder = state.join(KEY_FOLDER);
    DirBuilder::new().mode(0o700).create(&folder)?;
    chown(&folder, Some(UPDATE), Some(UPDATE))?;
    let path = folder.join(KEY_NAME);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(chown(&path, Some(UPDATE), Some(UPDATE))?)
}

pub fn close(feed: &mut dyn FnMut()) -> Result<()> {
    cryptsetup(&["close", STATE_NAME], "", feed).context("cannot close the state partition")
}

/// Opens the partition: by itself, or with what a person types.
pub fn unlock(node: &mut Node, partition: &str, kind: Encryption) -> Result<()> {
    load_modules(node);
    if let Some(secret) = node.secret.take()
        && open_typed(node, partition, kind, &secret)
    {
        return Ok(());
    }
    match kind {
        Encryption::Tpm => unlock_alone(node, partition),
        Encryption::TpmPin | Encryption::Passphrase => ask_until_open(node, partition, kind),
    }
}

fn unlock_alone(node: &mut Node, partition: &str) -> Result<()> {
    let Err(error) = need_tpm().and_then(|()| attach(partition, None, &mut || node.watchdog.feed())) else {
        say("state opened with the TPM");
        return Ok(());
    };
    say(&format!("the TPM does not open the state partition: {error:#}"));
    say(
        "its keys are bound to this machine and its Secure Boot state (PCR 7); `maculactl recovery-key` told the owner",
    );
    say("the key that opens it all the same.");
    let deadline = now() + RECOVERY_PATIENCE;
    while let Some(typed) = ask(node, "recovery key", Some(deadline)) {
        if open_typed(node, partition, Encryption::Passphrase, &typed) {
            return Ok(());
        }
    }
    bail!("the state partition stays locked: {error:#}; and nobody typed the recovery key")
}

/// A person is needed at each boot, so it waits for as long as it takes.
fn ask_until_open(node: &mut Node, partition: &str, kind: Encryption) -> Result<()> {
    let what =
        if kind == Encryption::TpmPin { "PIN (or recovery key)" } else { "passphrase (or recovery key)" };
    while let Some(typed) = ask(node, what, None) {
        if open_typed(node, partition, kind, &typed) {
            return Ok(());
        }
    }
    bail!("the state partition stays locked")
}

fn open_typed(node: &mut Node, partition: &str, kind: Encryption, typed: &str) -> bool {
    let mut feed = || node.watchdog.feed();
    let recovery = RecoveryKey::parse(typed);
    let opened = match (&recovery, kind) {
        (Some(key), _) => open_with(partition, key.text(), &mut feed),
        (None, Encryption::TpmPin) => need_tpm().and_then(|()| attach(partition, Some(typed), &mut feed)),
        (None, _) => open_with(partition, typed, &mut feed),
    };
    match opened {
        Ok(()) => say("state opened"),
        Err(error) => say(&format!("that did not open it: {error:#}")),
    }
    Path::new(STATE_MAPPED).exists()
}

/// Another way in than the recovery key.
fn enroll(partition: &str, kind: Encryption, secret: Option<&str>, feed: &mut dyn FnMut()) -> Result<()> {
    if kind == Encryption::Passphrase {
        // Argon2id, within what the smallest board can spare.
        let hash = ["--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--iter-time", "1000"];
        let arguments =
            [&["luksAddKey", "--batch-mode", "--key-file", KEY_FILE][..], &hash, &[partition, "-"]];
        return cryptsetup(&arguments.concat(), secret.unwrap_or_default(), feed)
            .context("cannot add the passphrase");
    }
    let key_file = format!("--unlock-key-file={KEY_FILE}");
    let with_pin = format!("--tpm2-with-pin={}", if secret.is_some() { "yes" } else { "no" });
    let arguments = [&key_file, "--tpm2-device=auto", "--tpm2-pcrs=7", &with_pin, partition];
    let pin = secret.map(|secret| ("NEWPIN", secret));
    run(ENROLL, &arguments, "", pin, feed).context("cannot give the key to the TPM")
}

/// With what the TPM keeps.
fn attach(partition: &str, pin: Option<&str>, feed: &mut dyn FnMut()) -> Result<()> {
    let arguments = ["attach", STATE_NAME, partition, "-", "luks,tpm2-device=auto,headless=yes,tries=1"];
    run(ATTACH, &arguments, "", pin.map(|pin| ("PIN", pin)), feed)
}

fn open_with(partition: &str, key: &str, feed: &mut dyn FnMut()) -> Result<()> {
    cryptsetup(&["open", "--type", "luks2", "--key-file", "-", partition, STATE_NAME], key, feed)
}

fn cryptsetup(arguments: &[&str], input: &str, feed: &mut dyn FnMut()) -> Result<()> {
    run(CRYPTSETUP, arguments, input, None, feed)
}

fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    secret: Option<(&str, &str)>,
    feed: &mut dyn FnMut(),
) -> Result<()> {
    let mut environment = ENVIRONMENT.to_vec();
    environment.extend(secret);
    let tool = Tool { program, arguments, input, environment: &environment, patience: PATIENCE };
    match tool.run(feed)? {
        0 => Ok(()),
        code => bail!("{} ended with {code}", program.rsplit('/').next().unwrap_or(program)),
    }
}

pub fn has_tpm() -> bool {
    Path::new(TPM).exists()
}

fn need_tpm() -> Result<()> {
    if has_tpm() {
        return Ok(());
    }
    bail!("this machine has no TPM 2.0, or its firmware hides it; encrypt with a passphrase instead")
}

fn load_modules(node: &mut Node) {
    node.drivers.plug_named(&["dm_crypt", "xts", "aesni_intel"]);
}

/// The new PIN or passphrase, typed twice.
fn new_secret(node: &mut Node, kind: Encryption) -> Result<Option<String>> {
    let what = match kind {
        Encryption::Tpm => return Ok(None),
        Encryption::TpmPin => "new PIN",
        Encryption::Passphrase => "new passphrase",
    };
    say(&format!("the state of this node is going to be encrypted with a {}", &what[4..]));
    for _ in 0..TRIES {
        let Some(first) = ask(node, what, None) else { break };
        if first.len() < 4 {
            say("that is too short: at least 4 characters");
            continue;
        }
        if ask(node, &format!("{what}, once more"), None).as_ref() == Some(&first) {
            return Ok(Some(first));
        }
        say("these were not the same");
    }
    bail!("no {what} was given")
}

/// A line typed on any console, not shown there. Waits until `deadline`, or for ever.
fn ask(node: &mut Node, what: &str, deadline: Option<Duration>) -> Option<String> {
    let mut inputs = console::inputs();
    let hidden = inputs.hide();
    say(&format!("type the {what} and press Enter:"));
    while deadline.is_none_or(|deadline| now() < deadline) {
        node.drivers.coldplug();
        node.watchdog.feed();
        if let Some(line) = inputs.line(Duration::from_secs(1)) {
            let line = line.trim_end_matches(['\r', '\n']);
            if !line.is_empty() {
                drop(hidden);
                return Some(line.to_owned());
            }
        }
    }
    None
}

/// A file with a key, for a program that takes it no other way.
struct KeyFile;

impl KeyFile {
    fn write(key: &str) -> Result<KeyFile> {
        let _ = fs::remove_file(KEY_FILE);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(KEY_FILE);
        file.and_then(|mut file| file.write_all(key.as_bytes()))
            .with_context(|| format!("cannot write {KEY_FILE}"))?;
        Ok(KeyFile)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(KEY_FILE);
    }
}
