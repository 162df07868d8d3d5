//! `content/1`: the messages on a stream between two nodes.
//!
//! After the mesh's header a stream carries frames (u32 big-endian length, then one CBOR map with integer keys, unknown
//! keys ignored). The side that opened the stream asks, the other one answers every request in order:
//!
//! | request | answers |
//! |---|---|
//! | `have` content | one `have` with how many of its blocks are there |
//! | `want` content, up to 64 hashes | for each hash in order one `block` or `missing` |
//! | `manifest` content | one `manifest` or `no manifest` |
//!
//! `refused` may come instead of any answer; the stream ends after it.

use std::sync::Arc;

use minicbor::{Decoder, Encoder};
use os_content_id::{CHUNK_SIZE, Hash, MAX_WIRE_MANIFEST, Mcid, ParseMcidError, hash};

/// Hashes in one `want`.
pub const MAX_WANT: usize = 64;
/// Bytes in one `block`.
pub const MAX_BLOCK: usize = CHUNK_SIZE as usize;
/// Largest request frame.
pub const MAX_REQUEST_FRAME: usize = 4096;
/// Largest answer to `have` and `want`.
pub const MAX_BLOCK_FRAME: usize = MAX_BLOCK + 512;
/// Largest answer to `manifest`.
pub const MAX_MANIFEST_FRAME: usize = MAX_WIRE_MANIFEST + 512;
/// Bytes of UTF-8 in a refusal; longer ones are cut.
const MAX_REASON: usize = 200;
/// Keys in one message.
const MAX_FIELDS: u64 = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Have(Mcid),
    Want { content: Mcid, hashes: Vec<Hash> },
    Manifest(Mcid),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// So many of the content's blocks are here.
    Have {
        held: u32,
        total: u32,
    },
    Block {
        hash: Hash,
        bytes: Vec<u8>,
    },
    Missing(Hash),
    /// The wire form.
    Manifest(Vec<u8>),
    NoManifest,
    Refused(String),
}

/// Why bytes from a peer are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("message is not valid CBOR: {0}")]
    Cbor(String),
    #[error("message has no field {0}")]
    Missing(u8),
    #[error("message kind {0} is not known here")]
    Kind(u8),
    #[error("a want lists {0} hashes, 1 to {MAX_WANT} are allowed")]
    Want(u64),
    #[error("block of {0} bytes, at most {MAX_BLOCK} are allowed")]
    Block(usize),
    #[error("manifest of {0} bytes, at most {MAX_WIRE_MANIFEST} are allowed")]
    Manifest(usize),
    #[error(transparent)]
    Mcid(#[from] ParseMcidError),
}

impl From<minicbor::decode::Error> for MessageError {
    fn from(e: minicbor::decode::Error) -> Self {
        MessageError::Cbor(e.to_string())
    }
}

mod kind {
    pub const HAVE: u8 = 0;
    pub const WANT: u8 = 1;
    pub const MANIFEST: u8 = 2;
    pub const MISSING: u8 = 3;
    pub const NO_MANIFEST: u8 = 4;
    pub const REFUSED: u8 = 5;
}

mod key {
    pub const KIND: u8 = 0;
    pub const CONTENT: u8 = 1;
    pub const HASHES: u8 = 2;
    pub const HASH: u8 = 3;
    pub const BYTES: u8 = 4;
    pub const HELD: u8 = 5;
    pub const TOTAL: u8 = 6;
    pub const REASON: u8 = 7;
}

/// Bytes beside the hash they should have, compared once. Made where the time for hashing is, used where decisions are.
#[derive(Debug, Clone)]
pub struct Checked {
    hash: Hash,
    bytes: Arc<Vec<u8>>,
    good: bool,
}

impl Checked {
    pub fn new(wanted: Hash, bytes: Vec<u8>) -> Self {
        Self { hash: wanted, good: hash(&bytes) == wanted, bytes: Arc::new(bytes) }
    }

    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// The bytes, when they have the hash.
    pub fn bytes(&self) -> Option<&Arc<Vec<u8>>> {
        self.good.then_some(&self.bytes)
    }
}

