//! Who may use this node over HTTP: whoever shows a token that the owner, or somebody the owner lets, made out to this node.
//! `docs/decisions/0021` says why it is this way.

use std::sync::{Mutex, PoisonError};

use mesh_gateway::Allowed;
use mesh_http::{Asked, Bearer, check_leaf};
use os_identity::NodeId;
use os_ucan::{Authorizer, Request, TokenId};

/// Tokens whose signature is known to hold.
const MAX_VERIFIED: usize = 1024;

type IsRevoked = dyn Fn(&TokenId, &NodeId) -> bool + Send + Sync;

pub struct Bearers {
    me: NodeId,
    owner: Option<NodeId>,
    authorizer: Mutex<Authorizer>,
    is_revoked: Box<IsRevoked>,
}

impl Bearers {
    /// `is_revoked`: whether this key has taken that token back, as far as is known.
    pub fn new(
        me: NodeId,
        owner: Option<NodeId>,
        is_revoked: impl Fn(&TokenId, &NodeId) -> bool + Send + Sync + 'static,
    ) -> Self {
        let authorizer = Mutex::new(Authorizer::new(MAX_VERIFIED));
        Self { me, owner, authorizer, is_revoked: Box::new(is_revoked) }
    }

    pub fn check(&self, asked: &Asked, bearer: &Bearer, now: u64) -> Result<Allowed, String> {
        // The root needs no token; were it this node, anything that anybody shows would do.
        let Some(root) = self.owner.filter(|owner| *owner != self.me) else {
            return Err("this node has no owner who could have issued a token".to_owned());
        };
        check_leaf(bearer.chain())?;
        let (ability, resource) = (&asked.ability, &asked.resource);
        let request = Request { invoker: self.me, root, ability, resource, now };
        let mut authorizer = self.authorizer.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = authorizer.authorize(&request, bearer.chain(), &self.is_revoked);
        granted.map(|_| Allowed).map_err(|refusal| refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::{HeaderMap, header};
    use mesh_http::route;
    use os_identity::NodeKey;
    use os_ucan::policy::Policy;
    use os_ucan::{Ability, Capability, Delegation, Did, Resource, Subject, jwt};

    use super::*;

    const NOW: u64 = 1_795_000_000;

    fn key(seed: u8) -> NodeKey {
        NodeKey::from_seed(&[seed; 32])
    }

    struct Link<'a> {
        from: u8,
        to: u8,
        grants: (&'a str, &'a str),
        expires: Option<u64>,
    }

    /// A chain, leaf first.
    fn bearer(links: &[Link<'_>]) -> Bearer {
        let mut tokens: Vec<Vec<u8>> = Vec::new();
        for link in links.iter().rev() {
            let did = |seed| Did::parse(&key(seed).node_id().to_string()).unwrap();
            let (ability, resource) = link.grants;
            let delegation = Delegation {
                issuer: did(link.from),
                audience: did(link.to),
                subject: Subject::Implied,
                capabilities: vec![Capability {
                    ability: Ability::parse(ability).unwrap(),
                    resource: Resource::parse(resource).unwrap(),
                }],
                policy: Policy::default(),
                not_before: None,
                expires: link.expires,
                nonce: vec![7; 12],
                meta: BTreeMap::new(),
                proofs: tokens.first().map(|t| TokenId::of(t)).into_iter().collect(),
            };
            tokens.insert(0, jwt::issue(&delegation, &key(link.from)).unwrap());
        }
        let tokens: Vec<_> = tokens.into_iter().map(|t| String::from_utf8(t).unwrap()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {}", tokens.join(",")).parse().unwrap());
        Bearer::of(&headers).unwrap().unwrap()
    }

    const OWNER: u8 = 1;
    const NODE: u8 = 2;
    const ALICE: u8 = 3;
    const OTHER: u8 = 4;

    /// Whether a token opens `/rpc/<node>/shop/price`.
    fn check(links: &[Link<'_>], revoked: bool) -> Result<Allowed, String> {
        let me = key(NODE).node_id();
        let asked = route(&format!("/rpc/{me}/shop/price")).unwrap().asks(&me, &me).unwrap().unwrap();
        let bearers = Bearers::new(me, Some(key(OWNER).node_id()), move |_, _| revoked);
        bearers.check(&asked, &bearer(links), NOW)
    }

    #[test]
    fn the_owners_word_counts_and_so_does_that_of_whom_the_owner_lets() {
        let mine = format!("macula:{}/rpc/shop/*", key(NODE).node_id());
        let call = ("macula/http/call", mine.as_str());
        let direct = Link { from: OWNER, to: NODE, grants: call, expires: Some(NOW + 9) };
        assert_eq!(check(&[direct], false), Ok(Allowed));
        let through = || {
            [
                Link { from: ALICE, to: NODE, grants: call, expires: Some(NOW + 9) },
                Link { from: OWNER, to: ALICE, grants: ("*", "*"), expires: None },
            ]
        };
        assert_eq!(check(&through(), false), Ok(Allowed));
        assert!(check(&through(), true).unwrap_err().contains("revoked"));
    }

    #[test]
    fn no_other_word_does() {
        let node = key(NODE).node_id();
        let mine = format!("macula:{node}/rpc/shop/*");
        let others = format!("macula:{}/rpc/shop/*", key(OTHER).node_id());
        let next = format!("macula:{node}/rpc/shop/prices");
        let link = |from, to, grants, expires| Link { from, to, grants, expires };
        let call = ("macula/http/call", mine.as_str());
        let soon = Some(NOW + 9);
        for (case, links) in [
            ("not from the owner", vec![link(ALICE, NODE, call, soon)]),
            ("from the node itself", vec![link(NODE, NODE, call, soon)]),
            ("made out to another node", vec![link(OWNER, OTHER, call, soon)]),
            ("made out to the one who shows it", vec![link(OWNER, ALICE, call, soon)]),
            ("expired", vec![link(OWNER, NODE, call, Some(NOW - 100))]),
            ("without an end", vec![link(OWNER, NODE, call, None)]),
            ("a delegation to the node", vec![link(OWNER, NODE, ("macula/mesh/call", &mine), soon)]),
            ("all that the owner has", vec![link(OWNER, NODE, ("*", "*"), soon)]),
            ("another ability", vec![link(OWNER, NODE, ("macula/http/content", &mine), soon)]),
            ("another node's procedure", vec![link(OWNER, NODE, ("macula/http/call", &others), soon)]),
            ("another procedure", vec![link(OWNER, NODE, ("macula/http/call", &next), soon)]),
            (
                "more than was given",
                vec![link(ALICE, NODE, call, soon), link(OWNER, ALICE, ("macula/http/content", &mine), soon)],
            ),
        ] {
            assert!(check(&links, false).is_err(), "{case}");
        }
    }

    #[test]
    fn a_node_without_an_owner_and_one_that_is_its_own_take_none() {
        let me = key(NODE).node_id();
        let asked = route(&format!("/rpc/{me}/x")).unwrap().asks(&me, &me).unwrap().unwrap();
        let grants = ("macula/http/call", "*");
        let shown = bearer(&[Link { from: NODE, to: NODE, grants, expires: Some(NOW + 9) }]);
        for owner in [None, Some(me)] {
            let bearers = Bearers::new(me, owner, |_, _| false);
            assert!(bearers.check(&asked, &shown, NOW).unwrap_err().contains("no owner"));
        }
    }
}
