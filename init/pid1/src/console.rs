//! What init says: to the kernel log, and to every console that the kernel's own log level would keep it from.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{FlushArg, LocalFlags, SetArg, Termios, tcflush, tcgetattr, tcsetattr};

/// Longest line; the kernel cuts its own at about 1 KiB.
const LINE_MAX: usize = 900;
/// Messages of our level (5, notice) reach consoles by themselves above this console level.
const LEVEL: u32 = 5;
/// How long one line may wait for a slow or stuck console.
const PATIENCE_MS: u16 = 200;

struct Console {
    kernel_log: Option<File>,
    outputs: Vec<File>,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console { kernel_log: None, outputs: Vec::new() });

/// Opens the kernel log and the consoles. Called again after `/dev` is mounted; until then `say` goes to stderr.
pub fn open() {
    // Ours are few and matter; by default user space is limited to ten lines in five seconds.
    // The kernel takes the word only with its newline.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    let printk = fs::read_to_string("/proc/sys/kernel/printk").unwrap_or_default();
    let level: u32 = printk.split_whitespace().next().and_then(|level| level.parse().ok()).unwrap_or(7);
    let mut console = CONSOLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    console.kernel_log = OpenOptions::new().write(true).open("/dev/kmsg").ok();
    console.outputs = if level > LEVEL && console.kernel_log.is_some() { Vec::new() } else { outputs() };
}

fn outputs() -> Vec<File> {
    consoles(OpenOptions::new().write(true))
}

/// Every console, opened without waiting for anything.
fn consoles(how: &mut OpenOptions) -> Vec<File> {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_else(|_| "console".into());
    how.custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK);
    active.split_whitespace().filter_map(|name| how.open(format!("/dev/{name}")).ok()).collect()
}

/// Every console, for reading lines that people type.
pub struct Inputs(Vec<File>);

pub fn inputs() -> Inputs {
    Inputs(consoles(OpenOptions::new().read(true)))
}

/// What is typed on the consoles is not shown while this lives.
pub struct Hidden(Vec<(File, Termios)>);

impl Drop for Hidden {
    fn drop(&mut self) {
        for (console, before) in &self.0 {
            let _ = tcsetattr(console, SetArg::TCSANOW, before);
        }
    }
}

impl Inputs {
    /// Hides what is typed, and forgets what was typed before.
    pub fn hide(&self) -> Hidden {
        let hide = |input: &File| -> Option<(File, Termios)> {
            let before = tcgetattr(input).ok()?;
            let mut hidden = before.clone();
            hidden.local_flags.remove(LocalFlags::ECHO);
            let _ = tcflush(input, FlushArg::TCIFLUSH);
            tcsetattr(input, SetArg::TCSANOW, &hidden).ok()?;
            Some((input.try_clone().ok()?, before))
        };
        Hidden(self.0.iter().filter_map(hide).collect())
    }

    /// A line typed on any console within `patience`; the consoles themselves put it together.
    pub fn line(&mut self, patience: Duration) -> Option<String> {
        let mut ready: Vec<_> =
            self.0.iter().map(|input| PollFd::new(input.as_fd(), PollFlags::POLLIN)).collect();
        let patience = PollTimeout::from(u16::try_from(patience.as_millis()).unwrap_or(u16::MAX));
        if ready.is_empty() || !matches!(poll(&mut ready, patience), Ok(1..)) {
            return None;
        }
        let typed: Vec<bool> = ready.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut line = [0; LINE_MAX];
        let mut typed_on = self.0.iter_mut().zip(typed).filter_map(|(input, typed)| typed.then_some(input));
        let length = typed_on.find_map(|input| input.read(&mut line).ok().filter(|length| *length > 0))?;
        Some(String::from_utf8_lossy(&line[..length]).into_owned())
    }
}

/// One line for people and for the kernel log.
pub fn say(text: &str) {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE_MAX).collect();
    let Ok(mut console) = CONSOLE.try_lock() else { return };
    let Console { kernel_log, outputs } = &mut *console;
    match kernel_log {
        Some(log) => drop(log.write_all(format!("<{LEVEL}>macula-init: {text}\n").as_bytes())),
        None if outputs.is_empty() => eprintln!("macula-init: {text}"),
        None => {}
    }
    let now = now();
    let line = format!("[{:5}.{:06}] macula-init: {text}\r\n", now.as_secs(), now.subsec_micros());
    outputs.iter_mut().for_each(|output| write_patiently(output, line.as_bytes()));
}

fn write_patiently(output: &mut File, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
                if !matches!(poll(&mut ready, PollTimeout::from(PATIENCE_MS)), Ok(1..)) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Makes `/dev/console` standard input, output and error, for our children's sake.
pub fn take_standard_streams() {
    let Ok(console) =
        OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOCTTY).open("/dev/console")
    else {
        return say("cannot open /dev/console; what services print is lost");
    };
    for stream in 0..3 {
        // SAFETY: dup2 on descriptors that no Rust object owns.
        unsafe { nix::libc::dup2(console.as_raw_fd(), stream) };
    }
}

/// Time since the kernel started.
pub fn now() -> Duration {
    let mut time = nix::libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing.
    unsafe { nix::libc::clock_gettime(nix::libc::CLOCK_BOOTTIME, &mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
