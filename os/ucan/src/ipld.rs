//! Values of the IPLD data model: from JSON and DAG-CBOR, both read strictly, and as JSON for people.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64_NOPAD;
use ipld_core::ipld::Ipld;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Lists and maps within each other.
pub const MAX_DEPTH: usize = 16;
/// Integers that every implementation can hold (UCAN 1.0, "Time Bounds").
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Reads JSON. Keys given twice, depth beyond [`MAX_DEPTH`] and anything behind the value are refused.
pub fn from_json(bytes: &[u8]) -> Result<Ipld, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut reader).map_err(|e| e.to_string())?;
    reader.end().map_err(|e| e.to_string())?;
    Ok(value)
}

/// Reads DAG-CBOR (<https://ipld.io/specs/codecs/dag-cbor/spec/>). Only the one encoding that the value has is taken.
pub fn from_dag_cbor(bytes: &[u8]) -> Result<Ipld, CborError> {
    let value: Ipld =
        serde_ipld_dagcbor::from_slice(bytes).map_err(|e| CborError::Malformed(e.to_string()))?;
    if depth(&value) > MAX_DEPTH {
        return Err(CborError::Malformed(format!("more than {MAX_DEPTH} lists and maps within each other")));
    }
    if to_dag_cbor(&value).is_some_and(|again| again == bytes) {
        Ok(value)
    } else {
        Err(CborError::NotCanonical)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CborError {
    Malformed(String),
    NotCanonical,
}

/// None for what DAG-CBOR cannot hold, such as an infinite number.
pub fn to_dag_cbor(value: &Ipld) -> Option<Vec<u8>> {
    serde_ipld_dagcbor::to_vec(value).ok()
}

/// As DAG-JSON (<https://ipld.io/specs/codecs/dag-json/spec/>): bytes are `{"/": {"bytes": base64}}`, links `{"/": CID}`.
pub fn to_json(value: &Ipld) -> serde_json::Value {
    use serde_json::{Value, json};
    match value {
        Ipld::Null => Value::Null,
        Ipld::Bool(b) => json!(b),
        Ipld::Integer(i) => i64::try_from(*i).map_or_else(|_| json!(*i as f64), |i| json!(i)),
        Ipld::Float(f) => json!(f),
        Ipld::String(s) => json!(s),
        Ipld::Bytes(b) => json!({ "/": { "bytes": BASE64_NOPAD.encode(b) } }),
        Ipld::List(list) => list.iter().map(to_json).collect(),
        Ipld::Map(map) => map.iter().map(|(k, v)| (k.clone(), to_json(v))).collect(),
        Ipld::Link(cid) => json!({ "/": cid.to_string() }),
    }
}

fn depth(value: &Ipld) -> usize {
    match value {
        Ipld::List(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Ipld::Map(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth < MAX_DEPTH {
            Ok(Self { depth: self.depth + 1 })
        } else {
            Err(E::custom(format_args!("more than {MAX_DEPTH} lists and objects within each other")))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Ipld;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Ipld, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Ipld;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Ipld, E> {
        Ok(Ipld::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Ipld, E> {
        Ok(Ipld::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Ipld, E> {
        Ok(Ipld::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Ipld, E> {
        Ok(Ipld::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Ipld, E> {
        Ok(Ipld::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Ipld, E> {
        Ok(Ipld::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Ipld, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(Ipld::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Ipld, A::Error> {
        let inner = self.inner()?;
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(inner)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("`{key}` is given twice")));
            }
            map.insert(key, value);
        }
        Ok(Ipld::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_strictly() {
        let value = from_json(br#"{"b":[1,-2,1.5,null,true],"a":{"x":"y"}}"#).unwrap();
        assert_eq!(to_json(&value).to_string(), r#"{"a":{"x":"y"},"b":[1,-2,1.5,null,true]}"#);
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(from_json(deep(MAX_DEPTH).as_bytes()).is_ok());
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":{"a":1,"\u0061":2}}"#,
            "{} x",
            "",
            "[1,]",
            &deep(MAX_DEPTH + 1),
            &deep(100_000),
        ] {
            assert!(from_json(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(40)]);
        }
        assert!(from_json(b"\"\xff\"").is_err());
    }

    #[test]
    fn dag_cbor_has_one_encoding() {
        let good: &[&[u8]] =
            &[&[0x00], &[0xa2, 0x61, b'b', 0, 0x62, b'a', b'a', 0], &[0xfb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]];
        for bytes in good {
            assert!(from_dag_cbor(bytes).is_ok(), "{bytes:x?}");
        }
        let bad: &[&[u8]] = &[
            &[],
            &[0x18, 0x01],                               // an integer longer than need be
            &[0xa2, 0x62, b'a', b'a', 0, 0x61, b'b', 0], // keys out of order
            &[0xa2, 0x61, b'a', 0, 0x61, b'a', 0],       // a key twice
            &[0xa1, 0x00, 0x00],                         // a key that is no string
            &[0x9f, 0xff],                               // no definite length
            &[0x7f, 0x61, b'a', 0xff],
            &[0xf9, 0x3e, 0x00], // a half-precision float
            &[0xfa, 0x3f, 0xc0, 0, 0],
            &[0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], // not a number
            &[0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], // infinite
            &[0xf7],                               // undefined
            &[0xc0, 0x61, b'a'],                   // a tag other than 42
            &[0xd8, 0x2a, 0x41, 0x00],             // a link that is no CID
            &[0x61, 0xff],                         // not UTF-8
            &[0x58, 0x05, 1, 2],                   // cut off
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], // longer than memory
            &[0x00, 0x00],                         // something behind it
        ];
        for bytes in bad {
            assert!(from_dag_cbor(bytes).is_err(), "{bytes:x?}");
        }
        for n in [MAX_DEPTH + 1, 300, 4000] {
            assert!(from_dag_cbor(&[vec![0x81; n], vec![0]].concat()).is_err());
        }
    }
}
