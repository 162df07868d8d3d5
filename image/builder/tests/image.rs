//! Builds a whole image and reads it back with other people's tools, and with the eyes of PID 1.
//!
//! Downloads the pinned packages once, into the same cache as `cargo xtask image`. Our own programs are stand-ins
//! here: what matters is where they end up.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use image_builder::parts::Lock;
use image_builder::{
    BuiltImage, ImageSpec, PROGRAMS, Progress, TEST_PACKAGES, build, esp, root, secure_boot, sparse, tools,
    verity,
};
use image_layout::{ESP, IMAGE_BYTES, PARTITIONS, ROOT_A, STATE};
use init_plan::cmdline::{CommandLine, Root};
use init_plan::modules::Catalogue;
use object::{Object, ObjectSection};

const VERSION: &str = "1.2.3-test";
/// What issue "First light" allows the compressed image, with room for the real programs.
const COMPRESSED_MAX: u64 = 40 << 20;

#[test]
fn the_hash_tree_is_veritysetups() {
    let dir = tempfile::tempdir().unwrap();
    for blocks in [1, 128, 129, 16_385] {
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        let mut data = vec![0; blocks * verity::BLOCK];
        data.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i / 1000 + i % 251) as u8);
        std::fs::write(&ours, &data).unwrap();
        std::fs::write(&theirs, &data).unwrap();
        let root = root::append_verity(&ours).unwrap();
        let offset = format!("--hash-offset={}", data.len());
        let printed = run(tool("veritysetup").args(VERITY).args([
            "format",
            &offset,
            &format!("--data-blocks={blocks}"),
            &format!("--salt={}", root.verity_salt),
            text(&theirs),
            text(&theirs),
        ]));
        assert!(printed.contains(&root.verity_root), "{blocks} blocks: {printed}");
        let (ours, mut theirs) = (std::fs::read(&ours).unwrap(), std::fs::read(&theirs).unwrap());
        theirs.resize(ours.len().max(theirs.len()), 0);
        assert!(ours == theirs, "{blocks} blocks: trees differ");
        assert_eq!(ours.len() as u64, root.bytes);
    }
}

#[test]
fn the_root_is_whole_and_the_command_line_opens_it() {
    let image = &built().image;
    let cmdline = CommandLine::parse(&String::from_utf8(section(image, ".cmdline").0).unwrap()).unwrap();
    assert_eq!((cmdline.version.as_str(), cmdline.board.as_str()), (VERSION, "x86-generic"));
    let Root::Slot(verity) = cmdline.root else { panic!("a slot's UKI opens its root") };
    assert_eq!(verity.root_hash, image.verity_root);
    let verify = |file: &Path| {
        let mut command = tool("veritysetup");
        command.args(VERITY).arg("verify").arg(format!("--hash-offset={}", verity.data_blocks * 4096));
        command.arg(format!("--data-blocks={}", verity.data_blocks));
        command.arg(format!("--salt={}", verity.salt)).arg(file).arg(file).arg(&image.verity_root);
        command.output().unwrap().status.success()
    };
    assert!(verify(&image.root.path));
    let dir = tempfile::tempdir().unwrap();
    let spoilt = dir.path().join("root");
    std::fs::copy(&image.root.path, &spoilt).unwrap();
    let mut file = File::options().write(true).open(&spoilt).unwrap();
    file.seek(SeekFrom::Start(image.root.size / 2)).unwrap();
    file.write_all(b"spoilt").unwrap();
    assert!(!verify(&spoilt));

    let tree = dir.path().join("tree");
    run(tool("fsck.erofs").arg(format!("--extract={}", tree.display())).arg(&image.root.path));
    for name in PROGRAMS.iter().filter(|name| **name != "init") {
        assert_eq!(
            std::fs::read_to_string(tree.join("usr/bin").join(name)).unwrap(),
            format!("program {name}")
        );
    }
    for path in ["etc/from-overlay", "dev", "proc", "sys", "run", "tmp", "state"] {
        assert!(tree.join(path).exists(), "{path}");
    }
    assert!(!tree.join("usr/bin/init").exists());
    assert!(std::fs::read_to_string(tree.join("usr/lib/os-release")).unwrap().contains(VERSION));
    let catalogue = check_modules(&tree.join("usr/lib/modules"), &tree.join("usr/lib/modules/modules.toml"));
    let nic = "virtio:d00000001v00001AF4";
    assert!(catalogue.matching(nic).any(|name| name == "virtio_net"));
}

