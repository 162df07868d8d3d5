//! Cards and images get the configuration that a node will take at its first boot, and nothing else does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use gpt::partition_types::{OperatingSystem, Type};
use image_layout::{ESP, FACTORY_ATTRIBUTE, IMAGE_BYTES, PARTITIONS, Partition, STATE};
use os_config::Config;

use crate::owner::Owner;

/// An image as the builder makes it, as far as the partition table and the boot partition go.
fn image(path: &Path, flags: u64) {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(IMAGE_BYTES).unwrap();
    let mbr = gpt::mbr::ProtectiveMBR::with_lb_size((IMAGE_BYTES / 512 - 1) as u32);
    mbr.overwrite_lba0(&mut &file).unwrap();
    let mut disk = gpt::GptConfig::new().writable(true).create_from_device(file, None).unwrap();
    let of = |p: &Partition| gpt::partition::Partition {
        part_type_guid: Type { guid: p.type_guid.parse().unwrap(), os: OperatingSystem::None },
        part_guid: format!("00000000-0000-4000-8000-00000000000{}", p.number).parse().unwrap(),
        first_lba: p.first_lba(),
        last_lba: p.last_lba(),
        flags: if p.number == STATE.number { flags } else { 0 },
        name: p.name.into(),
    };
    disk.update_partitions(PARTITIONS.iter().map(|p| (p.number, of(p))).collect()).unwrap();
    let file = disk.write().unwrap();
    fatfs::format_volume(Part(&file, 0), FormatVolumeOptions::new()).unwrap();
    let fs = FileSystem::new(Part(&file, 0), FsOptions::new()).unwrap();
    fs.root_dir().create_dir("EFI").unwrap();
    fs.root_dir().create_dir("EFI/Linux").unwrap();
    fs.root_dir().create_file("EFI/Linux/macula-000001.efi").unwrap().write_all(b"uki").unwrap();
}

struct Part<'a>(&'a File, u64);

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.seek(SeekFrom::Start(ESP.start + self.1))?;
        let n = self.0.read(buffer)?;
        self.1 += n as u64;
        Ok(n)
    }
}

impl Write for Part<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.seek(SeekFrom::Start(ESP.start + self.1))?;
        let n = self.0.write(bytes)?;
        self.1 += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.1 = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(delta) => ESP.bytes.strict_add_signed(delta),
            SeekFrom::Current(delta) => self.1.strict_add_signed(delta),
        };
        Ok(self.1)
    }
}

/// What a node would find.
fn provisioned(path: &Path) -> Config {
    let file = File::open(path).unwrap();
    let fs = FileSystem::new(Part(&file, 0), FsOptions::new().update_accessed_date(false)).unwrap();
    let mut text = String::new();
    fs.root_dir().open_file("macula.toml").unwrap().read_to_string(&mut text).unwrap();
    Config::parse(&text).unwrap()
}

#[test]
fn one_image_is_given_its_configuration() {
    let owner = Owner::new();
    image(&owner.path("a.img"), FACTORY_ATTRIBUTE);
    fs::write(owner.path("base.toml"), "# for all\nrealm = \"acme\"\n[mesh]\nport = 5000\n").unwrap();
    fs::write(owner.path("wifi"), "correct horse\n").unwrap();
    let line = "provision --image a.img --config base.toml --name roof --owner me --release-key me --channel stable --publisher me \
                --wifi-ssid home --wifi-passphrase-file wifi --country DE --timezone UTC";
    let said = owner.ok("", line);
    assert!(said.contains("roof: a.img") && !said.contains("correct horse"), "{said}");
    let config = provisioned(&owner.path("a.img"));
    assert_eq!((config.name.as_str(), config.realm.as_str(), config.mesh.port), ("roof", "acme", 5000));
    assert_eq!(config.owner.unwrap().to_string(), owner.id);
    assert_eq!(config.network.wifi[0].passphrase.as_ref().unwrap().reveal(), "correct horse");
    assert!(owner.error("", "provision --image a.img --name cellar").contains("--force"));
    owner.ok("", "provision --image a.img --name cellar --force");
    assert_eq!(provisioned(&owner.path("a.img")).name, "cellar");
}

