//! The command line for QEMU.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

use time::{Duration, OffsetDateTime};

use crate::Error;
use crate::builder::{Builder, Cache, Disk};

/// Overrides the accelerator, see the crate's documentation.
const ACCELERATOR_ENV: &str = "MACULA_QEMU_ACCEL";

/// What belongs to one start of a machine rather than to its description.
pub(crate) struct Connections<'a> {
    /// Code and this machine's variables.
    pub flash: Option<(&'a Path, &'a Path)>,
    /// QMP, absent in interactive mode.
    pub qmp: Option<&'a OwnedFd>,
    /// The TPM's control connection.
    pub tpm: Option<&'a OwnedFd>,
    /// One for each of the builder's LANs.
    pub lans: &'a [OwnedFd],
    /// Write logs go on where they ended.
    pub append_write_logs: bool,
}

pub(crate) struct Arguments(pub Vec<OsString>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }
}

/// All arguments. Nothing that QEMU would add by default is there, so a machine is what it says here.
pub(crate) fn arguments(builder: &Builder, connections: &Connections<'_>) -> Result<Arguments, Error> {
    let accelerator = std::env::var(ACCELERATOR_ENV).unwrap_or_else(|_| "tcg,thread=multi".to_owned());
    let mut arguments = Arguments(Vec::new());
    arguments.add("-name", builder.name.as_str());
    if builder.secure_boot {
        arguments.add("-machine", "q35,smm=on");
        arguments.add("-global", "driver=cfi.pflash01,property=secure,value=on");
    } else {
        arguments.add("-machine", "q35");
    }
    arguments.add("-cpu", if accelerator.starts_with("tcg") { "max" } else { "host" });
    arguments.add("-accel", accelerator);
    arguments.add("-m", builder.memory_mib.to_string());
    arguments.add("-smp", builder.cpus.to_string());
    arguments.0.extend(["-nodefaults", "-nographic"].map(OsString::from));
    arguments.add("-object", "rng-random,filename=/dev/urandom,id=entropy");
    arguments.add("-device", "virtio-rng-pci,rng=entropy");
    boot(builder, connections, &mut arguments)?;
    for (index, disk) in builder.disks.iter().enumerate() {
        add_disk(builder, index, disk, connections.append_write_logs, &mut arguments)?;
    }
    network(builder, connections, &mut arguments);
    consoles(builder, connections, &mut arguments);
    if builder.watchdog {
        arguments.add("-device", "i6300esb");
        arguments.add("-action", "watchdog=reset");
    }
    if let Some(fd) = connections.tpm {
        arguments.add("-chardev", format!("socket,id=tpm,fd={}", fd.as_raw_fd()));
        arguments.add("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        arguments.add("-device", "tpm-crb,tpmdev=tpm0");
    }
    if builder.clock_off_s != 0 {
        let at = OffsetDateTime::from(SystemTime::now()) + Duration::seconds(builder.clock_off_s);
        arguments.add("-rtc", format!("base={}", clock_base(at)));
    }
    if !builder.reboots {
        arguments.0.push("-no-reboot".into());
    }
    arguments.0.extend(builder.extra.iter().map(OsString::from));
    Ok(arguments)
}

fn boot(builder: &Builder, connections: &Connections<'_>, arguments: &mut Arguments) -> Result<(), Error> {
    if let Some((code, variables)) = connections.flash {
        let (code, variables) = (escape(builder, code)?, escape(builder, variables)?);
        arguments.add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
        arguments.add("-drive", format!("if=pflash,unit=1,format=raw,file={variables}"));
    }
    if let Some(kernel) = &builder.kernel {
        arguments.add("-kernel", kernel.image.as_os_str());
        arguments.add("-append", kernel.command_line.as_str());
        if let Some(initrd) = &kernel.initrd {
            arguments.add("-initrd", initrd.as_os_str());
        }
    }
    Ok(())
}

/// virtio-blk, because its guest sends flushes in the right order where QEMU's nvme loses FUA.
fn add_disk(
    builder: &Builder,
    index: usize,
    disk: &Disk,
    append: bool,
    arguments: &mut Arguments,
) -> Result<(), Error> {
    let no_flush = if builder.cache == Cache::Unsafe { "on" } else { "off" };
    let path = escape(builder, &disk.path)?;
    let cache = format!("cache.direct=off,cache.no-flush={no_flush}");
    arguments
        .add("-blockdev", format!("driver=file,node-name=file{index},filename={path},discard=unmap,{cache}"));
    arguments
        .add("-blockdev", format!("driver=raw,node-name=raw{index},file=file{index},discard=unmap,{cache}"));
    let mut node = format!("raw{index}");
    if let Some(log) = &disk.write_log {
        let recorded = append && std::fs::metadata(log).is_ok_and(|metadata| metadata.len() > 0);
        // A log that goes on has its sector size already; QEMU takes no other.
        let start = if recorded { "log-append=on" } else { "log-sector-size=512,log-append=off" };
        // The log's own count of requests is kept true at each one, so that a log can be read while it grows. Flushes
        // must reach it, whatever becomes of them below.
        let log = escape(builder, log)?;
        arguments.add("-blockdev", format!("driver=file,node-name=log{index},filename={log}"));
        arguments.add(
            "-blockdev",
            format!(
                "driver=blklogwrites,node-name=logged{index},file={node},log=log{index},{start},\
                 log-super-update-interval=1,discard=unmap,cache.direct=off,cache.no-flush=off"
            ),
        );
        node = format!("logged{index}");
    }
    arguments.add("-device", format!("virtio-blk-pci,drive={node},bootindex={}", index + 1));
    Ok(())
}

fn network(builder: &Builder, connections: &Connections<'_>, arguments: &mut Arguments) {
    for (index, (lan, fd)) in builder.lans.iter().zip(connections.lans).enumerate() {
        let fd = fd.as_raw_fd();
        arguments.add("-netdev", format!("stream,id=lan{index},server=off,addr.type=fd,addr.str={fd}"));
        // No option ROM: nobody boots from the network, and QEMU would want another package for it.
        let mac = lan.switch.mac(lan.port);
        arguments.add("-device", format!("virtio-net-pci,netdev=lan{index},mac={mac},romfile="));
    }
    if let Some((host, guest)) = builder.web {
        let forward = format!("hostfwd=tcp:127.0.0.1:{host}-:{guest}");
        arguments.add("-netdev", format!("user,id=web,restrict=on,ipv6=off,{forward}"));
        arguments.add("-device", "virtio-net-pci,netdev=web,romfile=");
    }
}

fn consoles(builder: &Builder, connections: &Connections<'_>, arguments: &mut Arguments) {
    match connections.qmp {
        Some(fd) => {
            arguments.add("-chardev", "stdio,id=console,signal=off");
            arguments.add("-serial", "chardev:console");
            arguments.add("-chardev", format!("socket,id=qmp,fd={}", fd.as_raw_fd()));
            arguments.add("-mon", "chardev=qmp,mode=control");
        }
        None => arguments.add("-serial", "mon:stdio"),
    }
    if builder.screen {
        arguments.add("-device", "virtio-vga");
    }
}

/// A time in the form that QEMU reads.
fn clock_base(at: OffsetDateTime) -> String {
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", u8::from(month))
}

/// A path as a value inside a comma-separated option, where a comma is written twice.
fn escape(builder: &Builder, path: &Path) -> Result<String, Error> {
    match path.to_str() {
        Some(text) => Ok(text.replace(',', ",,")),
        None => {
            let what = format!("{} is not UTF-8; QEMU cannot be told of it", path.display());
            Err(Error::Invalid { name: builder.name.clone(), what })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Switch, Vm};

    fn line(builder: &Builder, connections: &Connections<'_>) -> String {
        let words = arguments(builder, connections).unwrap().0;
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn describes_disks_networks_and_watchdog() {
        let switch = Switch::new();
        let builder = Vm::builder("a")
            .disk("x,y.img")
            .record_writes("w.log")
            .cache(Cache::Unsafe)
            .lan(&switch)
            .forward_udp(4433)
            .forward_tcp(5000, 443)
            .watchdog();
        let lans = [switch.plug(builder.lans[0].port).unwrap()];
        let connections = Connections {
            flash: Some((Path::new("code.fd"), Path::new("vars.fd"))),
            tpm: None,
            qmp: None,
            lans: &lans,
            append_write_logs: true,
        };
        let text = line(&builder, &connections);
        for part in [
            "filename=x,,y.img,discard=unmap,cache.direct=off,cache.no-flush=on",
            "driver=blklogwrites,node-name=logged0,file=raw0,log=log0,log-sector-size=512,\
             log-append=off,log-super-update-interval=1,discard=unmap,cache.direct=off,cache.no-flush=off",
            "virtio-blk-pci,drive=logged0,bootindex=1",
            &format!("addr.type=fd,addr.str={}", lans[0].as_raw_fd()),
            "user,id=web,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:5000-:443",
            "-device i6300esb -action watchdog=reset",
            "-serial mon:stdio",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn clocks_are_told_as_qemu_reads_them() {
        let at = |unix| clock_base(OffsetDateTime::from_unix_timestamp(unix).unwrap());
        assert_eq!(at(1_795_420_800), "2026-11-23T08:00:00");
        assert_eq!(at(0), "1970-01-01T00:00:00");
    }

    #[test]
    fn machines_differ_in_addresses() {
        let switch = Switch::new();
        let [a, b] = ["a", "b"].map(|name| Vm::builder(name).lan(&switch).forward_udp(1));
        assert_ne!(switch.mac(a.lans[0].port), switch.mac(b.lans[0].port));
    }
}
