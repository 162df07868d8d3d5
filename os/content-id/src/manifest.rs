//! The manifest of content longer than one chunk.
//!
//! Two forms: the *identity* form, whose canonical CBOR is hashed into the MCID (name, size, chunk size and count,
//! algorithm, root hash), and the *wire* form, which is the identity form plus the chunk hashes and is checked
//! against the MCID by whoever receives it.

use minicbor::{Decoder, Encoder};

use crate::{Codec, Hash, Mcid, hash, merkle_root};

/// 256 KiB.
pub const CHUNK_SIZE: u32 = 262_144;
/// 1 TiB of content; bounds every chunk list.
pub const MAX_CHUNKS: usize = 4 * 1024 * 1024;
/// Bytes of UTF-8.
pub const MAX_NAME: usize = 255;
/// Largest wire form that is decoded from a peer: 128 MiB of chunk hashes would be 1 TiB; the mesh moves less.
pub const MAX_WIRE_MANIFEST: usize = 4 * 1024 * 1024;

type EncodeResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

/// What content is: everything that its MCID depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub name: String,
    /// Bytes of content.
    pub size: u64,
    /// Bytes per chunk; the last one may be shorter.
    pub chunk_size: u32,
    pub chunk_count: u32,
    /// Merkle root over the chunks' BLAKE3 hashes.
    pub root_hash: Hash,
}

/// A manifest with the hash of each chunk, proven to belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkList {
    manifest: Manifest,
    hashes: Vec<Hash>,
}

/// Why bytes are not the manifest they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("manifest is not valid CBOR: {0}")]
    Cbor(String),
    #[error("manifest field `{0}` is missing")]
    Missing(&'static str),
    #[error("manifest uses hash algorithm `{0}`, only blake3 is known")]
    Algorithm(String),
    #[error("manifest name is longer than {MAX_NAME} bytes")]
    Name,
    #[error("manifest says {count} chunks of {chunk_size} bytes for {size} bytes")]
    Shape { size: u64, chunk_size: u32, count: u32 },
    #[error("manifest lists {listed} chunk hashes, its count is {count}")]
    Count { listed: usize, count: u32 },
    #[error("chunk hashes do not add up to the manifest's root hash")]
    Root,
    #[error("manifest belongs to {found}, not to {wanted}")]
    OtherContent { wanted: Mcid, found: Mcid },
    #[error("manifest of {0} bytes is larger than {MAX_WIRE_MANIFEST}")]
    TooLarge(usize),
}

impl From<minicbor::decode::Error> for ManifestError {
    fn from(e: minicbor::decode::Error) -> Self {
        ManifestError::Cbor(e.to_string())
    }
}

impl Manifest {
    /// `mcid1-manifest-...`: BLAKE3 over the identity form.
    pub fn mcid(&self) -> Mcid {
        Mcid { codec: Codec::Manifest, hash: hash(&self.identity_form()) }
    }

    /// Deterministic CBOR (RFC 8949 section 4.2.1: keys sorted by their encoded form) of the six identity fields.
    pub fn identity_form(&self) -> Vec<u8> {
        self.encode(None)
    }

    /// Bytes of chunk `index`, or `None` past the end.
    pub fn chunk_len(&self, index: u32) -> Option<u32> {
        let start = u64::from(index) * u64::from(self.chunk_size);
        (index < self.chunk_count).then(|| (self.size - start).min(u64::from(self.chunk_size)) as u32)
    }

    fn encode(&self, hashes: Option<&[Hash]>) -> Vec<u8> {
        let mut e = Encoder::new(Vec::with_capacity(160 + hashes.map_or(0, |h| h.len() * 34)));
        let fields = 6 + u64::from(hashes.is_some());
        match e.map(fields).map(drop).and_then(|()| self.encode_fields(&mut e, hashes)) {
            Ok(()) => e.into_writer(),
            Err(_) => unreachable!("a Vec takes every byte"),
        }
    }