#[test]
fn what_a_node_would_not_take_is_not_written() {
    let owner = Owner::new();
    image(&owner.path("a.img"), FACTORY_ATTRIBUTE);
    image(&owner.path("booted.img"), 0);
    fs::write(owner.path("other.img"), vec![0; 1 << 20]).unwrap();
    fs::write(owner.path("wifi"), "hunter2").unwrap();
    let before = fs::metadata(owner.path("a.img")).unwrap().modified().unwrap();
    for (line, word) in [
        ("provision --image a.img --name Kitchen", "`name`"),
        ("provision --image a.img --channel stable", "update.publisher"),
        (
            "provision --image a.img --wifi-ssid home --wifi-passphrase-file wifi",
            "network.wifi[0].passphrase",
        ),
        ("provision --image a.img --config none.toml", "none.toml"),
        ("provision --image booted.img --name roof", "has booted already"),
        ("provision --image other.img --name roof", "no Macula OS image"),
        ("provision --image none.img --name roof", "none.img"),
        ("provision --image . --name roof", "is not the boot partition"),
    ] {
        let error = owner.error("", line);
        assert!(error.contains(word) && !error.contains("hunter2"), "{line}: {error}");
    }
    assert_eq!(fs::metadata(owner.path("a.img")).unwrap().modified().unwrap(), before);
    fs::create_dir_all(owner.path("esp/EFI/Linux")).unwrap();
    fs::write(owner.path("esp/EFI/Linux/macula-000001.efi"), "").unwrap();
    owner.ok("", "provision --image esp --name roof");
    assert_eq!(
        Config::parse(&fs::read_to_string(owner.path("esp/macula.toml")).unwrap()).unwrap().name,
        "roof"
    );
}

#[test]
fn many_cards_come_from_one_list() {
    let owner = Owner::new();
    image(&owner.path("a.img"), FACTORY_ATTRIBUTE);
    let packed = zstd::encode_all(File::open(owner.path("a.img")).unwrap(), 1).unwrap();
    fs::write(owner.path("a.img.zst"), packed).unwrap();
    fs::write(owner.path("nodes.csv"), "name,mesh.port,wifi_ssid\nroof,5001,home\nattic,5002,\n").unwrap();
    fs::write(owner.path("nodes.toml"), "[[node]]\nname = \"a\"\n[[node]]\nname = \"b\"\nrealm = \"shed\"\n")
        .unwrap();
    let said = owner.json("", "provision --image a.img.zst --list nodes.csv --out cards --owner me");
    assert_eq!(said["nodes"][1], serde_json::json!({ "name": "attic", "file": "cards/attic.img" }));
    for (name, port) in [("roof", 5001), ("attic", 5002)] {
        let path = owner.path(&format!("cards/{name}.img"));
        let config = provisioned(&path);
        assert_eq!((config.name.as_str(), config.mesh.port), (name, port));
        assert_eq!(config.owner.unwrap().to_string(), owner.id);
        let held = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap()) * 512;
        assert!(held < 100 << 20, "holes stay holes: {held}");
    }
    assert!(
        owner
            .error("", "provision --image a.img --list nodes.csv --out cards")
            .contains("cards/roof.img exists")
    );
    owner.ok("", "provision --list nodes.toml --out files --realm acme");
    let text = |name: &str| fs::read_to_string(owner.path(&format!("files/{name}.toml"))).unwrap();
    assert_eq!(Config::parse(&text("a")).unwrap().realm, "acme");
    assert_eq!(Config::parse(&text("b")).unwrap().realm, "shed", "the list counts more");
    fs::write(owner.path("twice.csv"), "name\na\na\n").unwrap();
    assert!(owner.error("", "provision --list twice.csv --out more").contains("`a`, like another"));
    assert!(!owner.path("more").exists(), "everything is checked first");
    assert!(owner.error("", "provision --image a.img.zst --name roof").contains("--out"));
}