#[test]
fn a_program_that_grows_does_not_move_the_modules() {
    let noise = |seed: u8, bytes: usize| -> Vec<u8> {
        let mut state = u64::from(seed) + 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..bytes).map(|_| next()).collect()
    };
    let module = noise(0, 300_000);
    let place_of_module = |program: usize| {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = root::Tree::default();
        tree.bytes("usr/bin/mesh", true, noise(1, program)).unwrap();
        tree.bytes("lib/modules/igb.ko.xz", false, module.clone()).unwrap();
        tree.link("usr/lib/modules", "../../lib/modules").unwrap();
        let image = dir.path().join("root.img");
        tree.make(dir.path(), &image).unwrap();
        let bytes = std::fs::read(image).unwrap();
        bytes.windows(64).position(|window| window == &module[..64]).unwrap()
    };
    assert_eq!(place_of_module(100_000), place_of_module(200_000));
}

#[test]
fn the_initramfs_has_what_opens_the_root() {
    let image = &built().image;
    let archive = zstd::decode_all(section(image, ".initrd").0.as_slice()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let names = unpack_cpio(&archive, dir.path());
    assert_eq!(std::fs::read_to_string(dir.path().join("init")).unwrap(), "program init");
    assert!(names.contains(&"sbin/e2fsck".to_owned()));
    let catalogue =
        check_modules(&dir.path().join("lib/modules"), &dir.path().join("etc/macula/modules.toml"));
    let loaded = Default::default();
    let order: Vec<_> =
        catalogue.load_order(["erofs", "dm_verity"], &loaded).iter().map(|m| m.name.clone()).collect();
    let place = |name: &str| {
        order.iter().position(|other| other == name).unwrap_or_else(|| panic!("{name}: {order:?}"))
    };
    // found by the soft dependency of libcrc32c on an alias; without it erofs cannot be loaded on 6.12
    assert!(place("crc32c_generic") < place("libcrc32c") && place("libcrc32c") < place("erofs"));
    assert!(place("dm_bufio") < place("dm_verity"));
    for (alias, module) in [
        ("virtio:d00000002v00001AF4", "virtio_blk"),
        ("pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", "nvme"),
        ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", "ahci"),
        ("pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00", "i6300esb"),
    ] {
        assert!(catalogue.matching(alias).any(|name| name == module), "{alias}");
    }
}

#[test]
fn the_rescue_uki_has_all_programs_and_opens_no_slot() {
    let image = &built().image;
    let disk = &image.disk.as_ref().unwrap().raw.path;
    let uki = esp::read_file(disk, &format!("EFI/Linux/{}", image_layout::RESCUE_ENTRY)).unwrap();
    assert!((uki.len() as u64) < image_layout::RESCUE_BYTES_MAX);
    let artifacts = std::fs::read_to_string(&image.artifacts.path).unwrap();
    let artifacts: serde_json::Value = serde_json::from_str(&artifacts).unwrap();
    assert_eq!(artifacts["rescue"], serde_json::json!({ "file": "rescue.efi", "size": uki.len() }));
    assert!(
        std::fs::read(&image.rescue.as_ref().unwrap().path).unwrap() == uki,
        "the artifact is what was flashed"
    );
    let cmdline = CommandLine::parse(&String::from_utf8(section_of(&uki, ".cmdline").0).unwrap()).unwrap();
    assert_eq!((cmdline.root, cmdline.version.as_str()), (Root::Rescue, VERSION));
    let archive = zstd::decode_all(section_of(&uki, ".initrd").0.as_slice()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    unpack_cpio(&archive, dir.path());
    for name in PROGRAMS {
        let path = if name == "init" { "init".into() } else { format!("usr/bin/{name}") };
        assert_eq!(std::fs::read_to_string(dir.path().join(path)).unwrap(), format!("program {name}"));
    }
    for path in ["etc/from-overlay", "sbin/e2fsck", "dev", "proc", "sys", "run", "tmp", "state", "etc"] {
        assert!(dir.path().join(path).exists(), "{path}");
    }
    let modules = dir.path().join("usr/lib/modules");
    check_modules(&modules, &modules.join("modules.toml"));
}

#[test]
fn the_uki_is_a_pe_file_as_the_stub_wants_it() {
    let image = &built().image;
    let names = [".osrel", ".cmdline", ".uname", ".initrd", ".linux"];
    let bytes = std::fs::read(&image.uki.path).unwrap();
    let file = object::File::parse(bytes.as_slice()).unwrap();
    let sections: Vec<_> = file.sections().collect();
    let all: Vec<_> = sections.iter().map(|s| s.name().unwrap()).collect();
    let shared = all.iter().position(|name| *name == ".profile").unwrap_or(all.len());
    assert_eq!(all[shared - names.len()..shared], names);
    for pair in sections.windows(2) {
        assert!(pair[0].address() + pair[0].size() <= pair[1].address());
        assert_eq!(pair[1].address() % 4096, 0);
    }
    let os_release = String::from_utf8(section(image, ".osrel").0).unwrap();
    let keys: Vec<_> = os_release.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert_eq!(keys, ["NAME", "PRETTY_NAME", "VERSION_ID"]);
    let (linux, memory) = section(image, ".linux");
    assert!(linux.starts_with(b"MZ") && memory >= linux.len() as u64);
    assert!(String::from_utf8(section(image, ".uname").0).unwrap().ends_with("-amd64"));
}

#[test]
fn the_partition_table_is_the_layout() {
    let disk = built().image.disk.as_ref().unwrap();
    let printed = run(tool("sfdisk").arg("--json").arg(&disk.raw.path));
    let json: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let table = &json["partitiontable"];
    assert_eq!((table["label"].as_str(), table["sectorsize"].as_u64()), (Some("gpt"), Some(512)));
    let found = table["partitions"].as_array().unwrap();
    assert_eq!(found.len(), PARTITIONS.len());
    for (found, wanted) in found.iter().zip(PARTITIONS) {
        assert_eq!(found["type"].as_str().unwrap().to_lowercase(), wanted.type_guid);
        assert_eq!(found["start"].as_u64().unwrap() * 512, wanted.start);
        assert_eq!(found["size"].as_u64().unwrap() * 512, wanted.bytes);
        let factory = found["attrs"].as_str().is_some_and(|attributes| attributes.contains("56"));
        assert_eq!(factory, wanted == STATE, "{found}");
    }
    let verified = run(tool("sfdisk").arg("--verify").arg(&disk.raw.path));
    assert!(verified.contains("No errors detected"), "{verified}");
}

#[test]
fn every_partition_is_sound() {
    let image = &built().image;
    let disk = &image.disk.as_ref().unwrap().raw;
    let dir = tempfile::tempdir().unwrap();
    let cut = |partition: image_layout::Partition| {
        let path = dir.path().join(partition.name);
        let file = File::open(&disk.path).unwrap();
        let mut slice = sparse::Slice::new(&file, partition.start, partition.bytes);
        std::io::copy(&mut slice, &mut File::create(&path).unwrap()).unwrap();
        path
    };
    run(tool("fsck.vfat").arg("-n").arg(cut(ESP)));
    run(tool("e2fsck").args(["-f", "-n"]).arg(cut(STATE)));
    let mut root = vec![0; image.root.size as usize];
    File::open(cut(ROOT_A)).unwrap().read_exact(&mut root).unwrap();
    assert!(root == std::fs::read(&image.root.path).unwrap());

    let entries = esp::list(&disk.path, "EFI/Linux").unwrap();
    assert_eq!(entries, [image_layout::RESCUE_ENTRY, "macula-000001.efi"]);
    assert_eq!(image_layout::RESCUE_ENTRY, os_slots::RESCUE_ENTRY);
    assert!(
        esp::read_file(&disk.path, "EFI/Linux/macula-000001.efi").unwrap()
            == std::fs::read(&image.uki.path).unwrap()
    );
    assert!(esp::read_file(&disk.path, "EFI/BOOT/BOOTX64.EFI").unwrap().starts_with(b"MZ"));
    let conf = String::from_utf8(esp::read_file(&disk.path, "loader/loader.conf").unwrap()).unwrap();
    assert!(
        conf.contains("timeout 0\n") && conf.contains("reboot-on-error yes\n") && !conf.contains("default")
    );
}

#[test]
fn files_can_be_put_on_the_esp_afterwards() {
    let image = built().image.disk.as_ref().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("disk.img");
    sparse::copy(&image.raw.path, &copy).unwrap();
    for content in ["something longer", "short"] {
        esp::write_file(&copy, "macula.toml", content.as_bytes()).unwrap();
        assert_eq!(esp::read_file(&copy, "macula.toml").unwrap(), content.as_bytes());
    }
    let part = dir.path().join("esp");
    let file = File::open(&copy).unwrap();
    std::io::copy(&mut sparse::Slice::new(&file, ESP.start, ESP.bytes), &mut File::create(&part).unwrap())
        .unwrap();
    run(tool("fsck.vfat").arg("-n").arg(part));
    let error = esp::write_file(&image.compressed.path, "macula.toml", b"x").unwrap_err().to_string();
    assert!(error.contains("compressed"), "{error}");
    assert!(esp::read_file(&copy, "absent").unwrap_err().to_string().contains("disk.img"));
}

#[test]
fn the_compressed_image_is_small_and_the_same() {
    let disk = built().image.disk.as_ref().unwrap();
    assert!(disk.compressed.size <= COMPRESSED_MAX, "{} bytes", disk.compressed.size);
    let mut unpacked = zstd::Decoder::new(File::open(&disk.compressed.path).unwrap()).unwrap();
    let mut raw = File::open(&disk.raw.path).unwrap();
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for at in 0..IMAGE_BYTES >> 20 {
        unpacked.read_exact(&mut a).unwrap();
        raw.read_exact(&mut b).unwrap();
        assert!(a == b, "MiB {at} differs");
    }
    assert_eq!((unpacked.read(&mut a).unwrap(), raw.read(&mut b).unwrap()), (0, 0));
}

#[test]
fn equal_inputs_are_not_built_again_and_would_give_equal_bytes() {
    let first = built();
    assert!(build(&first.spec, &Progress::silent()).unwrap().reused);
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(first.dir.path(), &dir.path().join("out"));
    let again = build(&spec, &Progress::silent()).unwrap();
    assert!(!again.reused);
    let files = |image: &BuiltImage| {
        let disk = image.disk.as_ref().unwrap();
        let rescue = image.rescue.as_ref().unwrap();
        [&image.root, &image.uki, rescue, &image.artifacts, &disk.compressed].map(|file| file.path.clone())
    };
    for (one, other) in files(&first.image).iter().zip(files(&again)) {
        assert!(std::fs::read(one).unwrap() == std::fs::read(&other).unwrap(), "{}", other.display());
    }
    let left: Vec<_> = std::fs::read_dir(&again.out_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".new")), "{left:?}");

    spec.disk_image = false;
    spec.overlay.insert("etc/other".into(), b"x".to_vec());
    let changed = build(&spec, &Progress::silent()).unwrap();
    assert!(!changed.reused && changed.disk.is_none() && changed.rescue.is_none());
    assert_ne!(changed.verity_root, again.verity_root);
}

