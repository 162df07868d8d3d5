//! What every stream starts with, in one frame: `{0: protocol, 1: ucan, 2: deadline ms, 3: resource, 4: required}` in CBOR.

/// The native protocol's ALPN word.
pub const ALPN: &[u8] = b"macula-os/1";
/// Largest encoded header, in bytes.
pub const MAX_HEADER: usize = 16 * 1024;
/// Largest protocol word, in bytes.
pub const MAX_PROTOCOL: usize = 64;
/// Largest name of a procedure or topic, in bytes.
pub const MAX_RESOURCE: usize = 256;
/// Fields that this version knows.
const KNOWN: std::ops::RangeInclusive<u32> = 0..=4;

/// A stream's purpose and authority. Unknown map keys are ignored, unless `required` names them.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct StreamHeader {
    #[n(0)]
    pub protocol: String,
    /// A UCAN chain, when the opener's own key is not authority enough.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub ucan: Option<Vec<u8>>,
    /// Milliseconds that the opener will wait for the first answer; 0: no limit of its own.
    #[n(2)]
    pub deadline_ms: Option<u32>,
    /// What of the protocol: the procedure of `rpc/1`, the topic of `pubsub/1`.
    #[n(3)]
    pub resource: Option<String>,
    /// Map keys that the acceptor must know; it refuses the stream otherwise.
    #[n(4)]
    pub required: Option<Vec<u32>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("stream header does not decode: {0}")]
    Cbor(String),
    #[error("stream header names no usable protocol")]
    Protocol,
    #[error("stream header names no usable resource")]
    Resource,
    #[error("stream header requires field {0}, which this node does not know; is its release older?")]
    Required(u32),
    #[error("stream header is larger than {MAX_HEADER} bytes")]
    TooLarge,
}

impl StreamHeader {
    pub fn new(protocol: &str) -> Self {
        Self { protocol: protocol.to_string(), ucan: None, deadline_ms: None, resource: None, required: None }
    }

    /// For a procedure or topic.
    pub fn of(protocol: &str, resource: &str) -> Self {
        Self { resource: Some(resource.to_string()), ..Self::new(protocol) }
    }

    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        let bytes = minicbor::to_vec(self).map_err(|e| HeaderError::Cbor(e.to_string()))?;
        if bytes.len() > MAX_HEADER { Err(HeaderError::TooLarge) } else { Ok(bytes) }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() > MAX_HEADER {
            return Err(HeaderError::TooLarge);
        }
        let header: Self = minicbor::decode(bytes).map_err(|e| HeaderError::Cbor(e.to_string()))?;
        let word = &header.protocol;
        let printable = word.bytes().all(|b| b.is_ascii_graphic());
        if word.is_empty() || word.len() > MAX_PROTOCOL || !printable {
            return Err(HeaderError::Protocol);
        }
        if header.resource.as_deref().is_some_and(|name| !is_resource(name)) {
            return Err(HeaderError::Resource);
        }
        match header.required.iter().flatten().find(|field| !KNOWN.contains(field)) {
            Some(unknown) => Err(HeaderError::Required(*unknown)),
            None => Ok(header),
        }
    }
}

/// Printable ASCII without spaces, so that a name looks the same to everybody.
pub fn is_resource(name: &str) -> bool {
    (1..=MAX_RESOURCE).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_ignores_what_it_does_not_know() {
        let header = StreamHeader {
            ucan: Some(vec![1, 2]),
            deadline_ms: Some(5000),
            required: Some(vec![1, 3]),
            ..StreamHeader::of("rpc/1", "home/light/on_v1")
        };
        assert_eq!(StreamHeader::decode(&header.encode().unwrap()), Ok(header));
        // {0: "x", 9: [true]}
        assert_eq!(StreamHeader::decode(&[0xa2, 0, 0x61, b'x', 9, 0x81, 0xf5]), Ok(StreamHeader::new("x")));
    }

    #[test]
    fn bad_headers_are_refused() {
        for bytes in [&[][..], &[0xff], &[0xa0], &[0xa1, 0, 0x60], &[0xa1, 0, 0x61, 0], &[0xa1, 0, 0x1a, 1]] {
            assert!(StreamHeader::decode(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(StreamHeader::decode(&vec![0; MAX_HEADER + 1]), Err(HeaderError::TooLarge));
        let newer = StreamHeader { required: Some(vec![2, 7]), ..StreamHeader::new("x") };
        assert_eq!(StreamHeader::decode(&newer.encode().unwrap()), Err(HeaderError::Required(7)));
        for name in ["", "a b", "é", &"x".repeat(MAX_RESOURCE + 1)] {
            let header = StreamHeader::of("rpc/1", name);
            assert_eq!(StreamHeader::decode(&header.encode().unwrap()), Err(HeaderError::Resource), "{name}");
        }
        let long = StreamHeader::new(&"x".repeat(MAX_PROTOCOL + 1));
        assert_eq!(StreamHeader::decode(&long.encode().unwrap()), Err(HeaderError::Protocol));
    }
}
