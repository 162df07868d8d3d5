//! Taking a frame's map apart, field by field.

use super::FrameError;
use crate::cbor::Value;

/// Longest procedure, topic or other name, in bytes.
pub const MAX_NAME: usize = 512;

/// The pairs of a map that are not yet taken. What nobody takes is ignored, but signatures cover it.
pub(crate) struct Fields(Vec<(Value, Value)>);

impl Fields {
    pub fn of(value: Value) -> Result<Self, FrameError> {
        match value {
            Value::Map(pairs) => Ok(Self(pairs)),
            _ => Err(FrameError::NotAMap),
        }
    }

    pub fn value(&mut self, name: &'static str) -> Result<Value, FrameError> {
        self.any(name).ok_or(FrameError::Missing(name))
    }

    /// `None` if the field is absent or null.
    pub fn optional(&mut self, name: &'static str) -> Option<Value> {
        self.any(name).filter(|value| *value != Value::Null)
    }

    pub fn array<const N: usize>(&mut self, name: &'static str) -> Result<[u8; N], FrameError> {
        array(self.value(name)?, name)
    }

    pub fn optional_array<const N: usize>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<[u8; N]>, FrameError> {
        self.optional(name).map(|value| array(value, name)).transpose()
    }

    pub fn arrays<const N: usize>(
        &mut self,
        name: &'static str,
        max: usize,
    ) -> Result<Vec<[u8; N]>, FrameError> {
        self.list(name, max)?.into_iter().map(|value| array(value, name)).collect()
    }

    pub fn list(&mut self, name: &'static str, max: usize) -> Result<Vec<Value>, FrameError> {
        match self.value(name)? {
            Value::List(items) if items.len() <= max => Ok(items),
            Value::List(_) => Err(FrameError::TooLong(name)),
            _ => Err(FrameError::Kind(name)),
        }
    }

    /// A byte string; empty if the field is absent or null.
    pub fn blob(&mut self, name: &'static str, max: usize) -> Result<Vec<u8>, FrameError> {
        match self.optional(name) {
            None => Ok(Vec::new()),
            Some(Value::Bytes(bytes)) if bytes.len() <= max => Ok(bytes),
            Some(Value::Bytes(_)) => Err(FrameError::TooLong(name)),
            Some(_) => Err(FrameError::Kind(name)),
        }
    }

    /// A name that travels as a byte string: not empty, UTF-8, at most [`MAX_NAME`] bytes.
    pub fn name(&mut self, name: &'static str) -> Result<String, FrameError> {
        let bytes = self.blob(name, MAX_NAME)?;
        if bytes.is_empty() {
            return Err(FrameError::Missing(name));
        }
        String::from_utf8(bytes).map_err(|_| FrameError::Kind(name))
    }

    /// Human text that travels as a byte string; `None` if absent, null or not UTF-8.
    pub fn remark(&mut self, name: &'static str) -> Result<Option<String>, FrameError> {
        Ok(Some(self.blob(name, MAX_NAME)?).filter(|b| !b.is_empty()).and_then(|b| String::from_utf8(b).ok()))
    }

    /// A word that is an atom in Erlang.
    pub fn word(&mut self, name: &'static str) -> Result<String, FrameError> {
        match self.value(name)? {
            Value::Text(text) if text.len() <= MAX_NAME => Ok(text),
            Value::Text(_) => Err(FrameError::TooLong(name)),
            _ => Err(FrameError::Kind(name)),
        }
    }

    pub fn flag(&mut self, name: &'static str) -> Result<bool, FrameError> {
        match self.word(name)?.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(FrameError::Kind(name)),
        }
    }

    pub fn uint(&mut self, name: &'static str) -> Result<u64, FrameError> {
        number(self.value(name)?, name)
    }

    pub fn optional_uint(&mut self, name: &'static str) -> Result<Option<u64>, FrameError> {
        self.optional(name).map(|value| number(value, name)).transpose()
    }

    pub fn byte(&mut self, name: &'static str) -> Result<u8, FrameError> {
        u8::try_from(self.uint(name)?).map_err(|_| FrameError::Kind(name))
    }

    fn any(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(key, _)| matches!(key, Value::Text(t) if t == name))?;
        Some(self.0.swap_remove(at).1)
    }
}

fn array<const N: usize>(value: Value, name: &'static str) -> Result<[u8; N], FrameError> {
    match value {
        Value::Bytes(bytes) => bytes.try_into().map_err(|_| FrameError::Kind(name)),
        _ => Err(FrameError::Kind(name)),
    }
}

fn number(value: Value, name: &'static str) -> Result<u64, FrameError> {
    match value {
        Value::Int(n) => u64::try_from(n).map_err(|_| FrameError::Kind(name)),
        _ => Err(FrameError::Kind(name)),
    }
}
