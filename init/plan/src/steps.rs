//! A boot as a list of steps. Each step is a value, names the stage that evidence will quote, and says what its
//! failure leads to. `init` performs them in order and makes no choices of its own.

use image_layout::encryption::Encryption;
use os_slots::Slot;

use crate::cmdline::Verity;
use crate::failure::OnFailure;
use crate::last_boot::PSTORE;

/// Where the new root is assembled, and the name of its dm-verity device.
pub const NEW_ROOT: &str = "/sysroot";
pub const VERITY_NAME: &str = "macula-root";
const VERITY_NODE: &str = "/dev/mapper/macula-root";
/// The opened state partition's name in the device mapper, and its node.
pub const STATE_NAME: &str = "macula-state";
pub const STATE_MAPPED: &str = "/dev/mapper/macula-state";
/// In both stages: state is mounted here before the root is switched.
pub const STATE: &str = "/state";
pub const EVIDENCE: &str = "/state/boot";
pub const BOOT_INFO: &str = "/run/macula/boot.json";
pub const CGROUP: &str = "/sys/fs/cgroup/macula";
pub const EFIVARS: &str = "/sys/firmware/efi/efivars";

/// uid = gid of each service, as in `docs/ARCHITECTURE.md`.
pub const SERVICES: [(&str, u32); 11] = [
    ("identity", 101),
    ("mesh", 102),
    ("dht", 103),
    ("content", 104),
    ("reconciler", 105),
    ("update", 106),
    ("network", 107),
    ("console", 108),
    ("check", 109),
    ("pairing", 110),
    ("wifi", 111),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Creates a folder if it is missing.
    MakeDir {
        path: String,
        mode: u32,
    },
    Mount(Mount),
    /// Writes a new file on a tmpfs.
    WriteFile {
        path: String,
        mode: u32,
        content: String,
    },
    Symlink {
        path: String,
        target: String,
    },
    /// A second node for the block device `of`, root's own.
    DeviceNode {
        path: String,
        of: String,
        mode: u32,
    },
    /// Opens the encrypted state partition; afterwards [`STATE_MAPPED`] exists.
    UnlockState {
        partition: String,
        kind: Encryption,
    },
    /// `e2fsck` on the unmounted state file system.
    CheckState {
        device: String,
    },
    /// Grows the mounted state file system to its partition, if that is larger.
    GrowState {
        device: String,
    },
    /// Finds out how the boot before this one ended, and records that this one runs.
    LookBack,
    /// Moves the owner's `/macula.toml` from the ESP to the state partition, if it has no configuration yet.
    Provision {
        esp: String,
    },
    /// Opens the root through dm-verity; afterwards `/dev/mapper/<VERITY_NAME>` exists.
    OpenVerity {
        device: String,
        verity: Verity,
    },
    /// Makes the file system that is the root unwritable.
    RootReadOnly,
    /// Moves `/proc /sys /dev /state` into the new root, frees the initramfs and changes root.
    SwitchRoot {
        new_root: String,
    },
    /// Hands controllers down to `CGROUP`.
    Cgroups,
    Hostname(String),
    LoopbackUp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: String,
    pub target: String,
    pub kind: &'static str,
    pub flags: MountFlags,
    pub options: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountFlags {
    pub read_only: bool,
    pub no_dev: bool,
    pub no_suid: bool,
    pub no_exec: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// One word for log and evidence.
    pub stage: &'static str,
    pub on_failure: OnFailure,
    pub step: Step,
}

/// Paths of the boot disk's nodes in `/dev`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    pub disk: String,
    pub esp: String,
    pub root_a: String,
    pub root_b: String,
    /// The partition.
    pub state: String,
    /// How it is opened, if it is encrypted.
    pub encryption: Option<Encryption>,
}

impl Devices {
    /// What the state file system is on.
    pub fn state_volume(&self) -> &str {
        if self.encryption.is_some() { STATE_MAPPED } else { &self.state }
    }

    pub fn root(&self, slot: Slot) -> &str {
        match slot {
            Slot::A => &self.root_a,
            Slot::B => &self.root_b,
        }
    }
}

