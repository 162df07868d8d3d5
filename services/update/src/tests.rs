//! The service against stand-ins for its neighbours on real D-Bus sockets, with files as devices: from the owner's order
//! over the armed entry to commit, failure and fallback.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use os_bootloader::{Bootloader, DeviceFile, Uefi};
use os_config::{Check, CheckWhat, Config};
use os_content_id::{CHUNK_SIZE, ChunkList, ManifestBuilder, Mcid};
use os_identity::NodeKey;
use os_release::author::{Repository, keyring};
use os_release::{Artifact, Bundle, Release, Role, Version};
use os_slots::{BootInfo, Entry, Evidence, Slot, slot_of_seq};
use services_api::mesh::Streams;
use services_api::report::{ContentReport, TransferReport, UnitReport};
use services_api::{bus, mesh};
use sha2::{Digest, Sha256};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::after_boot;
use crate::configuration::Configuration;
use crate::links::Links;
use crate::node::{Node, now_unix, uptime_ms};
use crate::updater::{Standing, Updater};

mod renewal;
mod rescue;

const BOARD: &str = "x86-generic";
const DATA_BLOCKS: usize = 200;

/// Everything that the content service can be asked for.
#[derive(Default)]
struct Shelf {
    raw: HashMap<Vec<u8>, Vec<u8>>,
    large: HashMap<Vec<u8>, (ChunkList, Vec<u8>)>,
    /// Chunks delivered before every stream ends; `usize::MAX` when all is well.
    chunks_left: usize,
    fetched: u64,
    offered: Vec<String>,
}

struct FakeContent(Arc<Mutex<Shelf>>);

#[zbus::interface(name = "io.macula.Content1")]
impl FakeContent {
    fn get(&self, mcid: Vec<u8>) -> zbus::fdo::Result<Vec<u8>> {
        let shelf = self.0.lock().unwrap();
        shelf.raw.get(&mcid).cloned().ok_or_else(|| zbus::fdo::Error::Failed("nobody has it".into()))
    }

    fn manifest(&self, mcid: Vec<u8>) -> zbus::fdo::Result<Vec<u8>> {
        let shelf = self.0.lock().unwrap();
        let found = shelf.large.get(&mcid).map(|(list, _)| list.encode());
        found.ok_or_else(|| zbus::fdo::Error::Failed("nobody has it".into()))
    }

    fn fetch(&self, mcid: Vec<u8>, chunks: Vec<u32>) -> zbus::fdo::Result<zbus::OwnedFd> {
        let mut shelf = self.0.lock().unwrap();
        let content = shelf.large[&mcid].1.clone();
        let count = chunks.len().min(shelf.chunks_left);
        if shelf.chunks_left != usize::MAX {
            shelf.chunks_left -= count;
        }
        let mut bytes = Vec::new();
        for index in &chunks[..count] {
            let from = *index as usize * CHUNK_SIZE as usize;
            bytes.extend_from_slice(&content[from..(from + CHUNK_SIZE as usize).min(content.len())]);
        }
        shelf.fetched += bytes.len() as u64;
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || (&ours).write_all(&bytes));
        Ok(std::os::fd::OwnedFd::from(theirs).into())
    }

    fn put(&self, block: Vec<u8>) -> Vec<u8> {
        Mcid::of_raw(&block).to_bytes().to_vec()
    }

    fn offer(&self, manifest: Vec<u8>, path: String) -> zbus::fdo::Result<()> {
        ChunkList::decode_any(&manifest).map_err(bus::failed)?;
        self.0.lock().unwrap().offered.push(path);
        Ok(())
    }

    fn offer_file(&self, manifest: Vec<u8>, _file: zbus::OwnedFd) -> zbus::fdo::Result<()> {
        let list = ChunkList::decode_any(&manifest).map_err(bus::failed)?;
        self.0.lock().unwrap().offered.push(list.manifest().name.clone());
        Ok(())
    }

    fn report(&self) -> String {
        let shelf = self.0.lock().unwrap();
        let transfers = shelf.large.values().map(|(list, _)| TransferReport {
            mcid: list.mcid().to_string(),
            from: vec![("did:key:neighbour".into(), shelf.fetched / shelf.large.len() as u64)],
            error: "the only provider went away".into(),
            ..Default::default()
        });
        serde_json::to_string(&ContentReport { transfers: transfers.collect(), ..Default::default() })
            .unwrap()
    }
}

