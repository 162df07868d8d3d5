//! `io.macula.Dht1`: find things in the mesh.

#[zbus::proxy(
    interface = "io.macula.Dht1",
    default_service = "io.macula.Dht",
    default_path = "/io/macula/Dht"
)]
pub trait Dht {
    /// Announces, and keeps announcing across restarts, that this node has the content.
    fn provide(&self, mcid: &[u8]) -> zbus::Result<()>;

    fn unprovide(&self, mcid: &[u8]) -> zbus::Result<()>;

    /// Node ids (32 bytes each) that announced the content; this node itself is left out. Their addresses have been
    /// handed to `mesh`, so that `Mesh.OpenStream` works.
    fn providers(&self, mcid: &[u8]) -> zbus::Result<Vec<Vec<u8>>>;

    /// Keeps a statement that takes a delegation back (`os_ucan::revocation`), across restarts, and keeps announcing it.
    fn revoke(&self, statement: &[u8]) -> zbus::Result<()>;

    /// The statement with which `revoker` (32 bytes) took back the delegation `token` (32 bytes), as far as the mesh knows; empty if there is none.
    fn find_revocation(&self, token: &[u8], revoker: &[u8]) -> zbus::Result<Vec<u8>>;

    /// Relays through which a node says that it can be reached, each with its addresses (`ip:port`).
    fn find_relays(&self, node: &[u8]) -> zbus::Result<Vec<(Vec<u8>, Vec<String>)>>;

    /// Stores a signed record (CBOR, see `dht-proto`) at the nodes closest to its key. Returns how many took it.
    fn put_record(&self, record: &[u8]) -> zbus::Result<u32>;

    /// As [`Self::put_record`], but not remembered over a restart, and without waiting for anybody: records of clients, which come back with them.
    /// Only `mesh` may.
    fn carry_record(&self, record: &[u8]) -> zbus::Result<()>;

    /// Records (CBOR) of a type that this node happens to hold, at most 256.
    fn held_records(&self, record_type: u8) -> zbus::Result<Vec<Vec<u8>>>;

    /// Valid records (CBOR) of a type under a key, one per signer.
    fn get_records(&self, record_type: u8, key: &[u8]) -> zbus::Result<Vec<Vec<u8>>>;

    /// JSON: [`crate::report::DhtReport`].
    fn report(&self) -> zbus::Result<String>;
}
