//! What the gateway needs from the node.

use std::future::Future;
use std::time::Duration;

use mesh_http::{Asked, Bearer, Problem};
use mesh_proto::rpc::CallError;
use os_content_id::Mcid;
use os_identity::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

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

    fn subscribe(&self, at: NodeId, topic: String) -> impl Future<Output = Result<Duplex, CallError>> + Send;
}
