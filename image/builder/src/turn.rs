//! One at a time in a folder: builds that share a cache or an output folder wait for each other.

use std::fs::File;
use std::path::Path;

use crate::error::{At, Result};

const FILE: &str = ".lock";

/// Waits until nobody else has a turn in `folder`, which is created if need be. The turn ends when the result is
/// dropped, or with the process, however it ends.
pub fn wait(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder).at("create", folder)?;
    let path = folder.join(FILE);
    let file = File::create(&path).at("create", &path)?;
    file.lock().at("lock", &path)?;
    Ok(file)
}