/// The reserved blocks of the file system are for `update` alone (and root), so that a full disk never keeps a release out.
const STATE_OPTIONS: &str = "errors=remount-ro,resuid=106";

const ALL: MountFlags = MountFlags { read_only: false, no_dev: true, no_suid: true, no_exec: true };
const DEV: MountFlags = MountFlags { read_only: false, no_dev: false, no_suid: true, no_exec: true };
const ROOT: MountFlags = MountFlags { read_only: true, no_dev: true, no_suid: true, no_exec: false };

/// Before anything is known: what everything else looks into.
pub fn first() -> Vec<Planned> {
    let mut plan = Plan::new("kernel", OnFailure::Reboot);
    plan.dir("/proc", 0o555).mount("proc", "/proc", "proc", ALL, "");
    plan.dir("/sys", 0o555).mount("sysfs", "/sys", "sysfs", ALL, "");
    plan.dir("/dev", 0o755).mount("devtmpfs", "/dev", "devtmpfs", DEV, "mode=0755");
    plan.0
}

/// After the first modules: a machine without UEFI has no such file system, and the developer's keys stand in.
pub fn firmware() -> Vec<Planned> {
    let mut plan = Plan::new("firmware", OnFailure::Continue);
    plan.mount("efivarfs", EFIVARS, "efivarfs", ALL, "");
    plan.mount("pstore", PSTORE, "pstore", ALL, "");
    plan.0
}

/// From the boot disk to the new root.
pub fn root(devices: &Devices, slot: Slot, verity: &Verity) -> Vec<Planned> {
    let mut plan = state(devices);
    plan.stage("verity", OnFailure::OtherSlot);
    plan.push(Step::OpenVerity { device: devices.root(slot).to_owned(), verity: verity.clone() });
    plan.stage("root", OnFailure::OtherSlot);
    plan.dir(NEW_ROOT, 0o755).mount(VERITY_NODE, NEW_ROOT, "erofs", ROOT, "");
    plan.stage("switch-root", OnFailure::OtherSlot);
    plan.push(Step::SwitchRoot { new_root: NEW_ROOT.into() });
    plan.0
}

/// The rescue system is the initramfs: there is no root to go to, and nobody may write the one there is.
pub fn rescue(devices: &Devices) -> Vec<Planned> {
    let mut plan = state(devices);
    plan.stage("root", OnFailure::Continue);
    plan.push(Step::RootReadOnly);
    plan.0
}

fn state(devices: &Devices) -> Plan {
    let mut plan = Plan::new("state", OnFailure::Reboot);
    if let Some(kind) = devices.encryption {
        plan.push(Step::UnlockState { partition: devices.state.clone(), kind });
    }
    let volume = devices.state_volume();
    plan.push(Step::CheckState { device: volume.into() });
    plan.dir(STATE, 0o755).mount(volume, STATE, "ext4", ALL, STATE_OPTIONS);
    plan.stage("state", OnFailure::Continue);
    plan.push(Step::GrowState { device: volume.into() }).dir(EVIDENCE, 0o755);
    plan.push(Step::LookBack);
    plan.stage("provision", OnFailure::Continue);
    plan.push(Step::Provision { esp: devices.esp.clone() });
    plan
}

/// In the new root, up to the supervisor's start. `boot_info` is the text of `boot.json`.
pub fn system(devices: &Devices, slot: Slot, hostname: &str, boot_info: String) -> Vec<Planned> {
    let mut plan = Plan::new("system", OnFailure::OtherSlot);
    plan.mount("tmpfs", "/run", "tmpfs", ALL, "mode=0755,size=32m");
    plan.mount("tmpfs", "/tmp", "tmpfs", ALL, "mode=1777,size=64m");
    plan.mount("tmpfs", "/etc", "tmpfs", ALL, "mode=0755,size=1m");
    plan.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", ALL, "nsdelegate");
    plan.push(Step::Cgroups);
    plan.dir("/run/macula", 0o755).file(BOOT_INFO, 0o444, boot_info);
    plan.stage("etc", OnFailure::Continue);
    plan.etc(hostname);
    plan.stage("devices", OnFailure::Continue);
    plan.device_nodes(devices, slot);
    plan.stage("network", OnFailure::Continue);
    plan.push(Step::LoopbackUp);
    plan.0
}

