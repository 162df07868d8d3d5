//! Every way of having no authority that we could think of, each with the reason that must be given; and what must be allowed.

use crate::common::*;
use data_encoding::BASE64URL_NOPAD;
use ipld_core::ipld::Ipld;
use os_identity::NodeId;
use os_ucan::chain::ChainError;
use os_ucan::{Did, Format, Refusal, Subject, TokenError, TokenId};

use Refusal::*;

/// The rows of the table, as they are tried.
#[derive(Default)]
struct Table {
    rows: usize,
    wrong: Vec<String>,
}

impl Table {
    fn row(
        &mut self,
        name: &str,
        found: Result<os_ucan::Grant, Refusal>,
        expected: impl Fn(&Refusal) -> bool,
    ) {
        self.rows += 1;
        match found {
            Ok(grant) => self.wrong.push(format!("{name}: ALLOWED {grant}")),
            Err(refusal) if !expected(&refusal) => self.wrong.push(format!("{name}: {refusal}")),
            Err(refusal) => assert!(refusal.to_string().len() > 20, "{name}: {refusal}"),
        }
    }

    /// The same in both formats.
    fn both(&mut self, name: &str, ask: Ask, from_root: &[Give], expected: impl Fn(&Refusal) -> bool) {
        for format in FORMATS {
            self.row(&format!("{name} ({format:?})"), ask.answer(&chain_of(format, from_root)), &expected);
        }
    }

    fn finish(self, at_least: usize) {
        assert!(
            self.wrong.is_empty(),
            "{} of {} rows:\n{}",
            self.wrong.len(),
            self.rows,
            self.wrong.join("\n")
        );
        assert!(self.rows >= at_least, "{} rows", self.rows);
    }
}

fn on(n: usize) -> impl Fn(&os_ucan::Link) -> bool {
    move |link| link.number == n
}

#[test]
fn what_is_good_is_allowed() {
    let mut seen = 0;
    let mut allowed = |ask: Ask, tokens: &[Vec<u8>], links: usize| {
        let grant = ask.answer(tokens).unwrap_or_else(|e| panic!("row {seen}: {e}"));
        assert_eq!(grant.chain.len(), links);
        seen += 1;
    };
    for format in FORMATS {
        let of = |give: &[Give]| chain_of(format, give);
        allowed(ask(), &of(&good()), 3);
        allowed(ask().with("NODE/slot/a/b"), &of(&good()), 3);
        allowed(ask().with("NODE/slot"), &of(&good()), 3);
        allowed(ask(), &of(&[give(ROOT, CAROL)]), 1);
        allowed(ask().with("NODE"), &of(&[give(ROOT, CAROL).can("macula/os/update", "NODE")]), 1);
        allowed(ask(), &of(&[give(ROOT, CAROL).can("macula/os/*", "macula:*/*")]), 1);
        // At the very ends of the skew that clocks may have.
        allowed(ask(), &of(&[give(ROOT, CAROL).until(NOW - 59)]), 1);
        allowed(ask(), &of(&[give(ROOT, CAROL).not_before(NOW + 60)]), 1);
        let for_ever = Give { expires: None, not_before: None, ..give(ROOT, CAROL) };
        allowed(ask().at(u64::MAX), &of(std::slice::from_ref(&for_ever)), 1);
        allowed(ask().at(0), &of(&[for_ever]), 1);
        // As long as may be.
        let long: Vec<Give> = (0..8).map(|n| give(n + 1, if n == 7 { 40 } else { n + 2 })).collect();
        allowed(ask().by(40), &of(&long), 8);
        // The owner needs no token, and none is looked at.
        allowed(ask().by(ROOT), &[], 0);
        allowed(ask().by(ROOT), &[b"junk".to_vec()], 0);
    }
    // One of several capabilities, from one of several proofs.
    let update = give(ROOT, BOB).can("macula/os/update", "NODE/*").jwt(&[]);
    let deploy = give(ROOT, BOB).can("macula/app/deploy", "NODE/*").jwt(&[]);
    let leaf = give(BOB, CAROL).can("macula/app/deploy", "NODE/app/*").and("macula/os/update", "NODE/slot/*");
    let leaf = leaf.jwt(&[&deploy, &update]);
    allowed(ask(), &[leaf.clone(), deploy.clone(), update.clone()], 2);
    allowed(ask(), &[leaf.clone(), update.clone(), deploy.clone()], 2);
    allowed(ask().to("macula/app/deploy").with("NODE/app/web"), &[leaf.clone(), deploy, update.clone()], 2);
    // A proof that this request does not need may be missing; one way that fails does not spoil another.
    allowed(ask(), &[leaf, update.clone()], 2);
    let expired = give(ROOT, BOB).until(NOW - 100).jwt(&[]);
    let leaf = give(BOB, CAROL).can("macula/os/update", "NODE/*").jwt(&[&expired, &update]);
    allowed(ask(), &[leaf, expired, update], 2);
    assert!(seen > 20);
}

