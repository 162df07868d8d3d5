//! Real mesh processes: who may call what by delegation, until it is taken back, and what of it is on record.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Machine, Procedure};
use mesh_proto::pubsub::Heard;
use mesh_proto::rpc::Code;
use mesh_stream::Subscription;
use os_identity::{NodeId, NodeKey};
use os_ucan::policy::Policy;
use os_ucan::revocation::Revocation;
use os_ucan::{Ability, Capability, Delegation, Resource, Subject, TokenId, chain, jwt};
use services_api::{bus, control};
use tokio::net::UnixListener;

const PATIENCE: Duration = Duration::from_secs(20);

/// One link: `issuer` lets `audience` do `can` with `with`.
fn link(issuer: &NodeKey, audience: NodeId, can: &str, with: &str, proofs: &[&[u8]]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let delegation = Delegation {
        issuer: issuer.node_id().into(),
        audience: audience.into(),
        subject: Subject::Implied,
        capabilities: vec![Capability {
            ability: Ability::parse(can).unwrap(),
            resource: Resource::parse(with).unwrap(),
        }],
        policy: Policy::default(),
        not_before: None,
        expires: Some(now + 600),
        nonce: b"nonce".to_vec(),
        meta: Default::default(),
        proofs: proofs.iter().map(|token| TokenId::of(token)).collect(),
    };
    jwt::issue(&delegation, issuer).unwrap()
}

type Lines = Arc<Mutex<Vec<String>>>;

/// `update`, as far as mesh needs it.
struct Audit(Lines);

#[zbus::interface(name = "io.macula.Audit1")]
impl Audit {
    fn note_access(&self, verdict: String, text: String) {
        self.0.lock().unwrap().push(format!("{verdict} {text}"));
    }
}

/// `dht`, which finds this statement and no other.
struct Dht(Arc<Mutex<Option<Revocation>>>);

#[zbus::interface(name = "io.macula.Dht1")]
impl Dht {
    fn find_revocation(&self, token: Vec<u8>, revoker: Vec<u8>) -> Vec<u8> {
        let known = self.0.lock().unwrap();
        let fits = |r: &&Revocation| r.token.as_bytes() == &token[..] && r.revoker.as_bytes() == &revoker[..];
        known.as_ref().filter(fits).map_or_else(Vec::new, Revocation::to_bytes)
    }

    fn revoke(&self, _statement: Vec<u8>) {}
}

fn play(
    listener: UnixListener,
    path: &'static str,
    interface: impl FnOnce() -> Played + Send + Sync + Clone + 'static,
) {
    tokio::spawn(async move {
        bus::serve(listener, &[], |builder, _| match interface.clone()() {
            Played::Audit(audit) => builder.serve_at(path, audit),
            Played::Dht(dht) => builder.serve_at(path, dht),
        })
        .await
    });
}

enum Played {
    Audit(Audit),
    Dht(Dht),
}

