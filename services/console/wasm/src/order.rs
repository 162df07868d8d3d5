//! Orders and delegations.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use ipld_core::ipld::Ipld;
use os_identity::NodeId;
use os_ucan::policy::Policy;
use os_ucan::{Ability, Capability, Delegation, Did, Resource, Subject, TokenId, chain, invocation, jwt};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::request::Question;
use crate::sign::{bytes, nonce, signed};

pub fn order(asked: &Question) -> Result<Value, String> {
    let node = node(asked.text("node")?)?;
    let about = asked.optional("about").map_or(Ok(node), self::node)?;
    let proofs = match asked.optional("proofs").map(str::trim) {
        None | Some("") => Vec::new(),
        Some(text) => chain::from_text(text).map_err(|e| e.to_string())?,
    };
    let hash: [u8; 32] = Sha256::digest(asked.text("body")?.as_bytes()).into();
    let order = invocation::Order {
        subject: about.into(),
        audience: Some(node.into()),
        command: asked.text("command")?.to_owned(),
        args: BTreeMap::from([
            ("body".to_owned(), Ipld::Bytes(hash.to_vec())),
            ("epoch".to_owned(), Ipld::Bytes(bytes::<16>(asked.text("epoch")?, "epoch")?.to_vec())),
            ("path".to_owned(), Ipld::String(asked.text("path")?.to_owned())),
            ("uri".to_owned(), Ipld::String(format!("macula:{about}"))),
        ]),
        proofs: proofs.iter().rev().map(|token| TokenId::of(token)).collect(),
        nonce: nonce(asked.text("nonce")?)?,
        expires: Some(asked.number("expires")?),
    };
    signed(asked, |issuer, sign| {
        let bytes = invocation::issue_with(&order, &issuer, sign)?;
        let mut header = format!("Macula {}", BASE64URL_NOPAD.encode(&bytes));
        for line in chain::to_text(&proofs).lines() {
            header.push(',');
            header.push_str(line);
        }
        Ok::<_, os_ucan::EncodeError>(header)
    })
}

fn node(did: &str) -> Result<NodeId, String> {
    did.parse().map_err(|e| format!("{did}: {e}"))
}

/// In the format that can name several abilities at once.
pub fn delegate(asked: &Question) -> Result<Value, String> {
    let resource = Resource::parse(asked.text("with")?).map_err(|e| e.to_string())?;
    let capability = |can: &Value| {
        let ability = Ability::parse(can.as_str().unwrap_or_default()).map_err(|e| e.to_string())?;
        Ok(Capability { ability, resource: resource.clone() })
    };
    let capabilities = asked.list("can")?.iter().map(capability).collect::<Result<Vec<_>, String>>()?;
    let audience = Did::parse(asked.text("to")?).map_err(|e| e.to_string())?;
    nonce(asked.text("nonce")?)?;
    // In a JWT it is text.
    let (nonce, expires) = (asked.text("nonce")?.as_bytes().to_vec(), asked.number("expires")?);
    signed(asked, |issuer, sign| {
        let delegation = Delegation {
            issuer: issuer.into(),
            audience,
            subject: Subject::Implied,
            capabilities,
            policy: Policy::default(),
            not_before: None,
            expires: Some(expires),
            nonce,
            meta: BTreeMap::new(),
            proofs: Vec::new(),
        };
        let token = jwt::encode(&delegation, sign).map_err(|e| e.to_string())?;
        Ok::<_, String>(chain::to_text(&[token]).trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer;
    use data_encoding::HEXLOWER;
    use os_identity::NodeKey;
    use os_ucan::{Token, invocation::Invocation};
    use serde_json::json;

    fn ask(question: Value) -> Value {
        serde_json::from_str(&answer(&question.to_string())).unwrap()
    }

    fn order_of(node: &NodeId) -> Value {
        json!({
            "do": "order", "node": node.to_string(), "command": "/macula/os/status", "path": "/control/os/status",
            "body": "", "epoch": "09".repeat(16), "nonce": "01".repeat(16), "expires": 1_800_000_060u64,
        })
    }

    #[test]
    fn a_key_in_the_browser_and_one_here_sign_the_same() {
        let (key, node) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]).node_id());
        let with = |more: Value| {
            let mut question = order_of(&node);
            question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            ask(question)
        };
        let seed = HEXLOWER.encode(&[1; 32]);
        let public = ask(json!({"do": "key", "seed": seed}))["ok"].as_str().unwrap().to_owned();
        assert_eq!(ask(json!({"do": "did", "public": public}))["ok"], key.node_id().to_string());
        let here = with(json!({"seed": seed}))["ok"].as_str().unwrap().to_owned();
        let wanted = with(json!({"public": public}))["sign"].clone();
        let signature = ask(json!({"do": "sign", "seed": seed, "bytes": wanted}))["ok"].clone();
        assert_eq!(with(json!({"public": public, "signature": signature}))["ok"], here);
        let bytes = BASE64URL_NOPAD.decode(here.strip_prefix("Macula ").unwrap().as_bytes()).unwrap();
        let order = Invocation::decode(&bytes).unwrap();
        assert_eq!((order.issuer.key(), order.subject.key()), (Some(key.node_id()), Some(node)));
        assert!(with(json!({}))["error"].as_str().unwrap().contains("neither"));
        assert!(with(json!({"seed": "x"}))["error"].as_str().unwrap().contains("32 bytes"));
    }

    #[test]
    fn delegations_can_be_looked_at() {
        let node = NodeKey::from_seed(&[2; 32]).node_id();
        let token = ask(json!({
            "do": "delegate", "seed": HEXLOWER.encode(&[1; 32]), "to": node.to_string(), "nonce": "f1".repeat(16),
            "can": ["macula/os/status", "macula/os/units"], "with": format!("macula:{node}"), "expires": 1_800_000_060u64,
        }));
        let token = token["ok"].as_str().unwrap_or_else(|| panic!("{token}"));
        Token::decode(token.as_bytes()).unwrap().verify().unwrap();
        let seen = ask(json!({"do": "inspect", "tokens": token, "now": 1_800_000_000u64}));
        assert_eq!(seen["ok"]["good"], true, "{seen}");
        assert_eq!(seen["ok"]["links"][0]["can"].as_array().unwrap().len(), 2);
        let late = ask(json!({"do": "inspect", "tokens": token, "now": 1_900_000_000u64}));
        assert_eq!(late["ok"]["good"], false);
        assert!(
            ask(json!({"do": "inspect", "tokens": "x y", "now": 1}))["ok"]["links"][0]["problems"][0]
                .is_string()
        );
    }
}
