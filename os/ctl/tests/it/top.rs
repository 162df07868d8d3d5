//! `top` on a real terminal (a pty): it shows, it listens to keys, and leaves the terminal as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::owner::Owner;
use crate::test_node::TestNode;

/// Generous: machines that test are busy.
const WAIT: Duration = Duration::from_secs(120);
const LEAVE_ALTERNATE_SCREEN: &str = "\x1b[?1049l";

struct Terminal {
    keys: File,
    slave: OwnedFd,
    shown: Arc<Mutex<String>>,
    child: Child,
    before: libc::termios,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn modes(fd: &OwnedFd) -> libc::termios {
    // SAFETY: the pointer is to a termios of ours, which tcgetattr fills.
    unsafe {
        let mut modes = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(fd.as_raw_fd(), &mut modes), 0);
        modes
    }
}

impl Terminal {
    fn run(owner: &Owner, node: &TestNode) -> Self {
        let size = libc::winsize { ws_row: 30, ws_col: 110, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut master, mut slave) = (0, 0);
        // SAFETY: the pointers are to integers and a size of ours; the name and the modes may be absent.
        let (master, slave) = unsafe {
            assert_eq!(
                libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null_mut(), &size),
                0
            );
            (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let before = modes(&slave);
        let end = || slave.try_clone().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_maculactl"));
        command.arg("top").env_clear().env("TERM", "xterm-256color");
        command.env("XDG_CONFIG_HOME", owner.home.path()).env("MACULA_NODE", &node.address);
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let shown = Arc::<Mutex<String>>::default();
        let (mut from, into) = (master.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { keys: master, slave, shown, child, before }
    }

    fn shows(&self, text: &str) {
        let deadline = Instant::now() + WAIT;
        while !self.shown.lock().unwrap().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not in {:?}", self.shown.lock().unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn press(&mut self, keys: &str) {
        self.shown.lock().unwrap().clear();
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// It has ended well and left the terminal as it was.
    fn leaves_it_whole(mut self) {
        let deadline = Instant::now() + WAIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(status.success(), "{status}: {}", self.shown.lock().unwrap());
        self.shows(LEAVE_ALTERNATE_SCREEN);
        let after = modes(&self.slave);
        let of = |m: &libc::termios| (m.c_iflag, m.c_oflag, m.c_cflag, m.c_lflag);
        assert_eq!(of(&after), of(&self.before));
    }
}

fn attic(owner: &Owner, seed: u8) -> TestNode {
    let node = TestNode::start(seed, &owner.id);
    let mut state = node.state.lock().unwrap();
    state.name = "attic".into();
    state.logs("mesh", "three-peers");
    drop(state);
    node
}

#[test]
fn keys_change_the_view_and_q_leaves_the_terminal_whole() {
    let owner = Owner::new();
    let node = attic(&owner, 61);
    let mut terminal = Terminal::run(&owner, &node);
    terminal.shows("attic");
    terminal.press("4");
    terminal.shows("three-peers");
    terminal.press("?");
    // In one word: blanks that were blank before are not drawn again.
    terminal.shows("Ctrl-C");
    terminal.press("x");
    terminal.press("q");
    terminal.leaves_it_whole();
}

#[test]
fn control_c_and_a_signal_leave_it_whole_too() {
    let owner = Owner::new();
    let node = attic(&owner, 62);
    let mut terminal = Terminal::run(&owner, &node);
    terminal.shows("attic");
    terminal.press("\x03");
    terminal.leaves_it_whole();

    let terminal = Terminal::run(&owner, &node);
    terminal.shows("attic");
    // SAFETY: a plain system call; the process is ours.
    unsafe { libc::kill(terminal.child.id() as i32, libc::SIGTERM) };
    terminal.leaves_it_whole();
}

#[test]
fn a_pipe_is_no_terminal() {
    let owner = Owner::new();
    assert!(owner.error("127.0.0.1", "top").contains("needs a terminal"));
}
