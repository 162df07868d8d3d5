//! What the node's key lets others do: its owner everything, whom its owner invites what the owner says, its apps what their unit files
//! list.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use os_identity::{NodeId, NodeKey};
use os_ucan::policy::Policy;
use os_ucan::{
    Ability, Capability, Delegation, Did, Format, Resource, Subject, Token, TokenId, chain, dag_cbor, jwt,
};

/// Families that an app can be given; nothing of the system's is among them.
const APP_ABILITIES: [&str; 7] = [
    "macula/mesh/serve",
    "macula/mesh/call",
    "macula/mesh/publish",
    "macula/mesh/subscribe",
    "macula/mesh/open",
    "macula/content/get",
    "macula/content/put",
];

/// Everything on this node, for ever. Mesh takes it from whoever is the owner, and from nobody else.
pub fn everything(node: &NodeKey, owner: NodeId) -> Result<Vec<u8>> {
    let ability = Ability::parse("*")?;
    let resource = Resource::parse(&format!("macula:{}/*", node.node_id()))?;
    let delegation = Delegation {
        capabilities: vec![Capability { ability, resource }],
        ..empty(node, owner, Subject::Implied)?
    };
    Ok(chain::encode(&[jwt::issue(&delegation, node)?])?)
}

/// What the last of a chain gives to this node, given on as it is.
pub fn what_it_has(node: &NodeKey, audience: NodeId, shown: &[u8]) -> Result<Vec<u8>> {
    let tokens = chain::decode(shown).context("the delegation")?;
    let leaf = tokens.first().context("the delegation is empty")?;
    let token = Token::decode(leaf).context("the delegation")?;
    let given = &token.delegation;
    ensure!(given.audience.key() == Some(node.node_id()), "the delegation is not made out to this node");
    let delegation = Delegation {
        capabilities: given.capabilities.clone(),
        policy: given.policy.clone(),
        not_before: given.not_before,
        expires: given.expires,
        proofs: vec![TokenId::of(leaf)],
        ..empty(node, audience, given.subject.clone())?
    };
    let made = match token.format {
        Format::Jwt => jwt::issue(&delegation, node)?,
        Format::DagCbor => dag_cbor::issue(&Delegation { proofs: Vec::new(), ..delegation }, node)?,
    };
    let all: Vec<&[u8]> = [made.as_slice()].into_iter().chain(tokens.iter().copied()).collect();
    if all.len() > os_ucan::MAX_DEPTH {
        bail!("the delegation has passed through too many hands");
    }
    Ok(chain::encode(&all)?)
}

/// The chain of one token: what this node lets one of its apps do. Without an end: it is of use to that app on this node alone.
pub fn to_app(key: &NodeKey, app: NodeId, rights: &[(String, String, bool)]) -> Result<Vec<u8>> {
    let me = key.node_id().to_string();
    let capability = |(ability, path, anywhere): &(String, String, bool)| {
        ensure!(APP_ABILITIES.contains(&ability.as_str()), "`{ability}` is not for apps");
        let owner = if *anywhere { "*" } else { &me };
        let resource = Resource::parse(&format!("macula:{owner}/{path}"))?;
        Ok(Capability { ability: Ability::parse(ability)?, resource })
    };
    let capabilities = rights.iter().map(capability).collect::<Result<Vec<_>>>()?;
    ensure!(!capabilities.is_empty(), "there is nothing to delegate");
    let delegation = Delegation {
        issuer: key.node_id().into(),
        audience: app.into(),
        subject: Subject::Implied,
        capabilities,
        policy: Policy::default(),
        not_before: None,
        expires: None,
        // The same rights make the same token.
        nonce: Vec::new(),
        meta: Default::default(),
        proofs: Vec::new(),
    };
    Ok(chain::encode(&[jwt::issue(&delegation, key)?])?)
}

fn empty(node: &NodeKey, audience: NodeId, subject: Subject) -> Result<Delegation> {
    let mut random = [0; 12];
    getrandom::fill(&mut random).map_err(std::io::Error::from)?;
    // A JWT's is text.
    let nonce = data_encoding::HEXLOWER.encode(&random).into_bytes();
    let did = |id: NodeId| Did::parse(&id.to_string());
    Ok(Delegation {
        issuer: did(node.node_id())?,
        audience: did(audience)?,
        subject,
        capabilities: Vec::new(),
        policy: Policy::default(),
        not_before: None,
        expires: None,
        nonce,
        meta: BTreeMap::new(),
        proofs: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn key(seed: u8) -> NodeKey {
        NodeKey::from_seed(&[seed; 32])
    }

    /// Whether `who` may do it on the node with key 1, by a chain from `root`.
    fn may(who: u8, root: u8, ability: &str, path: &str, chain: &[u8]) -> bool {
        let resource = Resource::parse(&format!("macula:{}{path}", key(1).node_id())).unwrap();
        let asked = os_ucan::Request {
            invoker: key(who).node_id(),
            root: key(root).node_id(),
            ability: &Ability::parse(ability).unwrap(),
            resource: &resource,
            now: NOW,
        };
        os_ucan::authorize(&asked, chain, |_, _| false).is_ok()
    }

    #[test]
    fn an_owner_may_do_everything_here_and_nothing_elsewhere() {
        let chain = everything(&key(1), key(2).node_id()).unwrap();
        assert!(may(2, 1, "macula/os/reboot", "", &chain));
        assert!(may(2, 1, "macula/mesh/call", "/rpc/home/light", &chain));
        assert!(!may(3, 1, "macula/os/reboot", "", &chain));
        let elsewhere = everything(&key(4), key(2).node_id()).unwrap();
        assert!(!may(2, 1, "macula/os/reboot", "", &elsewhere));
    }

    #[test]
    fn what_the_owner_gives_the_node_is_handed_down_and_not_more() {
        let owner = key(2);
        let did = |seed| Did::parse(&key(seed).node_id().to_string()).unwrap();
        for format in [Format::Jwt, Format::DagCbor] {
            let resource = Resource::parse(&format!("macula:{}/*", key(1).node_id())).unwrap();
            let mut given = Delegation {
                issuer: did(2),
                audience: did(1),
                subject: Subject::Implied,
                capabilities: vec![Capability { ability: Ability::parse("macula/os/*").unwrap(), resource }],
                policy: Policy::default(),
                not_before: None,
                expires: Some(NOW + 60),
                nonce: vec![7; 12],
                meta: BTreeMap::new(),
                proofs: Vec::new(),
            };
            let token = match format {
                Format::Jwt => jwt::issue(&given, &owner).unwrap(),
                Format::DagCbor => {
                    given.subject = Subject::Of(did(2));
                    given.policy = dag_cbor::narrow_to(&given.capabilities[0].resource).unwrap();
                    given.capabilities[0].resource = Resource::everything();
                    dag_cbor::issue(&given, &owner).unwrap()
                }
            };
            let shown = chain::encode(&[token]).unwrap();
            let chain = what_it_has(&key(1), key(3).node_id(), &shown).unwrap();
            assert!(may(3, 2, "macula/os/status", "", &chain), "{format:?}");
            assert!(!may(3, 2, "macula/content/put", "", &chain), "{format:?}");
            assert!(!may(4, 2, "macula/os/status", "", &chain), "{format:?}");
            assert!(what_it_has(&key(9), key(3).node_id(), &shown).is_err(), "not made out to that node");
        }
    }
}
