//! Images and releases of a board.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_builder::secure_boot::{self, Keys};
use image_builder::{BuiltImage, ImageSpec, ProgramOfParts, Progress, programs_in};
use init_plan::unit::Unit;
use qemu_lab::{ReleaseFiles, Releases};

use crate::host::{self, Need};
use crate::{Tree, binaries, console};

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
const SERVICES: [&str; 10] =
    ["identity", "network", "wifi", "mesh", "dht", "content", "update", "reconciler", "pairing", "console"];
/// Two radios that hear each other, and an access point on the second, in the image that obeys orders: the machine asks for the
/// radios by a device of QEMU's that is good for nothing else, and its init starts the access point once they are there.
const RADIOS: &str = "mac80211_hwsim";
const RADIOS_DEVICE: &str = "pci:v00001B36d00000005sv*";
const ACCESS_POINT: &str = "usr/sbin/hostapd";
const ACCESS_POINT_PARTS: [&str; 8] = [
    "hostapd",
    "libnl-3-200",
    "libnl-genl-3-200",
    "libnl-route-3-200",
    "libssl3t64",
    "libc6",
    "libzstd1",
    "zlib1g",
];
const ACCESS_POINT_SETTINGS: &str = "usr/lib/macula/access-point.conf";
const ACCESS_POINT_TEXT: &str = "interface=wlan1\ndriver=nl80211\nssid=attic & roof\nhw_mode=g\nchannel=1\nwpa=2\n\
    wpa_key_mgmt=WPA-PSK\nrsn_pairwise=CCMP\nwpa_passphrase=correct horse\n";

#[derive(clap::Args)]
pub struct Options {
    /// A folder below `hardware/`, its parts joined by a dash.
    #[arg(long, default_value = QEMU_BOARD)]
    board: String,
    /// The release's version.
    #[arg(long, default_value = FIRST)]
    version: String,
    /// Sign boot loader and UKI with the keys in this folder (`cargo xtask secure-boot-key new`), and put them on the image
    /// to be enrolled.
    #[arg(long, value_name = "DIR")]
    secure_boot_key: Option<PathBuf>,
    /// Put an app into the image, out of a folder with its unit.toml and a static program of the unit's name. Once for each.
    #[arg(long, value_name = "DIR")]
    app: Vec<PathBuf>,
}

pub fn command(tree: &Tree, options: &Options) -> Result<()> {
    host::prepare(if options.secure_boot_key.is_some() { Need::Sign } else { Need::Build })?;
    let wanted = Wanted {
        board: &options.board,
        secure_boot: options.secure_boot_key.as_deref(),
        ..Wanted::release(&options.version, true)
    };
    let mut overlay = units(tree)?;
    for folder in &options.app {
        add_app(&mut overlay, &folder.join("unit.toml"), folder)?;
    }
    let image = build(tree, &wanted, overlay)?;
    let disk = image.disk.context("no disk image was made")?;
    let show = |p: &Path| p.strip_prefix(&tree.root).unwrap_or(p).display().to_string();
    println!("{}  {:.1} MiB", show(&disk.compressed.path), disk.compressed.size as f64 / f64::from(1 << 20));
    println!("{}", show(&image.artifacts.path));
    Ok(())
}

/// What `run` needs: the first release with a disk image, and two releases to update to.
pub fn releases(tree: &Tree) -> Result<Releases> {
    let first = build(tree, &Wanted::release(FIRST, true), units(tree)?)?;
    // Of the same version, so before the next, or what the version is compiled into would be built once more.
    let faulty = build_faulty(tree)?;
    let second = build(tree, &Wanted::release(SECOND, false), units(tree)?)?;
    let programs = binaries::build(tree, FIRST)?;
    let (maculactl, liar) = (programs.join("maculactl"), programs.join(binaries::LIAR));
    let deaf = build_deaf(tree)?;
    let [first, second, deaf, faulty] = [first, second, deaf, faulty].map(files);
    Ok(Releases { first, second, deaf, faulty, signed: None, maculactl, liar })
}

/// The same, with all that the tests boot.
pub fn test_releases(tree: &Tree) -> Result<Releases> {
    let releases = releases(tree)?;
    Ok(Releases { signed: Some(files(build_signed(tree)?)), ..releases })
}

/// The first release as for a fleet with Secure Boot. Its keys are made once per checkout.
fn build_signed(tree: &Tree) -> Result<BuiltImage> {
    let keys = tree.out().join("test-keys");
    if !keys.exists() {
        new_keys(&keys)?;
    }
    let wanted = Wanted { folder: "signed", secure_boot: Some(&keys), ..Wanted::release(FIRST, true) };
    build(tree, &wanted, units(tree)?)
}

/// Makes all of a folder of keys or nothing.
pub fn new_keys(out: &Path) -> Result<()> {
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    anyhow::ensure!(!out.exists(), "{} is there: keys are never replaced", out.display());
    let work = tempfile::Builder::new().prefix(".new-keys-").tempdir_in(parent)?;
    let made = work.path().join("keys");
    secure_boot::create(&made)?;
    std::fs::rename(&made, out).with_context(|| format!("cannot rename to {}", out.display()))
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
    build(tree, &Wanted { programs: SECOND, ..Wanted::release(DEAF, false) }, units)
}

