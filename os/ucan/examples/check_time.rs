//! How long a check of three links takes, per format: `cargo run --release -p os-ucan --example check_time`.
//!
//! `cold` reads every token and checks every signature; `warm` is an `Authorizer` that has seen the chain before; `one signature` is
//! a bare Ed25519 verification beside them.

use std::time::Instant;

use os_identity::{NodeKey, verify_raw};
use os_ucan::policy::Policy;
use os_ucan::{
    Ability, Authorizer, Capability, Delegation, Format, Request, Resource, Subject, TokenId, chain,
    dag_cbor, jwt,
};

const NOW: u64 = 1_795_000_000;
const ROUNDS: u32 = 2000;

fn main() {
    let keys: Vec<NodeKey> = (1..=4).map(|seed| NodeKey::from_seed(&[seed; 32])).collect();
    let ability = Ability::parse("macula/os/update").expect("an ability");
    let resource = Resource::node(&keys[0].node_id());
    let (invoker, root) = (keys[3].node_id(), keys[0].node_id());
    let request = Request { invoker, root, ability: &ability, resource: &resource, now: NOW };
    let signature = keys[0].sign_raw(&[0; 400]);
    let bare = micros(|| verify_raw(&root, &[0; 400], &signature).is_ok());
    println!("one signature: {bare:.1} us");
    for format in [Format::Jwt, Format::DagCbor] {
        let bytes = chain::encode(&tokens(format, &keys)).expect("a chain");
        let mut authorizer = Authorizer::new(64);
        let cold = micros(|| os_ucan::authorize(&request, &bytes, |_, _| false).is_ok());
        let warm = micros(|| authorizer.authorize(&request, &bytes, |_, _| false).is_ok());
        println!("{format:?}: {} bytes, cold {cold:.1} us, warm {warm:.1} us", bytes.len());
    }
}

/// The median of all rounds.
fn micros(mut holds: impl FnMut() -> bool) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            assert!(holds(), "what is measured must be a grant");
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn tokens(format: Format, keys: &[NodeKey]) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    for pair in keys.windows(2) {
        let delegation = delegation(format, keys, pair, tokens.first().map(|leaf| TokenId::of(leaf)));
        let token = match format {
            Format::Jwt => jwt::issue(&delegation, &pair[0]),
            Format::DagCbor => dag_cbor::issue(&delegation, &pair[0]),
        };
        tokens.insert(0, token.expect("a token"));
    }
    tokens
}

fn delegation(format: Format, keys: &[NodeKey], pair: &[NodeKey], proof: Option<TokenId>) -> Delegation {
    let ability = Ability::parse("macula/os/*").expect("an ability");
    let node = Resource::parse(&format!("macula:{}/*", keys[0].node_id())).expect("a resource");
    let (subject, resource, policy) = match format {
        Format::Jwt => (Subject::Implied, node, Policy::default()),
        Format::DagCbor => {
            let policy = dag_cbor::narrow_to(&node).expect("a policy");
            (Subject::Of(keys[0].node_id().into()), Resource::everything(), policy)
        }
    };
    Delegation {
        issuer: pair[0].node_id().into(),
        audience: pair[1].node_id().into(),
        subject,
        capabilities: vec![Capability { ability, resource }],
        policy,
        not_before: None,
        expires: Some(NOW + 3600),
        nonce: b"0123456789ab".to_vec(),
        meta: Default::default(),
        proofs: proof.filter(|_| format == Format::Jwt).into_iter().collect(),
    }
}
