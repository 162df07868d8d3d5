//! Signed requests: each carries an order of its own (a UCAN 1.0 invocation), so that nothing in the browser or on the way is a password.
//!
//! `Authorization: Macula <base64url of the invocation>[,<proof>...]`. The order names the node, the ability, the path with its query,
//! the SHA-256 of the body, and the node's `epoch`, which is another after each start: what was recorded before means nothing then.
//! Within an epoch [`Seen`] remembers each order for as long as it could be shown again. Whether the one who signed may do it is not
//! decided here. `docs/decisions/0025`.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use http::{HeaderMap, StatusCode, header};
use ipld_core::ipld::Ipld;
use os_identity::NodeId;
use os_ucan::{Ability, CLOCK_SKEW_S, MAX_TOKEN, TokenId, chain, invocation};
use sha2::{Digest, Sha256};

use crate::Problem;
use crate::problem::Challenge;

/// Longest time that an order may be good for, in seconds.
pub const MAX_LIFETIME_S: u64 = 300;
/// Orders remembered at once, and those of one key, so that nobody keeps the others out.
const MAX_SEEN: usize = 4096;
const MAX_SEEN_OF_ONE: usize = 1024;
const NONCE: std::ops::RangeInclusive<usize> = 12..=32;
const SCHEME: &str = "macula";

/// Different after each start of the gateway.
pub type Epoch = [u8; 16];

/// A request's order and the proofs that came with it; nothing of it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    invocation: Vec<u8>,
    /// The leaf first.
    proofs: Vec<Vec<u8>>,
}

impl Signed {
    /// `None`: the request is not signed.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err("there are several Authorization headers".to_owned());
        }
        let text = value.to_str().map_err(|_| "the Authorization header is not ASCII")?;
        match text.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => read(rest.trim()).map(Some),
            _ => Err("the Authorization header does not begin with `Macula `".to_owned()),
        }
    }

    /// As [`os_ucan::chain`] writes it; empty: no proofs.
    pub fn chain(&self) -> Vec<u8> {
        // It was read within the same bounds.
        if self.proofs.is_empty() { Vec::new() } else { chain::encode(&self.proofs).unwrap_or_default() }
    }
}

fn read(text: &str) -> Result<Signed, String> {
    let (order, proofs) = text.split_once(',').map_or((text, None), |(order, proofs)| (order, Some(proofs)));
    if order.len() > MAX_TOKEN * 2 {
        return Err("the order is too long".to_owned());
    }
    let invocation = BASE64URL_NOPAD.decode(order.trim().as_bytes());
    let invocation = invocation.map_err(|_| "the order is not base64url without padding")?;
    let proofs = match proofs {
        Some(list) => tokens(list)?,
        None => Vec::new(),
    };
    Ok(Signed { invocation, proofs })
}

/// Tokens with commas between, the leaf first.
pub fn tokens(list: &str) -> Result<Vec<Vec<u8>>, String> {
    let lines: String = list.split(',').map(|token| format!("{}\n", token.trim())).collect();
    let tokens = chain::from_text(&lines).map_err(|e| format!("the proofs: {e}"))?;
    chain::encode(&tokens).map_err(|e| format!("the proofs: {e}"))?;
    Ok(tokens)
}

/// What an order must say to be one for this request.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// This node, which is to carry it out.
    pub me: &'a NodeId,
    /// The node that it is about.
    pub about: &'a NodeId,
    pub owner: Option<&'a NodeId>,
    pub command: &'a Ability,
    /// With its query.
    pub path: &'a str,
    pub body: &'a [u8],
    pub epoch: &'a Epoch,
    /// Seconds since 1970.
    pub now: u64,
}

/// An order that its signer gave for this very request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    pub by: NodeId,
    pub nonce: Vec<u8>,
    /// Seconds since 1970, the skew of clocks included: from then on it is refused for its age.
    pub until: u64,
}

