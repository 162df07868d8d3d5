//! Orders signed by whoever gives them: what the specification's fixtures leave out.

use std::collections::BTreeMap;

use crate::common::*;
use ipld_core::ipld::Ipld;
use os_ucan::invocation::{Order, issue};
use os_ucan::{Authorizer, Format, Grant, Refusal, TokenId, chain};

/// Carol orders the root to update its slot a, by these tokens, leaf first.
fn order(tokens: &[Vec<u8>]) -> Order {
    let uri = resource("NODE/slot/a").to_string();
    Order {
        subject: id(ROOT).into(),
        audience: None,
        command: "/macula/os/update".into(),
        args: BTreeMap::from([("uri".to_owned(), Ipld::String(uri))]),
        proofs: tokens.iter().rev().map(|token| TokenId::of(token)).collect(),
        nonce: vec![1; 12],
        expires: Some(NOW + 60),
    }
}

fn answer(order: &Order, by: u8, tokens: &[Vec<u8>]) -> Result<Grant, Refusal> {
    answer_at(NOW, &issue(order, &key(by)).unwrap(), tokens)
}

fn answer_at(now: u64, invocation: &[u8], tokens: &[Vec<u8>]) -> Result<Grant, Refusal> {
    let chain = if tokens.is_empty() { vec![] } else { chain::encode(tokens).unwrap() };
    let found = Authorizer::new(0).authorize_invocation(invocation, &chain, &id(ROOT), now, |_, _| false);
    found.map(|(_, grant)| grant)
}

#[test]
fn an_order_is_followed_until_it_or_a_proof_expires() {
    let tokens = chain_of(Format::DagCbor, &good());
    let grant = answer(&order(&tokens), CAROL, &tokens).unwrap();
    assert_eq!((grant.chain.len(), grant.until), (3, Some(NOW + 60)));
    let own = Order { expires: None, ..order(&[]) };
    assert_eq!(answer(&own, ROOT, &[]).unwrap(), Grant { chain: vec![], until: None });
}

#[test]
fn an_order_is_refused_with_its_reason() {
    use Refusal::*;
    let tokens = chain_of(Format::DagCbor, &good());
    let good_order = order(&tokens);
    let with = |change: &dyn Fn(&mut Order)| {
        let mut order = good_order.clone();
        change(&mut order);
        answer(&order, CAROL, &tokens).unwrap_err()
    };
    let uri = |text: &str| Ipld::String(resource(text).to_string());
    assert!(matches!(with(&|o| o.command = "/macula/app/deploy".into()), NotGranted { .. }));
    assert!(matches!(with(&|o| o.command = "/macula".into()), NotGranted { .. }));
    assert!(matches!(with(&|o| drop(o.args.insert("uri".into(), uri("NODE/app")))), Policy { .. }));
    assert!(matches!(with(&|o| o.args.clear()), Policy { .. }));
    assert!(matches!(with(&|o| o.audience = Some(id(ALICE).into())), WrongExecutor { .. }));
    assert!(matches!(with(&|o| o.subject = id(ALICE).into()), WrongExecutor { .. }));
    assert!(matches!(with(&|o| o.expires = Some(NOW - 60)), InvocationExpired(_)));
    assert!(matches!(with(&|o| o.proofs.reverse()), InvocationProofs(_)));
    assert!(matches!(with(&|o| o.proofs.truncate(1)), InvocationProofs(_)));
    assert!(matches!(with(&|o| o.proofs.push(TokenId::of(b"x"))), InvocationProofs(_)));
    // For another's subject the order may be meant for us, but the proofs are not about it.
    let other = |o: &mut Order| {
        o.subject = id(ALICE).into();
        o.audience = Some(id(ROOT).into());
    };
    assert!(matches!(with(&other), WrongSubject { .. }));
    assert!(matches!(answer(&good_order, MALLORY, &tokens), Err(WrongAudience { .. })));
    assert!(matches!(answer(&order(&[]), CAROL, &[]), Err(NoToken { .. })));
    let jwt = chain_of(Format::Jwt, &[give(ROOT, CAROL)]);
    assert!(matches!(answer(&order(&jwt), CAROL, &jwt), Err(MixedFormats { number: 1 })));

    let signed = issue(&good_order, &key(CAROL)).unwrap();
    let mut forged = signed.clone();
    forged[30] ^= 1;
    assert!(matches!(answer_at(NOW, &forged, &tokens), Err(InvocationSignature)));
    assert!(matches!(answer_at(NOW, &tokens[0], &tokens), Err(UnreadableInvocation(_))));
    assert!(matches!(answer_at(NOW + 3600, &signed, &tokens), Err(InvocationExpired(_))));
}
