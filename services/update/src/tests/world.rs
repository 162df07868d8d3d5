//! A node without its machine: files as devices, and stand-ins for its neighbours.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use os_bootloader::{Bootloader, DeviceFile, Uefi};
use os_config::{Check, Config};
use os_content_id::{CHUNK_SIZE, ManifestBuilder, Mcid};
use os_identity::NodeKey;
use os_release::author::{Repository, keyring};
use os_release::{Artifact, Bundle, Release, Role, Version};
use os_slots::{BootInfo, Entry, Evidence};
use services_api::mesh::Streams;
use services_api::{bus, mesh};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::neighbours::{FakeContent, FakeMesh, FakeSupervisor, OWNER, Shelf, serve};
use crate::after_boot;
use crate::configuration::Configuration;
use crate::links::Links;
use crate::node::{Node, now_unix, uptime_ms};
use crate::updater::{Standing, Updater};

pub const BOARD: &str = "x86-generic";
const DATA_BLOCKS: usize = 200;

/// A node's devices and neighbours.
pub struct World {
    pub dir: tempfile::TempDir,
    pub shelf: Arc<Mutex<Shelf>>,
    reboots: mpsc::UnboundedReceiver<String>,
    pub key: NodeKey,
    /// The owner's releases.
    pub repository: Mutex<Repository>,
    mesh_state: &'static str,
    pub checks: Vec<Check>,
    /// The rescue system that releases bring along.
    pub rescue: Option<Vec<u8>>,
    /// How long a gate that can pass has.
    pub time_left_s: u32,
    /// The text of `config.toml`, where it matters.
    pub config_text: Option<String>,
    /// Said at the console, in this boot.
    pub forget_owner: bool,
}

/// Names of what was published.
#[derive(Clone, Copy)]
pub struct Published {
    pub bundle: Mcid,
    pub statement: Mcid,
}

pub fn publish_in(repository: &mut Repository, release: &Release, key: &NodeKey) -> (Vec<u8>, Mcid) {
    // A bundle with this release alone, newer than the last one.
    repository.statements.clear();
    let statement = repository.add(release, now_unix()).unwrap();
    repository.sign(key, now_unix()).unwrap();
    (repository.bundle().unwrap().encode().unwrap(), statement)
}

pub fn repository_of(key: &NodeKey) -> Repository {
    Repository::begin(&keyring(&[key.node_id()], 1), now_unix()).unwrap()
}

