//! `io.macula.App1`: what mesh offers to apps beside `io.macula.Mesh1`, on the same connection and at the same path.
//!
//! An app is known by its uid. What it may do is what the delegations say that it has shown ([`App::introduce`]); they come from this
//! node (what its unit file lists) or from the owner, and are made out to its own key.

use zbus::OwnedFd;

#[zbus::proxy(
    interface = "io.macula.App1",
    default_service = "io.macula.Mesh",
    default_path = "/io/macula/Mesh"
)]
pub trait App {
    /// Shows a chain of delegations (`os_ucan::chain`), on each connection anew; at most 8.
    fn introduce(&self, chain: &[u8]) -> zbus::Result<()>;

    /// The node (32 bytes), the app's own key (32 bytes), the app's name.
    fn who_am_i(&self) -> zbus::Result<(Vec<u8>, Vec<u8>, String)>;

    /// Content by MCID (34 bytes), from here or from whoever has it: its size, and its bytes as a stream, each chunk verified. The
    /// stream ends early when a chunk cannot be had.
    fn get_content(&self, mcid: &[u8]) -> zbus::Result<(u64, OwnedFd)>;

    /// Stores content of `size` bytes and announces it; it is kept as long as there is room. The bytes are written to the socket that is
    /// returned, and the answer is read from it: a zero byte and the MCID (34 bytes), or a one and why not (UTF-8).
    fn put_content(&self, name: &str, size: u64) -> zbus::Result<OwnedFd>;
}

/// Where the supervisor tells others about the apps: `<run dir>/apps/<uid>/{name,grants}`.
pub const DIR: &str = "apps";
/// In an app's environment: the file with the delegations that the node made for it.
pub const GRANTS_VARIABLE: &str = "MACULA_GRANTS";
