//! Makes Macula OS images: a board's profile, pinned Debian packages and our own binaries become a root file system,
//! a UKI, a disk image and a description of what a release consists of.
//!
//! Needs neither root nor loop devices. Equal inputs give equal bytes. Everything is written to a temporary folder
//! inside the output folder and renamed at the end; a crash leaves that folder (`.new-*`) and no stamp, so that the
//! next build removes it and starts over. Builds for one output folder take turns.

mod cpio;
mod disk;
mod error;
pub mod esp;
mod fat;
mod initramfs;
mod kernel;
mod linked;
mod modules;
pub mod parts;
pub mod progress;
pub mod root;
pub mod secure_boot;
pub mod sparse;
mod stamp;
mod state;
pub mod tools;
mod turn;
pub mod uki;
pub mod verity;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hardware_schema::Board;
use image_layout::pristine::Pristine;
use image_layout::{ESP_BYTES, FIRST_SEQ, RESCUE_BYTES_MAX, STATE_BYTES, check_fits, entry_name};
use serde::{Deserialize, Serialize};

pub use error::{BuildError, Result};
pub use esp::write_file as esp_write_file;
pub use progress::Progress;
pub use tools::{HOST_PACKAGES, TEST_PACKAGES};

use error::At;
use kernel::Kernel;
use modules::{Form, ModuleTree};
use parts::Lock;
use root::{Root, Tree};

/// Our own binaries, by file name. `init` goes into the initramfs, the others into the root's `/usr/bin`.
pub const PROGRAMS: [&str; 11] = [
    "init",
    "supervisor",
    "identity",
    "mesh",
    "dht",
    "content",
    "reconciler",
    "update",
    "network",
    "pairing",
    "maculactl",
];
/// Where downloads and unpacked packages are kept, below the workspace: shared by `cargo xtask` and the tests.
pub const CACHE_DIR: &str = "target/image-cache";
/// What the names of work folders begin with.
const WORK: &str = ".new-";
const INIT: &str = "init";

const BOOT_LOADER: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const E2FSCK: &str = "usr/sbin/e2fsck.static";
/// What encrypts and opens the state partition, and the libraries it opens for a TPM (systemd's `tpm2-util.c`).
const ENCRYPTION_PROGRAMS: [&str; 3] =
    ["usr/sbin/cryptsetup", "usr/bin/systemd-cryptenroll", "usr/bin/systemd-cryptsetup"];
const ENCRYPTION_OPENED: [&str; 4] =
    ["libtss2-esys.so.0", "libtss2-mu.so.0", "libtss2-rc.so.0", "libtss2-tcti-device.so.0"];
/// What joins Wi-Fi networks, and the rules of countries that the kernel's keys are known to have signed: its name in the part, its
/// name in the root.
const WIFI_PROGRAMS: [&str; 1] = ["usr/libexec/iwd"];
const REGULATORY: [(&str, &str); 2] = [
    ("usr/lib/firmware/regulatory.db-upstream", "lib/firmware/regulatory.db"),
    ("usr/lib/firmware/regulatory.db.p7s-upstream", "lib/firmware/regulatory.db.p7s"),
];
const NAME: &str = "Macula OS";
const RESCUE_NAME: &str = "Macula OS rescue";
const RESCUE_FILE: &str = "rescue.efi";
/// Content lies in the image in the order of the paths. Modules seldom change, so they come before `usr/bin`: a
/// program that grows does not move them, and a node that updates finds their chunks in the slot that it has.
const MODULES: &str = "lib/modules";

/// All that decides what an image becomes.
pub struct ImageSpec {
    pub board: Board,
    /// 1 to 64 letters, digits and `.+~-`; starts with a digit.
    pub version: String,
    pub lock: Lock,
    /// Downloads and unpacked packages; may be shared by all builds and deleted at any time.
    pub cache_dir: PathBuf,
    /// Name to file; `init` must be there. See [`programs_in`].
    pub programs: BTreeMap<String, PathBuf>,
    /// Dynamically linked programs for the root, besides those that the board asks for.
    pub programs_of_parts: Vec<ProgramOfParts>,
    /// More files for the root, such as unit files, by relative path. Those below `usr/bin` are executable.
    pub overlay: BTreeMap<String, Vec<u8>>,
    /// Whose signature boot loader and UKI get for Secure Boot. Absent: nobody's.
    pub secure_boot: Option<secure_boot::Keys>,
    /// Whether to make the disk image too, or only what a release consists of.
    pub disk_image: bool,
    /// Where the outputs go. One folder for each board and version.
    pub out_dir: PathBuf,
}