#[test]
fn a_grant_says_by_what_and_until_when() {
    let mut from_root = good();
    from_root[1] = from_root[1].clone().until(NOW + 7);
    for format in FORMATS {
        let tokens = chain_of(format, &from_root);
        let grant = ask().answer(&tokens).unwrap();
        assert_eq!(grant.chain, tokens.iter().map(|t| TokenId::of(t)).collect::<Vec<_>>());
        assert_eq!(grant.until, Some(NOW + 7));
        assert_eq!(grant.to_string().matches(" from ").count(), 2);
    }
}

#[test]
fn abilities_and_resources_never_grow() {
    let mut t = Table::default();
    let not_granted = |r: &Refusal| matches!(r, NotGranted { link, .. } if link.number == 1);
    t.both("another ability", ask().to("macula/app/deploy"), &good(), not_granted);
    t.both("no ability of ours", ask().to("crud/write"), &good(), not_granted);
    for (name, can, wanted) in [
        ("half a segment", "macula/os/up", "macula/os/update"),
        ("half a segment, family", "macula/os/up/*", "macula/os/update"),
        ("longer segment", "macula/os/updates", "macula/os/update"),
        ("above", "macula/os/update/now", "macula/os/update"),
        ("family above", "macula/os/*", "macula"),
    ] {
        t.both(name, ask().to(wanted), &[give(ROOT, CAROL).can(can, "*")], not_granted);
    }
    let exact = chain_of(Format::Jwt, &[give(ROOT, CAROL).can("macula/os/update", "*")]);
    t.row("beneath an exact one", ask().to("macula/os/update/now").answer(&exact), not_granted);

    let with = |n: usize, can: &str| {
        let mut chain = good();
        chain[n].can[0].0 = can.into();
        chain
    };
    let escalated = |n: usize| move |r: &Refusal| matches!(r, AbilityEscalated { link, .. } if on(n)(link));
    t.both("leaf wider than its proof", ask(), &with(2, "macula/*"), escalated(2));
    t.both("leaf with everything", ask(), &with(2, "*"), escalated(2));
    t.both("middle wider than the root gave", ask(), &with(1, "*"), escalated(3));
    t.both("middle beside what the root gave", ask(), &with(0, "macula/app/*"), escalated(3));
    t.both("root gave half a segment", ask(), &with(0, "macul/*"), escalated(3));
    let exact = chain_of(Format::Jwt, &with(1, "macula/os/update"));
    t.row("family out of one verb", ask().answer(&exact), escalated(2));

    let chain_with = |n: usize, with: &str| {
        let mut chain = good();
        chain[n].can[0].1 = with.into();
        chain
    };
    // In UCAN 1.0 the resource is a condition, and every link's conditions must hold.
    let policy = |n: usize| move |r: &Refusal| matches!(r, NotGranted { link, .. } | Policy { link, .. } | ResourceEscalated { link, .. } if on(n)(link));
    t.both("another node's", ask().with("macula:a/slot/a"), &good(), policy(1));
    t.both("another scheme", ask().with("mri:proc:io.macula/x"), &good(), policy(1));
    t.both("half a segment of a resource", ask().with("NODE/slots"), &good(), policy(1));
    t.both("a resource above", ask().with("NODE"), &good(), policy(1));
    t.both("the root gave another resource", ask(), &chain_with(0, "NODE/app/*"), policy(3));
    t.both("the middle has another resource", ask(), &chain_with(1, "NODE/app/*"), policy(2));
    t.both("half a segment above", ask(), &chain_with(1, "NODE/slo/*"), policy(2));
    let wider = |n: usize| move |r: &Refusal| matches!(r, ResourceEscalated { link, .. } if on(n)(link));
    for (name, with) in [("any owner", "macula:*/slot/*"), ("everything", "*"), ("one more level", "NODE/*")]
    {
        let mut chain = chain_with(2, with);
        chain[1].can[0].1 = "NODE/slot/*".into();
        t.row(name, ask().answer(&chain_of(Format::Jwt, &chain)), wider(2));
    }
    for (name, request) in [
        ("ask for every ability", ask().to("*")),
        ("ask for a family", ask().to("macula/os/*")),
        ("ask for every resource", ask().with("*")),
        ("ask for all beneath", ask().with("NODE/*")),
        ("ask for any owner's", ask().with("macula:*/slot/a")),
    ] {
        t.both(name, request, &good(), |r| matches!(r, NotConcrete(_)));
    }
    t.finish(50);
}