struct FakeSupervisor {
    mesh_state: &'static str,
    reboots: mpsc::UnboundedSender<String>,
}

#[zbus::interface(name = "io.macula.Supervisor1")]
impl FakeSupervisor {
    fn units(&self) -> String {
        let unit = |name: &str, state: &str| UnitReport {
            name: name.into(),
            state: state.into(),
            required: true,
            pid: 7,
            since_s: 3600,
            ..Default::default()
        };
        serde_json::to_string(&[unit("mesh", self.mesh_state), unit("update", "ready")]).unwrap()
    }

    fn logs(&self, unit: String, _max: u32) -> String {
        format!(r#"[{{"at_ms":5,"unit":"{unit}","priority":3,"text":"cannot bind"}}]"#)
    }

    /// What begins with /bad does not pass.
    fn check(&self, exec: Vec<String>, _timeout_s: u32) -> String {
        let passed = !exec[0].starts_with("/bad") && !exec.iter().any(|word| word.ends_with("/503"));
        format!(r#"{{"passed":{passed},"reason":"exited with code 1: not well"}}"#)
    }

    fn reboot(&self, reason: String) {
        let _ = self.reboots.send(reason);
    }
}

/// The seed of the owner's key.
const OWNER: u8 = 5;

struct FakeMesh;

#[zbus::interface(name = "io.macula.Mesh1")]
impl FakeMesh {
    fn serve(&self, _protocol: String, _resource: String, _access: String) {}

    fn peers(&self) -> String {
        let [neighbour, owner] = [9, OWNER].map(|seed| NodeKey::from_seed(&[seed; 32]).node_id());
        format!(r#"[{{"node":"{owner}","connected":true}},{{"node":"{neighbour}","connected":true}}]"#)
    }

    fn ping(&self, node: Vec<u8>, _timeout_ms: u32) -> zbus::fdo::Result<u64> {
        bus::node_id(&node).map(|_| 42)
    }
}

/// A node's devices and neighbours.
pub(crate) struct World {
    pub dir: tempfile::TempDir,
    shelf: Arc<Mutex<Shelf>>,
    reboots: mpsc::UnboundedReceiver<String>,
    pub key: NodeKey,
    /// The owner's releases.
    repository: Mutex<Repository>,
    mesh_state: &'static str,
    checks: Vec<Check>,
    /// The rescue system that releases bring along.
    rescue: Option<Vec<u8>>,
    /// How long a gate that can pass has.
    time_left_s: u32,
}

/// Names of what was published.
#[derive(Clone, Copy)]
pub(crate) struct Published {
    pub bundle: Mcid,
    statement: Mcid,
}

fn publish_in(repository: &mut Repository, release: &Release, key: &NodeKey) -> (Vec<u8>, Mcid) {
    // A bundle with this release alone, newer than the last one.
    repository.statements.clear();
    let statement = repository.add(release, now_unix()).unwrap();
    repository.sign(key, now_unix()).unwrap();
    (repository.bundle().unwrap().encode().unwrap(), statement)
}

fn repository_of(key: &NodeKey) -> Repository {
    Repository::begin(&keyring(&[key.node_id()], 1), now_unix()).unwrap()
}

/// One at a time: the sockets' place is an environment variable.
pub(crate) static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

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
        Self { dir, shelf, reboots, key, repository, mesh_state, checks, rescue: None, time_left_s: 60 }
    }

    fn device(&self, role: &str) -> PathBuf {
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
    fn updater(&self, entry: &str, rescue: Option<&str>, evidence: Vec<Evidence>) -> Arc<Updater> {
        let entry: Entry = entry.parse().unwrap();
        let boot = BootInfo {
            rescue: rescue.map(str::to_owned),
            version: if entry.seq == 1 && rescue.is_none() { "0.1.0" } else { "0.2.0" }.into(),
            board: BOARD.into(),
            boot_id: "boot".into(),
            root_a: "/d2".into(),
            root_b: "/d3".into(),
            evidence,
            ..BootInfo::of(entry)
        };
        let mut config = Config::default();
        config.update.release_keys = vec![self.key.node_id()];
        config.owner = Some(NodeKey::from_seed(&[OWNER; 32]).node_id());
        // Time counts from the machine's boot: a gate that is meant to fail fails at once.
        let time_left = if self.mesh_state == "ready" { self.time_left_s } else { 0 };
        (config.gate.timeout_s, config.gate.steady_s) = ((uptime_ms() / 1000) as u32 + time_left, 0);
        config.gate.checks = self.checks.clone();
        let node =
            Node::new(boot, Configuration::new(None, config), bus::run_dir(), self.dir.path().join("state"))
                .unwrap();
        let (streams, events) = Streams::serve(&[("control/1", "owner")]);
        tokio::spawn(ignore(events));
        Arc::new(Updater::new(node, Links::new(streams)).unwrap())
    }

    /// Puts a release on the shelf.
    pub fn publish(&self, change: impl FnOnce(&mut Release)) -> Published {
        let release = self.release(change);
        let (bytes, statement) = publish_in(&mut self.repository.lock().unwrap(), &release, &self.key);
        Published { bundle: self.put(bytes), statement }
    }

    /// A release whose artifacts are on the shelf.
    fn release(&self, change: impl FnOnce(&mut Release)) -> Release {
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

    fn put(&self, bytes: Vec<u8>) -> Mcid {
        let mcid = Mcid::of_raw(&bytes);
        self.shelf.lock().unwrap().raw.insert(mcid.to_bytes().to_vec(), bytes);
        mcid
    }

    /// The bundle with a new timestamp that expires in so many seconds.
    fn signed_anew(&self, expires_in_s: i64) -> Vec<u8> {
        let mut repository = self.repository.lock().unwrap().clone();
        let then = now_unix().saturating_add_signed(expires_in_s) - 1;
        repository.refresh(&self.key, 1, then).unwrap();
        repository.sign(&self.key, then).unwrap();
        repository.bundle().unwrap().encode().unwrap()
    }

    /// A bundle of which every file is signed and which never was one.
    fn mixed(&self) -> Vec<u8> {
        let old = self.repository.lock().unwrap().bundle().unwrap();
        self.publish(|_| {});
        let new = self.repository.lock().unwrap().bundle().unwrap();
        Bundle { snapshot: old.snapshot, ..new }.encode().unwrap()
    }

    fn cut_off(&self) -> Vec<u8> {
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

fn serve<F>(dir: &Path, name: &str, add: F)
where
    F: Fn(zbus::connection::Builder<'static>) -> zbus::connection::Builder<'static> + Send + Sync + 'static,
{
    let listener = UnixListener::bind(dir.join(format!("{name}.sock"))).unwrap();
    tokio::spawn(async move { bus::serve(listener, &[], move |b, _| add(b)).await });
}

pub(crate) async fn settled(updater: &Arc<Updater>) {
    for _ in 0..600 {
        if updater.standing() == Standing::Settled {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not settled: {:?}, {:?}", updater.standing(), updater.records.events());
}

/// Data blocks, then a "tree" of one block; the second half of the data is the same in every version.
fn root(version: u8) -> (Vec<u8>, [u8; 32], Vec<u8>) {
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

fn has_event(updater: &Updater, kind: &str, part: &str) -> bool {
    updater.records.events().iter().any(|e| e.kind == kind && e.text.contains(part))
}

#[tokio::test(flavor = "current_thread")]
async fn an_update_is_installed_tried_committed_and_offered() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let (updater, published) = world.on_trial().await;
    let (wanted, ..) = root(2);
    let mut written = vec![0; wanted.len()];
    File::open(world.device("inactive-root")).unwrap().read_exact(&mut written).unwrap();
    assert!(written == wanted);
    assert!(has_event(&updater, "installed", "from did:key:neighbour"), "{:?}", updater.records.events());
    // The third of the root's four chunks is in the running slot.
    let changed = wanted.len() as u64 - u64::from(CHUNK_SIZE);
    assert_eq!(world.shelf.lock().unwrap().fetched, changed + 600_000);

    settled(&updater).await;
    assert_eq!(world.entries(), ["macula-000002.efi", "macula-000001.efi"]);
    assert!(updater.records.trial().is_none() && has_event(&updater, "committed", "0.2.0 in slot B"));
    let status = updater.status().await;
    assert_eq!(
        (status.release, status.trial, status.slot.as_str()),
        (published.statement.to_string(), None, "B")
    );
    for _ in 0..100 {
        if !world.shelf.lock().unwrap().offered.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(world.shelf.lock().unwrap().offered[0].ends_with("dev/content/root-b"));

    updater.rollback().await.unwrap();
    assert_eq!(world.next_reboot().await, "rollback by order");
    assert_eq!(world.entries(), ["macula-000001.efi", "macula-000002+0-3.efi"]);
    assert!(updater.records.failed().find(&published.statement.to_string()).is_some());
}

#[tokio::test(flavor = "current_thread")]
async fn a_release_whose_mesh_never_comes_up_is_left_and_not_tried_again() {
    let _turn = TURN.lock().await;
    let mut world = World::new("starting");
    let (updater, published) = world.on_trial().await;
    assert!(world.next_reboot().await.contains("mesh (starting)"));
    assert_eq!(world.entries(), ["macula-000001.efi", "macula-000002+0-1.efi"]);
    drop(updater);

    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let status = updater.status().await;
    assert_eq!(status.failed_releases.len(), 1);
    assert!(status.failed_releases[0].reason.contains("mesh"), "{status:?}");
    assert!(status.failed_releases[0].log_tail.iter().any(|l| l.contains("cannot bind")));
    // Signed anew it is still the release that failed.
    let again = {
        let mut repository = world.repository.lock().unwrap();
        repository.refresh(&world.key, 1000, now_unix()).unwrap();
        repository.sign(&world.key, now_unix()).unwrap();
        world.put(repository.bundle().unwrap().encode().unwrap())
    };
    assert!(again != published.bundle);
    let refusal = updater.install(again, false).await.unwrap_err().to_string();
    assert!(refusal.contains("failed here before"), "{refusal}");
    updater.install(again, true).await.unwrap();
    assert_eq!(world.next_reboot().await, "trial of 0.2.0");
    assert_eq!(world.entries(), ["macula-000004+3.efi", "macula-000001.efi"]);
}

#[tokio::test(flavor = "current_thread")]
async fn refusals_say_which_and_write_no_switch() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let before = std::fs::read(world.device("esp")).unwrap();
    let first = world.publish(|r| r.board = "rpi5".into()).bundle;
    let stranger = NodeKey::from_seed(&[66; 32]);
    let (forged, _) = publish_in(&mut repository_of(&stranger), &world.release(|_| {}), &stranger);
    let cases = [
        (first, "wrong board: the release is for rpi5"),
        (world.put(forged), "not enough signatures"),
        (world.publish(|r| r.version = Version::new(0, 0, 9)).bundle, "older version"),
        (world.publish(|r| r.expires_unix = 2).bundle, "release expired"),
        (world.put(world.signed_anew(-5)), "timestamp expired"),
        (first, "rolled back: timestamp version 1 is offered, version 3 has been seen"),
        (world.put(world.mixed()), "mixed up: snapshot"),
        (world.put(world.cut_off()), "truncated"),
        (Mcid::of_raw(b"nobody has this"), "cannot be fetched"),
    ];
    for (mcid, words) in cases {
        let error = format!("{:#}", updater.install(mcid, false).await.unwrap_err());
        assert!(error.contains(words), "{error}");
        assert!(has_event(&updater, "refused", words));
    }
    assert!(std::fs::read(world.device("esp")).unwrap() == before);
    assert!(updater.records.intent().is_none());
    assert!(std::fs::read(world.device("inactive-root")).unwrap().iter().all(|b| *b == 0));
}

#[tokio::test(flavor = "current_thread")]
async fn an_interrupted_install_goes_on_with_what_it_has() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let mcid = world.publish(|_| {}).bundle;
    // The stream ends after the UKI and one chunk of the root; the intent is what a power cut would leave.
    world.shelf.lock().unwrap().chunks_left = 4;
    updater.install(mcid, false).await.unwrap();
    let fetched = 600_000 + u64::from(CHUNK_SIZE);
    for _ in 0..200 {
        if world.shelf.lock().unwrap().fetched == fetched {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let intent = updater.records.intent().unwrap();
    assert_eq!(intent.release, mcid.to_string());
    assert_eq!(world.entries(), ["macula-000001.efi"]);

    world.shelf.lock().unwrap().chunks_left = usize::MAX;
    assert_eq!(world.next_reboot().await, "trial of 0.2.0");
    let rest = root(2).0.len() as u64 - 2 * u64::from(CHUNK_SIZE);
    assert_eq!(world.shelf.lock().unwrap().fetched, fetched + rest);
    assert!(updater.records.intent().is_none());
}

#[tokio::test(flavor = "current_thread")]
async fn rule_5_power_cuts_around_the_switch_are_finished() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let mcid = world.publish(|_| {}).bundle;
    updater.install(mcid, false).await.unwrap();
    world.next_reboot().await;

    // Armed, but the boot loader was not reached.
    world.boot("macula-000001.efi", vec![]);
    assert_eq!(world.next_reboot().await, "trial of 0.2.0");
    // Recorded, but not armed: as if the switch had not been written.
    world.esp().remove("macula-000002+3.efi".parse().unwrap()).unwrap();
    let fetched = world.shelf.lock().unwrap().fetched;
    world.boot("macula-000001.efi", vec![]);
    assert_eq!(world.next_reboot().await, "trial of 0.2.0");
    assert_eq!(world.entries(), ["macula-000004+3.efi", "macula-000001.efi"]);
    // The root is all there, and so is the copy of the UKI.
    assert_eq!(world.shelf.lock().unwrap().fetched, fetched);
}

#[tokio::test(flavor = "current_thread")]
async fn a_corrupt_committed_slot_is_marked_once_the_fallback_has_proved_itself() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    world.esp().stage(2, 3, &mut &b"new"[..]).unwrap();
    let armed = world.esp().arm(2).unwrap();
    world.esp().commit(armed).unwrap();
    let evidence = Evidence {
        boot_id: "earlier".into(),
        seq: 2,
        slot: slot_of_seq(2),
        stage: "verity".into(),
        reason: "data block 9 is corrupted".into(),
        log_tail: vec![],
        at_unix: 1,
        settled: false,
    };
    assert_eq!(evidence.slot, Slot::B);
    let updater = world.boot("macula-000001.efi", vec![evidence]);
    settled(&updater).await;
    assert_eq!(world.entries(), ["macula-000001.efi", "macula-000002+0-3.efi"]);
    assert!(has_event(&updater, "corruption", "data block 9 is corrupted"));
}

/// Keys are replaced without a word in the configuration; other keys in the configuration begin anew.
#[tokio::test(flavor = "current_thread")]
async fn trust_follows_the_signers_roots_and_survives_restarts() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let older = world.publish(|r| r.version = Version::new(0, 0, 9)).bundle;
    assert!(updater.install(older, false).await.is_err(), "believed, but older");
    let successor = NodeKey::from_seed(&[2; 32]);
    {
        let mut repository = world.repository.lock().unwrap();
        repository.next_root(&keyring(&[successor.node_id()], 1), now_unix()).unwrap();
        repository.sign(&world.key, now_unix()).unwrap();
    }
    let (bytes, _) = publish_in(
        &mut world.repository.lock().unwrap(),
        &world.release(|r| r.board = "rpi5".into()),
        &successor,
    );
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let newer = world.put(bytes);
    updater.follow(newer).await.unwrap();
    assert_eq!(updater.records.trust().root_version(), Some(2), "nothing needs to be installed for that");
    assert!(has_event(&updater, "root-keys", "from version 1 to 2"));
    let refusal = format!("{:#}", updater.install(newer, false).await.unwrap_err());
    assert!(refusal.contains("wrong board"), "the successor is believed: {refusal}");
    assert_eq!(updater.records.trust().root_version(), Some(2));
    assert!(updater.clock.floor() + 5 > now_unix(), "what was signed is a floor for the clock");

    // Another owner.
    world.key = NodeKey::from_seed(&[3; 32]);
    *world.repository.lock().unwrap() = repository_of(&world.key);
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let other = world.publish(|r| r.version = Version::new(0, 0, 9)).bundle;
    assert!(format!("{:#}", updater.install(other, false).await.unwrap_err()).contains("older version"));
    assert!(has_event(&updater, "trust-reset", "other release keys"));
}

fn check(name: &str, what: CheckWhat) -> Check {
    Check { name: name.into(), what, timeout_s: 1 }
}

#[tokio::test(flavor = "current_thread")]
async fn a_trial_commits_when_the_owners_checks_pass() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    world.checks = vec![
        check("self-test", CheckWhat::Exec(vec!["/usr/bin/app".into()])),
        check("web", CheckWhat::Http("http://127.0.0.1/200".into())),
    ];
    let (updater, _) = world.on_trial().await;
    settled(&updater).await;
    assert_eq!(world.entries(), ["macula-000002.efi", "macula-000001.efi"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_trial_whose_check_fails_is_left_with_the_checks_own_words() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    world.time_left_s = 3;
    world.checks = vec![check("web", CheckWhat::Http("http://127.0.0.1/503".into()))];
    let (updater, published) = world.on_trial().await;
    let reason = world.next_reboot().await;
    assert!(reason.contains("check web did not pass") && reason.contains("not well"), "{reason}");
    assert!(updater.records.failed().find(&published.statement.to_string()).is_some());
    assert!(has_event(&updater, "rolled-back", "check web"));
}

#[tokio::test(flavor = "current_thread")]
async fn bad_ends_of_boots_are_told_once_with_their_last_lines() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    let evidence = |boot_id: &str, stage: &str| Evidence {
        boot_id: boot_id.into(),
        seq: 1,
        slot: slot_of_seq(1),
        stage: stage.into(),
        reason: "why".into(),
        log_tail: (0..100).map(|n| format!("line {n}")).collect(),
        at_unix: 1,
        settled: false,
    };
    let told = world.dir.path().join("state/told.json");
    settled(&world.boot("macula-000001.efi", vec![])).await;
    assert!(!told.exists(), "nothing new, nothing written");
    for _ in 0..2 {
        let bad = vec![evidence("a", "panic"), evidence("b", "watchdog")];
        let updater = world.boot("macula-000001.efi", bad);
        settled(&updater).await;
        let events = updater.records.events();
        let texts: Vec<&str> = events.iter().map(|e| e.text.as_str()).collect();
        assert_eq!(texts, ["install 1 in slot A, panic: why", "install 1 in slot A, watchdog: why"]);
        assert_eq!(events[0].log_tail.len(), os_slots::LOG_TAIL_MAX);
        assert_eq!(events[0].log_tail.last().unwrap(), "line 99");
    }
    assert!(told.exists());
}
