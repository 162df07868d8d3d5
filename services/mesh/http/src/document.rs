//! `/.well-known/macula`: what anybody may know about a node.
//!
//! Its id, which the native handshake shows to everybody anyway, and what is needed to talk to it. Neither its name (for
//! the LAN, by mDNS) nor its version (a list of what to attack), nor its owner, peers or addresses.

use os_identity::NodeId;
use serde_json::json;

/// Version of these routes.
const ROUTES: u32 = 1;

pub struct Document<'a> {
    pub node: &'a NodeId,
    /// ALPN of all that is spoken on the UDP port.
    pub protocols: &'a [&'a str],
    /// SHA-256 of the certificates that are in use, lower case hexadecimal, the newest first.
    pub certificates: &'a [String],
    /// What needs no token, as in `config.toml`.
    pub public: &'a [String],
}

impl Document<'_> {
    pub fn to_json(&self) -> Vec<u8> {
        let document = json!({
            "macula": ROUTES,
            "node": self.node.to_string(),
            "protocols": self.protocols,
            "certificate_sha256": self.certificates,
            "public": self.public,
            "routes": [
                "GET /content/<mcid>",
                "POST /rpc/<node or realm>/<procedure>",
                "GET /events/<node or realm>/<topic>",
            ],
        });
        document.to_string().into_bytes()
    }
}
