//! What the gateway gets from this node.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_gateway::{Allowed, Asset, Content, Control, Duplex, Node};
use mesh_http::{Asked, Bearer, Document, Epoch, Method, Problem};
use mesh_proto::rpc::{self, CallError, Code};
use mesh_proto::{StreamHeader, pubsub};
use mesh_transport::AlpnPort;
use os_content_id::Mcid;
use os_identity::NodeId;
use os_ucan::{Ability, Resource};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::assets::Assets;
use super::contents::Contents;
use super::pairing::Pairing;
use super::{bearers, control};
use crate::access_log::Verdict;
use crate::authority;
use crate::link::Opened;
use crate::links::Links;
use crate::streams;

pub struct GatewayNode {
    pub contents: Contents,
    pub assets: Assets,
    pub pairing: Pairing,
    pub epoch: Epoch,
    pub public: Vec<Resource>,
    /// The same, as the owner wrote it.
    pub written: Vec<String>,
    pub realm: String,
    /// SHA-256 of those in use, the newest first.
    pub certificates: Arc<Mutex<Vec<String>>>,
    pub port: Arc<AlpnPort>,
    pub links: Arc<Links>,
}

/// What `gateway.public` in `config.toml` means here.
pub fn public(me: NodeId, written: &[String]) -> Result<Vec<Resource>> {
    let parse = |text: &String| Resource::parse(&format!("macula:{me}/{text}")).context("gateway.public");
    written.iter().map(parse).collect()
}

impl Node for GatewayNode {
    fn id(&self) -> NodeId {
        self.links.me()
    }

    fn realm(&self) -> &str {
        &self.realm
    }

    fn is_public(&self, asked: &Asked) -> bool {
        self.public.iter().any(|open| open.covers(&asked.resource))
    }

    async fn authorise(&self, asked: &Asked, bearer: &Bearer) -> Result<Allowed, String> {
        bearers::check(&self.links.authority, asked, bearer).await
    }

    fn document(&self) -> Vec<u8> {
        let certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let spoken = self.port.spoken();
        let protocols: Vec<_> = spoken.iter().filter_map(|alpn| std::str::from_utf8(alpn).ok()).collect();
        let node = &self.links.me();
        Document { node, protocols: &protocols, certificates: &certificates, public: &self.written }.to_json()
    }

    async fn content(&self, mcid: Mcid) -> Result<Content, Problem> {
        self.contents.find(mcid).await
    }

    async fn chunks(&self, content: &Content, chunks: Range<u32>) -> std::io::Result<Vec<u8>> {
        self.contents.chunks(content, chunks).await
    }

    async fn call(
        &self,
        at: NodeId,
        procedure: String,
        message: Vec<u8>,
        wait: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let deadline_ms = u32::try_from(wait.as_millis()).ok();
        let header =
            StreamHeader { resource: Some(procedure), deadline_ms, ..StreamHeader::new(rpc::PROTOCOL) };
        let called = async {
            let stream = self.open(at, &header).await?;
            mesh_stream::unary(stream.reader, stream.writer, &message, Some(wait)).await
        };
        let late = || CallError::new(Code::DEADLINE, format!("no answer within {} ms", wait.as_millis()));
        timeout(wait, called).await.unwrap_or_else(|_| Err(late()))
    }

    fn now_unix(&self) -> u64 {
        authority::now_unix()
    }

    fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    fn owner(&self) -> Option<&NodeId> {
        self.links.owner.as_ref()
    }

    fn command(&self, method: &Method) -> Result<Ability, Problem> {
        control::command(method)
    }

    async fn control(
        &self,
        asked: Control,
        admit: impl FnOnce() -> Result<(), Problem> + Send,
    ) -> Result<Value, Problem> {
        control::call(&self.links, asked, admit).await
    }

    fn refused(&self, who: NodeId, why: &dyn std::fmt::Display) {
        self.links.authority.note(Verdict::Refused, who, "an order over HTTP", why);
    }

    async fn pair(&self, from: IpAddr, session: [u8; 16], message: Vec<u8>) -> Result<Vec<u8>, Problem> {
        self.pairing.step(from, &session, &message).await
    }

    fn asset(&self, name: &'static str) -> Option<Asset> {
        self.assets.get(name)
    }

    async fn subscribe(&self, at: NodeId, topic: String) -> Result<Duplex, CallError> {
        let header = StreamHeader { resource: Some(topic), ..StreamHeader::new(pubsub::PROTOCOL) };
        self.open(at, &header).await
    }
}

impl GatewayNode {
    /// Opened in this node's own name: that it may be is what the token or the owner's configuration says.
    async fn open(&self, at: NodeId, header: &StreamHeader) -> Result<Duplex, CallError> {
        let stream = if at == self.links.me() {
            streams::open_here(&self.links, header).await.map_err(failed)?
        } else {
            let Opened { send, recv, in_use } = self.links.open(at, header).await.map_err(failed)?;
            let (here, there) = streams::socket_pair().map_err(|e| failed(e.into()))?;
            tokio::spawn(async move {
                streams::pump(send, recv, here).await;
                drop(in_use);
            });
            there
        };
        let stream = std::os::unix::net::UnixStream::from(stream);
        stream.set_nonblocking(true).map_err(|e| failed(e.into()))?;
        let (reader, writer) = UnixStream::from_std(stream).map_err(|e| failed(e.into()))?.into_split();
        Ok(Duplex { reader: Box::new(reader), writer: Box::new(writer) })
    }
}

/// A refusal keeps its code; anything else is a peer that cannot be reached.
fn failed(e: anyhow::Error) -> CallError {
    match e.downcast::<CallError>() {
        Ok(refusal) => refusal,
        Err(other) => {
            // How it failed, at which addresses, is not for strangers.
            tracing::debug!("gateway: {other:#}");
            CallError::new(Code::UNAVAILABLE, "the node cannot be reached")
        }
    }
}