/// The first release, except that its init hangs, panics and exits by order, that there is an app in it, and radios if the machine
/// wants them.
fn build_faulty(tree: &Tree) -> Result<BuiltImage> {
    let folder = binaries::build_faulty(tree, FIRST)?;
    let mut overlay = units(tree)?;
    add_app(&mut overlay, &tree.root.join("services/app/examples/hello/unit.toml"), &folder)?;
    let mut spec = spec(tree, &Wanted::release(FAULTY, true), programs_in(&folder)?, overlay)?;
    add_radios(&mut spec)?;
    Ok(image_builder::build(&spec, &Progress::stderr())?)
}

/// One radio is the node's, the other one the access point's.
fn add_radios(spec: &mut ImageSpec) -> Result<()> {
    spec.board.root.modules.push(RADIOS.into());
    spec.board.root.more.entry(RADIOS.into()).or_default().aliases.push(RADIOS_DEVICE.into());
    let parts = ACCESS_POINT_PARTS.map(str::to_owned).to_vec();
    spec.programs_of_parts.push(ProgramOfParts { program: ACCESS_POINT.into(), parts });
    spec.overlay.insert(ACCESS_POINT_SETTINGS.into(), ACCESS_POINT_TEXT.into());
    let unit = spec.overlay.get_mut(&format!("{UNITS}/wifi.toml")).context("there is no wifi unit")?;
    let text = String::from_utf8(std::mem::take(unit))?;
    let (all, one) = ("[\"/usr/libexec/iwd\"]", "[\"/usr/libexec/iwd\", \"--nointerfaces\", \"wlan1\"]");
    anyhow::ensure!(text.contains(all), "wifi's unit file no longer says {all}");
    *unit = text.replace(all, one).into_bytes();
    Ok(())
}

/// An app's unit, and its program out of a folder.
fn add_app(overlay: &mut BTreeMap<String, Vec<u8>>, unit: &Path, programs: &Path) -> Result<()> {
    let text = std::fs::read_to_string(unit).with_context(|| format!("cannot read {}", unit.display()))?;
    let parsed: toml::Table = text.parse().with_context(|| format!("{} is not valid", unit.display()))?;
    let name = parsed.get("unit").and_then(|unit| unit.get("name")).and_then(toml::Value::as_str);
    let name = name.with_context(|| format!("{} has no unit.name", unit.display()))?;
    let name = Unit::parse(name, &text).with_context(|| unit.display().to_string())?.name;
    let program = programs.join(&name);
    let bytes = std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    for (path, bytes) in
        [(format!("{UNITS}/{name}.toml"), text.into_bytes()), (format!("usr/bin/{name}"), bytes)]
    {
        anyhow::ensure!(overlay.insert(path, bytes).is_none(), "there is another unit called {name}");
    }
    Ok(())
}

/// What differs between the images of a checkout.
struct Wanted<'a> {
    board: &'a str,
    version: &'a str,
    /// The version that the programs say they are.
    programs: &'a str,
    /// Output folder, beside those of the board's other images.
    folder: &'a str,
    disk_image: bool,
    secure_boot: Option<&'a Path>,
}

impl<'a> Wanted<'a> {
    fn release(version: &'a str, disk_image: bool) -> Self {
        Self { board: QEMU_BOARD, version, programs: version, folder: version, disk_image, secure_boot: None }
    }
}

fn build(tree: &Tree, wanted: &Wanted, units: BTreeMap<String, Vec<u8>>) -> Result<BuiltImage> {
    let programs = programs_in(&binaries::build(tree, wanted.programs)?)?;
    build_programs(tree, wanted, programs, units)
}

/// A disk image with the same kernel, boot loader and modules, whose init only prints and powers off.
pub fn bare(tree: &Tree) -> Result<PathBuf> {
    let programs =
        BTreeMap::from([("init".to_string(), binaries::build(tree, FIRST)?.join(binaries::BARE_INIT))]);
    let wanted = Wanted::release("0.0.0-bare", true);
    let image = build_programs(tree, &wanted, programs, BTreeMap::new())?;
    Ok(image.disk.context("no disk image was made")?.raw.path)
}

fn build_programs(
    tree: &Tree,
    wanted: &Wanted,
    programs: BTreeMap<String, PathBuf>,
    overlay: BTreeMap<String, Vec<u8>>,
) -> Result<BuiltImage> {
    let spec = spec(tree, wanted, programs, overlay)?;
    Ok(image_builder::build(&spec, &Progress::stderr())?)
}

fn spec(
    tree: &Tree,
    wanted: &Wanted,
    programs: BTreeMap<String, PathBuf>,
    overlay: BTreeMap<String, Vec<u8>>,
) -> Result<ImageSpec> {
    let board = hardware_schema::find(&tree.root.join("hardware"), wanted.board)?;
    Ok(ImageSpec {
        version: wanted.version.to_string(),
        lock: tree.lock()?,
        cache_dir: tree.cache(),
        programs,
        programs_of_parts: Vec::new(),
        overlay,
        secure_boot: wanted.secure_boot.map(Keys::open).transpose()?,
        disk_image: wanted.disk_image,
        out_dir: tree.out().join("images").join(&board.board).join(wanted.folder),
        board,
    })
}

/// The services' unit files and the console, as files of the root.
fn units(tree: &Tree) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = |service: &&str| {
        let path = tree.root.join("services").join(service).join("unit.toml");
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((format!("{UNITS}/{service}.toml"), bytes))
    };
    let units: Result<BTreeMap<_, _>> = SERVICES.iter().map(read).collect();
    Ok(units?.into_iter().chain(console::overlay(tree)?).collect())
}
