//! Holds the node key: makes it on first boot, signs with it, shows it to nobody.
//!
//! The key lives in `/state/identity/node.key`, readable by this service alone, in two copies, written so that a power cut
//! leaves either no key (the next boot makes one) or a whole one.

mod delegate;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use os_durable::{Form, Found};
use os_identity::{NodeKey, domain};
use services_api::identity::Chain;
use services_api::{bus, clock, daemon};
use sha2::{Digest, Sha256};

/// Most that is ever signed as one record.
const MAX_RECORD: usize = 4096;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    daemon::init_logging();
    let key = Arc::new(load_or_make(&key_path())?);
    let listener = bus::listen("identity")?;
    tracing::info!("node {}", key.node_id());
    daemon::status(&key.node_id().to_string());
    daemon::ready();
    let everybody = [
        bus::uid::MESH,
        bus::uid::DHT,
        bus::uid::CONTENT,
        bus::uid::RECONCILER,
        bus::uid::UPDATE,
        bus::uid::PAIRING,
    ];
    bus::serve(listener, &everybody, |builder, uid| {
        builder.serve_at("/io/macula/Identity", Identity { key: key.clone(), uid })
    })
    .await
}

fn key_path() -> PathBuf {
    let dir = std::env::var_os("STATE_DIRECTORY").unwrap_or_else(|| "/state/identity".into());
    Path::new(&dir).join("node.key")
}

/// Reads the key. Makes one only where there has never been one: a node that lost its key must say so, not become
/// another node in silence.
fn load_or_make(path: &Path) -> Result<NodeKey> {
    let found = Form::Record.read(path);
    if matches!(found, Found::Previous(_)) {
        tracing::error!("{} is damaged; its second copy is used and written back", path.display());
    }
    match found {
        Found::Newest(bytes) | Found::Previous(bytes) => {
            let key = parse(&bytes).with_context(|| format!("{} does not hold a key", path.display()))?;
            // A key that is there is used, even on a disk that takes no more writes.
            if let Err(e) = Form::Record.mirror(path, &bytes) {
                tracing::error!("{} cannot be given a second copy: {e}", path.display());
            }
            Ok(key)
        }
        Found::Absent => make(path),
        Found::Damaged | Found::Unsealed(_) => bail!(
            "{} is damaged and so is its second copy; restore it from a backup, or reset the node to become a new one",
            path.display()
        ),
    }
}

fn make(path: &Path) -> Result<NodeKey> {
    let key = NodeKey::generate().context("no random numbers for the node key")?;
    let hex = data_encoding::HEXLOWER.encode(key.seed().as_ref());
    Form::Record.mirror(path, hex.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!("made this node's key");
    Ok(key)
}

fn parse(bytes: &[u8]) -> Result<NodeKey> {
    let seed = data_encoding::HEXLOWER.decode(bytes)?;
    let seed: [u8; 32] = seed.try_into().ok().context("a key is 32 bytes")?;
    Ok(NodeKey::from_seed(&seed))
}

/// A node that lost the time at boot cannot say when a fortnight is over.
fn lifetime_s() -> u64 {
    if clock::at_boot().lost { os_certificate::LIFETIME_WITHOUT_CLOCK_S } else { os_certificate::LIFETIME_S }
}

/// One client's view: what may be signed depends on who asks.
struct Identity {
    key: Arc<NodeKey>,
    uid: u32,
}

impl Identity {
    fn only(&self, uid: u32) -> zbus::fdo::Result<()> {
        let text = format!("uid {} may not have this signed", self.uid);
        if self.uid == uid || self.uid == 0 { Ok(()) } else { Err(zbus::fdo::Error::AccessDenied(text)) }
    }
}

#[zbus::interface(name = "io.macula.Identity1")]
impl Identity {
    fn node_id(&self) -> Vec<u8> {
        self.key.node_id().to_vec()
    }

    fn certify_session(&self, session_key: Vec<u8>) -> zbus::fdo::Result<Chain> {
        self.only(bus::uid::MESH)?;
        let session = bus::node_id(&session_key)?;
        let (now, lifetime_s) = (daemon::now_ms() / 1000, lifetime_s());
        let (leaf, ca) =
            os_certificate::certify(&*self.key, session.as_bytes(), now, lifetime_s).map_err(bus::failed)?;
        Ok((leaf.to_vec(), ca.to_vec()))
    }

    /// Signatures are deterministic (RFC 8032), so this stays the same as long as the key does.
    fn reset_key(&self) -> zbus::fdo::Result<Vec<u8>> {
        self.only(bus::uid::MESH)?;
        Ok(Sha256::digest(self.key.sign(domain::QUIC_RESET, b"")).to_vec())
    }

    fn prove_pairing(&self, transcript: Vec<u8>) -> zbus::fdo::Result<Vec<u8>> {
        self.only(bus::uid::PAIRING)?;
        if transcript.len() != 32 {
            return Err(zbus::fdo::Error::InvalidArgs("a transcript's hash is 32 bytes".into()));
        }
        Ok(self.key.sign(domain::PAIR_NODE, &transcript).to_vec())
    }

    fn delegate(&self, audience: Vec<u8>, chain: Vec<u8>) -> zbus::fdo::Result<Vec<u8>> {
        self.only(bus::uid::PAIRING)?;
        let audience = bus::node_id(&audience)?;
        let made = if chain.is_empty() {
            delegate::everything(&self.key, audience)
        } else {
            delegate::what_it_has(&self.key, audience, &chain)
        };
        made.map_err(bus::failed)
    }

    fn station_seed(&self) -> zbus::fdo::Result<Vec<u8>> {
        self.only(bus::uid::MESH)?;
        Ok(Sha256::digest(self.key.sign(domain::STATION, b"")).to_vec())
    }

    fn sign_record(&self, payload: Vec<u8>) -> zbus::fdo::Result<Vec<u8>> {
        self.only(bus::uid::DHT)?;
        if payload.len() > MAX_RECORD {
            return Err(zbus::fdo::Error::InvalidArgs(format!("a record is at most {MAX_RECORD} bytes")));
        }
        Ok(self.key.sign(domain::DHT_RECORD, &payload).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("macula-identity-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir.join("node.key")
    }

    #[test]
    fn the_key_is_made_once_and_a_damaged_one_is_never_replaced() {
        let path = scratch("damaged");
        let made = load_or_make(&path).unwrap().node_id();
        assert_eq!(load_or_make(&path).unwrap().node_id(), made);
        std::fs::write(&path, b"garbage").unwrap();
        std::fs::write(os_durable::previous(&path), b"").unwrap();
        assert!(load_or_make(&path).err().unwrap().to_string().contains("damaged"));
    }

    #[test]
    fn one_damaged_copy_of_the_key_is_healed_by_the_other() {
        let path = scratch("healed");
        let made = load_or_make(&path).unwrap().node_id();
        for spoilt in [path.clone(), os_durable::previous(&path)] {
            std::fs::write(&spoilt, b"garbage").unwrap();
            assert_eq!(load_or_make(&path).unwrap().node_id(), made);
        }
        // As a release left it that knew of one copy only.
        std::fs::remove_file(os_durable::previous(&path)).unwrap();
        assert_eq!(load_or_make(&path).unwrap().node_id(), made);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(load_or_make(&path).unwrap().node_id(), made);
    }
}
