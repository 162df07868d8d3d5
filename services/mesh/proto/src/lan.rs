//! The words with which nodes announce themselves in a local network (DNS-SD, RFC 6763; `docs/protocol.md`, section 1).

pub const SERVICE: &str = "_macula._udp.local.";
/// TXT key of the node id.
pub const ID: &str = "id";
/// TXT key of the node's name.
pub const NAME: &str = "name";
/// TXT key of a node that waits for its owner. It says no secret.
pub const PAIR: &str = "pair";