#[test]
fn links_must_fit_and_reach_the_root() {
    let mut t = Table::default();
    let audience = |n: usize| move |r: &Refusal| matches!(r, WrongAudience { link, .. } if on(n)(link));
    t.both("shown by somebody else", ask().by(MALLORY), &good(), audience(1));
    t.both("shown by its issuer", ask().by(BOB), &good(), audience(1));
    let between = |n: usize, give: Give| {
        let mut chain = good();
        chain[n] = give;
        chain
    };
    t.both("middle for somebody else", ask(), &between(1, give(ALICE, MALLORY)), audience(2));
    t.both("root's for somebody else", ask(), &between(0, give(ROOT, MALLORY)), audience(3));
    t.both("middle by somebody else", ask(), &between(1, give(MALLORY, BOB)), audience(3));
    t.both("leaf by somebody else", ask(), &between(2, give(MALLORY, CAROL)), audience(2));
    let not_root = |r: &Refusal| matches!(r, NotFromRoot { .. });
    let about = |who: u8| Subject::Of(Did::Key(id(who)));
    t.both("nobody gave it to the issuer", ask(), &[give(MALLORY, CAROL)], not_root);
    t.both("first link by somebody else", ask(), &between(0, give(MALLORY, ALICE)), not_root);
    t.row("another root's (Jwt)", ask().of(MALLORY).answer(&chain_of(Format::Jwt, &good())), not_root);
    t.row("another root's (DagCbor)", ask().of(MALLORY).answer(&chain_of(Format::DagCbor, &good())), |r| {
        matches!(r, WrongSubject { .. })
    });
    for n in 0..3 {
        let chain = between(n, good()[n].clone().about(about(MALLORY)));
        t.row(
            "a link about another root's",
            ask().answer(&chain_of(Format::DagCbor, &chain)),
            |r| matches!(r, WrongSubject { link, .. } if on(3 - n)(link)),
        );
    }
    let own = vec![give(MALLORY, CAROL).about(about(MALLORY))];
    t.row("her own root", ask().answer(&chain_of(Format::DagCbor, &own)), |r| {
        matches!(r, WrongSubject { .. })
    });
    let mut nobody = good();
    nobody[0] = nobody[0].clone().about(Subject::Anyone);
    t.row(
        "no subject at the root",
        ask().answer(&chain_of(Format::DagCbor, &nobody)),
        |r| matches!(r, NoSubjectAtRoot { link } if on(3)(link)),
    );
    let loops = [give(ROOT, ALICE), give(ALICE, BOB), give(BOB, ALICE).nonce(1), give(ALICE, CAROL)];
    t.both("in a circle", ask(), &loops, |r| matches!(r, Cycle { link } if on(3)(link)));
    let herself = [give(ROOT, BOB), give(BOB, BOB), give(BOB, CAROL)];
    t.both("through herself", ask(), &herself, |r| matches!(r, Cycle { link } if on(2)(link)));
    let long: Vec<Give> = (0..9).map(|n| give(n + 1, if n == 8 { 40 } else { n + 2 })).collect();
    t.both("nine links", ask().by(40), &long, |r| matches!(r, TooDeep { link } if on(8)(link)));
    t.both("no token", ask(), &[], |r| matches!(r, NoToken { .. }));
    t.finish(30);
}

