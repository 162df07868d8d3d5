//! What a machine is made of. [`Builder::start`] turns it into a running [`Vm`].

use std::path::PathBuf;
use std::sync::Mutex;

use crate::serial::{Callback, Line};
use crate::switch::{PortId, Switch};
use crate::vm::Vm;
use crate::{Error, Firmware};

/// How the host treats the guest's flush requests. Both keep what was written in the host's page cache when QEMU is
/// killed: a power cut loses requests in flight, never completed writes. To see what a real disk with a volatile
/// cache could lose, record the writes ([`Builder::record_writes`]) and replay prefixes of the log.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// A flush reaches the host's disk.
    #[default]
    Writeback,
    /// A flush is acknowledged and forgotten: faster, and as good unless the host itself goes down.
    Unsafe,
}

/// A machine about to start. Defaults: 512 MiB, 2 processors, no disk, no network, entropy from the host.
pub struct Builder {
    pub(crate) name: String,
    pub(crate) disks: Vec<Disk>,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) cache: Cache,
    pub(crate) uefi: Option<UefiWanted>,
    pub(crate) secure_boot: bool,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) lans: Vec<Lan>,
    /// The guest's UDP ports that the host reaches.
    pub(crate) forwards: Vec<u16>,
    /// Host port and guest port.
    pub(crate) web: Option<(u16, u16)>,
    pub(crate) watchdog: bool,
    /// The folder that is its memory.
    pub(crate) tpm: Mutex<Option<PathBuf>>,
    pub(crate) clock_off_s: i64,
    pub(crate) screen: bool,
    pub(crate) reboots: bool,
    pub(crate) extra: Vec<String>,
    pub(crate) log: Option<PathBuf>,
    /// In a mutex only so that a machine can be shared between threads.
    pub(crate) callback: Mutex<Option<Callback>>,
}

pub(crate) struct Disk {
    pub path: PathBuf,
    pub write_log: Option<PathBuf>,
}

pub(crate) struct UefiWanted {
    pub variables: Option<PathBuf>,
    pub firmware: Option<Firmware>,
}

pub(crate) struct Kernel {
    pub image: PathBuf,
    pub initrd: Option<PathBuf>,
    pub command_line: String,
}

pub(crate) struct Lan {
    pub switch: Switch,
    pub port: PortId,
}