impl Request {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Request::Have(content) => head(2, kind::HAVE).bytes(key::CONTENT, &content.to_bytes()).done(),
            Request::Manifest(content) => {
                head(2, kind::MANIFEST).bytes(key::CONTENT, &content.to_bytes()).done()
            }
            Request::Want { content, hashes } => head(3, kind::WANT)
                .bytes(key::CONTENT, &content.to_bytes())
                .hashes(key::HASHES, hashes)
                .done(),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let f = Fields::read(bytes)?;
        let content = Mcid::try_from(f.content.ok_or(MessageError::Missing(key::CONTENT))?)?;
        match f.kind()? {
            kind::HAVE => Ok(Request::Have(content)),
            kind::MANIFEST => Ok(Request::Manifest(content)),
            kind::WANT => {
                Ok(Request::Want { content, hashes: f.hashes.ok_or(MessageError::Missing(key::HASHES))? })
            }
            other => Err(MessageError::Kind(other)),
        }
    }
}

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Answer::Have { held, total } => {
                head(3, kind::HAVE).number(key::HELD, *held).number(key::TOTAL, *total).done()
            }
            Answer::Block { hash, bytes } => encode_block(hash, bytes),
            Answer::Missing(hash) => head(2, kind::MISSING).bytes(key::HASH, hash).done(),
            Answer::Manifest(bytes) => encode_manifest(bytes),
            Answer::NoManifest => head(1, kind::NO_MANIFEST).done(),
            Answer::Refused(reason) => head(2, kind::REFUSED).text(key::REASON, shorten(reason)).done(),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let f = Fields::read(bytes)?;
        let hash = || f.hash.ok_or(MessageError::Missing(key::HASH));
        let data = || f.bytes.ok_or(MessageError::Missing(key::BYTES));
        match f.kind()? {
            kind::HAVE => Ok(Answer::Have {
                held: f.held.ok_or(MessageError::Missing(key::HELD))?,
                total: f.total.ok_or(MessageError::Missing(key::TOTAL))?,
            }),
            kind::WANT if data()?.len() > MAX_BLOCK => Err(MessageError::Block(data()?.len())),
            kind::WANT => Ok(Answer::Block { hash: hash()?, bytes: data()?.to_vec() }),
            kind::MANIFEST if data()?.len() > MAX_WIRE_MANIFEST => Err(MessageError::Manifest(data()?.len())),
            kind::MANIFEST => Ok(Answer::Manifest(data()?.to_vec())),
            kind::MISSING => Ok(Answer::Missing(hash()?)),
            kind::NO_MANIFEST => Ok(Answer::NoManifest),
            kind::REFUSED => Ok(Answer::Refused(shorten(f.reason.unwrap_or("no reason given")).to_string())),
            other => Err(MessageError::Kind(other)),
        }
    }
}

/// [`Answer::Block`] without owning the bytes.
pub fn encode_block(hash: &Hash, bytes: &[u8]) -> Vec<u8> {
    head(3, kind::WANT).bytes(key::HASH, hash).bytes(key::BYTES, bytes).done()
}

/// [`Answer::Manifest`] without owning the bytes.
pub fn encode_manifest(bytes: &[u8]) -> Vec<u8> {
    head(2, kind::MANIFEST).bytes(key::BYTES, bytes).done()
}

fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_REASON)]
}

struct Message(Encoder<Vec<u8>>);

type EncodeResult<'a> = Result<&'a mut Encoder<Vec<u8>>, minicbor::encode::Error<std::convert::Infallible>>;

fn head(fields: u64, kind: u8) -> Message {
    let mut m = Message(Encoder::new(Vec::new()));
    written(m.0.map(fields).and_then(|e| e.u8(key::KIND)?.u8(kind)));
    m
}

fn written(result: EncodeResult<'_>) {
    if result.is_err() {
        unreachable!("a Vec takes every byte");
    }
}

impl Message {
    fn bytes(mut self, key: u8, value: &[u8]) -> Self {
        self.0.writer_mut().reserve(value.len() + 8);
        written(self.0.u8(key).and_then(|e| e.bytes(value)));
        self
    }

    fn text(mut self, key: u8, value: &str) -> Self {
        written(self.0.u8(key).and_then(|e| e.str(value)));
        self
    }

    fn number(mut self, key: u8, value: u32) -> Self {
        written(self.0.u8(key).and_then(|e| e.u32(value)));
        self
    }

    fn hashes(mut self, key: u8, hashes: &[Hash]) -> Self {
        written(self.0.u8(key).and_then(|e| e.array(hashes.len() as u64)));
        for h in hashes {
            written(self.0.bytes(h));
        }
        self
    }

    fn done(self) -> Vec<u8> {
        self.0.into_writer()
    }
}

/// Every field that a message may have, borrowed from the frame.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<u8>,
    content: Option<&'a [u8]>,
    hashes: Option<Vec<Hash>>,
    hash: Option<Hash>,
    bytes: Option<&'a [u8]>,
    held: Option<u32>,
    total: Option<u32>,
    reason: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut d = Decoder::new(bytes);
        let pairs = d.map()?.ok_or_else(|| MessageError::Cbor("map of indefinite length".into()))?;
        if pairs > MAX_FIELDS {
            return Err(MessageError::Cbor(format!("{pairs} fields, at most {MAX_FIELDS} are allowed")));
        }
        let mut f = Fields::default();
        for _ in 0..pairs {
            f.read_pair(&mut d)?;
        }
        if d.position() != bytes.len() {
            return Err(MessageError::Cbor("bytes after the message".into()));
        }
        Ok(f)
    }

    fn read_pair(&mut self, d: &mut Decoder<'a>) -> Result<(), MessageError> {
        match u8::try_from(d.u64()?).unwrap_or(u8::MAX) {
            key::KIND => self.kind = Some(d.u8()?),
            key::CONTENT => self.content = Some(d.bytes()?),
            key::HASHES => self.hashes = Some(read_hashes(d)?),
            key::HASH => self.hash = Some(read_hash(d)?),
            key::BYTES => self.bytes = Some(d.bytes()?),
            key::HELD => self.held = Some(d.u32()?),
            key::TOTAL => self.total = Some(d.u32()?),
            key::REASON => self.reason = Some(d.str()?),
            _ => d.skip()?,
        }
        Ok(())
    }

    fn kind(&self) -> Result<u8, MessageError> {
        self.kind.ok_or(MessageError::Missing(key::KIND))
    }
}

