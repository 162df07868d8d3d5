//! Stand-ins for the services that this one talks to.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use os_content_id::{CHUNK_SIZE, ChunkList, Mcid};
use os_identity::NodeKey;
use services_api::bus;
use services_api::report::{ContentReport, TransferReport, UnitReport};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// Everything that the content service can be asked for.
#[derive(Default)]
pub struct Shelf {
    pub raw: HashMap<Vec<u8>, Vec<u8>>,
    pub large: HashMap<Vec<u8>, (ChunkList, Vec<u8>)>,
    /// Chunks delivered before every stream ends; `usize::MAX` when all is well.
    pub chunks_left: usize,
    pub fetched: u64,
    pub offered: Vec<String>,
}

pub struct FakeContent(pub Arc<Mutex<Shelf>>);

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

pub struct FakeSupervisor {
    pub mesh_state: &'static str,
    pub reboots: mpsc::UnboundedSender<String>,
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

    fn logs_since(&self, unit: String, run: String, after: u64, max: u32, wait_ms: u32) -> String {
        let text = format!("{run} {after} {max} {wait_ms}");
        format!(
            r#"{{"run":"one","last":9,"lost":true,"lines":[{{"at_ms":5,"unit":"{unit}","priority":6,"text":"{text}","seq":9}}]}}"#
        )
    }

    /// What begins with /bad does not pass.
    fn check(&self, exec: Vec<String>, _timeout_s: u32) -> String {
        let passed = !exec[0].starts_with("/bad") && !exec.iter().any(|word| word.ends_with("/503"));
        format!(r#"{{"passed":{passed},"reason":"exited with code 1: not well"}}"#)
    }

    fn reboot(&self, reason: String) {
        let _ = self.reboots.send(reason);
    }

    fn write_config(&self, text: String) {
        std::fs::write(bus::run_dir().join("config.toml"), text).unwrap();
    }

    fn restart(&self, unit: String) {
        let path = bus::run_dir().join("restarts");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, format!("{before}{unit} ")).unwrap();
    }
}

/// The seed of the owner's key.
pub const OWNER: u8 = 5;

pub struct FakeMesh;

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

pub fn serve<F>(dir: &Path, name: &str, add: F)
where
    F: Fn(zbus::connection::Builder<'static>) -> zbus::connection::Builder<'static> + Send + Sync + 'static,
{
    let listener = UnixListener::bind(dir.join(format!("{name}.sock"))).unwrap();
    tokio::spawn(async move { bus::serve(listener, &[], move |b, _| add(b)).await });
}