impl Builder {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            disks: Vec::new(),
            memory_mib: 512,
            cpus: 2,
            cache: Cache::default(),
            uefi: None,
            secure_boot: false,
            kernel: None,
            lans: Vec::new(),
            forwards: Vec::new(),
            web: None,
            watchdog: false,
            tpm: Mutex::new(None),
            clock_off_s: 0,
            screen: false,
            reboots: true,
            extra: Vec::new(),
            log: None,
            callback: Mutex::new(None),
        }
    }

    /// Adds a raw disk image as virtio-blk. The guest writes to this very file. The first one boots.
    pub fn disk(mut self, path: impl Into<PathBuf>) -> Self {
        self.disks.push(Disk { path: path.into(), write_log: None });
        self
    }

    /// Records every write, flush and discard to the last disk added (dm-log-writes format, see [`crate::WriteLog`]).
    /// A log that exists is started anew by [`start`](Self::start) and appended to by [`Vm::restart`].
    pub fn record_writes(mut self, log: impl Into<PathBuf>) -> Self {
        if let Some(disk) = self.disks.last_mut() {
            disk.write_log = Some(log.into());
        }
        self
    }

    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// Boots through OVMF with fresh variables, which last until the [`Vm`] is dropped.
    pub fn uefi(mut self) -> Self {
        self.uefi = Some(UefiWanted { variables: None, firmware: None });
        self
    }

    /// As [`uefi`](Self::uefi), with the variables in a file that stays; made from OVMF's template if missing.
    pub fn uefi_variables(mut self, path: impl Into<PathBuf>) -> Self {
        self.uefi = Some(UefiWanted { variables: Some(path.into()), firmware: None });
        self
    }

    /// Takes firmware with Secure Boot, in setup mode while there are no keys in its variables, in a machine where only that
    /// firmware can write them. Slower under emulation.
    pub fn secure_boot(mut self) -> Self {
        self.uefi.get_or_insert(UefiWanted { variables: None, firmware: None });
        self.secure_boot = true;
        self
    }

    /// Takes this firmware rather than the host's.
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.uefi.get_or_insert(UefiWanted { variables: None, firmware: None }).firmware = Some(firmware);
        self
    }

    /// Boots a kernel directly, without firmware.
    pub fn kernel(mut self, image: impl Into<PathBuf>, initrd: Option<PathBuf>, command_line: &str) -> Self {
        self.kernel = Some(Kernel { image: image.into(), initrd, command_line: command_line.to_owned() });
        self
    }

    /// Adds a network card plugged into `switch`; the port is [`Vm::lan_port`]. The MAC address follows from the port.
    pub fn lan(mut self, switch: &Switch) -> Self {
        let port = switch.add_port(&self.name);
        self.lans.push(Lan { switch: switch.clone(), port });
        self
    }

    /// Forwards a free UDP port of 127.0.0.1 ([`Vm::host_port`]) to the guest's `guest_port`, through the first switch
    /// given to [`lan`](Self::lan), or one of its own. The guest must listen on IPv6, too.
    pub fn forward_udp(mut self, guest_port: u16) -> Self {
        self.forwards.push(guest_port);
        self
    }

    /// Adds a network card on a network of its own, whose DHCP server gives the guest 10.0.2.15 and no way out. A connection to
    /// the TCP port `host_port` of 127.0.0.1 ([`free_tcp_port`](crate::free_tcp_port)) gets to its `guest_port` there, as a browser needs it.
    pub fn forward_tcp(mut self, host_port: u16, guest_port: u16) -> Self {
        self.web = Some((host_port, guest_port));
        self
    }

    /// Adds an i6300esb watchdog that resets the machine when the guest stops feeding it.
    pub fn watchdog(mut self) -> Self {
        self.watchdog = true;
        self
    }

    /// Adds a TPM 2.0 (swtpm) whose memory is this folder, made if missing. [`Vm::change_tpm`] puts in another one.
    pub fn tpm(mut self, folder: impl Into<PathBuf>) -> Self {
        self.tpm = Mutex::new(Some(folder.into()));
        self
    }

    /// At each start of QEMU the machine's clock is so many seconds off the host's, ahead or (negative) behind.
    pub fn clock_off(mut self, seconds: i64) -> Self {
        self.clock_off_s = seconds;
        self
    }

    /// Adds a screen (virtio-vga) for [`Vm::screendump`].
    pub fn screen(mut self) -> Self {
        self.screen = true;
        self
    }

    /// QEMU ends where the guest would reboot.
    pub fn no_reboot(mut self) -> Self {
        self.reboots = false;
        self
    }

    /// Further arguments for QEMU, as they are.
    pub fn arguments<I: Into<String>>(mut self, arguments: impl IntoIterator<Item = I>) -> Self {
        self.extra.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Writes the serial console, each line with its time, to a file too (a new one).
    pub fn serial_log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// Hands each line of the serial console to `callback`, on the reader's thread. It must not use this machine's
    /// [`Serial`](crate::Serial): that would wait for itself.
    pub fn on_line(mut self, callback: impl FnMut(&Line) + Send + 'static) -> Self {
        self.callback = Mutex::new(Some(Box::new(callback)));
        self
    }

    /// Starts the machine.
    ///
    /// # Errors
    /// QEMU or OVMF not installed, a file that cannot be opened, or QEMU ending at once (with what it said).
    pub fn start(self) -> Result<Vm, Error> {
        Vm::start(self.with_a_way_in())
    }

    /// Starts the machine with its console on this terminal and waits for it to end. Ctrl-A X leaves, Ctrl-A H helps.
    ///
    /// `before` is told, just before, which ports of 127.0.0.1 lead to which UDP ports of the guest: (guest's, host's).
    pub fn interactive(self, before: impl FnOnce(&[(u16, u16)])) -> Result<(), Error> {
        Vm::interactive(self.with_a_way_in(), before)
    }

    fn with_a_way_in(self) -> Self {
        if self.forwards.is_empty() || !self.lans.is_empty() { self } else { self.lan(&Switch::new()) }
    }
}
