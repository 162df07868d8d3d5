//! What must hold of any chain, and of any bytes at all. The same cases each time.

use crate::common::*;
use data_encoding::BASE64URL_NOPAD;
use os_ucan::invocation::{self, Invocation, Order};
use os_ucan::revocation::Revocation;
use os_ucan::{
    Ability, Authorizer, Did, Format, Request, Resource, Token, TokenId, chain, ipld, policy::Policy,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Few words, so that they often meet: with half segments among them.
fn path(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    (prop::collection::vec(prop::sample::select(words), 1..4), any::<bool>())
        .prop_map(|(segments, family)| segments.join("/") + if family { "/*" } else { "" })
}

/// One verb, or what a thing is called.
fn one() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&["a", "ab", "b"][..]), 1..4).prop_map(|s| s.join("/"))
}

fn ability() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just("*".to_owned()), 6 => path(&["a", "ab", "b"])]
}

fn thing() -> impl Strategy<Value = String> {
    let owner = prop::sample::select(&["macula:x", "macula:xy", "macula:*", "mri:x"][..]);
    prop_oneof![
        1 => Just("*".to_owned()),
        1 => owner.clone().prop_map(str::to_owned),
        1 => owner.clone().prop_map(|o| format!("{o}/*")),
        6 => (owner, path(&["a", "ab", "b"])).prop_map(|(o, p)| format!("{o}/{p}")),
    ]
}

/// What the grammar says, in another way: segment by segment, over text.
fn covers(wide: &str, one: &str) -> bool {
    let (wide, one): (Vec<&str>, Vec<&str>) = (wide.split('/').collect(), one.split('/').collect());
    for (at, segment) in wide.iter().enumerate() {
        if *segment == "*" && at + 1 == wide.len() {
            return true;
        }
        match (segment.strip_suffix(":*"), one.get(at)) {
            (Some(scheme), Some(found)) if found.split(':').next() == Some(scheme) => {}
            (_, Some(found)) if segment == found => {}
            _ => return false,
        }
    }
    wide.len() == one.len()
}

/// The same for a family: `a/*` is also `a`.
fn covers_family(wide: &str, one: &str) -> bool {
    covers(wide, one) || wide.strip_suffix("/*").is_some_and(|itself| covers(itself, one))
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn covering_is_what_the_grammar_says(wide in ability(), narrow in ability(), a in thing(), b in thing()) {
        let (w, n) = (Ability::parse(&wide).unwrap(), Ability::parse(&narrow).unwrap());
        if n.is_concrete() {
            prop_assert_eq!(w.covers(&n), covers_family(&wide, &narrow), "{} {}", wide, narrow);
        }
        let (w, n) = (Resource::parse(&a).unwrap(), Resource::parse(&b).unwrap());
        if n.is_concrete() {
            prop_assert_eq!(w.covers(&n), covers_family(&a, &b), "{} {}", a, b);
        }
    }

    #[test]
    fn what_covers_what_covers_covers(a in ability(), b in ability(), c in ability(), x in thing(), y in thing(), z in thing()) {
        let [a, b, c] = [a, b, c].map(|text| Ability::parse(&text).unwrap());
        prop_assert!(a.covers(&a));
        prop_assert!(!(a.covers(&b) && b.covers(&c)) || a.covers(&c));
        prop_assert!(!(a.covers(&b) && b.covers(&a)) || a == b);
        let [x, y, z] = [x, y, z].map(|text| Resource::parse(&text).unwrap());
        prop_assert!(x.covers(&x));
        prop_assert!(!(x.covers(&y) && y.covers(&z)) || x.covers(&z));
        prop_assert!(!(x.covers(&y) && y.covers(&x)) || x == y);
    }

    /// Whatever is granted, every link of the chain grants by itself.
    #[test]
    fn authority_never_grows(
        links in prop::collection::vec((ability(), thing()), 1..5),
        wanted in one(),
        on in one().prop_map(|path| format!("macula:x/{path}")),
        which in 0..2usize,
    ) {
        let format = FORMATS[which];
        let count = links.len() as u8;
        let give = |(n, (can, with)): (usize, &(String, String))| {
            let n = n as u8;
            crate::common::give(ROOT + n, if n + 1 == count { MALLORY } else { ROOT + n + 1 }).can(can, with)
        };
        let gives: Vec<Give> = links.iter().enumerate().map(give).collect();
        let sayable = |with: &str| !with.contains(":*") || with == "macula:*/*";
        prop_assume!(format == Format::Jwt || links.iter().all(|(_, with)| sayable(with)));
        let found = ask().by(MALLORY).to(&wanted).with(&on).answer(&chain_of(format, &gives));
        let each = links.iter().all(|(can, with)| {
            let family = if format == Format::DagCbor && can != "*" { format!("{}/*", can.trim_end_matches("/*")) } else { can.clone() };
            covers_family(&family, &wanted) && covers_family(with, &on)
        });
        prop_assert!(found.is_err() || each, "{:?} grants {} with {}", links, wanted, on);
        // And with links that do not widen, what each grants is granted.
        let same = vec![links[0].clone(); links.len()];
        let gives: Vec<Give> = same.iter().enumerate().map(give).collect();
        let found = ask().by(MALLORY).to(&wanted).with(&on).answer(&chain_of(format, &gives));
        let (can, with) = &links[0];
        let family = if format == Format::DagCbor && can != "*" { format!("{}/*", can.trim_end_matches("/*")) } else { can.clone() };
        prop_assert_eq!(found.is_ok(), covers_family(&family, &wanted) && covers_family(with, &on));
    }
}