impl Expected<'_> {
    pub fn check(&self, signed: &Signed) -> Result<Ordered, Problem> {
        let proofs: Vec<TokenId> = signed.proofs.iter().map(|token| TokenId::of(token)).collect();
        let proven = invocation::prove(&signed.invocation, &proofs, self.me, self.now);
        let proven = proven.map_err(|why| self.refused(why.to_string()))?;
        let order = &proven.invocation;
        if proven.subject != *self.about && Some(&proven.subject) != self.owner {
            return Err(
                self.refused(format!("the order is about {}, not about {}", proven.subject, self.about))
            );
        }
        if order.command != self.command.with_beneath() {
            let found = order.command.command().unwrap_or_default();
            return Err(
                self.refused(format!("the order is to do {found}, the request asks for /{}", self.command))
            );
        }
        self.check_arguments(&order.args)?;
        let Some(expires) = order.expires.filter(|at| *at <= self.now + MAX_LIFETIME_S + CLOCK_SKEW_S) else {
            return Err(self.refused(format!("an order is good for {MAX_LIFETIME_S} s at most")));
        };
        if !NONCE.contains(&order.nonce.len()) {
            return Err(self.refused("an order has a nonce of 12 to 32 bytes".to_owned()));
        }
        Ok(Ordered { by: proven.invoker, nonce: order.nonce.clone(), until: expires + CLOCK_SKEW_S })
    }

    fn check_arguments(&self, args: &BTreeMap<String, Ipld>) -> Result<(), Problem> {
        let text = |text: String| Ipld::String(text);
        let hash: [u8; 32] = Sha256::digest(self.body).into();
        for (name, expected, wrong) in [
            ("epoch", Ipld::Bytes(self.epoch.to_vec()), "it was made for another start of this node"),
            ("uri", text(format!("macula:{}", self.about)), "it is for another thing"),
            ("path", text(self.path.to_owned()), "it is for another path"),
            ("body", Ipld::Bytes(hash.to_vec()), "it is for another body"),
        ] {
            if args.get(name) != Some(&expected) {
                return Err(self.refused(format!("the order's argument `{name}` does not fit: {wrong}")));
            }
        }
        Ok(())
    }

    /// A refusal that says what a new order has to say.
    pub fn refused(&self, why: String) -> Problem {
        let next = "sign a new order with the time and epoch of this answer; your clock may be wrong";
        let challenge = Challenge { epoch: HEXLOWER.encode(self.epoch), time: self.now };
        Problem { challenge: Some(challenge), ..Problem::new(StatusCode::UNAUTHORIZED, why, next) }
    }
}

/// Orders that were followed, and could be shown again.
#[derive(Debug, Default)]
pub struct Seen {
    /// By the time that they end.
    ends: BTreeSet<(u64, NodeId, Vec<u8>)>,
    known: BTreeMap<NodeId, BTreeSet<Vec<u8>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNew {
    #[error("this order was followed already")]
    Again,
    #[error("more orders than are remembered; each is for {MAX_LIFETIME_S} s at most")]
    Full,
}

impl Seen {
    /// Takes an order that is about to be followed.
    pub fn take(&mut self, order: &Ordered, now: u64) -> Result<(), NotNew> {
        self.forget(now);
        let own = self.known.get(&order.by);
        if own.is_some_and(|nonces| nonces.contains(&order.nonce)) {
            return Err(NotNew::Again);
        }
        if self.ends.len() >= MAX_SEEN || own.is_some_and(|nonces| nonces.len() >= MAX_SEEN_OF_ONE) {
            return Err(NotNew::Full);
        }
        self.ends.insert((order.until, order.by, order.nonce.clone()));
        self.known.entry(order.by).or_default().insert(order.nonce.clone());
        Ok(())
    }

