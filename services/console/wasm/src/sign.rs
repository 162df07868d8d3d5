//! Keys and signatures.

use data_encoding::HEXLOWER;
use os_identity::{NodeId, NodeKey, SIGNATURE_LEN, Signature};
use serde_json::{Value, json};

use crate::request::Question;

pub fn bytes<const N: usize>(hex: &str, what: &str) -> Result<[u8; N], String> {
    let decoded = HEXLOWER.decode(hex.as_bytes()).ok().and_then(|bytes| <[u8; N]>::try_from(bytes).ok());
    decoded.ok_or_else(|| format!("the {what} is not {N} bytes in lower-case hexadecimal"))
}

pub fn nonce(hex: &str) -> Result<Vec<u8>, String> {
    bytes::<16>(hex, "nonce").map(|nonce| nonce.to_vec())
}

fn key(seed: &str) -> Result<NodeKey, String> {
    Ok(NodeKey::from_seed(&bytes(seed, "seed")?))
}

pub fn public(seed: &str) -> Result<String, String> {
    Ok(HEXLOWER.encode(key(seed)?.node_id().as_bytes()))
}

pub fn node_id(public: &str) -> Result<NodeId, String> {
    Ok(NodeId::from_bytes(bytes(public, "public key")?))
}

pub fn sign(seed: &str, message: &str) -> Result<String, String> {
    let message = HEXLOWER.decode(message.as_bytes()).map_err(|e| format!("the bytes: {e}"))?;
    Ok(HEXLOWER.encode(&key(seed)?.sign_raw(&message)))
}

/// Makes something that is signed: `make` gets the signer, and what signs. Without a key or signature the answer is what to sign.
pub fn signed<E: ToString>(
    asked: &Question,
    make: impl FnOnce(NodeId, &mut dyn FnMut(&[u8]) -> Signature) -> Result<String, E>,
) -> Result<Value, String> {
    let made = |made: Result<String, E>| made.map_err(|e| e.to_string());
    if let Some(seed) = asked.optional("seed") {
        let key = key(seed)?;
        return Ok(json!({ "ok": made(make(key.node_id(), &mut |bytes| key.sign_raw(bytes)))? }));
    }
    let id = node_id(asked.optional("public").ok_or("neither a seed nor a public key was given")?)?;
    if let Some(signature) = asked.optional("signature") {
        let signature: Signature = bytes(signature, "signature")?;
        return Ok(json!({ "ok": made(make(id, &mut |_| signature))? }));
    }
    let mut wanted = Vec::new();
    made(make(id, &mut |bytes| {
        wanted = bytes.to_vec();
        [0; SIGNATURE_LEN]
    }))?;
    Ok(json!({ "sign": HEXLOWER.encode(&wanted) }))
}