/// xorshift64*: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }

    /// One small thing done to some bytes: a bit, a byte, a piece out, in, twice, or from elsewhere.
    fn mutate(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        let mut new = bytes.to_vec();
        let at = self.next(new.len().max(1));
        let to = at + self.next(new.len() - at + 1).min(16);
        match self.next(7) {
            0 | 1 if !new.is_empty() => new[at] ^= 1 << self.next(8),
            2 if !new.is_empty() => new[at] = self.next(256) as u8,
            3 => drop(new.drain(at..to)),
            4 => new.insert(at, self.next(256) as u8),
            5 => new = [&bytes[..to], &bytes[at..]].concat(),
            _ => {
                let from = self.next(other.len().max(1));
                let piece = &other[from..(from + self.next(32)).min(other.len())];
                new = [&bytes[..at], piece, &bytes[to..]].concat();
            }
        }
        new
    }
}

/// The rule that matters most: a chain in which anything was changed is refused.
#[test]
fn no_changed_chain_is_allowed() {
    let mut chance = Chance(1);
    for format in FORMATS {
        let tokens = chain_of(format, &good());
        let whole = chain::encode(&tokens).unwrap();
        let ids: Vec<TokenId> = tokens.iter().map(|token| TokenId::of(token)).collect();
        assert_eq!(ask().answer(&tokens).unwrap().chain, ids);
        for _ in 0..700 {
            let n = chance.next(tokens.len());
            let mut changed = tokens.clone();
            changed[n] = chance.mutate(&tokens[n], &tokens[(n + 1) % 3]);
            if changed != tokens {
                let found = ask().answer(&changed);
                assert!(found.is_err(), "{format:?} {n}: {found:?}");
            }
            let changed = chance.mutate(&whole, &tokens[0]);
            if changed != whole && !changed.is_empty() {
                let found = ask().answer_bytes(&changed, |_, _| false);
                assert!(found.is_err(), "{format:?}: {found:?}");
            }
        }
    }
}

