//! A token's payload as named fields: each is taken once, and none may be left over.

use std::collections::BTreeMap;

use ipld_core::ipld::Ipld;

use crate::Did;
use crate::error::TokenError;
use crate::ipld::MAX_INTEGER;

/// Bytes of a nonce.
const MAX_NONCE: usize = 128;

pub(crate) struct Fields(BTreeMap<String, Ipld>);

impl Fields {
    pub fn new(value: Ipld, what: &'static str) -> Result<Self, TokenError> {
        match value {
            Ipld::Map(map) => Ok(Self(map)),
            _ => Err(TokenError::field(what, "is not a map")),
        }
    }

    pub fn take(&mut self, name: &str) -> Option<Ipld> {
        self.0.remove(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn need(&mut self, name: &str) -> Result<Ipld, TokenError> {
        self.take(name).ok_or_else(|| TokenError::field(name, "is missing"))
    }

    pub fn text(&mut self, name: &str) -> Result<String, TokenError> {
        match self.need(name)? {
            Ipld::String(text) => Ok(text),
            _ => Err(TokenError::field(name, "is not a string")),
        }
    }

    pub fn did(&mut self, name: &str) -> Result<Did, TokenError> {
        Did::parse(&self.text(name)?)
    }

    pub fn list(&mut self, name: &str) -> Result<Vec<Ipld>, TokenError> {
        match self.need(name)? {
            Ipld::List(list) => Ok(list),
            _ => Err(TokenError::field(name, "is not a list")),
        }
    }

    /// Absent is an empty one.
    pub fn map(&mut self, name: &str) -> Result<BTreeMap<String, Ipld>, TokenError> {
        match self.take(name) {
            None => Ok(BTreeMap::new()),
            Some(Ipld::Map(map)) => Ok(map),
            Some(_) => Err(TokenError::field(name, "is not a map")),
        }
    }

    /// Seconds since 1970. Null and absent are the same: no bound.
    pub fn time(&mut self, name: &str) -> Result<Option<u64>, TokenError> {
        match self.take(name) {
            None | Some(Ipld::Null) => Ok(None),
            Some(Ipld::Integer(i)) => match u64::try_from(i) {
                Ok(seconds) if seconds <= MAX_INTEGER => Ok(Some(seconds)),
                _ => Err(TokenError::field(name, "is outside of 0 to 2^53 - 1")),
            },
            Some(_) => Err(TokenError::field(name, "is not a whole number of seconds")),
        }
    }

    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>, TokenError> {
        match self.need(name)? {
            Ipld::Bytes(bytes) if bytes.len() <= MAX_NONCE => Ok(bytes),
            Ipld::Bytes(_) => Err(TokenError::field(name, "is longer than 128 bytes")),
            _ => Err(TokenError::field(name, "is not bytes")),
        }
    }

    /// A nonce as text, or nothing.
    pub fn text_nonce(&mut self, name: &str) -> Result<Vec<u8>, TokenError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Ipld::String(text)) if text.len() <= MAX_NONCE => Ok(text.into_bytes()),
            Some(Ipld::String(_)) => Err(TokenError::field(name, "is longer than 128 bytes")),
            Some(_) => Err(TokenError::field(name, "is not a string")),
        }
    }

    pub fn finish(self) -> Result<(), TokenError> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(TokenError::field(&name, "is not known; it might narrow what the token grants"))
            }
        }
    }
}

/// A validity interval that can hold at some time.
pub(crate) fn check_interval(not_before: Option<u64>, expires: Option<u64>) -> Result<(), TokenError> {
    match (not_before, expires) {
        (Some(from), Some(to)) if to < from => Err(TokenError::EndsBeforeItBegins),
        _ => Ok(()),
    }
}
