//! Knows whether a build would make what is already there: one hash over all inputs, stored beside the outputs.
//!
//! The stamp is removed before anything else and written after everything else, so a crash costs a rebuild.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{At, BuildError, Result};
use crate::{BuiltImage, ImageSpec, tools};

const FILE: &str = "stamp.json";

/// A changed builder is a changed input.
const SOURCES: [&str; 19] = [
    include_str!("cpio.rs"),
    include_str!("disk.rs"),
    include_str!("error.rs"),
    include_str!("esp.rs"),
    include_str!("fat.rs"),
    include_str!("initramfs.rs"),
    include_str!("kernel.rs"),
    include_str!("lib.rs"),
    include_str!("linked.rs"),
    include_str!("modules.rs"),
    include_str!("parts.rs"),
    include_str!("root.rs"),
    include_str!("secure_boot.rs"),
    include_str!("sparse.rs"),
    include_str!("stamp.rs"),
    include_str!("state.rs"),
    include_str!("uki.rs"),
    include_str!("verity.rs"),
    include_str!("../../layout/src/lib.rs"),
];

#[derive(Serialize, Deserialize)]
struct Stamp {
    inputs: String,
    image: BuiltImage,
}

/// The hash over everything that decides about the outputs' bytes.
pub fn inputs(spec: &ImageSpec) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut add = |name: &str, bytes: &[u8]| {
        hasher.update(format!("{}:{name}\0{}\0", name.len(), bytes.len()));
        hasher.update(bytes);
    };
    for source in SOURCES {
        add("builder", source.as_bytes());
    }
    let json = |error: serde_json::Error| BuildError::Input(format!("cannot be hashed: {error}"));
    add("board", &serde_json::to_vec(&spec.board).map_err(json)?);
    add("version", spec.version.as_bytes());
    add("disk", &[u8::from(spec.disk_image)]);
    if let Some(keys) = &spec.secure_boot {
        add("secure boot", &keys.fingerprint()?);
    }
    for name in spec.part_names() {
        add("part", spec.lock.part(name)?.sha256.as_bytes());
    }
    for (tool, option) in [("mkfs.erofs", "--version"), ("mkfs.ext4", "-V")] {
        // mkfs.erofs has no agreed exit status for its version
        let path = tools::command(tool)?.arg(option).output().at("start", Path::new(tool))?;
        add(tool, &[path.stdout, path.stderr].concat());
    }
    for (name, path) in &spec.programs {
        add(name, &std::fs::read(path).at("read", path)?);
    }
    for of in &spec.programs_of_parts {
        add("program of parts", &serde_json::to_vec(of).map_err(json)?);
    }
    for (path, bytes) in &spec.overlay {
        add(path, bytes);
    }
    Ok(HEXLOWER.encode(&hasher.finalize()))
}

/// The outputs of an earlier build with the same inputs, if all of them are still there.
pub fn find(out: &Path, inputs: &str) -> Option<BuiltImage> {
    let text = std::fs::read_to_string(out.join(FILE)).ok()?;
    let stamp: Stamp = serde_json::from_str(&text).ok()?;
    let complete = |file: &(PathBuf, u64)| std::fs::metadata(&file.0).is_ok_and(|data| data.len() == file.1);
    let image = stamp.image;
    (stamp.inputs == inputs && image.out_dir == out && image.files().iter().all(complete)).then_some(image)
}

pub fn remove(out: &Path) -> Result<()> {
    let path = out.join(FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", &path),
        _ => Ok(()),
    }
}

pub fn write(out: &Path, inputs: String, image: &BuiltImage) -> Result<()> {
    let path = out.join(FILE);
    let stamp = Stamp { inputs, image: image.clone() };
    let text = serde_json::to_string_pretty(&stamp).map_err(|error| BuildError::Input(error.to_string()))?;
    std::fs::write(&path, text).at("write", &path)
}