/// A program of Debian's with the libraries that it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramOfParts {
    /// Path in its part and in the root, relative.
    pub program: String,
    /// The parts to look in for it and its libraries.
    pub parts: Vec<String>,
}

/// What a build made. Paths are absolute if `out_dir` was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltImage {
    pub board: String,
    pub version: String,
    pub out_dir: PathBuf,
    /// EROFS with its hash tree, as it is written to a root partition.
    pub root: OutFile,
    /// Hexadecimal root hash of dm-verity.
    pub verity_root: String,
    pub uki: OutFile,
    /// The rescue system's, made along with a disk image.
    #[serde(default)]
    pub rescue: Option<OutFile>,
    /// Description of root, UKI and rescue system for `maculactl release create`.
    pub artifacts: OutFile,
    pub disk: Option<DiskImage>,
    /// Whether an earlier build's outputs were found to be what is wanted.
    #[serde(skip)]
    pub reused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    /// Sparse.
    pub raw: OutFile,
    /// The same, compressed with zstd.
    pub compressed: OutFile,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutFile {
    pub path: PathBuf,
    pub size: u64,
}

/// `artifacts.json`.
#[derive(Serialize)]
struct Artifacts<'a> {
    board: &'a str,
    version: &'a str,
    root: RootArtifact<'a>,
    uki: Artifact<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rescue: Option<Artifact<'a>>,
}

#[derive(Serialize)]
struct RootArtifact<'a> {
    file: &'a str,
    size: u64,
    verity_root: &'a str,
}

#[derive(Serialize)]
struct Artifact<'a> {
    file: &'a str,
    size: u64,
}

/// All of [`PROGRAMS`] from one folder, such as a cargo target folder.
pub fn programs_in(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let programs: BTreeMap<_, _> =
        PROGRAMS.iter().map(|name| (name.to_string(), folder.join(name))).collect();
    let missing: Vec<_> =
        programs.iter().filter(|(_, path)| !path.is_file()).map(|(name, _)| name.as_str()).collect();
    if missing.is_empty() {
        return Ok(programs);
    }
    Err(BuildError::Input(format!("{} lacks {}; build them first", folder.display(), missing.join(", "))))
}

/// Builds what `spec` asks for, or finds that it has been built already.
pub fn build(spec: &ImageSpec, progress: &Progress) -> Result<BuiltImage> {
    check(spec)?;
    let inputs = stamp::inputs(spec)?;
    let _turn = turn::wait(&spec.out_dir)?;
    if let Some(image) = stamp::find(&spec.out_dir, &inputs) {
        return Ok(BuiltImage { reused: true, ..image });
    }
    stamp::remove(&spec.out_dir)?;
    remove_leftovers(&spec.out_dir)?;
    let work = tempfile::Builder::new().prefix(WORK).tempdir_in(&spec.out_dir);
    let work = work.at("create a folder in", &spec.out_dir)?;
    let image = Build { spec, work: work.path(), progress }.run()?;
    stamp::write(&spec.out_dir, inputs, &image)?;
    Ok(image)
}

/// Removes the work folders of builds that were interrupted. It is our turn, so none is in use.
fn remove_leftovers(out: &Path) -> Result<()> {
    for entry in std::fs::read_dir(out).at("list", out)? {
        let entry = entry.at("list", out)?;
        if entry.file_name().to_string_lossy().starts_with(WORK) {
            std::fs::remove_dir_all(entry.path()).at("remove", &entry.path())?;
        }
    }
    Ok(())
}

fn check(spec: &ImageSpec) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || ".+~-".contains(c);
    let version = &spec.version;
    if version.len() > 64 || !version.starts_with(|c: char| c.is_ascii_digit()) || !version.chars().all(good)
    {
        return Err(BuildError::Input(format!(
            "version {version:?} is not 1 to 64 letters, digits and .+~-, digit first"
        )));
    }
    if !spec.programs.contains_key(INIT) {
        return Err(BuildError::Input("no `init` among the programs".to_owned()));
    }
    Ok(())
}

impl ImageSpec {
    fn part_names(&self) -> Vec<&str> {
        let board = &self.board;
        let single = [&board.kernel_part, &board.boot_part, &board.fsck_part];
        let lists = [&board.encryption_parts, &board.wifi_parts];
        let mut names: Vec<&str> =
            single.into_iter().chain(lists.into_iter().flatten()).map(String::as_str).collect();
        names.extend(self.programs_of_parts.iter().flat_map(|of| of.parts.iter().map(String::as_str)));
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        names
    }
}

