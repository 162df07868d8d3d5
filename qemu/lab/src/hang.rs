//! Resets a machine whose kernel hangs before init.
//!
//! An emulated kernel on a busy host now and then stalls for good while it starts (an RCU stall on the emulated processor), in any
//! boot of a node's life. No watchdog is armed yet then. That is the emulator's doing, so the machine gets a push; a boot on
//! trial pays for it with one of its tries, as on real hardware.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use qemu_vm::Vm;

/// What the firmware says when it starts the boot loader.
const FIRMWARE_DONE: &str = "BdsDxe: starting";
/// What init says first.
const INIT: &str = "macula-init:";
const KERNEL: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks after a machine until it is dropped.
pub(crate) struct HangWatch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HangWatch {
    pub fn start(vm: Arc<Vm>) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut seen = vm.serial().run();
            let mut kernel_since = None;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
                let next = vm.serial().mark();
                for line in vm.serial().lines_after(seen) {
                    if line.text.contains(FIRMWARE_DONE) {
                        kernel_since = Some(Instant::now());
                    } else if line.text.contains(INIT) {
                        kernel_since = None;
                    }
                }
                seen = next;
                if !vm.is_running() {
                    kernel_since = None;
                } else if kernel_since.is_some_and(|t| t.elapsed() > KERNEL) {
                    eprintln!("    {}: the emulated kernel hangs before init; reset", vm.name());
                    let _ = vm.reset();
                    kernel_since = None;
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for HangWatch {
    /// Waits for the thread, so that the machine ends with whoever held it.
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
