//! A CBOR value and its canonical bytes.

use minicbor::Encoder;
pub use minicbor::data::Int;

type EncodeResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

/// What free-form payloads are made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// From -2^64 to 2^64 - 1.
    Int(Int),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<Value>),
    /// Keys are numbers, bytes or text. Encoded in canonical order whatever the order here; of a key that is there twice,
    /// the first counts.
    Map(Vec<(Value, Value)>),
    /// Finite.
    Float(f64),
    Null,
}

impl Value {
    /// A map with text keys.
    pub fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        Value::Map(pairs.into_iter().map(|(key, value)| (text(key), value)).collect())
    }

    /// The value under a text key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Map(pairs) = self else { return None };
        pairs.iter().find(|(k, _)| matches!(k, Value::Text(t) if t == key)).map(|(_, value)| value)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        match put(&mut e, self) {
            Ok(()) => e.into_writer(),
            Err(_) => unreachable!("a Vec takes every byte"),
        }
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.to_string())
}

pub(crate) fn bytes(bytes: impl AsRef<[u8]>) -> Value {
    Value::Bytes(bytes.as_ref().to_vec())
}

pub(crate) fn uint(n: impl Into<u64>) -> Value {
    Value::Int(Int::from(n.into()))
}

pub(crate) fn flag(on: bool) -> Value {
    text(if on { "true" } else { "false" })
}

pub(crate) fn or_null(value: Option<Value>) -> Value {
    value.unwrap_or(Value::Null)
}

fn put(e: &mut Encoder<Vec<u8>>, value: &Value) -> EncodeResult {
    match value {
        Value::Int(n) => e.int(*n)?,
        Value::Bytes(b) => e.bytes(b)?,
        Value::Text(t) => e.str(t)?,
        Value::List(items) => {
            e.array(items.len() as u64)?;
            return items.iter().try_for_each(|item| put(e, item));
        }
        Value::Map(pairs) => return put_map(e, pairs),
        Value::Float(f) => e.f64(*f)?,
        Value::Null => e.null()?,
    };
    Ok(())
}

fn put_map(e: &mut Encoder<Vec<u8>>, pairs: &[(Value, Value)]) -> EncodeResult {
    let mut sorted: Vec<_> = pairs.iter().map(|(key, value)| (key.encode(), value)).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    sorted.dedup_by(|later, first| later.0 == first.0);
    e.map(sorted.len() as u64)?;
    sorted.iter().try_for_each(|(key, value)| {
        e.writer_mut().extend_from_slice(key);
        put(e, value)
    })
}
