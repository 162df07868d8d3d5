//! CONNECT, HELLO, GOODBYE, PING, PONG.
//!
//! The client opens one stream in both directions and sends CONNECT on it, signed with the key it names; the station answers
//! HELLO, signed with its own. All further frames of this connection that belong to no call or session of their own go there.

use os_identity::NodeId;

use super::fields::Fields;
use super::{Body, FrameError, Pairs};
use crate::cbor::{Value, bytes, flag, or_null, text, uint};

/// Realms, addresses and endorsements that a peer may name.
pub const MAX_LISTED: usize = 64;
/// Capability bit 0.
pub const STATION: u64 = 1;

#[derive(Debug, Clone, PartialEq)]
pub struct Connect {
    pub node_id: NodeId,
    /// The same as `node_id`, from clients.
    pub station_id: NodeId,
    pub realms: Vec<[u8; 32]>,
    pub addresses: Vec<Value>,
    pub site: Option<Value>,
    /// SHA-256 of the node id.
    pub puzzle_evidence: [u8; 32],
    pub endorsements: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    pub node_id: NodeId,
    pub station_id: NodeId,
    pub realms: Vec<[u8; 32]>,
    pub addresses: Vec<Value>,
    pub site: Option<Value>,
    /// `Err` with the reason's code if the station does not take this client.
    pub verdict: Result<(), u8>,
    pub negotiated_capabilities: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goodbye {
    pub reason: String,
    pub detail: Option<String>,
}

/// PING and PONG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

impl Body for Connect {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            node_id: NodeId::from_bytes(f.array("node_id")?),
            station_id: NodeId::from_bytes(f.array("station_id")?),
            realms: f.arrays("realms", MAX_LISTED)?,
            addresses: f.list("addresses", MAX_LISTED)?,
            site: f.optional("site"),
            puzzle_evidence: f.array("puzzle_evidence")?,
            endorsements: f.list("endorsements", MAX_LISTED)?,
        })
    }

    fn pairs(&self) -> Pairs {
        vec![
            ("node_id", bytes(self.node_id.as_bytes())),
            ("station_id", bytes(self.station_id.as_bytes())),
            ("realms", Value::List(self.realms.iter().map(bytes).collect())),
            ("addresses", Value::List(self.addresses.clone())),
            ("site", or_null(self.site.clone())),
            ("puzzle_evidence", bytes(self.puzzle_evidence)),
            ("endorsements", Value::List(self.endorsements.clone())),
        ]
    }
}

impl Body for Hello {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        let accepted = f.flag("accepted")?;
        let code = f.optional_uint("refusal_code")?.and_then(|code| u8::try_from(code).ok());
        Ok(Self {
            node_id: NodeId::from_bytes(f.array("node_id")?),
            station_id: NodeId::from_bytes(f.array("station_id")?),
            realms: f.arrays("realms", MAX_LISTED)?,
            addresses: f.list("addresses", MAX_LISTED)?,
            site: f.optional("site"),
            verdict: if accepted { Ok(()) } else { Err(code.unwrap_or_default()) },
            negotiated_capabilities: f.uint("negotiated_capabilities")?,
        })
    }

    fn pairs(&self) -> Pairs {
        vec![
            ("node_id", bytes(self.node_id.as_bytes())),
            ("station_id", bytes(self.station_id.as_bytes())),
            ("realms", Value::List(self.realms.iter().map(bytes).collect())),
            ("addresses", Value::List(self.addresses.clone())),
            ("site", or_null(self.site.clone())),
            ("accepted", flag(self.verdict.is_ok())),
            ("refusal_code", or_null(self.verdict.err().map(uint))),
            ("negotiated_capabilities", uint(self.negotiated_capabilities)),
        ]
    }
}

impl Body for Goodbye {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self { reason: f.word("reason")?, detail: f.remark("detail")? })
    }

    fn pairs(&self) -> Pairs {
        vec![("reason", text(&self.reason)), ("detail", or_null(self.detail.as_ref().map(bytes)))]
    }
}

impl Body for Nonce {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        f.array("nonce").map(Self)
    }

    fn pairs(&self) -> Pairs {
        vec![("nonce", bytes(self.0))]
    }
}
