use std::path::PathBuf;
use std::time::Duration;

/// What can go wrong with a machine, with the next step where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program} is not installed; on Debian or Ubuntu: apt-get install {package}")]
    NotInstalled { program: String, package: &'static str },
    #[error("{name}: {what} {}: {source}", path.display())]
    File { name: String, what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{name}: cannot {what}: {source}")]
    Io { name: String, what: &'static str, source: std::io::Error },
    #[error("{name}: {what}")]
    Invalid { name: String, what: String },
    #[error("{name}: QEMU ended ({status}){stderr}")]
    Ended { name: String, status: String, stderr: String },
    #[error(
        "{name}: {wanted} did not appear on the serial console within {after:.0?}; its last lines:\n{tail}"
    )]
    Timeout { name: String, wanted: String, after: Duration, tail: String },
    #[error(
        "{name}: the machine ended before {wanted} appeared on the serial console; its last lines:\n{tail}"
    )]
    Closed { name: String, wanted: String, tail: String },
    #[error("{name}: QMP {command}: {what}")]
    Qmp { name: String, command: String, what: String },
    #[error("write log {}: {what}", path.display())]
    WriteLog { path: PathBuf, what: String },
}
