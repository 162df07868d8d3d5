//! Bearer tokens (RFC 6750): a delegation, and what it comes from, in the `Authorization` header.
//!
//! Whoever shows one may use it, so it is made to be worth little elsewhere: `docs/decisions/0021`.

use http::{HeaderMap, StatusCode, header};
use os_ucan::{Ability, Token, chain};

use crate::{Problem, ability};

/// A chain, as [`os_ucan::chain`] writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer(Vec<u8>);

impl Bearer {
    /// The token of a request, if it has one. Several tokens of a chain stand in the order that [`chain`] wants, with commas between.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(malformed("there are several Authorization headers"));
        }
        let text = value.to_str().map_err(|_| malformed("the Authorization header is not ASCII"))?;
        match text.split_once(' ') {
            Some((scheme, tokens)) if scheme.eq_ignore_ascii_case("bearer") => read(tokens).map(Some),
            _ => Err(malformed("the Authorization header does not begin with `Bearer `")),
        }
    }

    pub fn chain(&self) -> &[u8] {
        &self.0
    }
}

fn read(tokens: &str) -> Result<Bearer, Problem> {
    let lines: String = tokens.split(',').map(|token| format!("{}\n", token.trim())).collect();
    let tokens = chain::from_text(&lines).map_err(|e| malformed(&format!("the token: {e}")))?;
    chain::encode(&tokens).map(Bearer).map_err(|e| malformed(&format!("the token: {e}")))
}

fn malformed(detail: &str) -> Problem {
    let next = "send one header, `Authorization: Bearer <token>`, with commas between a token and its proofs";
    Problem::new(StatusCode::UNAUTHORIZED, detail, next)
}

/// What is asked of a chain's first token beyond what every delegation must hold: that it is a bearer token and nothing
/// else, and that it ends.
pub fn check_leaf(chain: &[u8]) -> Result<(), String> {
    let tokens = chain::decode(chain).map_err(|e| e.to_string())?;
    let leaf = Token::decode(tokens[0]).map_err(|e| format!("token 1 cannot be read: {e}"))?;
    let family = Ability::parse(ability::FAMILY).map_err(|e| e.to_string())?;
    let other = leaf.delegation.capabilities.iter().find(|c| !family.covers(&c.ability));
    if let Some(capability) = other {
        return Err(format!("a bearer token grants only what is in {family}, not {capability}"));
    }
    match leaf.delegation.expires {
        Some(_) => Ok(()),
        None => Err("a bearer token must have an end".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use os_identity::NodeKey;
    use os_ucan::policy::Policy;
    use os_ucan::{Capability, Delegation, Did, Resource, Subject, dag_cbor, jwt};

    use super::*;

    fn delegation(abilities: &[&str], expires: Option<u64>) -> (Delegation, NodeKey) {
        let key = NodeKey::from_seed(&[1; 32]);
        let did = Did::parse(&key.node_id().to_string()).unwrap();
        let capability =
            |a: &&str| Capability { ability: Ability::parse(a).unwrap(), resource: Resource::everything() };
        let delegation = Delegation {
            issuer: did.clone(),
            audience: did,
            subject: Subject::Implied,
            capabilities: abilities.iter().map(capability).collect(),
            policy: Policy::default(),
            not_before: None,
            expires,
            nonce: vec![1; 12],
            meta: BTreeMap::new(),
            proofs: vec![],
        };
        (delegation, key)
    }

    fn token(abilities: &[&str], expires: Option<u64>) -> Vec<u8> {
        let (delegation, key) = delegation(abilities, expires);
        jwt::issue(&delegation, &key).unwrap()
    }

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn chains_come_out_of_the_header_as_they_went_in() {
        let (a, b) = (token(&["macula/http/call"], Some(9)), token(&["*"], None));
        let text = |t: &[u8]| String::from_utf8(t.to_vec()).unwrap();
        let expected = chain::encode(&[&a, &b]).unwrap();
        for value in
            [format!("Bearer {},{}", text(&a), text(&b)), format!("bearer  {} , {}", text(&a), text(&b))]
        {
            assert_eq!(Bearer::of(&headers(&value)).unwrap().unwrap().chain(), expected);
        }
        assert_eq!(Bearer::of(&HeaderMap::new()), Ok(None));
        for bad in ["Basic YTpi", "Bearer", "Bearer ", "Bearer ,", "Bearer u=", &"Bearer a,".repeat(20)] {
            let problem = Bearer::of(&headers(bad)).unwrap_err();
            assert_eq!(problem.status, StatusCode::UNAUTHORIZED, "{bad}");
        }
        let mut two = headers("Bearer a");
        two.append(header::AUTHORIZATION, "Bearer b".parse().unwrap());
        assert!(Bearer::of(&two).is_err());
    }

    #[test]
    fn a_delegation_for_a_node_is_no_bearer_token() {
        let check =
            |abilities: &[&str], expires| check_leaf(&chain::encode(&[token(abilities, expires)]).unwrap());
        assert_eq!(check(&["macula/http/call", "macula/http/content"], Some(9)), Ok(()));
        assert_eq!(check(&["macula/http/*"], Some(9)), Ok(()));
        for wide in ["*", "macula/*", "macula/mesh/call", "macula/https/call"] {
            assert!(check(&[wide], Some(9)).unwrap_err().contains(wide), "{wide}");
            assert!(check(&["macula/http/call", wide], Some(9)).is_err(), "{wide}");
        }
        assert!(check(&["macula/http/call"], None).unwrap_err().contains("end"));
        assert!(check_leaf(&chain::encode(&[b"eyJ.x.y"]).unwrap()).is_err());
    }

    #[test]
    fn ucan_1_0_does_as_well() {
        let (mut delegation, key) = delegation(&["macula/http/call/*"], Some(9));
        let did = Did::parse(&key.node_id().to_string()).unwrap();
        delegation.subject = Subject::Of(did);
        let token = dag_cbor::issue(&delegation, &key).unwrap();
        let text = chain::to_text(&[&token]);
        let bearer = Bearer::of(&headers(&format!("Bearer {}", text.trim()))).unwrap().unwrap();
        assert_eq!(check_leaf(bearer.chain()), Ok(()));
    }
}