#[test]
fn proofs_must_be_there_and_no_others() {
    let mut t = Table::default();
    let jwt = chain_of(Format::Jwt, &good());
    let cbor = chain_of(Format::DagCbor, &good());
    let pick = |from: &[Vec<u8>], which: &[usize]| which.iter().map(|&n| from[n].clone()).collect::<Vec<_>>();
    let missing = |n: usize| move |r: &Refusal| matches!(r, MissingProof { link, .. } if on(n)(link));
    t.row("no proofs", ask().answer(&pick(&jwt, &[0])), missing(1));
    t.row("the middle is missing", ask().answer(&pick(&jwt, &[0, 2])), missing(1));
    t.row("the root's is missing", ask().answer(&pick(&jwt, &[0, 1])), missing(2));
    t.row("no proofs (1.0)", ask().answer(&pick(&cbor, &[0])), |r| matches!(r, NotFromRoot { .. }));
    t.row("the middle is missing (1.0)", ask().answer(&pick(&cbor, &[0, 2])), |r| {
        matches!(r, WrongAudience { .. })
    });
    t.row("the root's is missing (1.0)", ask().answer(&pick(&cbor, &[0, 1])), |r| {
        matches!(r, NotFromRoot { .. })
    });
    t.row("out of order (1.0)", ask().answer(&pick(&cbor, &[0, 2, 1])), |r| {
        matches!(r, WrongAudience { .. })
    });
    t.row("the root's first", ask().answer(&pick(&jwt, &[2, 1, 0])), |r| matches!(r, WrongAudience { .. }));
    let another = give(ROOT, ALICE).nonce(7).jwt(&[]);
    t.row("another proof than named", ask().answer(&[jwt[0].clone(), jwt[1].clone(), another]), missing(2));
    let surplus = [cbor.clone(), vec![give(ROOT, ROOT).cbor()]].concat();
    t.row("one more than needed (1.0)", ask().answer(&surplus), |r| matches!(r, Surplus(1)));
    for tokens in [&jwt, &cbor] {
        let twice = [tokens.as_slice(), &tokens[1..2]].concat();
        t.row("one of them twice", ask().answer(&twice), |r| matches!(r, Twice { number: 4 }));
    }
    let mixed = [&jwt[..2], &cbor[2..]].concat();
    t.row("mixed formats", ask().answer(&mixed), |r| matches!(r, MixedFormats { number: 3 }));
    let stranger = [&jwt[..], &[b"not a token".to_vec()]].concat();
    t.row("something else among them", ask().answer(&stranger), |r| {
        matches!(r, Unreadable { number: 4, why: TokenError::UnknownFormat })
    });
    t.row("too many", ask().answer(&vec![jwt[0].clone(); 17]), |r| matches!(r, Chain(ChainError::Count(17))));
    t.row("too much together", ask().answer(&vec![vec![b'e'; 3000]; 5]), |r| {
        matches!(r, Chain(ChainError::TooLarge(_)))
    });
    t.row("one too large", ask().answer(&[vec![b'e'; 4097]]), |r| {
        matches!(r, Chain(ChainError::TokenTooLarge(1)))
    });
    let good = os_ucan::chain::encode(&jwt).unwrap();
    let trailing = [&good[..], &[0]].concat();
    t.row("something behind it", ask().answer_bytes(&trailing, |_, _| false), |r| {
        matches!(r, Chain(ChainError::NotCanonical))
    });
    let cut = &good[..good.len() - 1];
    t.row("cut off", ask().answer_bytes(cut, |_, _| false), |r| matches!(r, Chain(ChainError::Cbor(_))));
    // Every key to every key, so that there are more ways than anybody would walk.
    let mut wide: Vec<Vec<u8>> = vec![];
    for layer in 0..6u8 {
        let proofs: Vec<Vec<u8>> = wide.iter().rev().take(2).cloned().collect();
        let proofs: Vec<&[u8]> = proofs.iter().map(Vec::as_slice).collect();
        let mut give = give(50 + layer, 51 + layer);
        (0..3).for_each(|_| give = give.clone().and("*", "*"));
        wide.extend([give.clone().nonce(1).jwt(&proofs), give.nonce(2).jwt(&proofs)]);
    }
    wide.reverse();
    t.row("too many branches", ask().by(56).answer(&wide), |r| matches!(r, TooManyBranches));
    t.finish(20);
}

