//! From what both sent and the PAKE's key to the keys that they use. Everything said in the clear goes in: who both are, the versions, the
//! session. So whoever changed a bit on the way has made two ends with different keys.

use hkdf::Hkdf;
use os_identity::{domain, signed_bytes};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::code::Secret;

const DOMAIN: &[u8] = b"macula-os\0pair/1\0";
/// Both identities are in the transcript; here are the roles only.
const CLAIMANT: &[u8] = b"macula-os pair/1 claimant";
const NODE: &[u8] = b"macula-os pair/1 node";

pub type Key = Zeroizing<[u8; 32]>;
pub type Pake = spake2::Spake2<spake2::Ed25519Group>;

pub struct Keys {
    pub transcript: [u8; 32],
    pub claimant_confirms: Key,
    pub node_confirms: Key,
    pub from_claimant: Key,
    pub from_node: Key,
}

impl Keys {
    pub fn new(hello: &[u8], welcome: &[u8], shared: &[u8]) -> Self {
        let transcript = transcript(hello, welcome);
        let hkdf = Hkdf::<Sha256>::new(Some(&transcript), shared);
        let expand = |info: &str| {
            let mut key = Zeroizing::new([0; 32]);
            // 32 bytes are always to be had from HKDF-SHA-256.
            let _ = hkdf.expand(info.as_bytes(), key.as_mut());
            key
        };
        Self {
            transcript,
            claimant_confirms: expand("claimant confirms"),
            node_confirms: expand("node confirms"),
            from_claimant: expand("from claimant"),
            from_node: expand("from node"),
        }
    }

    /// What the claimant's key signs.
    pub fn for_claimant(&self) -> Vec<u8> {
        signed_bytes(domain::PAIR_CLAIMANT, &self.transcript)
    }
}

fn transcript(hello: &[u8], welcome: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(DOMAIN);
    for part in [hello, welcome] {
        hash.update((part.len() as u32).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The claimant's half of the PAKE and its message.
pub fn claimant_pake(secret: &Secret, random: &[u8; 32]) -> (Pake, Vec<u8>) {
    let (password, claimant, node) = inputs(secret);
    Pake::start_a_with_rng(&password, &claimant, &node, generator(random))
}

/// The node's half.
pub fn node_pake(secret: &Secret, random: &[u8; 32]) -> (Pake, Vec<u8>) {
    let (password, claimant, node) = inputs(secret);
    Pake::start_b_with_rng(&password, &claimant, &node, generator(random))
}

fn inputs(secret: &Secret) -> (spake2::Password, spake2::Identity, spake2::Identity) {
    let password = spake2::Password::new(secret.symbols());
    (password, spake2::Identity::new(CLAIMANT), spake2::Identity::new(NODE))
}

/// A scalar wants 64 bytes.
fn generator(random: &[u8; 32]) -> rand::rngs::ChaCha20Rng {
    rand::SeedableRng::from_seed(*random)
}
