//! `io.macula.Content1`: content by MCID, verified.

use os_content_id::Mcid;
use zbus::OwnedFd;

#[zbus::proxy(
    interface = "io.macula.Content1",
    default_service = "io.macula.Content",
    default_path = "/io/macula/Content"
)]
pub trait Content {
    /// Small content whole (a raw block, at most 256 KiB), from here or from whoever has it.
    fn get(&self, mcid: &[u8]) -> zbus::Result<Vec<u8>>;

    /// The wire form of a manifest (`os_content_id::ChunkList`), from here or from whoever has it.
    fn manifest(&self, mcid: &[u8]) -> zbus::Result<Vec<u8>>;

    /// The chunks with these indices, in this order, each verified, as one stream of bytes. They come from the local
    /// store, from offered files, or from several providers at once; they are not kept here. The stream ends early
    /// when a chunk cannot be had from anybody; [`Self::report`] then says why.
    fn fetch(&self, mcid: &[u8], chunks: &[u32]) -> zbus::Result<OwnedFd>;

    /// Serves content out of a read-only file or device that this service can open: bytes `0..size` of `path` are the
    /// content of the manifest (wire form). Every chunk is verified when it is served. Kept until `withdraw` or restart.
    fn offer(&self, manifest: &[u8], path: &str) -> zbus::Result<()>;

    /// As [`Self::offer`], out of a file that the caller has open: this service needs no right to its path.
    fn offer_file(&self, manifest: &[u8], file: OwnedFd) -> zbus::Result<()>;

    fn withdraw(&self, mcid: &[u8]) -> zbus::Result<()>;

    /// Stores a raw block (at most 256 KiB) and announces it. Returns its MCID.
    fn put(&self, block: &[u8]) -> zbus::Result<Vec<u8>>;

    /// Stores a raw block (at most 256 KiB) that may be part of something, and announces nothing. Returns its MCID.
    fn put_part(&self, block: &[u8]) -> zbus::Result<Vec<u8>>;

    /// Stores content of `size` bytes, unpinned, and announces it, for mesh in an app's name. The bytes are written to the socket that is
    /// returned, and [`StoreAnswer`] is read from it. Content above 256 KiB has `name` in its manifest, which its MCID depends on.
    fn store(&self, name: &str, size: u64) -> zbus::Result<OwnedFd>;

    /// Content whole: its size, and its bytes as a stream, each chunk verified. Ends early when a chunk cannot be had.
    fn open(&self, mcid: &[u8]) -> zbus::Result<(u64, OwnedFd)>;

    /// Keeps a manifest (wire form). True if all its blocks are here: then the content is announced. Otherwise try again when they are.
    fn put_manifest(&self, manifest: &[u8]) -> zbus::Result<bool>;

    /// Announces a block that is here.
    fn announce(&self, mcid: &[u8]) -> zbus::Result<()>;

    /// JSON: [`crate::report::ContentReport`].
    fn report(&self) -> zbus::Result<String>;
}

/// How the far end of a [`ContentProxy::store`] socket ends it: a zero byte and the MCID (34 bytes), or a one and why not (UTF-8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAnswer {
    Stored(Mcid),
    Refused(String),
}

impl StoreAnswer {
    /// Longest reason, in bytes.
    pub const MAX: usize = 1024;

    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Stored(mcid) => [&[0], &mcid.to_bytes()[..]].concat(),
            Self::Refused(why) => {
                let end = (0..=why.len().min(Self::MAX - 1)).rev().find(|at| why.is_char_boundary(*at));
                [&[1], &why.as_bytes()[..end.unwrap_or(0)]].concat()
            }
        }
    }

    /// `None` if it is neither, such as when the service went away before it had an answer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0, mcid @ ..] => Mcid::try_from(mcid).ok().map(Self::Stored),
            [1, why @ ..] => Some(Self::Refused(String::from_utf8_lossy(why).into_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_answer_comes_back_as_it_was() {
        for answer in [StoreAnswer::Stored(Mcid::of_raw(b"x")), StoreAnswer::Refused("no room".into())] {
            assert_eq!(StoreAnswer::parse(&answer.to_bytes()), Some(answer));
        }
        let long = StoreAnswer::Refused("é".repeat(2000)).to_bytes();
        assert!(long.len() <= StoreAnswer::MAX && std::str::from_utf8(&long[1..]).is_ok());
        for garbage in [&[][..], &[0], &[0, 1, 2], &[2]] {
            assert_eq!(StoreAnswer::parse(garbage), None);
        }
    }
}