/// One at a time: the sockets' place is an environment variable.
pub static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl World {
    pub fn new(mesh_state: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // SAFETY: TURN lets one test run at a time, and nothing else in this process reads the environment meanwhile.
        unsafe { std::env::set_var("MACULA_RUN_DIR", dir.path()) };
        let devices = dir.path().join("dev/update");
        std::fs::create_dir_all(&devices).unwrap();
        std::fs::write(devices.join("esp"), esp_image()).unwrap();
        std::fs::write(devices.join("active-root"), root(1).0).unwrap();
        File::create(devices.join("inactive-root")).unwrap().set_len(4 << 20).unwrap();

        let shelf = Arc::new(Mutex::new(Shelf { chunks_left: usize::MAX, ..Default::default() }));
        let (sender, reboots) = mpsc::unbounded_channel();
        let content = shelf.clone();
        serve(dir.path(), "content", move |b| b.serve_at("/io/macula/Content", FakeContent(content.clone())));
        serve(dir.path(), "supervisor", move |b| {
            b.serve_at("/io/macula/Supervisor", FakeSupervisor { mesh_state, reboots: sender.clone() })
        });
        serve(dir.path(), "mesh", |b| b.serve_at("/io/macula/Mesh", FakeMesh));
        let key = NodeKey::from_seed(&[1; 32]);
        let repository = Mutex::new(repository_of(&key));
        let checks = Vec::new();
        Self {
            dir,
            shelf,
            reboots,
            key,
            repository,
            mesh_state,
            checks,
            rescue: None,
            time_left_s: 60,
            config_text: None,
            forget_owner: false,
        }
    }

    pub fn device(&self, role: &str) -> PathBuf {
        self.dir.path().join("dev/update").join(role)
    }

    pub fn esp(&self) -> Uefi<DeviceFile> {
        Uefi::open(DeviceFile::open(&self.device("esp")).unwrap()).unwrap()
    }

    pub fn entries(&self) -> Vec<String> {
        self.esp().entries().unwrap().iter().map(Entry::to_string).collect()
    }

    /// The service as it starts after the boot loader chose `entry`.
    pub fn boot(&self, entry: &str, evidence: Vec<Evidence>) -> Arc<Updater> {
        let updater = self.updater(entry, None, evidence);
        tokio::spawn(after_boot::settle(updater.clone()));
        updater
    }

    /// The service before it has judged anything.
    pub fn updater(&self, entry: &str, rescue: Option<&str>, evidence: Vec<Evidence>) -> Arc<Updater> {
        let entry: Entry = entry.parse().unwrap();
        let boot = BootInfo {
            rescue: rescue.map(str::to_owned),
            version: if entry.seq == 1 && rescue.is_none() { "0.1.0" } else { "0.2.0" }.into(),
            board: BOARD.into(),
            boot_id: "boot".into(),
            root_a: "/d2".into(),
            root_b: "/d3".into(),
            evidence,
            forget_owner: self.forget_owner,
            ..BootInfo::of(entry)
        };
        let mut config = Config::default();
        config.update.release_keys = vec![self.key.node_id()];
        config.owner = Some(NodeKey::from_seed(&[OWNER; 32]).node_id());
        // Time counts from the machine's boot: a gate that is meant to fail fails at once.
        let time_left = if self.mesh_state == "ready" { self.time_left_s } else { 0 };
        (config.gate.timeout_s, config.gate.steady_s) = ((uptime_ms() / 1000) as u32 + time_left, 0);
        config.gate.checks = self.checks.clone();
        let node = Node::new(boot, self.configuration(config), bus::run_dir(), self.dir.path().join("state"))
            .unwrap();
        let (streams, events) = Streams::serve(&[("control/1", "owner")]);
        tokio::spawn(ignore(events));
        Arc::new(Updater::new(node, Links::new(streams)).unwrap())
    }

    fn configuration(&self, config: Config) -> Configuration {
        let text = self.config_text.clone();
        let config = text.as_deref().map_or(config, |text| Config::parse(text).unwrap());
        Configuration::new(text, config)
    }

    /// What the supervisor was told to write last, and which units it started again.
    pub fn written(&self) -> (Option<String>, String) {
        let read = |name: &str| std::fs::read_to_string(self.dir.path().join(name)).ok();
        (read("config.toml"), read("restarts").unwrap_or_default())
    }

    /// Puts a release on the shelf.
    pub fn publish(&self, change: impl FnOnce(&mut Release)) -> Published {
        let release = self.release(change);
        let (bytes, statement) = publish_in(&mut self.repository.lock().unwrap(), &release, &self.key);
        Published { bundle: self.put(bytes), statement }
    }

    /// A release whose artifacts are on the shelf.
    pub fn release(&self, change: impl FnOnce(&mut Release)) -> Release {
        let ((root, verity_root, salt), size_hint) = (root(2), DATA_BLOCKS);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut uki = crate::uki::tests::with_cmdline(&format!(
            "macula.verity={},{},{size_hint} macula.version=0.2.0 macula.board={BOARD}",
            hex(&verity_root),
            hex(&salt),
        ));
        uki.resize(600_000, 0x5a);
        let artifact = |role: Role, bytes: &[u8], verity_root| {
            let mut builder = ManifestBuilder::new(role.word());
            builder.update(bytes);
            let list = builder.finish().unwrap();
            let mcid = list.mcid();
            self.shelf.lock().unwrap().large.insert(mcid.to_bytes().to_vec(), (list, bytes.to_vec()));
            Artifact { role, mcid, size: bytes.len() as u64, verity_root }
        };
        let mut release = Release {
            board: BOARD.into(),
            version: Version::new(0, 2, 0),
            min_version: Version::new(0, 1, 0),
            artifacts: [artifact(Role::Root, &root, Some(verity_root)), artifact(Role::Uki, &uki, None)]
                .into_iter()
                .chain(self.rescue.as_deref().map(|rescue| artifact(Role::Rescue, rescue, None)))
                .collect(),
            created_unix: 1,
            expires_unix: u64::MAX,
            notes: String::new(),
        };
        change(&mut release);
        release
    }

    pub fn put(&self, bytes: Vec<u8>) -> Mcid {
        let mcid = Mcid::of_raw(&bytes);
        self.shelf.lock().unwrap().raw.insert(mcid.to_bytes().to_vec(), bytes);
        mcid
    }

    /// The bundle with a new timestamp that expires in so many seconds.
    pub fn signed_anew(&self, expires_in_s: i64) -> Vec<u8> {
        let mut repository = self.repository.lock().unwrap().clone();
        let then = now_unix().saturating_add_signed(expires_in_s) - 1;
        repository.refresh(&self.key, 1, then).unwrap();
        repository.sign(&self.key, then).unwrap();
        repository.bundle().unwrap().encode().unwrap()
    }

    /// A bundle of which every file is signed and which never was one.
    pub fn mixed(&self) -> Vec<u8> {
        let old = self.repository.lock().unwrap().bundle().unwrap();
        self.publish(|_| {});
        let new = self.repository.lock().unwrap().bundle().unwrap();
        Bundle { snapshot: old.snapshot, ..new }.encode().unwrap()
    }

    pub fn cut_off(&self) -> Vec<u8> {
        let bytes = self.repository.lock().unwrap().bundle().unwrap().encode().unwrap();
        bytes[..bytes.len() / 2].to_vec()
    }

    pub async fn next_reboot(&mut self) -> String {
        tokio::time::timeout(Duration::from_secs(60), self.reboots.recv()).await.unwrap().unwrap()
    }

    /// What systemd-boot does before it starts an entry on trial.
    pub fn count_down(&self, from: &str, to: &str) {
        let file = File::options().read(true).write(true).open(self.device("esp")).unwrap();
        let fs = fatfs::FileSystem::new(file, fatfs::FsOptions::new()).unwrap();
        let dir = fs.root_dir().open_dir("EFI/Linux").unwrap();
        dir.rename(from, &dir, to).unwrap();
    }

    /// The update is installed and the boot loader has started it.
    pub async fn on_trial(&mut self) -> (Arc<Updater>, Published) {
        let updater = self.boot("macula-000001.efi", vec![]);
        settled(&updater).await;
        let published = self.publish(|_| {});
        updater.install(published.bundle, false).await.unwrap();
        assert_eq!(self.next_reboot().await, "trial of 0.2.0");
        assert_eq!(self.entries(), ["macula-000002+3.efi", "macula-000001.efi"]);
        let neighbour = NodeKey::from_seed(&[9; 32]).node_id().to_string();
        assert_eq!(updater.records.trial().unwrap().peers, [neighbour], "the owner is not counted on");
        self.count_down("macula-000002+3.efi", "macula-000002+2-1.efi");
        (self.boot("macula-000002+2-1.efi", vec![]), published)
    }
}

