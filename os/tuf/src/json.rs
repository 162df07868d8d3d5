//! Canonical JSON (OLPC), the form that is signed, and small readers of values.

use serde_json::{Map, Value};

use crate::error::{Result, malformed};
use crate::{METADATA_MAX, NAME_LEN_MAX, NAMES_MAX, TufError};

/// Bounded in size here and in depth by the parser.
pub fn parse(role: &str, bytes: &[u8]) -> Result<Value> {
    if bytes.len() > METADATA_MAX {
        return Err(TufError::TooLarge { role: role.into(), len: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|e| malformed(role, e))
}

/// Members sorted by their names' bytes, no white space, only `"` and `\` escaped, no fractions.
pub fn canonical(value: &Value) -> std::result::Result<Vec<u8>, String> {
    let mut out = Vec::new();
    write(value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> std::result::Result<(), String> {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(b) => out.extend(b.to_string().bytes()),
        Value::Number(n) if n.is_u64() || n.is_i64() => out.extend(n.to_string().bytes()),
        Value::Number(n) => return Err(format!("{n} is not a whole number")),
        Value::String(text) => string(text, out),
        Value::Array(items) => list(items.iter(), (b'[', b']'), out, write)?,
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| name.as_bytes());
            list(sorted, (b'{', b'}'), out, |(name, value), out| {
                string(name, out);
                out.push(b':');
                write(value, out)
            })?;
        }
    }
    Ok(())
}

fn list<T>(
    items: impl IntoIterator<Item = T>,
    brackets: (u8, u8),
    out: &mut Vec<u8>,
    mut item: impl FnMut(T, &mut Vec<u8>) -> std::result::Result<(), String>,
) -> std::result::Result<(), String> {
    out.push(brackets.0);
    for (index, one) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        item(one, out)?;
    }
    out.push(brackets.1);
    Ok(())
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// One object of a metadata file, with the file's role for error texts.
#[derive(Clone, Copy)]
pub struct Object<'a> {
    pub role: &'a str,
    members: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub fn of(role: &'a str, what: &str, value: &'a Value) -> Result<Self> {
        let members = value.as_object().ok_or_else(|| malformed(role, format!("`{what}` is no object")))?;
        if members.len() > NAMES_MAX {
            return Err(malformed(role, format!("`{what}` has more than {NAMES_MAX} members")));
        }
        Ok(Self { role, members })
    }

    pub fn maybe(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name)
    }

    pub fn need(&self, name: &str) -> Result<&'a Value> {
        self.maybe(name).ok_or_else(|| malformed(self.role, format!("`{name}` is missing")))
    }

    pub fn object(&self, name: &str) -> Result<Object<'a>> {
        Object::of(self.role, name, self.need(name)?)
    }

    pub fn text(&self, name: &str) -> Result<&'a str> {
        text(self.role, name, self.need(name)?)
    }

    pub fn whole(&self, name: &str) -> Result<u64> {
        let why = || malformed(self.role, format!("`{name}` is no whole number"));
        self.need(name)?.as_u64().ok_or_else(why)
    }

    pub fn list(&self, name: &str, max: usize) -> Result<&'a [Value]> {
        match self.need(name)?.as_array() {
            Some(list) if list.len() <= max => Ok(list),
            Some(_) => Err(malformed(self.role, format!("`{name}` has more than {max} entries"))),
            None => Err(malformed(self.role, format!("`{name}` is no list"))),
        }
    }

    /// The members, with names of a bearable length.
    pub fn members(&self) -> Result<impl Iterator<Item = (&'a str, &'a Value)> + use<'a>> {
        if self.members.keys().any(|name| name.len() > NAME_LEN_MAX) {
            return Err(malformed(self.role, format!("a name is longer than {NAME_LEN_MAX} bytes")));
        }
        Ok(self.members.iter().map(|(name, value)| (name.as_str(), value)))
    }
}

pub fn text<'a>(role: &str, what: &str, value: &'a Value) -> Result<&'a str> {
    value.as_str().ok_or_else(|| malformed(role, format!("`{what}` is no text")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_sorted_and_only_two_characters_escaped() {
        let value = json!({"b": [1, -2, true, null], "a": "say \"\\\n é", "": {}});
        let expected = "{\"\":{},\"a\":\"say \\\"\\\\\n é\",\"b\":[1,-2,true,null]}";
        assert_eq!(String::from_utf8(canonical(&value).unwrap()).unwrap(), expected);
        assert!(canonical(&json!([1.5])).unwrap_err().contains("1.5"));
        assert!(canonical(&json!(u64::MAX)).is_ok());
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
        assert!(matches!(parse("root", &deep), Err(TufError::Malformed { .. })));
        let large = vec![b' '; METADATA_MAX + 1];
        assert!(matches!(parse("root", &large), Err(TufError::TooLarge { .. })));
    }
}
