//! A bad line: two TUN devices in two namespaces, and a thread that carries packets between them late, or not at all.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};

use crate::lab::ip;

#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// Each way.
    pub delay: Duration,
    /// Of a hundred packets, each way.
    pub loss: u64,
}

/// Packets that are kept on their way; more are lost.
const MAX_PACKETS: usize = 10_000;

pub struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    carried: AtomicU64,
    lost: AtomicU64,
}

nix::ioctl_write_ptr_bad!(set_tun, 0x400454ca, Request);

/// `struct ifreq` as far as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const IFF_TUN: u16 = 1;
const IFF_NO_PI: u16 = 0x1000;

impl Wire {
    pub fn between(a: (&str, &str), b: (&str, &str), quality: Quality) -> Result<Self> {
        let files = [device(a)?, device(b)?];
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let (stopped, counted) = (stop.clone(), counts.clone());
        let thread = std::thread::spawn(move || {
            if let Err(e) = carry(files, quality, &stopped, &counted) {
                eprintln!("the line is cut: {e:#}");
            }
        });
        Ok(Self { stop, thread: Some(thread), counts })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
        let (carried, lost) = (&self.counts.carried, &self.counts.lost);
        println!(
            "  the bad line carried {} packets and lost {}",
            carried.load(Ordering::Relaxed),
            lost.load(Ordering::Relaxed)
        );
    }
}

/// A thread of its own makes it: entering a namespace concerns a thread, and there is no way back.
fn device((space, name): (&str, &str)) -> Result<File> {
    let (path, text) = (format!("/var/run/netns/{space}"), name.to_string());
    let made = std::thread::spawn(move || -> Result<File> {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").context("/dev/net/tun")?;
        let mut request = Request { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
        request.name[..text.len()].copy_from_slice(text.as_bytes());
        // SAFETY: the request is as large as the kernel's, and outlives the call.
        unsafe { set_tun(file.as_raw_fd(), &request) }.context("TUNSETIFF")?;
        Ok(file)
    });
    let file = made.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
    ip(space, &format!("link set {name} up"))?;
    Ok(file)
}

fn carry(mut files: [File; 2], quality: Quality, stop: &AtomicBool, counts: &Counts) -> Result<()> {
    let mut under_way: [VecDeque<(Instant, Vec<u8>)>; 2] = Default::default();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let ready = wait(&files, &under_way)?;
        for from in 0..2 {
            if ready[from] {
                let len = files[from].read(&mut buffer)?;
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if (random >> 33) % 100 < quality.loss || under_way[from].len() >= MAX_PACKETS {
                    counts.lost.fetch_add(1, Ordering::Relaxed);
                } else {
                    counts.carried.fetch_add(1, Ordering::Relaxed);
                    under_way[from].push_back((Instant::now() + quality.delay, buffer[..len].to_vec()));
                }
            }
            while under_way[from].front().is_some_and(|(at, _)| *at <= Instant::now()) {
                let Some((_, packet)) = under_way[from].pop_front() else { break };
                // A device that is going down refuses packets.
                let _ = files[1 - from].write(&packet);
            }
        }
    }
    Ok(())
}

fn wait(files: &[File; 2], under_way: &[VecDeque<(Instant, Vec<u8>)>; 2]) -> Result<[bool; 2]> {
    let next = under_way.iter().filter_map(|q| q.front()).map(|(at, _)| *at).min();
    let ms = next.map_or(50, |at| at.saturating_duration_since(Instant::now()).as_millis().min(50));
    let mut fds =
        [PollFd::new(files[0].as_fd(), PollFlags::POLLIN), PollFd::new(files[1].as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(u8::try_from(ms).unwrap_or(50)))?;
    let readable = |fd: &PollFd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLIN));
    Ok([readable(&fds[0]), readable(&fds[1])])
}
