//! The records of a service: [`os_durable`] files, and a line in the log when one was damaged.

use std::io;
use std::path::Path;

use os_durable::{Form, Found};

pub use os_durable::remove;

/// Replaces the content of `path`; the old one stays beside it.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    Form::Record.write(path, content)
}

/// The newest content that is whole, or `None` when neither copy is (or there is none).
pub fn read(path: &Path) -> Option<Vec<u8>> {
    let found = Form::Record.read(path);
    match found {
        Found::Previous(_) => tracing::error!("{} is damaged; its previous copy is used", path.display()),
        Found::Damaged => tracing::error!("{} is damaged, and so is its previous copy", path.display()),
        _ => {}
    }
    found.content()
}
