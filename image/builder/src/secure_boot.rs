//! Signatures for UEFI Secure Boot: over boot loader and UKI, and over the variables that enrol the keys.
//!
//! Calls sbsigntool's and efitools' programs, since the format of the signatures is theirs to know. The time of signing is in
//! each signature over a program, so two builds with one key differ there (and only there); `.auth` files have a fixed time.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{At, BuildError, Result};
use crate::tools;

/// What signing needs on the host; [`create`] needs it, too.
pub const SIGNING_PACKAGES: &[(&str, &str)] = &[
    ("sbsign", "sbsigntool"),
    ("openssl", "openssl"),
    ("sign-efi-sig-list", "efitools"),
    ("cert-to-efi-sig-list", "efitools"),
];

/// The folder that systemd-boot takes keys from by itself.
const ENROL_DIR: &str = "loader/keys/auto";
/// The variables in the order of their power: each is signed with the one before it, the first with itself.
const VARIABLES: [&str; 3] = ["PK", "KEK", "db"];
/// The firmware compares it with that of the variable's last change only.
const ENROL_TIME: &str = "2026-01-01 00:00:00";
/// Twenty years: firmware looks at no date, but other tools do.
const DAYS: &str = "7300";
const AUTH_BYTES_MAX: u64 = 64 * 1024;

/// A folder with `db.key` and `db.crt` (PEM), and, for a disk image that enrols them, `PK.auth`, `KEK.auth`, `db.auth`.
pub struct Keys {
    key: PathBuf,
    certificate: PathBuf,
    /// Path on the ESP and content.
    enrolment: Vec<(String, Vec<u8>)>,
}

impl Keys {
    pub fn open(dir: &Path) -> Result<Self> {
        let (key, certificate) = (dir.join("db.key"), dir.join("db.crt"));
        for (path, begins) in [(&key, "PRIVATE KEY-----"), (&certificate, "-----BEGIN CERTIFICATE-----")] {
            let text = std::fs::read_to_string(path).at("read", path)?;
            if !text.contains(begins) {
                return Err(BuildError::Input(format!(
                    "{} is not PEM as `openssl req` writes it",
                    path.display()
                )));
            }
        }
        let files =
            VARIABLES.map(|name| (format!("{ENROL_DIR}/{name}.auth"), dir.join(format!("{name}.auth"))));
        let there = files.iter().filter(|(_, path)| path.exists()).count();
        if there != 0 && there != files.len() {
            return Err(BuildError::Input(format!(
                "{} has only some of PK.auth, KEK.auth and db.auth: firmware takes all or none",
                dir.display()
            )));
        }
        let present = files.into_iter().filter(|(_, path)| path.exists());
        let enrolment = present.map(|(name, path)| Ok((name, read_small(&path)?))).collect::<Result<_>>()?;
        Ok(Self { key, certificate, enrolment })
    }

    /// Files for the ESP of a new image; none when the folder has none.
    pub fn enrolment(&self) -> &[(String, Vec<u8>)] {
        &self.enrolment
    }

    /// What decides about the outputs of a build, but for the time.
    pub(crate) fn fingerprint(&self) -> Result<Vec<u8>> {
        let mut bytes = std::fs::read(&self.certificate).at("read", &self.certificate)?;
        self.enrolment.iter().for_each(|(_, file)| bytes.extend_from_slice(file));
        Ok(bytes)
    }

    /// The program with a signature appended.
    pub fn sign(&self, program: &[u8], work: &Path) -> Result<Vec<u8>> {
        let (bare, signed) = (work.join("bare.efi"), work.join("signed.efi"));
        std::fs::write(&bare, program).at("write", &bare)?;
        let mut command = tools::command("sbsign")?;
        command.arg("--key").arg(&self.key).arg("--cert").arg(&self.certificate);
        tools::run(command.arg("--output").arg(&signed).arg(&bare))?;
        let bytes = std::fs::read(&signed).at("read", &signed)?;
        for path in [&bare, &signed] {
            std::fs::remove_file(path).at("remove", path)?;
        }
        Ok(bytes)
    }
}

fn read_small(path: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).at("inspect", path)?.len();
    if size > AUTH_BYTES_MAX {
        return Err(BuildError::Input(format!("{} has {size} bytes: that is no key", path.display())));
    }
    std::fs::read(path).at("read", path)
}

/// Makes the three keys of a fleet in a new folder. `db.key` signs releases and lives where they are built; `PK.key` and
/// `KEK.key` are for changing the keys of machines later, and belong in a safe.
pub fn create(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(dir).at("make the new folder", dir)?;
    for name in VARIABLES {
        make_key(dir, name)?;
    }
    let owner = uuid::Uuid::new_v4().to_string();
    VARIABLES.into_iter().try_for_each(|name| make_variable(dir, name, &owner))
}

fn make_key(dir: &Path, name: &str) -> Result<()> {
    let key = dir.join(format!("{name}.key"));
    let (subject, certificate) =
        (format!("/CN=Macula OS Secure Boot {name}/"), dir.join(format!("{name}.crt")));
    // Made first, so that it never has another mode.
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&key)
        .at("make", &key)?
        .flush()
        .at("write", &key)?;
    // RSA 2048 with SHA-256 is what all firmware knows.
    let mut command = tools::command("openssl")?;
    command.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", DAYS]);
    command.args(["-subj", &subject]).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    tools::run(&mut command).map(drop)
}

fn make_variable(dir: &Path, name: &str, owner: &str) -> Result<()> {
    let file = |name: &str, extension: &str| dir.join(format!("{name}.{extension}"));
    let list = file(name, "esl");
    tools::run(
        tools::command("cert-to-efi-sig-list")?.args(["-g", owner]).arg(file(name, "crt")).arg(&list),
    )?;
    let signer = if name == "db" { "KEK" } else { "PK" };
    let mut command = tools::command("sign-efi-sig-list")?;
    command.args(["-t", ENROL_TIME, "-g", owner]).arg("-k").arg(file(signer, "key"));
    tools::run(command.arg("-c").arg(file(signer, "crt")).arg(name).arg(&list).arg(file(name, "auth")))?;
    std::fs::remove_file(&list).at("remove", &list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        dir
    }

    #[test]
    fn folders_that_would_lead_to_half_a_secure_boot_are_refused() {
        let key = ("db.key", "-----BEGIN PRIVATE KEY-----\n");
        let certificate = ("db.crt", "-----BEGIN CERTIFICATE-----\n");
        let error = |files: &[(&str, &str)]| Keys::open(folder(files).path()).err().unwrap().to_string();
        assert!(error(&[certificate]).contains("db.key"));
        assert!(error(&[("db.key", "\u{1}"), certificate]).contains("PEM"));
        assert!(error(&[key, certificate, ("PK.auth", "")]).contains("all or none"));
        let plain = folder(&[key, certificate]);
        assert!(Keys::open(plain.path()).unwrap().enrolment().is_empty());
    }
}
