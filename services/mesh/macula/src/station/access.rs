//! Who may do what: asked of the node for each thing that a client wants.

use os_content_id::Mcid;
use os_identity::NodeId;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Be a client of this station at all.
    Connect,
    PutRecord {
        record_type: u8,
        key: &'a [u8; 32],
    },
    FindRecords,
    PutContent(Mcid),
    GetContent(Mcid),
    /// Call another client's procedure, by CALL or by STREAM_OPEN.
    Call {
        realm: &'a [u8; 32],
        procedure: &'a str,
    },
    /// Be called under this name.
    Advertise {
        realm: &'a [u8; 32],
        procedure: &'a str,
    },
    Publish {
        realm: &'a [u8; 32],
        topic: &'a str,
    },
    Subscribe {
        realm: &'a [u8; 32],
        topic: &'a str,
    },
    /// Hand over events that another node published and signed.
    Relay {
        realm: &'a [u8; 32],
        topic: &'a str,
    },
}

/// A client's wish, with what it has to show for it. Its key is proven.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub node: &'a NodeId,
    /// The UCAN that came with a CALL; empty otherwise.
    pub ucan: &'a [u8],
    pub unix_ms: u64,
    pub action: Action<'a>,
}

/// Decides on wishes. `Err` says why not, for the client to read.
pub trait Access: Send {
    fn allows(&self, request: &Request<'_>) -> Result<(), String>;
}

impl<F: Fn(&Request<'_>) -> Result<(), String> + Send> Access for F {
    fn allows(&self, request: &Request<'_>) -> Result<(), String> {
        self(request)
    }
}
