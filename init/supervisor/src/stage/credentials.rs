//! From root to the unit's user, keeping only the capabilities that its file lists. They become ambient, because a static
//! binary without file capabilities would lose them at exec otherwise.

use std::io;

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::spec::ExecSpec;

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits per set.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAPABILITIES_MAX: u32 = 63;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

pub fn drop_to(spec: &ExecSpec) -> Result<()> {
    if spec.uid == 0 {
        bail!("a service never runs as root");
    }
    drop_bounding_set(&spec.capabilities)?;
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).context("cannot keep capabilities over the change of user")?;
    let groups: Vec<Gid> = spec.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.uid));
    setgroups(&groups).context("setgroups")?;
    setresgid(gid, gid, gid).with_context(|| format!("cannot become group {gid}"))?;
    setresuid(uid, uid, uid).with_context(|| format!("cannot become user {uid}"))?;
    set_capabilities(&spec.capabilities)?;
    for capability in &spec.capabilities {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, (*capability).into())
            .with_context(|| format!("cannot keep capability {capability}"))?;
    }
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).context("cannot set no_new_privs")
}

/// Drops every capability that the kernel knows but those kept. Reading one that it does not know is an error, which
/// ends the loop.
fn drop_bounding_set(kept: &[u32]) -> Result<()> {
    for capability in 0..=CAPABILITIES_MAX {
        match prctl_value(libc::PR_CAPBSET_READ, capability.into(), 0) {
            Err(_) => return Ok(()),
            Ok(1) if !kept.contains(&capability) => prctl(libc::PR_CAPBSET_DROP, capability.into(), 0)
                .with_context(|| format!("cannot drop capability {capability}"))?,
            Ok(_) => {}
        }
    }
    Ok(())
}

fn set_capabilities(kept: &[u32]) -> Result<()> {
    let mut data = [CapData::default(); 2];
    for capability in kept {
        let Some(word) = data.get_mut(*capability as usize / 32) else { bail!("no capability {capability}") };
        let bit = 1 << (capability % 32);
        word.effective |= bit;
        word.permitted |= bit;
        word.inheritable |= bit;
    }
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // SAFETY: both pointers are to structures of the layout that version 3 names, alive over the call.
    if unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error()).context("cannot set the capabilities");
    }
    Ok(())
}

fn prctl(option: i32, a: u64, b: u64) -> io::Result<()> {
    prctl_value(option, a, b).map(drop)
}

fn prctl_value(option: i32, a: u64, b: u64) -> io::Result<i32> {
    // SAFETY: none of the options used here takes a pointer.
    match unsafe { libc::prctl(option, a, b, 0u64, 0u64) } {
        value if value < 0 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}
