//! `io.macula.Dht1`.

use dht_proto::record_types::{NODE_ADDRESS, NodeAddress, REVOCATION, parse_revocation, revocation_key};
use dht_proto::{Contact, Key};
use os_ucan::TokenId;
use services_api::bus::{self, uid};
use services_api::mesh::Streams;
use zbus::fdo;

use crate::exchange;
use crate::handle::Handle;

/// One client's view: only `content` says what this node holds.
pub struct Dht {
    handle: Handle,
    streams: Streams,
    uid: u32,
}

impl Dht {
    pub fn new(handle: Handle, streams: Streams, uid: u32) -> Self {
        Self { handle, streams, uid }
    }

    fn only_content(&self) -> fdo::Result<()> {
        let text = format!("uid {} may not say what this node provides", self.uid);
        match self.uid {
            uid::CONTENT | uid::ROOT => Ok(()),
            _ => Err(fdo::Error::AccessDenied(text)),
        }
    }

    async fn teach_mesh(&self, contacts: &[Contact]) {
        for contact in contacts {
            if let Err(e) = exchange::teach(&self.streams, contact).await {
                tracing::warn!("{e:#}");
            }
        }
    }
}

#[zbus::interface(name = "io.macula.Dht1")]
impl Dht {
    async fn provide(&self, mcid: Vec<u8>) -> fdo::Result<()> {
        self.only_content()?;
        self.handle.provide(bus::mcid(&mcid)?.to_bytes()).await.map_err(bus::failed)
    }

    async fn unprovide(&self, mcid: Vec<u8>) -> fdo::Result<()> {
        self.only_content()?;
        self.handle.unprovide(bus::mcid(&mcid)?.to_bytes()).await.map_err(bus::failed)
    }

    async fn providers(&self, mcid: Vec<u8>) -> fdo::Result<Vec<Vec<u8>>> {
        let found = self.handle.providers(&bus::mcid(&mcid)?.to_bytes()).await.map_err(bus::failed)?;
        self.teach_mesh(&found.contacts).await;
        Ok(found.contacts.iter().map(|c| c.id.to_vec()).collect())
    }

    async fn revoke(&self, statement: Vec<u8>) -> fdo::Result<()> {
        self.handle.revoke(&statement).await.map_err(bus::failed)
    }

    async fn find_revocation(&self, token: Vec<u8>, revoker: Vec<u8>) -> fdo::Result<Vec<u8>> {
        let token = <[u8; 32]>::try_from(token.as_slice())
            .map_err(|_| fdo::Error::InvalidArgs(format!("a token's id is 32 bytes, not {}", token.len())))?;
        let key = revocation_key(&TokenId::from_bytes(token), &bus::node_id(&revoker)?);
        let found = self.handle.find(key, Some(REVOCATION)).await.map_err(bus::failed)?;
        let statement = found.records.iter().find_map(|r| parse_revocation(&r.statement.payload).ok());
        Ok(statement.map_or_else(Vec::new, |s| s.to_bytes()))
    }

    async fn find_relays(&self, node: Vec<u8>) -> fdo::Result<Vec<(Vec<u8>, Vec<String>)>> {
        let node = bus::node_id(&node)?;
        let found = self.handle.find(Key::from(node), Some(NODE_ADDRESS)).await.map_err(bus::failed)?;
        let own = found.records.iter().filter(|r| r.statement.signer == node);
        let told = own.filter_map(|r| NodeAddress::parse(&r.statement.payload).ok()).next();
        let relays = told.map(|t| t.relays).unwrap_or_default();
        let texts = |relay: &Contact| relay.addresses.iter().map(ToString::to_string).collect();
        Ok(relays.iter().map(|relay| (relay.id.to_vec(), texts(relay))).collect())
    }

    async fn put_record(&self, record: Vec<u8>) -> fdo::Result<u32> {
        self.handle.put(&record).await.map_err(bus::failed)
    }

    async fn carry_record(&self, record: Vec<u8>) -> fdo::Result<()> {
        if ![uid::MESH, uid::ROOT].contains(&self.uid) {
            return Err(fdo::Error::AccessDenied("clients' records come from `mesh`".into()));
        }
        self.handle.carry(&record).await.map_err(bus::failed)
    }

    async fn held_records(&self, record_type: u8) -> fdo::Result<Vec<Vec<u8>>> {
        let held = self.handle.held(record_type).await.map_err(bus::failed)?;
        Ok(held.iter().map(|r| r.to_bytes()).collect())
    }

    async fn get_records(&self, record_type: u8, key: Vec<u8>) -> fdo::Result<Vec<Vec<u8>>> {
        let key = Key::try_from(key.as_slice())
            .map_err(|_| fdo::Error::InvalidArgs(format!("a key is 32 bytes, not {}", key.len())))?;
        let found = self.handle.find(key, Some(record_type)).await.map_err(bus::failed)?;
        Ok(found.records.iter().map(|r| r.to_bytes()).collect())
    }

    async fn report(&self) -> fdo::Result<String> {
        let report = self.handle.report().await.map_err(bus::failed)?;
        serde_json::to_string(&report).map_err(bus::failed)
    }
}