async fn said(lines: &Lines, what: &str) {
    for _ in 0..100 {
        if lines.lock().unwrap().iter().any(|line| line.contains(what)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("`{what}` is not on record: {:?}", lines.lock().unwrap());
}

#[tokio::test(flavor = "current_thread")]
async fn a_delegation_opens_what_it_names_until_it_is_taken_back() {
    let owner = NodeKey::from_seed(&[50; 32]);
    let a = Machine::owned(41, &[], Some(&owner)).await;
    let b = Machine::start(42, &[&a]).await;
    let c = Machine::start(43, &[&a]).await;
    let (lines, found) = (Lines::default(), Arc::new(Mutex::new(None)));
    let audit_lines = lines.clone();
    play(a.listen_as("update"), "/io/macula/Audit", move || Played::Audit(Audit(audit_lines)));
    let in_the_mesh = found.clone();
    play(a.listen_as("dht"), "/io/macula/Dht", move || Played::Dht(Dht(in_the_mesh)));
    let _lamp = a.serve("home/lamp_v1", "macula/mesh/call", Procedure::Double).await;
    let _door = a.serve("home/door_v1", "macula/mesh/call", Procedure::Double).await;
    let me = a.key.node_id();

    let lamp = format!("macula:{me}/rpc/home/lamp_v1");
    let family = format!("macula:{me}/rpc/home/*");
    // owner -> b (all of home) -> c (the lamp alone)
    let to_b = link(&owner, b.key.node_id(), "macula/mesh/*", &family, &[]);
    let to_c = link(&b.key, c.key.node_id(), "macula/mesh/call", &lamp, &[&to_b]);
    let (by_b, by_c) = (chain::encode(&[&to_b]).unwrap(), chain::encode(&[&to_c, &to_b]).unwrap());

    for (caller, ucan, procedure, allowed) in [
        (&b, &vec![], "home/lamp_v1", false),
        (&b, &by_b, "home/lamp_v1", true),
        (&b, &by_b, "home/door_v1", true),
        (&c, &by_c, "home/lamp_v1", true),
        (&c, &by_c, "home/door_v1", false),
        (&c, &by_b, "home/lamp_v1", false),
        (&b, &by_c, "home/lamp_v1", false),
        (&b, &vec![0xff; 100], "home/lamp_v1", false),
    ] {
        let answer = caller.call_by(&a, procedure, b"ab", ucan, PATIENCE).await;
        match allowed {
            true => assert_eq!(answer, Ok(b"abab".to_vec()), "{procedure}"),
            false => assert_eq!(answer.unwrap_err().code, Code::FORBIDDEN, "{procedure}"),
        }
    }
    said(
        &lines,
        &format!("granted {} macula/mesh/call on {lamp}: by {}", b.key.node_id(), TokenId::of(&to_b)),
    )
    .await;
    said(&lines, &format!("refused {} macula/mesh/call on {lamp}: no token was shown", b.key.node_id()))
        .await;

    // The node hears of it from its own `dht`: at once, also for what is open.
    a.open_topic("home/weather", "macula/mesh/subscribe").await;
    let topic = link(&owner, c.key.node_id(), "macula/mesh/subscribe", &format!("macula:{me}/topic/*"), &[]);
    let mut subscription = Subscription::default();
    let ucan = chain::encode(&[&topic]).unwrap();
    let mut stream = c.open_by(&a, mesh_proto::pubsub::PROTOCOL, "home/weather", &ucan, 10_000).await;
    subscription.begin(&mut stream).await.unwrap();
    a.publish_until_heard("home/weather", &mut subscription, &mut stream).await;
    a.mesh().await.revoked(&Revocation::issue(TokenId::of(&topic), 1, &owner).to_bytes()).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            match subscription.next(&mut stream).await {
                Ok(Some(Heard::Event { .. })) => {}
                other => return other,
            }
        }
    });
    assert!(!matches!(ended.await.expect("it ends"), Ok(Some(_))));

    // What nobody told this node it finds in the mesh, before the chain counts.
    let again = link(&owner, b.key.node_id(), "macula/mesh/call", &lamp, &[]);
    *found.lock().unwrap() = Some(Revocation::issue(TokenId::of(&again), 1, &owner));
    let refused = b.call_by(&a, "home/lamp_v1", b"ab", &chain::encode(&[&again]).unwrap(), PATIENCE).await;
    let refused = refused.unwrap_err();
    assert!(refused.text.contains("was revoked by"), "{refused}");
}

/// What the node delegated to whoever was its owner is worth nothing under another.
#[tokio::test(flavor = "current_thread")]
async fn a_former_owner_is_not_let_in_by_what_the_node_once_said() {
    let (owner, former) = (NodeKey::from_seed(&[52; 32]), NodeKey::from_seed(&[53; 32]));
    let a = Machine::owned(47, &[], Some(&owner)).await;
    let b = Machine::start(48, &[&a]).await;
    let _lamp = a.serve("home/lamp_v1", "macula/mesh/call", Procedure::Double).await;
    let everything = format!("macula:{}/*", a.key.node_id());
    for (through, let_in) in [(&owner, true), (&former, false)] {
        let to_owner = link(&a.key, through.node_id(), "*", &everything, &[]);
        let to_b = link(through, b.key.node_id(), "macula/mesh/call", &everything, &[&to_owner]);
        let shown = chain::encode(&[&to_b, &to_owner]).unwrap();
        let answer = b.call_by(&a, "home/lamp_v1", b"ab", &shown, PATIENCE).await;
        assert_eq!(answer.is_ok(), let_in, "{answer:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_owners_methods_are_delegated_one_by_one() {
    let owner = NodeKey::from_seed(&[51; 32]);
    let a = Machine::owned(44, &[], Some(&owner)).await;
    let b = Machine::start(45, &[&a]).await;
    let _os = a.serve_protocol(control::protocol::OS, "", "macula/os", Procedure::Control).await;
    let node = format!("macula:{}", a.key.node_id());
    let ucan = link(&owner, b.key.node_id(), "macula/os/status", &node, &[]);
    let ucan = chain::encode(&[&ucan]).unwrap();
    let call = async |opened_for: &'static str, method: &'static str| {
        let mut stream = b.open_by(&a, control::protocol::OS, opened_for, &ucan, 10_000).await;
        control::call::<_, _, String>(&mut stream, method, &()).await.map_err(|e| format!("{e:#}"))
    };
    assert_eq!(call("status", "status").await, Ok("did status".to_owned()));
    let refused = call("reboot", "reboot").await.unwrap_err();
    assert!(refused.contains("macula/os/reboot") && refused.contains("does not grant"), "{refused}");
    let refused = call("status", "reboot").await.unwrap_err();
    assert!(refused.contains("opened for `status`, not for `reboot`"), "{refused}");
    let refused = call("", "status").await.unwrap_err();
    assert!(refused.contains("owner alone"), "{refused}");
}