fn read_hash(d: &mut Decoder<'_>) -> Result<Hash, MessageError> {
    d.bytes()?.try_into().map_err(|_| MessageError::Cbor("a hash is 32 bytes".into()))
}

fn read_hashes(d: &mut Decoder<'_>) -> Result<Vec<Hash>, MessageError> {
    let n = d.array()?.ok_or_else(|| MessageError::Cbor("array of indefinite length".into()))?;
    if n == 0 || n > MAX_WANT as u64 {
        return Err(MessageError::Want(n));
    }
    (0..n).map(|_| read_hash(d)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let content = Mcid::of_raw(b"x");
        vec![
            Request::Have(content),
            Request::Manifest(content),
            Request::Want { content, hashes: vec![[1; 32]] },
            Request::Want { content, hashes: (0..64).map(|i| [i; 32]).collect() },
        ]
    }

    fn answers() -> Vec<Answer> {
        vec![
            Answer::Have { held: 3, total: 4_000_000 },
            Answer::Block { hash: [7; 32], bytes: vec![9; MAX_BLOCK] },
            Answer::Block { hash: [7; 32], bytes: vec![] },
            Answer::Missing([7; 32]),
            Answer::Manifest(vec![1; 5000]),
            Answer::NoManifest,
            Answer::Refused("busy".into()),
        ]
    }

    #[test]
    fn messages_round_trip_within_their_frames() {
        for r in requests() {
            let bytes = r.encode();
            assert!(bytes.len() <= MAX_REQUEST_FRAME);
            assert_eq!(Request::decode(&bytes), Ok(r));
        }
        for a in answers() {
            let bytes = a.encode();
            assert!(bytes.len() <= MAX_BLOCK_FRAME);
            assert_eq!(Answer::decode(&bytes), Ok(a));
        }
    }

    #[test]
    fn limits_hold() {
        let content = Mcid::of_raw(b"x");
        let want = |n| Request::decode(&Request::Want { content, hashes: vec![[0; 32]; n] }.encode());
        assert_eq!(want(0), Err(MessageError::Want(0)));
        assert_eq!(want(65), Err(MessageError::Want(65)));
        let big = encode_block(&[0; 32], &vec![0; MAX_BLOCK + 1]);
        assert_eq!(Answer::decode(&big), Err(MessageError::Block(MAX_BLOCK + 1)));
        let big = encode_manifest(&vec![0; MAX_WIRE_MANIFEST + 1]);
        assert_eq!(Answer::decode(&big), Err(MessageError::Manifest(MAX_WIRE_MANIFEST + 1)));
        let long = Answer::Refused("é".repeat(500)).encode();
        assert!(matches!(Answer::decode(&long), Ok(Answer::Refused(r)) if r.len() <= MAX_REASON));
        // An array that claims 2^60 hashes and holds none.
        let mut claim = vec![0xa3, 0, 1, 1, 0x58, 34];
        claim.extend(content.to_bytes());
        claim.extend([2, 0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Request::decode(&claim), Err(MessageError::Want(1 << 60)));
    }

    #[test]
    fn bad_input_is_an_error_and_unknown_fields_are_not() {
        for r in requests() {
            let bytes = r.encode();
            for end in 0..bytes.len() {
                assert!(Request::decode(&bytes[..end]).is_err());
            }
            for i in 0..bytes.len() * 8 {
                let mut b = bytes.clone();
                b[i / 8] ^= 1 << (i % 8);
                let _ = Request::decode(&b);
                let _ = Answer::decode(&b);
            }
        }
        assert_eq!(Answer::decode(&[0xa1, 0, 0x18, 99]), Err(MessageError::Kind(99)));
        assert_eq!(Answer::decode(&[0xa0]), Err(MessageError::Missing(0)));
        let e = Answer::decode(&[0xa2, 0, 4, 0x18, 77, 0x63, b'a', b'b', b'c']);
        assert_eq!(e, Ok(Answer::NoManifest));
        assert!(Answer::decode(&[0xa1, 0, 4, 0]).is_err(), "bytes after the message");
    }

    #[test]
    fn only_bytes_with_the_hash_come_out_of_a_check() {
        assert!(Checked::new(hash(b"good"), b"good".to_vec()).bytes().is_some());
        assert!(Checked::new(hash(b"good"), b"goof".to_vec()).bytes().is_none());
    }
}
