//! How the D-Bus interface, the owner's calls and peers' streams reach the one task that owns the node.

use std::sync::Arc;

use anyhow::{Context, Result};
use dht_proto::record_types::{PROVIDER, Provider, provider_key};
use dht_proto::{BucketSummary, Contact, Entry, Key, Outcome, Record, Request, Response};
use os_identity::NodeId;
use os_ucan::revocation::Revocation;
use services_api::report::DhtReport;
use tokio::sync::{mpsc, oneshot};

use crate::own_records::McidBytes;

/// Nodes with records that end a search: enough to see past a stale replica.
const QUORUM: usize = 5;

pub type Reply<T> = oneshot::Sender<T>;

pub enum Command {
    Request { from: NodeId, request: Request, reply: Reply<Response> },
    Provide { mcid: McidBytes, reply: Reply<Result<()>> },
    Unprovide { mcid: McidBytes, reply: Reply<Result<()>> },
    Carry { record: Arc<Record>, reply: Reply<Result<()>> },
    Held { record_type: u8, reply: Reply<Vec<Arc<Record>>> },
    Revoke { revocation: Revocation, reply: Reply<Result<()>> },
    Put { record: Arc<Record>, reply: Reply<Result<u32>> },
    Find { key: Key, record_type: Option<u8>, quorum: usize, reply: Reply<Result<Outcome>> },
    Report { reply: Reply<DhtReport> },
    Table { reply: Reply<Table> },
}

/// The routing table, for people.
pub struct Table {
    pub node: NodeId,
    pub entries: Vec<Entry>,
    pub buckets: Vec<BucketSummary>,
    pub own_records: usize,
}

/// Who has a content, and what it took to find out.
pub struct Providers {
    /// Other nodes.
    pub contacts: Vec<Contact>,
    /// Whether this node announced it too.
    pub here: bool,
    pub outcome: Outcome,
}

#[derive(Clone)]
pub struct Handle {
    node: NodeId,
    commands: mpsc::Sender<Command>,
}

impl Handle {
    pub fn new(node: NodeId, commands: mpsc::Sender<Command>) -> Self {
        Self { node, commands }
    }

    pub async fn request(&self, from: NodeId, request: Request) -> Result<Response> {
        self.call(|reply| Command::Request { from, request, reply }).await
    }

    pub async fn provide(&self, mcid: McidBytes) -> Result<()> {
        self.call(|reply| Command::Provide { mcid, reply }).await?
    }

    pub async fn unprovide(&self, mcid: McidBytes) -> Result<()> {
        self.call(|reply| Command::Unprovide { mcid, reply }).await?
    }

    /// Publishes a record until it expires or the process ends.
    pub async fn carry(&self, bytes: &[u8]) -> Result<()> {
        let record = Arc::new(Record::from_bytes(bytes).context("the record does not decode")?);
        self.call(|reply| Command::Carry { record, reply }).await?
    }

    pub async fn held(&self, record_type: u8) -> Result<Vec<Arc<Record>>> {
        self.call(|reply| Command::Held { record_type, reply }).await
    }

    /// Keeps a statement that takes a delegation back, and announces it for good.
    pub async fn revoke(&self, statement: &[u8]) -> Result<()> {
        let revocation = Revocation::from_bytes(statement)?;
        self.call(|reply| Command::Revoke { revocation, reply }).await?
    }

    /// Publishes a record; how many other nodes took it.
    pub async fn put(&self, bytes: &[u8]) -> Result<u32> {
        let record = Arc::new(Record::from_bytes(bytes).context("the record does not decode")?);
        self.call(|reply| Command::Put { record, reply }).await?
    }

    pub async fn find(&self, key: Key, record_type: Option<u8>) -> Result<Outcome> {
        self.call(|reply| Command::Find { key, record_type, quorum: QUORUM, reply }).await?
    }

    pub async fn providers(&self, mcid: &McidBytes) -> Result<Providers> {
        let outcome = self.find(provider_key(mcid), Some(PROVIDER)).await?;
        let mut contacts: Vec<Contact> = outcome.records.iter().filter_map(provider).collect();
        let all = contacts.len();
        contacts.retain(|c| c.id != self.node);
        Ok(Providers { here: contacts.len() < all, contacts, outcome })
    }

    pub async fn report(&self) -> Result<DhtReport> {
        self.call(|reply| Command::Report { reply }).await
    }

    pub async fn table(&self) -> Result<Table> {
        self.call(|reply| Command::Table { reply }).await
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok().context("the service is stopping")?;
        answer.await.context("this was given up, because the clock was set back or the service is stopping")
    }
}

fn provider(record: &Arc<Record>) -> Option<Contact> {
    let provider = Provider::parse(&record.statement.payload).ok()?;
    (!provider.withdrawn).then(|| provider.contact(record.statement.signer))
}
