//! A TPM 2.0 beside a machine: swtpm, started and ended with each QEMU. Its memory is a folder, so it is the same TPM again.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{Error, process};

const PROGRAM: &str = "swtpm";

/// Ends with this value.
pub(crate) struct Tpm(Child);

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the TPM whose memory is `folder` (made if missing), and returns QEMU's end of its control connection.
pub(crate) fn start(machine: &str, folder: &Path) -> Result<(Tpm, OwnedFd), Error> {
    let failed = |what| move |source| Error::Io { name: machine.to_owned(), what, source };
    fs::create_dir_all(folder).map_err(failed("make the TPM's folder"))?;
    let (ours, theirs) = UnixStream::pair().map_err(failed("connect the TPM"))?;
    let mut command = Command::new(PROGRAM);
    command.args(["socket", "--tpm2", "--terminate", "--tpmstate"]);
    command.arg(format!("dir={}", folder.display()));
    command.args(["--ctrl", &format!("type=unixio,clientfd={}", theirs.as_raw_fd())]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = process::spawn(command, vec![theirs.into()]).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::NotInstalled { program: PROGRAM.into(), package: "swtpm" },
        _ => failed("start the TPM")(source),
    })?;
    Ok((Tpm(child), ours.into()))
}