    /// What would be refused for its age need not be remembered. A second more, since times are whole seconds.
    fn forget(&mut self, now: u64) {
        while let Some((until, by, nonce)) = self.ends.first().cloned().filter(|(until, ..)| *until < now) {
            self.ends.remove(&(until, by, nonce.clone()));
            if let Some(nonces) = self.known.get_mut(&by) {
                nonces.remove(&nonce);
                if nonces.is_empty() {
                    self.known.remove(&by);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use os_identity::NodeKey;
    use os_ucan::invocation::{Order, issue};

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const EPOCH: Epoch = [9; 16];
    const PATH: &str = "/control/os/restart";
    const BODY: &[u8] = b"{\"unit\":\"dht\"}";

    fn key(seed: u8) -> NodeKey {
        NodeKey::from_seed(&[seed; 32])
    }

    fn me() -> NodeId {
        key(2).node_id()
    }

    fn order() -> Order {
        let hash: [u8; 32] = Sha256::digest(BODY).into();
        let text = |text: &str| Ipld::String(text.to_owned());
        Order {
            subject: me().into(),
            audience: None,
            command: "/macula/os/restart".into(),
            args: BTreeMap::from([
                ("epoch".to_owned(), Ipld::Bytes(EPOCH.to_vec())),
                ("uri".to_owned(), text(&format!("macula:{}", me()))),
                ("path".to_owned(), text(PATH)),
                ("body".to_owned(), Ipld::Bytes(hash.to_vec())),
            ]),
            proofs: vec![],
            nonce: vec![1; 16],
            expires: Some(NOW + 60),
        }
    }

    fn signed(order: &Order) -> Signed {
        let value = format!("Macula {}", BASE64URL_NOPAD.encode(&issue(order, &key(1)).unwrap()));
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap());
        Signed::of(&headers).unwrap().unwrap()
    }

    fn check_at(signed: &Signed, path: &str, body: &[u8], now: u64) -> Result<Ordered, String> {
        let command = Ability::parse("macula/os/restart").unwrap();
        let (me, owner) = (me(), key(1).node_id());
        let expected = Expected {
            me: &me,
            about: &me,
            owner: Some(&owner),
            command: &command,
            path,
            body,
            epoch: &EPOCH,
            now,
        };
        expected.check(signed).map_err(|problem| {
            assert_eq!(problem.status, StatusCode::UNAUTHORIZED);
            assert_eq!(problem.challenge.unwrap().time, now, "the node tells its time");
            problem.detail
        })
    }

    fn check(order: &Order) -> Result<Ordered, String> {
        check_at(&signed(order), PATH, BODY, NOW)
    }

    #[test]
    fn an_order_for_this_request_is_one() {
        let ordered = Ordered { by: key(1).node_id(), nonce: vec![1; 16], until: NOW + 120 };
        assert_eq!(check(&order()), Ok(ordered.clone()));
        let of_owner = Order { subject: key(1).node_id().into(), audience: Some(me().into()), ..order() };
        assert_eq!(check(&of_owner), Ok(ordered), "subject of chains that begin with the owner");
        let ahead = Order { expires: Some(NOW + 360), ..order() };
        assert!(check(&ahead).is_ok(), "a clock that is a minute ahead");
        assert!(check(&Order { expires: Some(NOW - 59), ..order() }).is_ok(), "and one behind");
    }

    #[test]
    fn an_order_for_anything_else_is_refused() {
        let arg = |name: &str, value: Option<Ipld>| {
            let mut order = order();
            order.args.remove(name);
            order.args.extend(value.map(|value| (name.to_owned(), value)));
            order
        };
        let other = key(3).node_id();
        for (case, order, said) in [
            ("expired", Order { expires: Some(NOW - 60), ..order() }, "expired"),
            ("for too long", Order { expires: Some(NOW + 361), ..order() }, "300 s at most"),
            ("for ever", Order { expires: None, ..order() }, "300 s at most"),
            ("another node", Order { subject: other.into(), ..order() }, "is for"),
            (
                "another node's, given to this one",
                Order { subject: other.into(), audience: Some(me().into()), ..order() },
                "is about",
            ),
            (
                "another ability",
                Order { command: "/macula/os/reboot".into(), ..order() },
                "/macula/os/reboot",
            ),
            ("a family", Order { command: "/macula/os".into(), ..order() }, "asks for /macula/os/restart"),
            ("everything", Order { command: "/".into(), ..order() }, "to do /,"),
            ("a short nonce", Order { nonce: vec![1; 11], ..order() }, "nonce"),
            ("another epoch", arg("epoch", Some(Ipld::Bytes(vec![8; 16]))), "another start"),
            ("no epoch", arg("epoch", None), "epoch"),
            ("no body", arg("body", None), "another body"),
            ("another path", arg("path", Some(Ipld::String("/control/os/kill".into()))), "another path"),
            ("no uri", arg("uri", None), "uri"),
        ] {
            let refused = check(&order).expect_err(case);
            assert!(refused.contains(said), "{case}: {refused}");
        }
        let good = signed(&order());
        assert!(check_at(&good, PATH, b"{\"unit\":\"mesh\"}", NOW).unwrap_err().contains("another body"));
        assert!(check_at(&good, "/control/os/restart?node=x", BODY, NOW).unwrap_err().contains("path"));
        assert!(check_at(&good, PATH, BODY, NOW + 120).unwrap_err().contains("expired"));
        for at in [5, 80, good.invocation.len() - 1] {
            let mut flipped = good.clone();
            flipped.invocation[at] ^= 1;
            assert!(check_at(&flipped, PATH, BODY, NOW).is_err(), "{at}");
        }
        let with_proof = Signed { proofs: vec![b"eyJ".to_vec()], ..good };
        assert!(check_at(&with_proof, PATH, BODY, NOW).is_err(), "a proof that the order does not name");
    }

    #[test]
    fn headers_that_are_no_order() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            Signed::of(&headers)
        };
        for bad in ["Bearer abc", "Macula", "Macula a=", "Macula _w,", "Macula _w,u=", "Macula _w,,", "x"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let long = format!("Macula {}", "a".repeat(9000));
        assert!(of(&long).is_err());
        let two = of("macula  _w , u_-8,eyJ.x.y").unwrap().unwrap();
        assert_eq!((two.invocation.len(), two.proofs.len()), (1, 2));
        assert_eq!(chain::decode(&two.chain()).unwrap().len(), 2);
        assert_eq!(Signed::of(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn an_order_is_followed_once() {
        let mut seen = Seen::default();
        let order =
            |by: u8, n: u64, until| Ordered { by: key(by).node_id(), nonce: n.to_be_bytes().to_vec(), until };
        assert_eq!(seen.take(&order(1, 1, NOW + 9), NOW), Ok(()));
        assert_eq!(seen.take(&order(1, 1, NOW + 9), NOW), Err(NotNew::Again));
        assert_eq!(seen.take(&order(1, 1, NOW + 9), NOW + 9), Err(NotNew::Again), "while it could be shown");
        assert_eq!(seen.take(&order(2, 1, NOW + 9), NOW), Ok(()), "another key's");
        for n in 2..=MAX_SEEN_OF_ONE as u64 {
            seen.take(&order(1, n, NOW + 9), NOW).unwrap();
        }
        assert_eq!(seen.take(&order(1, 0, NOW + 9), NOW), Err(NotNew::Full));
        assert_eq!(seen.take(&order(3, 0, NOW + 9), NOW), Ok(()), "others are not kept out by it");
        assert_eq!(seen.take(&order(1, 0, NOW + 99), NOW + 10), Ok(()), "room again");
        assert_eq!(seen.ends.len(), 1);
        assert_eq!(seen.known.len(), 1);
    }
}