/// What remembers must not answer otherwise than what does not.
#[test]
fn a_memory_changes_no_answer() {
    let mut chance = Chance(2);
    let (ability, resource) = (Ability::parse("macula/os/update").unwrap(), resource("NODE/slot/a"));
    let mut authorizer = Authorizer::new(4);
    let chains: Vec<_> = FORMATS.iter().map(|format| chain_of(*format, &good())).collect();
    let mut granted = 0;
    for round in 0..300 {
        let mut tokens = chains[chance.next(2)].clone();
        if chance.next(2) == 0 {
            let n = chance.next(3);
            tokens[n] = chance.mutate(&tokens[n], &tokens[0]);
        }
        let Ok(bytes) = chain::encode(&tokens) else { continue };
        let now = NOW + [0, 0, 0, 5000][chance.next(4)];
        let (invoker, root) = (id([CAROL, CAROL, BOB][chance.next(3)]), id(ROOT));
        let request = Request { invoker, root, ability: &ability, resource: &resource, now };
        let revoked = |token: &TokenId, _: &_| round % 7 == 0 && *token == TokenId::of(&tokens[1]);
        let found = authorizer.authorize(&request, &bytes, revoked);
        assert_eq!(found, os_ucan::authorize(&request, &bytes, revoked));
        granted += usize::from(found.is_ok());
    }
    assert!(granted > 25, "{granted}");
}

/// No bytes make a reader panic, and whatever is read has the id of its bytes.
#[test]
fn readers_take_anything() {
    let mut chance = Chance(3);
    let order = Order {
        subject: Did::Key(id(ROOT)),
        audience: None,
        command: "/a".into(),
        args: Default::default(),
        proofs: vec![TokenId::of(b"x")],
        nonce: vec![1],
        expires: None,
    };
    let policy = r#"[["==",".a[0]",{"b":1.5}],["or",[["like",".c","a\\*b*"]]],["all",".d[1:-1]?",["any",".[\"x\"]",["<",".",2]]]]"#;
    let mut corpus: Vec<Vec<u8>> = vec![
        invocation::issue(&order, &key(CAROL)).unwrap(),
        Revocation::issue(TokenId::of(b"x"), NOW, &key(ROOT)).to_bytes(),
        policy.into(),
        b"macula:*/a/b.c/*".to_vec(),
        chain::encode(&chain_of(Format::Jwt, &good())).unwrap(),
        raw_jwt(HEADER, &payload("", ""), ROOT),
        payload("", "").into_bytes(),
    ];
    corpus.extend(FORMATS.iter().flat_map(|format| chain_of(*format, &good())));
    let seeds = corpus.len();
    for _ in 0..8_000 {
        let (n, m) = (chance.next(corpus.len()), chance.next(corpus.len()));
        let bytes = chance.mutate(&corpus[n], &corpus[m]);
        read(&bytes);
        // Some live on, so that changes add up.
        if chance.next(16) == 0 && bytes.len() < 2048 {
            if corpus.len() < 200 {
                corpus.push(bytes)
            } else {
                corpus[seeds + chance.next(200 - seeds)] = bytes
            }
        }
    }
}

fn read(bytes: &[u8]) {
    if let Ok(token) = Token::decode(bytes) {
        assert_eq!(token.id, TokenId::of(bytes));
    }
    let _ = (chain::decode(bytes), Invocation::decode(bytes), Revocation::from_bytes(bytes));
    // A JWT's payload is JSON: with any payload at all, it must not panic either.
    let value = ipld::from_json(bytes).ok().or_else(|| ipld::from_dag_cbor(bytes).ok());
    if let Some(policy) = value.as_ref().and_then(|value| Policy::parse(value).ok()) {
        assert_eq!(Policy::parse(&policy.to_ipld()), Ok(policy.clone()));
        let _ = (policy.allows(&policy.to_ipld()), policy.to_string());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (chain::from_text(text), text.parse::<TokenId>());
        if let Ok(ability) = Ability::parse(text) {
            assert_eq!(ability.to_string(), text);
        }
        if let Ok(resource) = Resource::parse(text) {
            assert_eq!(resource.to_string(), text);
        }
    }
    let part = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let token = format!("{}.{}.{}", part(HEADER.as_bytes()), part(bytes), part(&[0; 64]));
    let _ = Token::decode(token.as_bytes());
}
