//! What somebody else's QR reader (zbar) reads on a machine's screen.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_vm::Vm;

use crate::wait_until;

/// The text of the QR code on the screen, once there is one, and at `picture` the screen (PPM).
pub fn read_code(vm: &Vm, picture: &Path, patience: Duration) -> Result<String> {
    let code = wait_until("a QR code on the screen", patience, || look(vm, picture))?;
    let begins = code.to_lowercase();
    ensure!(begins.starts_with("https://") || begins.starts_with("macula:"), "{code}");
    Ok(code)
}

/// What is there now.
pub fn look(vm: &Vm, picture: &Path) -> Result<Option<String>> {
    vm.screendump(picture)?;
    let output = Command::new("zbarimg").args(["--quiet", "--raw"]).arg(picture).output();
    let output = output.context("cannot run zbarimg (package zbar-tools)")?;
    let text = String::from_utf8(output.stdout)?.trim().to_owned();
    Ok((output.status.success() && !text.is_empty()).then_some(text))
}
