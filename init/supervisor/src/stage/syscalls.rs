//! seccomp: system calls that no service needs, refused with an errno rather than with death, so that a library which
//! only tries gets its answer.
//!
//! Two promises of the architecture are kept here, beside the defence in depth: no socket but `AF_UNIX` without the
//! network, and services cannot start processes (threads they can).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter, sock_filter,
};

use super::spec::ExecSpec;

const CAP_SYS_TIME: u32 = 25;

/// Refused to every service, with any argument.
const NEVER: &[i64] = &[
    // Another view of the file system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_fanotify_init,
    // Another kernel.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Another namespace.
    libc::SYS_setns,
    libc::SYS_unshare,
    // Another process.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Large parts of the kernel that nobody here needs.
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_personality,
];

/// Old ways that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[i64] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[i64] = &[];

/// Refused without `CAP_SYS_TIME`.
const TIME: &[i64] =
    &[libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_adjtimex, libc::SYS_clock_adjtime];

const FAMILIES_WITHOUT_NETWORK: &[i32] = &[libc::AF_UNIX];
const FAMILIES_WITH_NETWORK: &[i32] =
    &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

/// The unit's filters, in the order in which they are installed.
pub fn filters(spec: &ExecSpec) -> Result<Vec<BpfProgram>> {
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut filters = vec![
        // Its flags are behind a pointer, so it cannot be judged; without it libraries fall back to clone.
        compile(clone3, libc::ENOSYS)?,
        compile(refused(spec)?, libc::EPERM)?,
    ];
    if cfg!(target_arch = "x86_64") {
        filters.push(without_x32());
    }
    Ok(filters)
}

/// Also sets `no_new_privs`.
pub fn install(filters: &[BpfProgram]) -> Result<()> {
    filters.iter().try_for_each(|f| apply_filter(f)).context("cannot install the seccomp filters")
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn refused(spec: &ExecSpec) -> Result<Rules> {
    let mut rules: Rules = NEVER.iter().chain(NEVER_HERE).map(|call| (*call, Vec::new())).collect();
    if !spec.capabilities.contains(&CAP_SYS_TIME) {
        rules.extend(TIME.iter().map(|call| (*call, Vec::new())));
    }
    let families = if spec.host_network { FAMILIES_WITH_NETWORK } else { FAMILIES_WITHOUT_NETWORK };
    let more: &[i32] = if spec.radio { &[libc::AF_ALG] } else { &[] };
    let other_family = families
        .iter()
        .chain(more)
        .map(|f| argument(0, SeccompCmpOp::Ne, *f as u64))
        .collect::<Result<Vec<_>>>()?;
    let other_family = SeccompRule::new(other_family)?;
    rules.insert(libc::SYS_socket, vec![other_family.clone()]);
    rules.insert(libc::SYS_socketpair, vec![other_family]);
    rules.insert(libc::SYS_clone, vec![a_new_process()?]);
    Ok(rules)
}

/// `clone` without `CLONE_THREAD`. Namespace flags cannot go with that one, so they are out too.
fn a_new_process() -> Result<SeccompRule> {
    let thread = libc::CLONE_THREAD as u64;
    Ok(SeccompRule::new(vec![argument(0, SeccompCmpOp::MaskedEq(thread), 0)?])?)
}

fn argument(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)?)
}

fn compile(rules: Rules, errno: i32) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(errno as u32);
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

/// x86-64 kernels may know a second numbering of the same calls (x32, bit 30), under the same architecture word. None of
/// our programs uses it, and a filter by number would not see it.
fn without_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    let stmt = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load_number = stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let is_x32 = sock_filter { jf: 1, ..stmt(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32_BIT) };
    let refuse = stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let allow = stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
    vec![load_number, is_x32, refuse, allow]
}
