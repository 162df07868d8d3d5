//! Who may use this node over HTTP: whoever shows a token that the owner, or somebody the owner lets, made out to this node.
//! `docs/decisions/0021` says why it is this way.

use mesh_gateway::Allowed;
use mesh_http::{Asked, Bearer, check_leaf};

use crate::access;
use crate::authority::Authority;

pub async fn check(authority: &Authority, asked: &Asked, bearer: &Bearer) -> Result<Allowed, String> {
    check_leaf(bearer.chain())?;
    let asked = access::Asked { ability: asked.ability.clone(), resource: asked.resource.clone() };
    authority.check_shown(&asked, bearer.chain()).await.map(|()| Allowed).map_err(|refusal| refusal.text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{SystemTime, UNIX_EPOCH};

    use http::{HeaderMap, header};
    use mesh_http::route;
    use os_identity::NodeKey;
    use os_ucan::policy::Policy;
    use os_ucan::revocation::Revocation;
    use os_ucan::{Ability, Capability, Delegation, Did, Resource, Subject, TokenId, chain, jwt};

    use super::*;

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

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

    /// Whether a token opens `/rpc/<node>/shop/price`, if the owner has taken back what it gave or not.
    async fn check(links: &[Link<'_>], revoked: bool) -> Result<Allowed, String> {
        let me = key(NODE).node_id();
        let asked = route(&format!("/rpc/{me}/shop/price")).unwrap().asks(&me, &me).unwrap().unwrap();
        let authority = Authority::new(me, Some(key(OWNER).node_id()));
        let shown = bearer(links);
        if revoked {
            let first = TokenId::of(chain::decode(shown.chain()).unwrap().last().unwrap());
            let statement = Revocation::issue(first, now(), &key(OWNER)).to_bytes();
            authority.revocations.learn(&statement).unwrap();
        }
        super::check(&authority, &asked, &shown).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_owners_word_counts_and_so_does_that_of_whom_the_owner_lets() {
        let mine = format!("macula:{}/rpc/shop/*", key(NODE).node_id());
        let call = ("macula/http/call", mine.as_str());
        let direct = Link { from: OWNER, to: NODE, grants: call, expires: Some(now() + 9) };
        assert_eq!(check(&[direct], false).await, Ok(Allowed));
        let through = || {
            [
                Link { from: ALICE, to: NODE, grants: call, expires: Some(now() + 9) },
                Link { from: OWNER, to: ALICE, grants: ("*", "*"), expires: None },
            ]
        };
        assert_eq!(check(&through(), false).await, Ok(Allowed));
        assert!(check(&through(), true).await.unwrap_err().contains("revoked"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn no_other_word_does() {
        let node = key(NODE).node_id();
        let mine = format!("macula:{node}/rpc/shop/*");
        let others = format!("macula:{}/rpc/shop/*", key(OTHER).node_id());
        let next = format!("macula:{node}/rpc/shop/prices");
        let link = |from, to, grants, expires| Link { from, to, grants, expires };
        let call = ("macula/http/call", mine.as_str());
        let soon = Some(now() + 9);
        for (case, links) in [
            ("not from the owner", vec![link(ALICE, NODE, call, soon)]),
            ("from the node itself", vec![link(NODE, NODE, call, soon)]),
            ("made out to another node", vec![link(OWNER, OTHER, call, soon)]),
            ("made out to the one who shows it", vec![link(OWNER, ALICE, call, soon)]),
            ("expired", vec![link(OWNER, NODE, call, Some(now() - 100))]),
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
            assert!(check(&links, false).await.is_err(), "{case}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_node_without_an_owner_and_one_that_is_its_own_take_none() {
        let me = key(NODE).node_id();
        let asked = route(&format!("/rpc/{me}/x")).unwrap().asks(&me, &me).unwrap().unwrap();
        let grants = ("macula/http/call", "*");
        let shown = bearer(&[Link { from: NODE, to: NODE, grants, expires: Some(now() + 9) }]);
        for owner in [None, Some(me)] {
            let authority = Authority::new(me, owner);
            let refused = super::check(&authority, &asked, &shown).await.unwrap_err();
            assert!(refused.contains("no owner"), "{refused}");
        }
    }
}
