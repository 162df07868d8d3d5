//! Manifests as `_content.put_manifest` and `_content.get_manifest` carry them.
//!
//! A map {mcid, version, name, size, created, chunk_size, chunk_count, hash_algorithm, root_hash, chunks}, each chunk a map
//! {index, offset, size, hash}. `name` is a byte string here, though the MCID is made of it as text. What the MCID
//! covers is `os_content_id::Manifest`, so the same content has one id however it came; `version` and `created` are
//! outside of it, and `created` is 0 when this node says it. The text `sha256` as algorithm is refused: the
//! SDK's own check of such chunks does not work.

use os_content_id::{ChunkList, Codec, Manifest, ManifestError, Mcid};

use crate::cbor::{Value, bytes, text, uint};
use crate::frame::{Fields, FrameError};

const VERSION: u64 = 1;
/// Chunks that a manifest may list here: more do not fit into a frame.
const MAX_LISTED_CHUNKS: usize = 28_000;

/// Why a map is not a manifest that adds up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireManifestError {
    #[error("not a manifest: {0}")]
    Form(#[from] FrameError),
    #[error("manifest version {0} is not known")]
    Version(u64),
    #[error("{0}")]
    Content(#[from] ManifestError),
    #[error("manifest says that its id is {said}, it is {found}")]
    OtherId { said: Mcid, found: Mcid },
    #[error("manifest's id is not an MCID of a manifest")]
    Id,
    #[error("chunk {0} is not where or as long as the manifest's size says")]
    Chunk(usize),
    #[error("manifest of {0} chunks does not fit into a frame ({MAX_LISTED_CHUNKS} do)")]
    TooLong(usize),
}

/// The chunk list that a map from a call describes, if everything it says holds.
pub fn from_wire(value: Value) -> Result<ChunkList, WireManifestError> {
    let mut f = Fields::of(value)?;
    let version = f.uint("version")?;
    if version != VERSION {
        return Err(WireManifestError::Version(version));
    }
    let algorithm = f.word("hash_algorithm")?;
    if algorithm != "blake3" {
        return Err(ManifestError::Algorithm(algorithm).into());
    }
    let said = Mcid::try_from(f.array::<34>("mcid")?.as_slice()).map_err(|_| WireManifestError::Id)?;
    if said.codec != Codec::Manifest {
        return Err(WireManifestError::Id);
    }
    let chunks = f.list("chunks", MAX_LISTED_CHUNKS)?;
    let manifest = read_manifest(&mut f)?;
    let hashes = chunks.into_iter().enumerate().map(|(index, chunk)| read_chunk(&manifest, index, chunk));
    let hashes = hashes.collect::<Result<_, _>>()?;
    let list = ChunkList::new(manifest, hashes)?;
    let found = list.mcid();
    if found == said { Ok(list) } else { Err(WireManifestError::OtherId { said, found }) }
}

/// The map that says the same.
pub fn to_wire(list: &ChunkList) -> Result<Value, WireManifestError> {
    let manifest = list.manifest();
    if list.hashes().len() > MAX_LISTED_CHUNKS {
        return Err(WireManifestError::TooLong(list.hashes().len()));
    }
    let chunks = list.hashes().iter().zip(0u32..).map(|(hash, index)| {
        Value::map([
            ("index", uint(index)),
            ("offset", uint(u64::from(index) * u64::from(manifest.chunk_size))),
            ("size", uint(manifest.chunk_len(index).unwrap_or(0))),
            ("hash", bytes(hash)),
        ])
    });
    Ok(Value::map([
        ("mcid", bytes(list.mcid().to_bytes())),
        ("version", uint(VERSION)),
        ("name", bytes(&manifest.name)),
        ("size", uint(manifest.size)),
        ("created", uint(0u64)),
        ("chunk_size", uint(manifest.chunk_size)),
        ("chunk_count", uint(manifest.chunk_count)),
        ("hash_algorithm", text("blake3")),
        ("root_hash", bytes(manifest.root_hash)),
        ("chunks", Value::List(chunks.collect())),
    ]))
}

fn read_manifest(f: &mut Fields) -> Result<Manifest, FrameError> {
    let name = String::from_utf8(f.blob("name", os_content_id::MAX_NAME)?);
    let narrow = |n: u64, field| u32::try_from(n).map_err(|_| FrameError::Kind(field));
    Ok(Manifest {
        name: name.map_err(|_| FrameError::Kind("name"))?,
        size: f.uint("size")?,
        chunk_size: narrow(f.uint("chunk_size")?, "chunk_size")?,
        chunk_count: narrow(f.uint("chunk_count")?, "chunk_count")?,
        root_hash: f.array("root_hash")?,
    })
}

fn read_chunk(manifest: &Manifest, index: usize, chunk: Value) -> Result<[u8; 32], WireManifestError> {
    let mut f = Fields::of(chunk)?;
    let offset = index as u64 * u64::from(manifest.chunk_size);
    let size = manifest.size.saturating_sub(offset).min(u64::from(manifest.chunk_size));
    let fits = f.uint("index")? == index as u64 && f.uint("offset")? == offset && f.uint("size")? == size;
    if !fits {
        return Err(WireManifestError::Chunk(index));
    }
    Ok(f.array("hash")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use os_content_id::ManifestBuilder;

    fn list() -> ChunkList {
        let mut builder = ManifestBuilder::with_chunk_size("blob.bin", 1024);
        builder.update(&(0..5000).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        builder.finish().unwrap()
    }

    fn change(value: &mut Value, name: &str, to: Value) {
        let Value::Map(pairs) = value else { panic!("a map") };
        pairs.iter_mut().filter(|(key, _)| *key == text(name)).for_each(|(_, value)| *value = to.clone());
    }

    #[test]
    fn what_is_said_of_content_is_understood_again() {
        assert_eq!(from_wire(to_wire(&list()).unwrap()), Ok(list()));
        let empty = ManifestBuilder::new("").finish().unwrap();
        assert_eq!(from_wire(to_wire(&empty).unwrap()), Ok(empty));
    }

    #[test]
    fn when_and_in_what_form_it_was_written_does_not_matter_but_all_else_does() {
        let mut value = to_wire(&list()).unwrap();
        change(&mut value, "created", uint(1_700_000_000u64));
        assert_eq!(from_wire(value), Ok(list()));
        let cases = [
            ("mcid", bytes([0; 34])),
            ("mcid", bytes(Mcid::of_raw(b"").to_bytes())),
            ("version", uint(2u64)),
            ("name", bytes("other")),
            ("name", bytes([0xff])),
            ("size", uint(5001u64)),
            ("size", uint(u64::MAX)),
            ("chunk_size", uint(0u64)),
            ("chunk_size", uint(1u64 << 32)),
            ("chunk_count", uint(4u64)),
            ("hash_algorithm", text("sha256")),
            ("root_hash", bytes([0; 32])),
            ("chunks", Value::List(Vec::new())),
            ("chunks", Value::Null),
        ];
        for (name, to) in cases {
            let mut value = to_wire(&list()).unwrap();
            change(&mut value, name, to.clone());
            assert!(from_wire(value).is_err(), "{name} = {to:?}");
        }
    }

    #[test]
    fn each_chunk_must_be_in_its_place() {
        for (name, to) in [("index", uint(9u64)), ("offset", uint(1u64)), ("size", uint(9u64))] {
            let mut value = to_wire(&list()).unwrap();
            let Value::Map(pairs) = &mut value else { panic!("a map") };
            let Some((_, Value::List(chunks))) = pairs.iter_mut().find(|(key, _)| *key == text("chunks"))
            else {
                panic!("chunks")
            };
            change(&mut chunks[4], name, to);
            assert_eq!(from_wire(value), Err(WireManifestError::Chunk(4)));
        }
    }
}
