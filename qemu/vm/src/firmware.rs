//! Where distributions put OVMF, the UEFI firmware for virtual machines.

use std::path::{Path, PathBuf};

use crate::Error;

/// A pair of flash images: code shared by all machines, variables to be copied for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    pub code: PathBuf,
    pub variables: PathBuf,
}

/// Debian 12 and 13 and Ubuntu since 22.04 have the first pair, older Ubuntu the second, Fedora and Arch the rest.
const KNOWN: [(&str, &str); 4] = [
    ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"),
    ("usr/share/edk2/ovmf/OVMF_CODE.fd", "usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("usr/share/edk2/x64/OVMF_CODE.4m.fd", "usr/share/edk2/x64/OVMF_VARS.4m.fd"),
];

/// The same with Secure Boot, whose variables only code in system management mode can write. No key is in them yet.
const KNOWN_SECURE: [(&str, &str); 3] = [
    ("usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "usr/share/edk2/x64/OVMF_VARS.4m.fd"),
];

impl Firmware {
    /// The first pair of which both halves exist.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] with the package to install.
    pub fn find() -> Result<Self, Error> {
        Self::find_under(Path::new("/"), &KNOWN)
            .ok_or_else(|| Error::NotInstalled { program: "OVMF".into(), package: "ovmf" })
    }

    /// As [`Firmware::find`], with Secure Boot.
    pub fn find_secure() -> Result<Self, Error> {
        Self::find_under(Path::new("/"), &KNOWN_SECURE)
            .ok_or_else(|| Error::NotInstalled { program: "OVMF with Secure Boot".into(), package: "ovmf" })
    }

    fn find_under(root: &Path, known: &[(&str, &str)]) -> Option<Self> {
        let pairs = known
            .iter()
            .map(|(code, variables)| Self { code: root.join(code), variables: root.join(variables) });
        pairs.into_iter().find(|pair| pair.code.is_file() && pair.variables.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_whole_pair_only() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/share/OVMF");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("OVMF_CODE_4M.fd"), "").unwrap();
        std::fs::write(folder.join("OVMF_VARS.fd"), "").unwrap();
        assert_eq!(Firmware::find_under(root.path(), &KNOWN), None);
        std::fs::write(folder.join("OVMF_CODE.fd"), "").unwrap();
        assert_eq!(Firmware::find_under(root.path(), &KNOWN).unwrap().code, folder.join("OVMF_CODE.fd"));
    }
}