/// One build under way.
struct Build<'a> {
    spec: &'a ImageSpec,
    work: &'a Path,
    progress: &'a Progress,
}

impl Build<'_> {
    fn run(&self) -> Result<BuiltImage> {
        let spec = self.spec;
        let parts = parts::unpack(&spec.lock, &spec.part_names(), &spec.cache_dir, self.progress)?;
        let kernel = Kernel::find(&spec.board.kernel_part, parts.root(&spec.board.kernel_part)?)?;
        let mut modules = ModuleTree::open(&kernel.modules)?;
        let linked = self.linked(&parts)?;
        let root = self.root(&mut modules, &linked)?;
        let boot = parts.root(&spec.board.boot_part)?;
        let e2fsck = parts.root(&spec.board.fsck_part)?.join(E2FSCK);
        let tools = self.early_tools(&parts, &e2fsck)?;
        let initrd = self.initramfs(&mut modules, tools)?;
        let stub = boot.join(STUB);
        let uki = self.uki(&kernel, &root, &initrd, &stub)?;
        let rescue = match spec.disk_image {
            true => Some(self.rescue(&mut modules, &linked, (&kernel, &stub), initrd)?),
            false => None,
        };
        let artifacts = self.artifacts(&root, uki.len(), rescue.as_ref().map(Vec::len))?;
        let disk = match &rescue {
            Some(rescue) => Some(self.disk(&root, &uki, rescue, &boot.join(BOOT_LOADER))?),
            None => None,
        };
        Ok(BuiltImage {
            board: spec.board.board.clone(),
            version: spec.version.clone(),
            out_dir: spec.out_dir.clone(),
            root: self.keep("root.img")?,
            verity_root: root.verity_root,
            uki: self.keep("uki.efi")?,
            rescue: rescue.map(|_| self.keep(RESCUE_FILE)).transpose()?,
            artifacts: self.keep(artifacts)?,
            disk: match disk {
                None => None,
                Some((raw, compressed)) => {
                    Some(DiskImage { raw: self.keep(&raw)?, compressed: self.keep(&compressed)? })
                }
            },
            reused: false,
        })
    }

    /// The programs of the root: path and file.
    fn programs(&self) -> impl Iterator<Item = (String, &PathBuf)> {
        let programs = self.spec.programs.iter().filter(|(name, _)| *name != INIT);
        programs.map(|(name, path)| (format!("usr/bin/{name}"), path))
    }

    /// Other people's programs of the root, with their libraries and data: path, whether it is executable, content.
    fn linked(&self, parts: &parts::Unpacked) -> Result<BTreeMap<String, (bool, Vec<u8>)>> {
        let roots = |names: &[String]| names.iter().map(|name| parts.root(name)).collect::<Result<Vec<_>>>();
        let mut files = BTreeMap::new();
        let wifi = self.spec.board.wifi_parts.as_slice();
        if !wifi.is_empty() {
            let roots = roots(wifi)?;
            files.extend(linked::collect(&roots, &WIFI_PROGRAMS, &[])?.into_iter().map(executable));
            for (from, to) in REGULATORY {
                files.insert(to.to_owned(), (false, read(&linked::find(&roots, &[from])?)?));
            }
        }
        for of in &self.spec.programs_of_parts {
            files.extend(
                linked::collect(&roots(&of.parts)?, &[&of.program], &[])?.into_iter().map(executable),
            );
        }
        Ok(files)
    }

    fn root(&self, modules: &mut ModuleTree, linked: &BTreeMap<String, (bool, Vec<u8>)>) -> Result<Root> {
        let step = self.progress.step("root file system");
        let mut tree = Tree::default();
        tree.bytes("usr/lib/os-release", false, self.root_os_release())?;
        for (name, path) in self.programs() {
            tree.copy(&name, true, path)?;
        }
        let selected = modules.select(&self.spec.board.root, Form::Shipped)?;
        tree.link("usr/lib/modules", "../../lib/modules")?;
        tree.bytes(&format!("{MODULES}/modules.toml"), false, selected.toml)?;
        for (name, content) in selected.files {
            tree.bytes(&format!("{MODULES}/{name}"), false, content)?;
        }
        for (path, (executable, bytes)) in linked {
            tree.bytes(path, *executable, bytes.clone())?;
        }
        for (path, bytes) in &self.spec.overlay {
            tree.bytes(path, path.starts_with("usr/bin/"), bytes.clone())?;
        }
        let root = tree.make(self.work, &self.work.join("root.img"))?;
        step.done(&progress::mib(root.bytes));
        Ok(root)
    }

    /// Programs that PID 1 starts before it has a root, and their libraries.
    fn early_tools(&self, parts: &parts::Unpacked, e2fsck: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut tools = match self.spec.board.encryption_parts.as_slice() {
            [] => BTreeMap::new(),
            names => {
                let roots = names.iter().map(|name| parts.root(name)).collect::<Result<Vec<_>>>()?;
                linked::collect(&roots, &ENCRYPTION_PROGRAMS, &ENCRYPTION_OPENED)?
            }
        };
        tools.insert("sbin/e2fsck".to_owned(), read(e2fsck)?);
        Ok(tools)
    }

    fn initramfs(&self, modules: &mut ModuleTree, tools: BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
        let selected = modules.select(&self.spec.board.initramfs, Form::Unpacked)?;
        let init = self.spec.programs.get(INIT).map_or(Path::new(INIT), PathBuf::as_path);
        let pristine = Pristine::of_image(&read(&self.state()?)?).encode();
        initramfs::make(&read(init)?, &tools, &pristine, &selected, &self.spec.cache_dir)
    }

    /// A UKI whose command line says `what` makes it a slot's or the rescue system's.
    fn make_uki(
        &self,
        kernel: &Kernel,
        stub: &Path,
        initrd: &[u8],
        what: &str,
        title: &str,
    ) -> Result<Vec<u8>> {
        let (version, board) = (&self.spec.version, &self.spec.board);
        let cmdline = format!(
            "{} {what} macula.version={version} macula.board={} macula.built={}",
            board.cmdline, board.board, self.spec.lock.snapshot
        );
        let reset = format!("{cmdline} macula.reset=ask");
        let recover = format!("{cmdline} macula.recover=ask");
        let profiles = [
            uki::Profile { id: "normal", title: None, cmdline: None },
            uki::Profile {
                id: "reset",
                title: Some("factory reset: erase key, owner and content"),
                cmdline: Some(&reset),
            },
            uki::Profile {
                id: "recover",
                title: Some("recover: forget the owner, keep everything else"),
                cmdline: Some(&recover),
            },
        ];
        let content = uki::Uki {
            os_release: &self.os_release(title),
            cmdline: &cmdline,
            profiles: &profiles,
            uname: &kernel.release,
            initrd,
            linux: &read(&kernel.image)?,
        };
        self.signed(uki::build(&read(stub)?, &content)?)
    }

    fn uki(&self, kernel: &Kernel, root: &Root, initrd: &[u8], stub: &Path) -> Result<Vec<u8>> {
        let step = self.progress.step("kernel and initramfs");
        let verity = format!("macula.verity={},{},{}", root.verity_root, root.verity_salt, root.data_blocks);
        let bytes = self.make_uki(kernel, stub, initrd, &verity, NAME)?;
        // The ESP holds both slots' UKIs, during an update a third one, and the rescue system's.
        check_fits("the UKI", bytes.len() as u64, ESP_BYTES / 4)?;
        let path = self.work.join("uki.efi");
        std::fs::write(&path, &bytes).at("write", &path)?;
        step.done(&format!(
            "{}, initramfs {}",
            progress::mib(bytes.len() as u64),
            progress::mib(initrd.len() as u64)
        ));
        Ok(bytes)
    }

    /// A program for the firmware or the boot loader to start.
    fn signed(&self, program: Vec<u8>) -> Result<Vec<u8>> {
        match &self.spec.secure_boot {
            Some(keys) => keys.sign(&program, self.work),
            None => Ok(program),
        }
    }

    /// The system of the root in the initramfs, for when no slot can be booted.
    fn rescue(
        &self,
        modules: &mut ModuleTree,
        linked: &BTreeMap<String, (bool, Vec<u8>)>,
        (kernel, stub): (&Kernel, &Path),
        mut initrd: Vec<u8>,
    ) -> Result<Vec<u8>> {
        let step = self.progress.step("rescue system");
        let mut files = vec![("usr/lib/os-release".to_owned(), false, self.root_os_release().into_bytes())];
        for (name, path) in self.programs() {
            files.push((name, true, read(path)?));
        }
        let selected = modules.select(&self.spec.board.root, Form::Shipped)?;
        files.push((format!("usr/{MODULES}/modules.toml"), false, selected.toml.into_bytes()));
        files.extend(
            selected.files.into_iter().map(|(name, bytes)| (format!("usr/{MODULES}/{name}"), false, bytes)),
        );
        files.extend(
            linked.iter().map(|(path, (executable, bytes))| (path.clone(), *executable, bytes.clone())),
        );
        files.extend(
            self.spec
                .overlay
                .iter()
                .map(|(path, bytes)| (path.clone(), path.starts_with("usr/bin/"), bytes.clone())),
        );
        initrd.extend(initramfs::rescue(&files)?);
        let bytes = self.make_uki(kernel, stub, &initrd, "macula.rescue", RESCUE_NAME)?;
        check_fits("the rescue UKI", bytes.len() as u64, RESCUE_BYTES_MAX)?;
        let path = self.work.join(RESCUE_FILE);
        std::fs::write(&path, &bytes).at("write", &path)?;
        step.done(&progress::mib(bytes.len() as u64));
        Ok(bytes)
    }

    /// For a UKI; `title` is what the boot menu shows. Must not say `ID=`.
    fn os_release(&self, title: &str) -> String {
        let version = &self.spec.version;
        format!("NAME=\"{NAME}\"\nPRETTY_NAME=\"{title} {version}\"\nVERSION_ID={version}\n")
    }

    /// For `/usr/lib/os-release`.
    fn root_os_release(&self) -> String {
        format!("{}ID=macula\nMACULA_BOARD={}\n", self.os_release(NAME), self.spec.board.board)
    }

    fn artifacts(&self, root: &Root, uki_size: usize, rescue_size: Option<usize>) -> Result<&'static str> {
        let artifacts = Artifacts {
            board: &self.spec.board.board,
            version: &self.spec.version,
            root: RootArtifact { file: "root.img", size: root.bytes, verity_root: &root.verity_root },
            uki: Artifact { file: "uki.efi", size: uki_size as u64 },
            rescue: rescue_size.map(|size| Artifact { file: RESCUE_FILE, size: size as u64 }),
        };
        let name = "artifacts.json";
        let text =
            serde_json::to_string_pretty(&artifacts).map_err(|error| BuildError::Input(error.to_string()))?;
        let path = self.work.join(name);
        std::fs::write(&path, text + "\n").at("write", &path)?;
        Ok(name)
    }

    /// The state file system that the image ships and a factory reset makes again.
    fn state(&self) -> Result<PathBuf> {
        let file = self.work.join("state.img");
        if !file.exists() {
            state::make(&file, STATE_BYTES)?;
        }
        Ok(file)
    }

    /// Makes raw and compressed disk image; returns their names.
    fn disk(&self, root: &Root, uki: &[u8], rescue: &[u8], boot_loader: &Path) -> Result<(String, String)> {
        let step = self.progress.step("disk image");
        let raw = format!("macula-os-{}-{}.img", self.spec.board.board, self.spec.version);
        let state = self.state()?;
        let content = disk::Content {
            seed: &format!("{} {} {}", self.spec.board.board, self.spec.version, root.verity_root),
            esp: esp::Content {
                boot_loader: &self.signed(read(boot_loader)?)?,
                entry: &entry_name(FIRST_SEQ)?,
                uki,
                rescue,
                enrolment: self.spec.secure_boot.as_ref().map_or(&[], |keys| keys.enrolment()),
            },
            root: &self.work.join("root.img"),
            state: &state,
        };
        disk::write(&self.work.join(&raw), &content)?;
        step.done(&raw);
        let mut step = self.progress.step("compress disk image");
        let compressed = format!("{raw}.zst");
        let size = disk::compress(&self.work.join(&raw), &self.work.join(&compressed), &mut step)?;
        step.done(&format!("{compressed} ({})", progress::mib(size)));
        Ok((raw, compressed))
    }

    /// Moves a finished file to the output folder.
    fn keep(&self, name: &str) -> Result<OutFile> {
        let path = self.spec.out_dir.join(name);
        std::fs::rename(self.work.join(name), &path).at("rename to", &path)?;
        let size = std::fs::metadata(&path).at("inspect", &path)?.len();
        Ok(OutFile { path, size })
    }
}

impl BuiltImage {
    /// All output files with their sizes.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.disk.iter().flat_map(|disk| [&disk.raw, &disk.compressed]);
        [&self.root, &self.uki, &self.artifacts]
            .into_iter()
            .chain(&self.rescue)
            .chain(disk)
            .map(|file| (file.path.clone(), file.size))
            .collect()
    }
}

fn executable((path, bytes): (String, Vec<u8>)) -> (String, (bool, Vec<u8>)) {
    (path, (true, bytes))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).at("read", path)
}
