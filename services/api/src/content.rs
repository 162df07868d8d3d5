//! `io.macula.Content1`: content by MCID, verified.

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

    /// Keeps a manifest (wire form). True if all its blocks are here: then the content is announced. Otherwise try again when they are.
    fn put_manifest(&self, manifest: &[u8]) -> zbus::Result<bool>;

    /// Announces a block that is here.
    fn announce(&self, mcid: &[u8]) -> zbus::Result<()>;

    /// JSON: [`crate::report::ContentReport`].
    fn report(&self) -> zbus::Result<String>;
}
