//! Virtual machines for `cargo xtask run` and for `tests/boot`: start a disk image in QEMU, read its serial
//! console, cut its power, and connect several of them with a switch in user space. No root needed.
//!
//! Everything here blocks on ordinary threads. A machine is a child process that the kernel kills when we die,
//! however we die; what a crash leaves behind is one directory of a few hundred kilobytes under `$TMPDIR`
//! (none with [`Builder::uefi_variables`]).
//!
//! ```no_run
//! # fn main() -> Result<(), qemu_vm::Error> {
//! use std::time::Duration;
//! let switch = qemu_vm::Switch::new();
//! let vm = qemu_vm::Vm::builder("a").disk("a.img").uefi().lan(&switch).forward_udp(4433).start()?;
//! vm.serial().wait_for("all units ready", Duration::from_secs(120))?;
//! vm.power_cut()?;
//! vm.restart()?;
//! # Ok(()) }
//! ```
//!
//! **Accelerator.** `tcg,thread=multi` with `-cpu max` unless `MACULA_QEMU_ACCEL` names another one (`kvm`).
//! KVM is not chosen by itself: on nested hosts `/dev/kvm` opens and the guest then hangs.

mod arguments;
mod builder;
mod error;
mod firmware;
mod ports;
mod process;
mod qmp;
mod serial;
mod switch;
mod tpm;
mod udp_forward;
mod vm;
mod write_log;

pub use builder::{Builder, Cache};
pub use error::Error;
pub use firmware::Firmware;
pub use ports::{free_tcp_port, free_udp_port};
pub use qmp::Qmp;
pub use serial::{Line, Mark, Serial};
pub use switch::{PortId, Switch, Traffic};
pub use vm::Vm;
pub use write_log::{LoggedWrite, WriteLog};
