//! What the gateway needs from the node.

use std::future::Future;
use std::time::Duration;

use mesh_http::{Asked, Bearer, Epoch, Method, Problem};
use mesh_proto::rpc::CallError;
use os_content_id::Mcid;
use os_identity::NodeId;
use os_ucan::Ability;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::asset::Asset;

/// A stream to whoever publishes a topic, whose header has been sent.
pub struct Duplex {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Content that can be had.
#[derive(Debug, Clone)]
pub struct Content {
    pub mcid: Mcid,
    pub size: u64,
    /// Bytes of each chunk but the last.
    pub chunk_size: u32,
    /// Small content comes at once.
    pub whole: Option<Vec<u8>>,
}

/// A method to call in somebody's name.
#[derive(Debug, Clone)]
pub struct Control {
    /// Who has proved to be it.
    pub by: NodeId,
    /// Another node, which this one asks in its own name.
    pub at: Option<NodeId>,
    pub method: Method,
    /// What is shown for the right to it ([`os_ucan::chain`]; empty: nothing): by whoever asks, or, for another node, by this one.
    pub chain: Vec<u8>,
    pub params: Value,
}

/// That a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed;

pub trait Node: Send + Sync + 'static {
    fn id(&self) -> NodeId;

    /// The realm whose name stands for this node in paths.
    fn realm(&self) -> &str;

    /// Whether the owner gives this to everybody.
    fn is_public(&self, asked: &Asked) -> bool;

    /// Whether whoever shows this token may have that, now. Asked again now and then while a stream lasts.
    fn authorise(
        &self,
        asked: &Asked,
        bearer: &Bearer,
    ) -> impl Future<Output = Result<Allowed, String>> + Send;

    /// The node document, JSON.
    fn document(&self) -> Vec<u8>;

    fn content(&self, mcid: Mcid) -> impl Future<Output = Result<Content, Problem>> + Send;

    /// These chunks' bytes, whole.
    fn chunks(
        &self,
        content: &Content,
        chunks: std::ops::Range<u32>,
    ) -> impl Future<Output = std::io::Result<Vec<u8>>> + Send;

    /// One message there, one back.
    fn call(
        &self,
        at: NodeId,
        procedure: String,
        message: Vec<u8>,
        wait: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, CallError>> + Send;

    /// Seconds since 1970.
    fn now_unix(&self) -> u64;

    /// Another after each start.
    fn epoch(&self) -> &Epoch;

    fn owner(&self) -> Option<&NodeId>;

    /// What an order must say to be one for this method.
    fn command(&self, method: &Method) -> Result<Ability, Problem>;

    /// Calls it, if the one in whose name it is may; `admit` is asked between the two.
    fn control(
        &self,
        control: Control,
        admit: impl FnOnce() -> Result<(), Problem> + Send,
    ) -> impl Future<Output = Result<Value, Problem>> + Send;

    /// An order of somebody's was refused after it was found to be his.
    fn refused(&self, who: NodeId, why: &dyn std::fmt::Display);

    /// A message of somebody who pairs, who is there; the answer.
    fn pair(
        &self,
        from: std::net::IpAddr,
        session: [u8; 16],
        message: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Problem>> + Send;

    /// A file of the console.
    fn asset(&self, name: &'static str) -> Option<Asset>;

    fn subscribe(&self, at: NodeId, topic: String) -> impl Future<Output = Result<Duplex, CallError>> + Send;
}