    fn encode_fields(&self, e: &mut Encoder<Vec<u8>>, hashes: Option<&[Hash]>) -> EncodeResult {
        // Sorted by encoded key: by length first, since the head byte carries it.
        e.str("name")?.str(&self.name)?;
        e.str("size")?.u64(self.size)?;
        if let Some(hashes) = hashes {
            e.str("chunks")?.array(hashes.len() as u64)?;
            for h in hashes {
                e.bytes(h)?;
            }
        }
        e.str("root_hash")?.bytes(&self.root_hash)?;
        e.str("chunk_size")?.u32(self.chunk_size)?;
        e.str("chunk_count")?.u32(self.chunk_count)?;
        e.str("hash_algorithm")?.str("blake3")?;
        Ok(())
    }

    fn check_shape(&self) -> Result<(), ManifestError> {
        let shape =
            ManifestError::Shape { size: self.size, chunk_size: self.chunk_size, count: self.chunk_count };
        if self.chunk_size == 0 || self.chunk_count as usize > MAX_CHUNKS {
            return Err(shape);
        }
        if self.size.div_ceil(u64::from(self.chunk_size)) != u64::from(self.chunk_count) {
            return Err(shape);
        }
        if self.name.len() > MAX_NAME { Err(ManifestError::Name) } else { Ok(()) }
    }
}

impl ChunkList {
    /// Joins a manifest with its chunk hashes, proving that they are its own.
    pub fn new(manifest: Manifest, hashes: Vec<Hash>) -> Result<Self, ManifestError> {
        manifest.check_shape()?;
        if hashes.len() != manifest.chunk_count as usize {
            return Err(ManifestError::Count { listed: hashes.len(), count: manifest.chunk_count });
        }
        if merkle_root(&hashes) != manifest.root_hash {
            return Err(ManifestError::Root);
        }
        Ok(Self { manifest, hashes })
    }

    /// Decodes the wire form and proves that it belongs to `wanted`.
    pub fn decode(bytes: &[u8], wanted: &Mcid) -> Result<Self, ManifestError> {
        let list = Self::decode_any(bytes)?;
        let found = list.mcid();
        if found == *wanted { Ok(list) } else { Err(ManifestError::OtherContent { wanted: *wanted, found }) }
    }

    /// Decodes the wire form of whatever content it describes. Unknown fields are ignored.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_WIRE_MANIFEST {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let mut fields = Fields::default();
        let mut d = Decoder::new(bytes);
        let pairs = d.map()?.ok_or_else(|| ManifestError::Cbor("map of indefinite length".into()))?;
        for _ in 0..pairs.min(64) {
            fields.read_pair(&mut d)?;
        }
        if d.position() != bytes.len() {
            return Err(ManifestError::Cbor("bytes after the manifest".into()));
        }
        fields.finish()
    }

    /// The wire form.
    pub fn encode(&self) -> Vec<u8> {
        self.manifest.encode(Some(&self.hashes))
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    pub fn mcid(&self) -> Mcid {
        self.manifest.mcid()
    }
}

#[derive(Default)]
struct Fields {
    name: Option<String>,
    size: Option<u64>,
    chunk_size: Option<u32>,
    chunk_count: Option<u32>,
    root_hash: Option<Hash>,
    algorithm: Option<String>,
    hashes: Option<Vec<Hash>>,
}

impl Fields {
    fn read_pair(&mut self, d: &mut Decoder<'_>) -> Result<(), ManifestError> {
        match d.str()? {
            "name" => self.name = Some(d.str()?.to_string()),
            "size" => self.size = Some(d.u64()?),
            "chunk_size" => self.chunk_size = Some(d.u32()?),
            "chunk_count" => self.chunk_count = Some(d.u32()?),
            "root_hash" => self.root_hash = Some(read_hash(d)?),
            "hash_algorithm" => self.algorithm = Some(d.str()?.to_string()),
            "chunks" => self.hashes = Some(read_hashes(d)?),
            _ => d.skip()?,
        }
        Ok(())
    }