async fn ignore(mut events: mpsc::Receiver<mesh::MeshEvent>) {
    while events.recv().await.is_some() {}
}

pub async fn settled(updater: &Arc<Updater>) {
    for _ in 0..600 {
        if updater.standing() == Standing::Settled {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not settled: {:?}, {:?}", updater.standing(), updater.records.events());
}

/// Data blocks, then a "tree" of one block; the second half of the data is the same in every version.
pub fn root(version: u8) -> (Vec<u8>, [u8; 32], Vec<u8>) {
    let mut bytes: Vec<u8> = (0..DATA_BLOCKS * 4096).map(|i| (i / 1000) as u8).collect();
    bytes[..2 * CHUNK_SIZE as usize].fill(version);
    let salt = vec![7; 32];
    bytes.extend_from_slice(&[version; 4096]);
    let root = Sha256::new().chain_update(&salt).chain_update([version; 4096]).finalize();
    (bytes, root.as_slice().try_into().unwrap(), salt)
}

fn esp_image() -> Vec<u8> {
    let mut bytes = vec![0; 36 << 20];
    let options = fatfs::FormatVolumeOptions::new().bytes_per_cluster(512).fat_type(fatfs::FatType::Fat32);
    fatfs::format_volume(Cursor::new(&mut bytes), options).unwrap();
    {
        let fs = fatfs::FileSystem::new(Cursor::new(&mut bytes), fatfs::FsOptions::new()).unwrap();
        fs.root_dir().create_dir("EFI").unwrap();
        let dir = fs.root_dir().create_dir("EFI/Linux").unwrap();
        dir.create_file("macula-000001.efi").unwrap().write_all(b"old").unwrap();
        dir.create_file("macula-0-rescue.efi").unwrap().write_all(b"old rescue").unwrap();
    }
    bytes
}