#[test]
fn with_a_key_the_firmware_and_its_owner_find_what_they_need() {
    let dir = tempfile::tempdir().unwrap();
    programs(dir.path());
    let keys = dir.path().join("keys");
    secure_boot::create(&keys).unwrap();
    let mode = |name: &str| std::fs::metadata(keys.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("db.key"), mode("PK.key")), (0o700, 0o600, 0o600));
    assert!(secure_boot::create(&keys).is_err(), "keys are never replaced");

    let signed = || Some(secure_boot::Keys::open(&keys).unwrap());
    let wanted = || ImageSpec { secure_boot: signed(), ..spec(dir.path(), &dir.path().join("out")) };
    let image = build(&wanted(), &Progress::silent()).unwrap();
    let disk = &image.disk.as_ref().unwrap().raw.path;
    let loader = dir.path().join("loader.efi");
    std::fs::write(&loader, esp::read_file(disk, "EFI/BOOT/BOOTX64.EFI").unwrap()).unwrap();
    for program in [&loader, &image.uki.path] {
        let verify = |key: &str| {
            let certificate = keys.join(key);
            tool("sbverify").arg("--cert").arg(certificate).arg(program).output().unwrap().status.success()
        };
        assert!(verify("db.crt") && !verify("KEK.crt"), "{}", program.display());
    }
    assert_eq!(
        esp::read_file(disk, "EFI/Linux/macula-000001.efi").unwrap(),
        std::fs::read(&image.uki.path).unwrap()
    );
    assert_eq!(esp::list(disk, "loader/keys/auto").unwrap(), ["KEK.auth", "PK.auth", "db.auth"]);
    let conf = String::from_utf8(esp::read_file(disk, "loader/loader.conf").unwrap()).unwrap();
    assert!(conf.contains("\nsecure-boot-enroll if-safe\n"), "{conf}");
    assert!(build(&wanted(), &Progress::silent()).unwrap().reused);
}