    fn finish(self) -> Result<ChunkList, ManifestError> {
        use ManifestError::Missing;
        let algorithm = self.algorithm.ok_or(Missing("hash_algorithm"))?;
        if algorithm != "blake3" {
            return Err(ManifestError::Algorithm(algorithm));
        }
        let manifest = Manifest {
            name: self.name.ok_or(Missing("name"))?,
            size: self.size.ok_or(Missing("size"))?,
            chunk_size: self.chunk_size.ok_or(Missing("chunk_size"))?,
            chunk_count: self.chunk_count.ok_or(Missing("chunk_count"))?,
            root_hash: self.root_hash.ok_or(Missing("root_hash"))?,
        };
        ChunkList::new(manifest, self.hashes.ok_or(Missing("chunks"))?)
    }
}

fn read_hash(d: &mut Decoder<'_>) -> Result<Hash, ManifestError> {
    d.bytes()?.try_into().map_err(|_| ManifestError::Cbor("a hash is 32 bytes".into()))
}

fn read_hashes(d: &mut Decoder<'_>) -> Result<Vec<Hash>, ManifestError> {
    let n = d.array()?.ok_or_else(|| ManifestError::Cbor("array of indefinite length".into()))?;
    // The count is a peer's claim: let the bytes that are there decide how much is allocated.
    let mut out = Vec::with_capacity((n as usize).min(4096));
    for _ in 0..n {
        out.push(read_hash(d)?);
    }
    Ok(out)
}

/// Hashes content as it streams by, in any pieces, and ends in its [`ChunkList`].
///
/// Memory: one chunk, plus 32 bytes per 256 KiB of content.
pub struct ManifestBuilder {
    name: String,
    chunk_size: u32,
    size: u64,
    buffer: Vec<u8>,
    hashes: Vec<Hash>,
}

