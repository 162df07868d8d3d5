//! The kernel as a Debian package ships it: image, release name and modules.
//!
//! Two layouts are known: `/boot/vmlinuz-<release>` (up to 6.x) and `/usr/lib/modules/<release>/vmlinuz` (7.x).

use std::path::{Path, PathBuf};

use crate::error::{At, BuildError, Result};

/// An unpacked kernel package.
pub struct Kernel {
    /// Such as `6.12.107+deb13-amd64`.
    pub release: String,
    pub image: PathBuf,
    /// `/usr/lib/modules/<release>` of the package.
    pub modules: PathBuf,
}

impl Kernel {
    /// Finds the one kernel in the unpacked part called `part`.
    pub fn find(part: &str, root: &Path) -> Result<Kernel> {
        let failed = |reason: String| BuildError::Part { part: part.to_owned(), reason };
        let folder = root.join("usr/lib/modules");
        let mut releases = Vec::new();
        for entry in std::fs::read_dir(&folder).at("list", &folder)? {
            releases.push(entry.at("list", &folder)?.file_name().to_string_lossy().into_owned());
        }
        let [release] = releases.as_slice() else {
            return Err(failed(format!(
                "holds {} kernels instead of one: {}",
                releases.len(),
                releases.join(", ")
            )));
        };
        let modules = folder.join(release);
        let places = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
        let image = places.into_iter().find(|place| place.is_file());
        let image = image.ok_or_else(|| failed(format!("has no vmlinuz for {release}")))?;
        Ok(Kernel { release: release.clone(), image, modules })
    }
}
