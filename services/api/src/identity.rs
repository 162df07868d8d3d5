//! `io.macula.Identity1`: the node key's owner. It signs; nobody reads the key.

/// A certificate chain over a session key (see `os-certificate`): leaf DER, CA DER.
pub type Chain = (Vec<u8>, Vec<u8>);

#[zbus::proxy(
    interface = "io.macula.Identity1",
    default_service = "io.macula.Identity",
    default_path = "/io/macula/Identity"
)]
pub trait Identity {
    /// 32 bytes.
    fn node_id(&self) -> zbus::Result<Vec<u8>>;

    /// Certifies an Ed25519 session key (32 bytes). Only `mesh` may ask.
    fn certify_session(&self, session_key: &[u8]) -> zbus::Result<Chain>;

    /// 32 secret bytes that this node's QUIC endpoint keeps over restarts. Only `mesh` may ask.
    fn reset_key(&self) -> zbus::Result<Vec<u8>>;

    /// Seed of the Ed25519 key by which existing Macula clients know this node's station, 32 bytes, the same over restarts. Only `mesh` may ask.
    fn station_seed(&self) -> zbus::Result<Vec<u8>>;

    /// A 64-byte signature in the domain `pair-node` over what was said in a pairing (32 bytes). Only `pairing` may ask.
    fn prove_pairing(&self, transcript: &[u8]) -> zbus::Result<Vec<u8>>;

    /// This node's delegation to a key (32 bytes), as `os_ucan::chain` writes it: with an empty chain everything on this node, for its owner; with one that is
    /// made out to this node what that grants, and no more. Only `pairing` may ask.
    fn delegate(&self, audience: &[u8], chain: &[u8]) -> zbus::Result<Vec<u8>>;

    /// A 64-byte signature in the domain `dht-record`. Only `dht` may ask.
    fn sign_record(&self, payload: &[u8]) -> zbus::Result<Vec<u8>>;
}
