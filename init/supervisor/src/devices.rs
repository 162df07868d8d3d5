//! Private device nodes: `/run/macula/dev/<unit>/<role>`, so that a service opens a role and never learns of a disk.
//!
//! Nodes belong to root and the unit's group: an owner could change the mode, a group member cannot.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, bail};
use init_plan::unit::{Device, DeviceRole, Unit};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::statvfs::{FsFlags, statvfs};
use os_slots::{BootInfo, Slot};

use crate::paths::Paths;
use crate::stage::spec::DeviceNode;

const BOOT_INFO_MAX: u64 = 1024 * 1024;
const RFKILL: &str = "/dev/rfkill";

/// Makes `/run/macula/dev`, as a file system on which device nodes work.
pub fn prepare(paths: &Paths) -> Result<()> {
    let dir = paths.devices();
    fs::create_dir_all(&dir)?;
    if statvfs(&dir)?.flags().contains(FsFlags::ST_NODEV) {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("devices"), &dir, Some("tmpfs"), flags, Some("mode=0755,size=64k"))
            .with_context(|| format!("{} is mounted nodev and a tmpfs over it failed", dir.display()))?;
    }
    Ok(())
}

/// Makes a unit's nodes and returns them. Those that are there already stay: a running service's Landlock rules are about
/// these very nodes, and it would be shut out of new ones (a probe of its sandbox comes by here, too).
pub fn make_nodes(paths: &Paths, unit: &Unit) -> Result<Vec<DeviceNode>> {
    if unit.sandbox.devices.is_empty() {
        return Ok(Vec::new());
    }
    let info = read_boot_info(&paths.boot_info())?;
    let dir = paths.devices().join(&unit.name);
    fs::create_dir_all(&dir)?;
    chown(&dir, Some(0), Some(unit.uid))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o750))?;
    unit.sandbox.devices.iter().map(|d| make_node(&dir, unit.uid, &info, *d)).collect()
}

fn make_node(dir: &Path, gid: u32, info: &BootInfo, device: Device) -> Result<DeviceNode> {
    let source = source(info, device.role);
    let name = device.role.name();
    let metadata =
        fs::metadata(source).with_context(|| format!("no device {} for {name}", source.display()))?;
    if !metadata.file_type().is_block_device() {
        bail!("{} for {name} is not a block device", source.display());
    }
    if device.write && is_active_root(info, metadata.rdev()) {
        bail!("{} for {name} is the running root, which nobody may write", source.display());
    }
    let path = dir.join(name);
    if !is_node_of(&path, metadata.rdev()) {
        let _ = fs::remove_file(&path);
        mknod(&path, SFlag::S_IFBLK, Mode::empty(), metadata.rdev())
            .with_context(|| format!("cannot make {}", path.display()))?;
    }
    chown(&path, Some(0), Some(gid))?;
    let mode = if device.write { 0o660 } else { 0o440 };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(DeviceNode { path, write: device.write })
}

/// The switch of the radios, if there is one, opened to a group. It keeps its name, which programs have built in.
pub fn rfkill(gid: u32) -> Result<Option<DeviceNode>> {
    let path = Path::new(RFKILL);
    if !path.exists() {
        return Ok(None);
    }
    chown(path, Some(0), Some(gid))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o660)))
        .with_context(|| format!("cannot open {RFKILL} to group {gid}"))?;
    Ok(Some(DeviceNode { path: path.to_owned(), write: true }))
}

fn is_node_of(path: &Path, device: u64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_block_device() && m.rdev() == device)
}

fn source(info: &BootInfo, role: DeviceRole) -> &Path {
    match role {
        DeviceRole::ActiveRoot => info.active_root(),
        DeviceRole::InactiveRoot => info.inactive_root(),
        DeviceRole::RootA => info.root(Slot::A),
        DeviceRole::RootB => info.root(Slot::B),
        DeviceRole::Esp => &info.esp,
    }
}

/// By device number, so that two paths to one device do not fool us.
fn is_active_root(info: &BootInfo, rdev: u64) -> bool {
    fs::metadata(info.active_root()).is_ok_and(|m| m.rdev() == rdev)
}

pub fn read_boot_info(path: &Path) -> Result<BootInfo> {
    let mut text = String::new();
    let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(BOOT_INFO_MAX).read_to_string(&mut text)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what PID 1 writes", path.display()))
}
