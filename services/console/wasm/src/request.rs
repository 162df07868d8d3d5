//! A question: what is asked, and with what. Read by hand: derived readers would weigh more than all else here.

use serde_json::Value;

pub struct Question(Value);

impl Question {
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map(Self).map_err(|e| format!("not a question: {e}"))
    }

    pub fn text(&self, name: &str) -> Result<&str, String> {
        self.optional(name).ok_or_else(|| wrong(name, "a text"))
    }

    pub fn optional(&self, name: &str) -> Option<&str> {
        self.0[name].as_str()
    }

    pub fn number(&self, name: &str) -> Result<u64, String> {
        self.0[name].as_u64().ok_or_else(|| wrong(name, "a number"))
    }

    pub fn list(&self, name: &str) -> Result<&[Value], String> {
        self.0[name].as_array().map(Vec::as_slice).ok_or_else(|| wrong(name, "a list"))
    }

    /// As serde writes `Vec<Vec<u8>>`.
    pub fn byte_lists(&self, name: &str) -> Result<Vec<Vec<u8>>, String> {
        let byte = |value: &Value| value.as_u64().and_then(|n| u8::try_from(n).ok());
        let bytes = |list: &Value| list.as_array().and_then(|list| list.iter().map(byte).collect());
        self.list(name)?.iter().map(|list| bytes(list).ok_or_else(|| wrong(name, "lists of bytes"))).collect()
    }
}

fn wrong(name: &str, what: &str) -> String {
    format!("`{name}` is not {what}")
}
