//! What can go wrong while an image is built. Every message says what failed, on what, and what to do next.

use std::path::{Path, PathBuf};

use thiserror::Error;

pub type Result<T> = std::result::Result<T, BuildError>;

#[derive(Debug, Error)]
pub enum BuildError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("`{tool}` is not installed; install the Debian package `{package}`")]
    ToolMissing { tool: String, package: &'static str },
    #[error("`{command}` failed ({status}):\n{output}")]
    Tool { command: String, status: String, output: String },
    #[error(transparent)]
    Board(#[from] hardware_schema::BoardError),
    #[error(transparent)]
    Layout(#[from] image_layout::LayoutError),
    #[error("parts lock {}: {reason}", path.display())]
    Lock { path: PathBuf, reason: String },
    #[error("part `{part}`: {reason}")]
    Part { part: String, reason: String },
    #[error(
        "cannot download part `{part}` version {version}; tried:\n{tried}\nIf the mirror has moved on to a newer version, \
         run `cargo xtask parts update` and commit image/parts.lock.toml."
    )]
    Fetch { part: String, version: String, tried: String },
    #[error("kernel module `{name}`: {reason}")]
    Module { name: String, reason: String },
    #[error("UKI: {0}")]
    Uki(String),
    #[error("disk image {}: {reason}", path.display())]
    Disk { path: PathBuf, reason: String },
    #[error("image input: {0}")]
    Input(String),
}

/// Adds "what was done to which file" to an I/O error.
pub trait At<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| BuildError::Io { what, path: path.to_path_buf(), source })
    }
}