#[test]
fn what_cannot_be_built_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    programs(dir.path());
    let good = || spec(dir.path(), &dir.path().join("out"));
    let fails = |spec: ImageSpec, wanted: &str| {
        let error = build(&spec, &Progress::silent()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    fails(ImageSpec { version: "1 2".into(), ..good() }, "1 2");
    fails(ImageSpec { programs: BTreeMap::new(), ..good() }, "init");
    let mut spec = good();
    spec.board.initramfs.modules.push("flux_capacitor".into());
    fails(spec, "flux_capacitor");
    let mut spec = good();
    spec.board.kernel_part = "toaster".into();
    fails(spec, "toaster");
    let mut spec = good();
    spec.overlay.insert("usr/bin/mesh".into(), Vec::new());
    fails(spec, "/usr/bin/mesh");
}

const VERITY: [&str; 3] = ["--no-superblock", "--data-block-size=4096", "--hash-block-size=4096"];

struct Built {
    dir: tempfile::TempDir,
    spec: ImageSpec,
    image: BuiltImage,
}

/// One image for all tests.
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        programs(dir.path());
        let spec = spec(dir.path(), &dir.path().join("out"));
        let image = build(&spec, &Progress::silent()).unwrap_or_else(|error| panic!("{error}"));
        Built { dir, spec, image }
    })
}