impl ManifestBuilder {
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_chunk_size(name, CHUNK_SIZE)
    }

    pub fn with_chunk_size(name: impl Into<String>, chunk_size: u32) -> Self {
        assert!(chunk_size > 0, "a chunk holds at least one byte");
        Self { name: name.into(), chunk_size, size: 0, buffer: Vec::new(), hashes: Vec::new() }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        let chunk = self.chunk_size as usize;
        while !bytes.is_empty() {
            if self.buffer.is_empty() && bytes.len() >= chunk {
                self.hashes.push(hash(&bytes[..chunk]));
                bytes = &bytes[chunk..];
                continue;
            }
            let take = (chunk - self.buffer.len()).min(bytes.len());
            self.buffer.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.buffer.len() == chunk {
                self.hashes.push(hash(&self.buffer));
                self.buffer.clear();
            }
        }
    }

    pub fn finish(mut self) -> Result<ChunkList, ManifestError> {
        if !self.buffer.is_empty() {
            self.hashes.push(hash(&self.buffer));
        }
        let manifest = Manifest {
            name: self.name,
            size: self.size,
            chunk_size: self.chunk_size,
            chunk_count: u32::try_from(self.hashes.len()).unwrap_or(u32::MAX),
            root_hash: merkle_root(&self.hashes),
        };
        ChunkList::new(manifest, self.hashes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    fn list(len: usize, chunk_size: u32) -> ChunkList {
        let mut b = ManifestBuilder::with_chunk_size("blob.bin", chunk_size);
        for piece in pattern(len).chunks(999) {
            b.update(piece);
        }
        b.finish().unwrap()
    }

    /// Every manifest of the SDK's `content.json`: length, chunk size, MCID, root.
    #[test]
    fn known_answers() {
        let cases = [
            (0, 262_144, "14f5d110fa7ff2a916eaf9dc053f72d421150983283d01b6282ddade4f5f37a9", ""),
            (1, 262_144, "257ce3e04e5066702c3317e3df25baff57fe05cd7e35bd4c4108db1db91e33c7", ""),
            (5000, 1024, "bf455736cb1063b37d3ae83cb344dd6c160e2933587fa07498f1f1a557992c62", "2a12235f"),
            (4096, 1024, "bb10d97046abb290dd6d1c03c15341aec57c5ad5e3892953e4a11133be72bf04", "29c0b59f"),
            (3072, 1024, "1f7ff01e3d23397511295216a2d24dd653c496465181d83ec82680d74f4d9949", "21a00db7"),
            (1025, 1024, "ae3155adf142076cee605538693424e54205c2daa4df2c75defc04001ab201ed", "ebab5d68"),
            (
                300_000,
                262_144,
                "d7320fe6a28da5c7eef6a2a50ae19e7b8e14f547116860fd6e15d564b09d4dd0",
                "63878d53",
            ),
            (
                800_000,
                262_144,
                "197c1935437104da41562f0816c858030943e2272cf326d929981d134a1b80cc",
                "978f4730",
            ),
        ];
        for (len, chunk, mcid, root) in cases {
            let list = list(len, chunk);
            assert_eq!(HEXLOWER.encode(&list.mcid().hash), mcid, "{len} bytes");
            assert!(HEXLOWER.encode(&list.manifest().root_hash).starts_with(root), "{len} bytes");
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same_manifest() {
        let whole = {
            let mut b = ManifestBuilder::new("blob.bin");
            b.update(&pattern(800_000));
            b.finish().unwrap()
        };
        assert_eq!(whole, list(800_000, CHUNK_SIZE));
        assert_eq!(whole.manifest().chunk_len(3), Some(800_000 - 3 * CHUNK_SIZE));
        assert_eq!(whole.manifest().chunk_len(4), None);
    }

    #[test]
    fn wire_form_round_trips_and_unknown_fields_are_ignored() {
        let list = list(5000, 1024);
        assert_eq!(ChunkList::decode(&list.encode(), &list.mcid()), Ok(list.clone()));
        let mut e = Encoder::new(Vec::new());
        e.map(8).unwrap().str("created").unwrap().u64(1).unwrap();
        list.manifest.encode_fields(&mut e, Some(&list.hashes)).unwrap();
        assert_eq!(ChunkList::decode_any(&e.into_writer()), Ok(list));
    }

    #[test]
    fn lies_are_found() {
        let good = list(5000, 1024);
        let other = list(4096, 1024);
        assert!(matches!(
            ChunkList::decode(&good.encode(), &other.mcid()),
            Err(ManifestError::OtherContent { .. })
        ));
        let mut hashes = good.hashes.clone();
        hashes.swap(0, 1);
        assert_eq!(ChunkList::new(good.manifest.clone(), hashes), Err(ManifestError::Root));
        assert!(matches!(
            ChunkList::new(good.manifest.clone(), good.hashes[1..].to_vec()),
            Err(ManifestError::Count { .. })
        ));
        for change in [
            |m: &mut Manifest| m.size += 1024,
            |m: &mut Manifest| m.chunk_size = 0,
            |m: &mut Manifest| m.chunk_count += 1,
            |m: &mut Manifest| m.size = u64::MAX,
        ] {
            let mut m = good.manifest.clone();
            change(&mut m);
            assert!(matches!(ChunkList::new(m, good.hashes.clone()), Err(ManifestError::Shape { .. })));
        }
    }

    #[test]
    fn every_truncation_and_bit_flip_is_an_error_or_harmless() {
        let list = list(3072, 1024);
        let bytes = list.encode();
        for end in 0..bytes.len() {
            assert!(ChunkList::decode_any(&bytes[..end]).is_err());
        }
        for i in 0..bytes.len() * 8 {
            let mut b = bytes.clone();
            b[i / 8] ^= 1 << (i % 8);
            if let Ok(decoded) = ChunkList::decode(&b, &list.mcid()) {
                assert_eq!(decoded, list);
            }
        }
    }
}