/// Steps in the making, and the stage that new ones belong to.
struct Plan(Vec<Planned>, &'static str, OnFailure);

impl Plan {
    fn new(stage: &'static str, on_failure: OnFailure) -> Plan {
        Plan(Vec::new(), stage, on_failure)
    }

    fn stage(&mut self, stage: &'static str, on_failure: OnFailure) {
        (self.1, self.2) = (stage, on_failure);
    }

    fn push(&mut self, step: Step) -> &mut Plan {
        self.0.push(Planned { stage: self.1, on_failure: self.2, step });
        self
    }

    fn dir(&mut self, path: &str, mode: u32) -> &mut Plan {
        self.push(Step::MakeDir { path: path.into(), mode })
    }

    fn file(&mut self, path: &str, mode: u32, content: impl Into<String>) -> &mut Plan {
        self.push(Step::WriteFile { path: path.into(), mode, content: content.into() })
    }

    fn mount(
        &mut self,
        source: &str,
        target: &str,
        kind: &'static str,
        flags: MountFlags,
        options: &str,
    ) -> &mut Plan {
        let (source, target, options) = (source.into(), target.into(), options.into());
        self.push(Step::Mount(Mount { source, target, kind, flags, options }))
    }

    fn etc(&mut self, hostname: &str) {
        let account = |(name, id): &(&str, u32)| format!("{name}:x:{id}:{id}:{name}:/:/nonexistent\n");
        let group = |(name, id): &(&str, u32)| format!("{name}:x:{id}:\n");
        let accounts: String = SERVICES.iter().map(account).collect();
        let groups: String = SERVICES.iter().map(group).collect();
        self.file("/etc/passwd", 0o644, format!("root:x:0:0:root:/:/nonexistent\n{accounts}"));
        self.file("/etc/group", 0o644, format!("root:x:0:\n{groups}"));
        self.file("/etc/hostname", 0o644, format!("{hostname}\n"));
        self.file("/etc/hosts", 0o644, format!("127.0.0.1 localhost {hostname}\n::1 localhost {hostname}\n"));
        self.push(Step::Symlink {
            path: "/etc/resolv.conf".into(),
            target: "/run/macula/net/resolv.conf".into(),
        });
        self.push(Step::Hostname(hostname.into()));
    }

    /// Root's alone: the supervisor gives each service nodes of its own. Nobody, root included, is invited to write
    /// the running root.
    fn device_nodes(&mut self, devices: &Devices, slot: Slot) {
        let root_mode = |of: Slot| if of == slot { 0o400 } else { 0o600 };
        self.dir("/dev/macula", 0o755);
        for (name, of, mode) in [
            ("disk", &devices.disk, 0o600),
            ("esp", &devices.esp, 0o600),
            ("root-a", &devices.root_a, root_mode(Slot::A)),
            ("root-b", &devices.root_b, root_mode(Slot::B)),
            ("state", &devices.state_volume().to_owned(), 0o600),
        ] {
            self.push(Step::DeviceNode { path: format!("/dev/macula/{name}"), of: of.clone(), mode });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Devices {
        let node = |number: &str| format!("/dev/vda{number}");
        let (root_a, root_b, state) = (node("2"), node("3"), node("4"));
        Devices { disk: node(""), esp: node("1"), root_a, root_b, state, encryption: None }
    }

    fn verity() -> Verity {
        Verity { root_hash: "ab".repeat(32), salt: "01".into(), data_blocks: 7 }
    }

    fn position(plan: &[Planned], wanted: impl Fn(&Step) -> bool) -> usize {
        plan.iter().position(|planned| wanted(&planned.step)).expect("the plan has the step")
    }

    #[test]
    fn state_is_there_before_the_root_can_fail() {
        let plan = root(&devices(), Slot::B, &verity());
        let check =
            position(&plan, |step| matches!(step, Step::CheckState { device } if device == "/dev/vda4"));
        let state = position(
            &plan,
            |step| matches!(step, Step::Mount(mount) if mount.target == STATE && mount.flags == ALL),
        );
        let grow = position(&plan, |step| matches!(step, Step::GrowState { .. }));
        let open =
            position(&plan, |step| matches!(step, Step::OpenVerity { device, .. } if device == "/dev/vda3"));
        let root = position(
            &plan,
            |step| matches!(step, Step::Mount(mount) if mount.kind == "erofs" && mount.flags.read_only),
        );
        let switch = position(&plan, |step| matches!(step, Step::SwitchRoot { .. }));
        assert!(check < state && state < grow && grow < open && open < root && root < switch);
        assert_eq!(switch, plan.len() - 1);
        assert!(plan[open..].iter().all(|planned| planned.on_failure == OnFailure::OtherSlot));
        assert!(plan[..state].iter().all(|planned| planned.on_failure == OnFailure::Reboot));
    }

    #[test]
    fn an_encrypted_state_is_opened_before_it_is_looked_at() {
        let devices = Devices { encryption: Some(Encryption::Tpm), ..devices() };
        for plan in [root(&devices, Slot::A, &verity()), rescue(&devices)] {
            let unlock = position(
                &plan,
                |step| matches!(step, Step::UnlockState { partition, .. } if partition == "/dev/vda4"),
            );
            let check =
                position(&plan, |step| matches!(step, Step::CheckState { device } if device == STATE_MAPPED));
            assert!(unlock < check && plan[unlock].on_failure == OnFailure::Reboot);
            assert!(!plan[check..].iter().any(|p| format!("{:?}", p.step).contains("/dev/vda4")));
        }
    }

    #[test]
    fn rescue_opens_no_slot() {
        let plan = rescue(&devices());
        assert!(!plan.iter().any(|p| matches!(p.step, Step::OpenVerity { .. } | Step::SwitchRoot { .. })));
        assert!(plan.iter().all(|planned| planned.on_failure != OnFailure::OtherSlot));
        position(&plan, |step| matches!(step, Step::Mount(mount) if mount.target == STATE));
    }

    #[test]
    fn every_stage_that_leaves_the_root_condemns_it() {
        let plan = root(&devices(), Slot::A, &verity());
        let left = plan.iter().filter(|planned| planned.on_failure == OnFailure::OtherSlot);
        assert!(
            left.map(|planned| planned.stage).all(|stage| os_slots::STAGES_OF_CORRUPTION.contains(&stage))
        );
    }

    #[test]
    fn the_running_root_is_read_only() {
        let read_only = |slot| -> Vec<String> {
            let plan = system(&devices(), slot, "node", String::new());
            let nodes = plan.into_iter().filter_map(|planned| match planned.step {
                Step::DeviceNode { path, mode, .. } if mode & 0o222 == 0 => Some(path),
                _ => None,
            });
            nodes.collect()
        };
        assert_eq!(read_only(Slot::A), ["/dev/macula/root-a"]);
        assert_eq!(read_only(Slot::B), ["/dev/macula/root-b"]);
    }

    #[test]
    fn the_reserve_belongs_to_update() {
        let update = SERVICES.iter().find(|(name, _)| *name == "update").unwrap().1;
        assert!(STATE_OPTIONS.ends_with(&format!("resuid={update}")));
    }

    #[test]
    fn tmpfs_comes_before_what_is_written_there() {
        let plan = system(&devices(), Slot::A, "node", "{}".into());
        for (folder, file) in [("/etc", "/etc/passwd"), ("/run", BOOT_INFO)] {
            let mount = position(&plan, |step| matches!(step, Step::Mount(mount) if mount.target == folder));
            assert!(
                mount < position(&plan, |step| matches!(step, Step::WriteFile { path, .. } if path == file))
            );
        }
    }
}