fn programs(folder: &Path) {
    for name in PROGRAMS {
        std::fs::write(folder.join(name), format!("program {name}")).unwrap();
    }
}

fn spec(inputs: &Path, out: &Path) -> ImageSpec {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    ImageSpec {
        board: hardware_schema::find(&tree.join("hardware"), "x86-generic").unwrap(),
        version: VERSION.to_owned(),
        lock: Lock::read(&tree.join("image/parts.lock.toml")).unwrap(),
        cache_dir: tree.join(image_builder::CACHE_DIR),
        programs: image_builder::programs_in(inputs).unwrap(),
        programs_of_parts: Vec::new(),
        overlay: BTreeMap::from([("etc/from-overlay".to_owned(), b"overlay".to_vec())]),
        secure_boot: None,
        disk_image: true,
        out_dir: out.to_path_buf(),
    }
}

/// Content of a section of the UKI, and its size in memory.
fn section(image: &BuiltImage, name: &str) -> (Vec<u8>, u64) {
    section_of(&std::fs::read(&image.uki.path).unwrap(), name)
}

fn section_of(uki: &[u8], name: &str) -> (Vec<u8>, u64) {
    let file = object::File::parse(uki).unwrap();
    let section = file.section_by_name(name).unwrap_or_else(|| panic!("no section {name}"));
    let data = section.data().unwrap();
    (data[..data.len().min(section.size() as usize)].to_vec(), section.size())
}

/// PID 1 accepts `modules.toml`, and each file it names is there and nothing else.
fn check_modules(folder: &Path, list: &Path) -> Catalogue {
    let text = std::fs::read_to_string(list).unwrap();
    let file: init_plan::modules::ModulesFile = toml::from_str(&text).unwrap();
    let mut named: Vec<_> = file.modules.iter().map(|module| module.file.clone()).collect();
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut there: Vec<_> = names.filter(|name| name.contains(".ko")).collect();
    named.sort();
    there.sort();
    assert_eq!(named, there);
    Catalogue::parse(&text).unwrap()
}

/// Unpacks newc archives that follow each other and returns the names; independent of the writer, as far as that is
/// possible in a page.
fn unpack_cpio(archives: &[u8], to: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < archives.len() {
        assert_eq!(&archives[at..at + 6], b"070701");
        let field = |n: usize| {
            let start = at + 6 + 8 * n;
            u32::from_str_radix(std::str::from_utf8(&archives[start..start + 8]).unwrap(), 16).unwrap()
        };
        let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
        let name = String::from_utf8(archives[at + 110..at + 110 + name_size - 1].to_vec()).unwrap();
        let start = (at + 110 + name_size).next_multiple_of(4);
        at = (start + size).next_multiple_of(4);
        match mode & 0o170_000 {
            _ if name == "TRAILER!!!" => at = at.next_multiple_of(512),
            0o040_000 => std::fs::create_dir_all(to.join(&name)).unwrap(),
            0o100_000 => std::fs::write(to.join(&name), &archives[start..start + size]).unwrap(),
            other => panic!("{name} has type {other:o}"),
        }
        names.push(name);
    }
    names
}

fn tool(name: &str) -> Command {
    let package = TEST_PACKAGES.iter().find(|(tool, _)| *tool == name).map(|(_, package)| *package).unwrap();
    Command::new(tools::find(name).unwrap_or_else(|| panic!("{name} is missing: apt install {package}")))
}

fn run(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
