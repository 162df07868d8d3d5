//! CALL, RESULT, ERROR, ADVERTISE, UNADVERTISE.
//!
//! A CALL is signed by its caller, a RESULT by who answered, an ERROR by who reports it; whoever is between passes the
//! bytes on as they are.

use os_identity::NodeId;

use super::fields::Fields;
use super::{Body, FrameError, Pairs};
use crate::ErrorCode;
use crate::cbor::{Value, bytes, or_null, text, uint};

/// Longest `detail` of an ERROR, in bytes.
pub const MAX_DETAIL: usize = 256;
/// Longest UCAN, in bytes.
pub const MAX_UCAN: usize = 32 * 1024;
const MAX_ROUTE: usize = 1024;

pub type CallId = [u8; 16];

#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub call_id: CallId,
    pub procedure: String,
    pub realm: [u8; 32],
    pub payload: Value,
    /// Unix time.
    pub deadline_ms: u64,
    pub caller: NodeId,
    pub source_route: Vec<u8>,
    pub retry_budget: u64,
    /// Empty: none.
    pub ucan_token: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CallResult {
    pub call_id: CallId,
    pub payload: Value,
    pub responded_by: NodeId,
    pub source_route_reverse: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CallError {
    pub call_id: CallId,
    pub code: u8,
    pub reported_by: NodeId,
    pub detail: Option<String>,
    pub offending_hop: Option<NodeId>,
    pub source_route_partial: Vec<u8>,
}

/// Who serves a procedure, or does so no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    pub realm: [u8; 32],
    pub procedure: String,
    pub advertiser: NodeId,
}

/// The same fields; `options` are ADVERTISE's alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unadvertise(pub Advertise);

impl CallError {
    /// `detail` is cut to [`MAX_DETAIL`] bytes.
    pub fn new(call_id: CallId, code: ErrorCode, reported_by: NodeId, detail: &str) -> Self {
        let detail = Some(cut(detail).to_string()).filter(|d| !d.is_empty());
        let code = code as u8;
        Self { call_id, code, reported_by, detail, offending_hop: None, source_route_partial: Vec::new() }
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=MAX_DETAIL.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

impl Body for Call {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            call_id: f.array("call_id")?,
            procedure: f.name("procedure")?,
            realm: f.array("realm")?,
            payload: f.value("payload")?,
            deadline_ms: f.uint("deadline_ms")?,
            caller: NodeId::from_bytes(f.array("caller")?),
            source_route: f.blob("source_route", MAX_ROUTE)?,
            retry_budget: f.optional_uint("retry_budget")?.unwrap_or(0),
            ucan_token: f.blob("ucan_token", MAX_UCAN)?,
        })
    }

    fn pairs(&self) -> Pairs {
        vec![
            ("call_id", bytes(self.call_id)),
            ("procedure", bytes(&self.procedure)),
            ("realm", bytes(self.realm)),
            ("payload", self.payload.clone()),
            ("deadline_ms", uint(self.deadline_ms)),
            ("caller", bytes(self.caller.as_bytes())),
            ("source_route", bytes(&self.source_route)),
            ("retry_budget", uint(self.retry_budget)),
            ("ucan_token", bytes(&self.ucan_token)),
        ]
    }
}

impl Body for CallResult {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            call_id: f.array("call_id")?,
            payload: f.value("payload")?,
            responded_by: NodeId::from_bytes(f.array("responded_by")?),
            source_route_reverse: f.blob("source_route_reverse", MAX_ROUTE)?,
        })
    }

    fn pairs(&self) -> Pairs {
        vec![
            ("call_id", bytes(self.call_id)),
            ("payload", self.payload.clone()),
            ("responded_by", bytes(self.responded_by.as_bytes())),
            ("source_route_reverse", bytes(&self.source_route_reverse)),
        ]
    }
}

impl Body for CallError {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            call_id: f.array("call_id")?,
            code: f.byte("code")?,
            reported_by: NodeId::from_bytes(f.array("reported_by")?),
            detail: f.remark("detail")?,
            offending_hop: f.optional_array("offending_hop")?.map(NodeId::from_bytes),
            source_route_partial: f.blob("source_route_partial", MAX_ROUTE)?,
        })
    }

    fn pairs(&self) -> Pairs {
        let name = ErrorCode::of(self.code).unwrap_or(ErrorCode::UnknownError).name();
        vec![
            ("call_id", bytes(self.call_id)),
            ("code", uint(self.code)),
            ("name", text(name)),
            ("reported_by", bytes(self.reported_by.as_bytes())),
            ("detail", or_null(self.detail.as_ref().map(bytes))),
            ("offending_hop", or_null(self.offending_hop.map(|hop| bytes(hop.as_bytes())))),
            ("source_route_partial", bytes(&self.source_route_partial)),
        ]
    }
}

impl Body for Advertise {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            realm: f.array("realm")?,
            procedure: f.name("procedure")?,
            advertiser: NodeId::from_bytes(f.array("advertiser")?),
        })
    }

    fn pairs(&self) -> Pairs {
        vec![
            ("realm", bytes(self.realm)),
            ("procedure", bytes(&self.procedure)),
            ("advertiser", bytes(self.advertiser.as_bytes())),
            ("options", Value::Map(Vec::new())),
        ]
    }
}

impl Body for Unadvertise {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Advertise::read(f).map(Self)
    }

    fn pairs(&self) -> Pairs {
        let mut pairs = self.0.pairs();
        pairs.pop();
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_cut_between_characters() {
        let error = |detail: &str| {
            CallError::new([0; 16], ErrorCode::UnknownError, NodeId::from_bytes([0; 32]), detail).detail
        };
        assert_eq!(error(""), None);
        assert_eq!(error("no"), Some("no".into()));
        assert_eq!(error(&"ü".repeat(200)).unwrap().len(), 256);
        assert_eq!(error(&format!("x{}", "ü".repeat(200))).unwrap().len(), 255);
    }
}
