//! A node's real programs on this machine, as far as pairing needs them, and people who come to it.
//!
//! `cargo xtask test pairing` builds the programs; they lie beside the folder of the test program.

pub mod man_in_the_middle;
pub mod node;
pub mod person;
pub mod phone;
mod update;

use std::path::PathBuf;

/// A program of the image.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program's path");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("target/*/release");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: run `cargo xtask test pairing`", path.display());
    path
}
