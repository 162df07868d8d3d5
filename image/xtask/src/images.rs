//! Images and releases of a board.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_builder::{BuiltImage, ImageSpec, Progress, programs_in};
use qemu_lab::{ReleaseFiles, Releases};

use crate::host::{self, Need};
use crate::{Tree, binaries};

/// The board that QEMU boots.
pub const QEMU_BOARD: &str = "x86-generic";
/// What `cargo xtask image` makes; `run` and the tests update to the second.
pub const FIRST: &str = "0.1.0";
pub const SECOND: &str = "0.2.0";
const DEAF: &str = "0.3.0";
const FAULTY: &str = "0.1.9";
/// Where unit files are in the root.
const UNITS: &str = "usr/lib/macula/units";
/// The services of the image, each with a `unit.toml` in its folder.
const SERVICES: [&str; 8] =
    ["identity", "network", "mesh", "dht", "content", "update", "reconciler", "console"];

#[derive(clap::Args)]
pub struct Options {
    /// A folder below `hardware/`, its parts joined by a dash.
    #[arg(long, default_value = QEMU_BOARD)]
    board: String,
    /// The release's version.
    #[arg(long, default_value = FIRST)]
    version: String,
}

pub fn command(tree: &Tree, options: &Options) -> Result<()> {
    host::prepare(Need::Build)?;
    let image = build(tree, &options.board, &options.version, true, units(tree)?)?;
    let disk = image.disk.context("no disk image was made")?;
    let show = |p: &Path| p.strip_prefix(&tree.root).unwrap_or(p).display().to_string();
    println!("{}  {:.1} MiB", show(&disk.compressed.path), disk.compressed.size as f64 / f64::from(1 << 20));
    println!("{}", show(&image.artifacts.path));
    Ok(())
}

/// What `run` and the boot tests need: the first release with a disk image, and two releases to update to.
pub fn releases(tree: &Tree) -> Result<Releases> {
    let first = build(tree, QEMU_BOARD, FIRST, true, units(tree)?)?;
    let second = build(tree, QEMU_BOARD, SECOND, false, units(tree)?)?;
    let programs = binaries::build(tree, FIRST)?;
    let (maculactl, liar) = (programs.join("maculactl"), programs.join(binaries::LIAR));
    let (deaf, faulty) = (build_deaf(tree)?, build_faulty(tree)?);
    Ok(Releases {
        first: files(first),
        second: files(second),
        deaf: files(deaf),
        faulty: files(faulty),
        maculactl,
        liar,
    })
}

fn files(image: BuiltImage) -> ReleaseFiles {
    let disk = image.disk.map(|d| d.raw.path);
    ReleaseFiles { version: image.version, artifacts: image.out_dir, disk }
}

/// A release with a mistake of the kind people make: its mesh unit may not use the network, so mesh never gets ready.
fn build_deaf(tree: &Tree) -> Result<BuiltImage> {
    let mut units = units(tree)?;
    let mesh = units.get_mut(&format!("{UNITS}/mesh.toml")).context("there is no mesh unit")?;
    let text = String::from_utf8(std::mem::take(mesh))?;
    anyhow::ensure!(
        text.contains("network = \"host\""),
        "mesh's unit file no longer says network = \"host\""
    );
    *mesh = text.replace("network = \"host\"", "network = \"none\"").into_bytes();
    build_with(tree, QEMU_BOARD, DEAF, SECOND, false, units)
}

/// The first release, except that its init hangs, panics and exits by order.
fn build_faulty(tree: &Tree) -> Result<BuiltImage> {
    let programs = programs_in(&binaries::build_faulty(tree, FIRST)?)?;
    build_programs(tree, QEMU_BOARD, FAULTY, programs, true, units(tree)?)
}

fn build(
    tree: &Tree,
    board: &str,
    version: &str,
    disk_image: bool,
    units: BTreeMap<String, Vec<u8>>,
) -> Result<BuiltImage> {
    build_with(tree, board, version, version, disk_image, units)
}

fn build_with(
    tree: &Tree,
    board: &str,
    version: &str,
    programs: &str,
    disk_image: bool,
    units: BTreeMap<String, Vec<u8>>,
) -> Result<BuiltImage> {
    let programs = programs_in(&binaries::build(tree, programs)?)?;
    build_programs(tree, board, version, programs, disk_image, units)
}

/// A disk image with the same kernel, boot loader and modules, whose init only prints and powers off.
pub fn bare(tree: &Tree) -> Result<PathBuf> {
    let programs =
        BTreeMap::from([("init".to_string(), binaries::build(tree, FIRST)?.join(binaries::BARE_INIT))]);
    let image = build_programs(tree, QEMU_BOARD, "0.0.0-bare", programs, true, BTreeMap::new())?;
    Ok(image.disk.context("no disk image was made")?.raw.path)
}

fn build_programs(
    tree: &Tree,
    board: &str,
    version: &str,
    programs: BTreeMap<String, PathBuf>,
    disk_image: bool,
    overlay: BTreeMap<String, Vec<u8>>,
) -> Result<BuiltImage> {
    let board = hardware_schema::find(&tree.root.join("hardware"), board)?;
    let spec = ImageSpec {
        version: version.to_string(),
        lock: tree.lock()?,
        cache_dir: tree.cache(),
        programs,
        overlay,
        disk_image,
        out_dir: tree.out().join("images").join(&board.board).join(version),
        board,
    };
    Ok(image_builder::build(&spec, &Progress::stderr())?)
}

/// The services' unit files, as files of the root.
fn units(tree: &Tree) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = |service: &&str| {
        let path = tree.root.join("services").join(service).join("unit.toml");
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((format!("{UNITS}/{service}.toml"), bytes))
    };
    SERVICES.iter().map(read).collect()
}
