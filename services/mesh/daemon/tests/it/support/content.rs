//! Content for a machine, in the place of its content service.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use os_content_id::{ChunkList, ManifestBuilder, Mcid};
use services_api::bus;
use tokio::net::UnixListener;
use zbus::fdo;

use super::Machine;

#[derive(Clone, Default)]
struct Store {
    raw: BTreeMap<Mcid, Vec<u8>>,
    chunked: BTreeMap<Mcid, (ChunkList, Vec<u8>)>,
}

#[zbus::interface(name = "io.macula.Content1")]
impl Store {
    fn get(&self, mcid: Vec<u8>) -> fdo::Result<Vec<u8>> {
        self.raw.get(&bus::mcid(&mcid)?).cloned().ok_or_else(nobody)
    }

    fn manifest(&self, mcid: Vec<u8>) -> fdo::Result<Vec<u8>> {
        self.chunked.get(&bus::mcid(&mcid)?).map(|(list, _)| list.encode()).ok_or_else(nobody)
    }

    fn fetch(&self, mcid: Vec<u8>, chunks: Vec<u32>) -> fdo::Result<zbus::OwnedFd> {
        let (list, bytes) = self.chunked.get(&bus::mcid(&mcid)?).ok_or_else(nobody)?.clone();
        let (theirs, mut ours) = UnixStream::pair().map_err(bus::failed)?;
        std::thread::spawn(move || {
            let size = list.manifest().chunk_size as usize;
            for chunk in chunks.into_iter().map(|i| i as usize * size) {
                let _ = ours.write_all(&bytes[chunk..bytes.len().min(chunk + size)]);
            }
        });
        Ok(OwnedFd::from(theirs).into())
    }
}

fn nobody() -> fdo::Error {
    fdo::Error::Failed("nobody is known to have it".into())
}

/// Gives the machine this content; the first is small enough for one block, the second is not.
pub fn serve(machine: &Machine, raw: &[u8], large: &[u8]) -> (Mcid, Mcid) {
    let mut store = Store::default();
    let mcid = Mcid::of_raw(raw);
    store.raw.insert(mcid, raw.to_vec());
    let mut builder = ManifestBuilder::new("large");
    builder.update(large);
    let list = builder.finish().unwrap();
    let large_mcid = list.mcid();
    store.chunked.insert(large_mcid, (list, large.to_vec()));
    let listener = UnixListener::bind(machine.dir().join("content.sock")).unwrap();
    tokio::spawn(async move {
        bus::serve(listener, &[], |builder, _| builder.serve_at("/io/macula/Content", store.clone())).await
    });
    (mcid, large_mcid)
}