#[test]
fn time_and_revocation() {
    let mut t = Table::default();
    for n in 0..3 {
        let number = 3 - n;
        let with = |change: &dyn Fn(Give) -> Give| {
            let mut chain = good();
            chain[n] = change(chain[n].clone());
            chain
        };
        let expired = |r: &Refusal| matches!(r, Expired { link, .. } if on(number)(link));
        t.both(&format!("link {number} expired"), ask(), &with(&|g| g.until(NOW - 3000)), expired);
        t.both(&format!("link {number} expired a minute ago"), ask(), &with(&|g| g.until(NOW - 60)), expired);
        let early = |r: &Refusal| matches!(r, NotYetValid { link, .. } if on(number)(link));
        t.both(&format!("link {number} too early"), ask(), &with(&|g| g.not_before(NOW + 61)), early);
    }
    t.both(
        "all expired long ago",
        ask().at(u64::MAX),
        &good(),
        |r| matches!(r, Expired { link, .. } if on(1)(link)),
    );
    t.both("all too early", ask().at(0), &good(), |r| matches!(r, NotYetValid { link, .. } if on(1)(link)));
    for format in FORMATS {
        let tokens = chain_of(format, &good());
        let ids: Vec<TokenId> = tokens.iter().map(|token| TokenId::of(token)).collect();
        let revoked = |n: usize, by: u8| {
            let (token, by) = (ids[n], id(by));
            ask().answer_unless(&tokens, move |t: &TokenId, k: &NodeId| *t == token && *k == by)
        };
        // Whoever issued it, and whoever the issuer has it from.
        for (n, by) in [(0, BOB), (0, ALICE), (0, ROOT), (1, ALICE), (1, ROOT), (2, ROOT)] {
            let is = |r: &Refusal| matches!(r, Revoked { link, by: found } if on(n + 1)(link) && *found == id(by).to_string());
            t.row(&format!("link {} revoked by {by} ({format:?})", n + 1), revoked(n, by), is);
        }
        // Nobody else, and not those below.
        for (n, by) in [(0, MALLORY), (0, CAROL), (1, BOB), (1, CAROL), (2, ALICE), (2, BOB), (2, MALLORY)] {
            assert!(revoked(n, by).is_ok(), "{by} cannot revoke link {}", n + 1);
        }
    }
    t.finish(34);
}

#[test]
fn signatures_must_hold() {
    let mut t = Table::default();
    let forged = |n: usize| move |r: &Refusal| matches!(r, Signature { link } if on(n)(link));
    // The leaf is changed last, so that the proofs that it names are as they are.
    for n in 0..3 {
        let mut chain = good();
        chain[n] = chain[n].clone().signed_by(MALLORY);
        t.both(&format!("link {} signed by another key", 3 - n), ask(), &chain, forged(3 - n));
    }
    let tokens = chain_of(Format::DagCbor, &good());
    for n in 0..3 {
        let mut forgery = tokens.clone();
        forgery[n][20] ^= 1;
        t.row("a flipped bit in a signature (1.0)", ask().answer(&forgery), forged(n + 1));
        let mut forgery = tokens.clone();
        let (signature, other) = (forgery[(n + 1) % 3][3..67].to_vec(), n);
        forgery[other][3..67].copy_from_slice(&signature);
        t.row("another token's signature (1.0)", ask().answer(&forgery), forged(n + 1));
    }
    let part = |token: &[u8], n: usize| {
        String::from_utf8(token.to_vec()).unwrap().split('.').nth(n).unwrap().to_owned()
    };
    let one = give(ROOT, CAROL).can("macula/mesh/call", "NODE/*").jwt(&[]);
    let two = give(ROOT, CAROL).jwt(&[]);
    let swapped = |a: &[u8], b: &[u8]| format!("{}.{}.{}", part(a, 0), part(b, 1), part(a, 2)).into_bytes();
    t.row("a wider payload under a good signature", ask().answer(&[swapped(&one, &two)]), forged(1));
    let zero = BASE64URL_NOPAD.encode(&[0; 64]);
    let unsigned = format!("{}.{}.{zero}", part(&two, 0), part(&two, 1)).into_bytes();
    t.row("a signature of zeroes", ask().answer(&[unsigned]), forged(1));
    let mut later = fields();
    later.insert("exp".into(), Ipld::Null);
    let stretched = [&raw_cbor(fields())[..67], &signed_part(&VARSIG, TAG, later)].concat();
    t.row("a longer life under a good signature (1.0)", ask().answer(&[stretched]), forged(1));
    // A small-order key, for which some signatures hold over anything.
    let mut weak = [0u8; 32];
    weak[0] = 1;
    let weak = NodeId::from_bytes(weak);
    let payload = payload(&id(ROOT).to_string(), &weak.to_string());
    let signed = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(HEADER.as_bytes()),
        BASE64URL_NOPAD.encode(payload.as_bytes())
    );
    let mut signature = [0u8; 64];
    signature[0] = 1;
    let token = format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)).into_bytes();
    let (ability, resource) = (os_ucan::Ability::parse("a").unwrap(), resource("NODE"));
    let request =
        os_ucan::Request { invoker: id(CAROL), root: weak, ability: &ability, resource: &resource, now: NOW };
    let chain = os_ucan::chain::encode(&[token]).unwrap();
    t.row("a weak key", os_ucan::authorize(&request, &chain, |_, _| false), forged(1));
    t.finish(16);
}
