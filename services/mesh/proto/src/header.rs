//! What every stream starts with: `{0: protocol, 1: ucan, 2: deadline ms}` in CBOR, in one frame.

/// The native protocol's ALPN word.
pub const ALPN: &[u8] = b"macula-os/1";
/// Largest encoded header, in bytes.
pub const MAX_HEADER: usize = 4096;
/// Largest protocol word, in bytes.
pub const MAX_PROTOCOL: usize = 64;

/// A stream's purpose and authority. Unknown map keys are ignored.
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
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("stream header does not decode: {0}")]
    Cbor(String),
    #[error("stream header names no usable protocol")]
    Protocol,
    #[error("stream header is larger than {MAX_HEADER} bytes")]
    TooLarge,
}

impl StreamHeader {
    pub fn new(protocol: &str) -> Self {
        Self { protocol: protocol.to_string(), ucan: None, deadline_ms: None }
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
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_ignores_what_it_does_not_know() {
        let header =
            StreamHeader { protocol: "dht/1".into(), ucan: Some(vec![1, 2]), deadline_ms: Some(5000) };
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
        let long = StreamHeader::new(&"x".repeat(MAX_PROTOCOL + 1));
        assert_eq!(StreamHeader::decode(&long.encode().unwrap()), Err(HeaderError::Protocol));
    }
}
