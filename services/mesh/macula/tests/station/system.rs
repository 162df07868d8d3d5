//! The station's own procedures.

use mesh_macula::*;
use os_content_id::{ChunkList, ManifestBuilder, Mcid};
use os_identity::{NodeId, NodeKey};

use crate::calls::a_call;
use crate::world::*;

fn bytes(bytes: impl AsRef<[u8]>) -> Value {
    Value::Bytes(bytes.as_ref().to_vec())
}

fn ask(world: &mut World, who: Who, procedure: &str, payload: Value) {
    let call = Call { payload, ..a_call(world, who, procedure, 1) };
    world.send(who, Frame::Call(call));
}

fn record(seed: u8) -> Record {
    Record {
        record_type: record_type::PROCEDURE_ADVERTISEMENT,
        key: NodeId::from_bytes([0; 32]),
        version: [1; 16],
        created_at_ms: UNIX_MS,
        expires_at_ms: UNIX_MS + DEFAULT_TTL_MS,
        payload: Value::map([("procedure_uri", text("x"))]),
        subject: None,
        signature: [0; 64],
    }
    .sign(&NodeKey::from_seed(&[seed; 32]))
}

fn list() -> ChunkList {
    let mut builder = ManifestBuilder::new("blob");
    builder.update(&vec![7; 600_000]);
    builder.finish().unwrap()
}

#[test]
fn pings_say_the_time() {
    let mut world = World::new();
    let who = world.join(1);
    for procedure in ["_relay.ping", "_macula.ping"] {
        ask(&mut world, who, procedure, Value::Map(vec![]));
        assert_eq!(world.reply(who), Ok(Value::map([("ts", uint(UNIX_MS * 1000))])));
    }
}

#[test]
fn a_record_is_checked_and_put_under_its_key() {
    let mut world = World::new();
    let who = world.join(1);
    ask(&mut world, who, "_dht.put_record", record(5).to_call());
    let (token, work) = world.work();
    assert_eq!(work, Work::PutRecord { key: procedure_key("x"), record: record(5) });
    assert_eq!(world.take(who), []);
    world.answer(token, Answer::Done);
    assert_eq!(world.reply(who), Ok(text("ok")));
    world.answer(token, Answer::Done);
    assert_eq!(world.take(who), [], "an answer is given once");
}

#[test]
fn records_that_do_not_hold_never_reach_the_dht() {
    let mut world = World::new();
    let who = world.join(1);
    let forged = Record { created_at_ms: 1, ..record(5) };
    let expired = Record { expires_at_ms: UNIX_MS, ..record(5) }.sign(&NodeKey::from_seed(&[5; 32]));
    let nowhere = Record { record_type: 2, ..record(5) }.sign(&NodeKey::from_seed(&[5; 32]));
    let cases = [
        (forged.to_call(), "bad_signature"),
        (expired.to_call(), "bad_signature: record has expired"),
        (nowhere.to_call(), "bad_request"),
        (Value::Null, "bad_request"),
    ];
    for (payload, why) in cases {
        ask(&mut world, who, "_dht.put_record", payload);
        let (code, detail) = world.reply(who).unwrap_err();
        assert_eq!(code, ErrorCode::UnknownError as u8);
        assert!(detail.starts_with(why), "{detail}");
    }
    assert_eq!(world.works, []);
}

#[test]
fn records_are_found_by_key_and_by_type() {
    let mut world = World::new();
    let who = world.join(1);
    let key = Value::map([("key", bytes([9; 32]))]);
    let found = |world: &mut World, procedure, payload: &Value, records: Vec<Record>| {
        ask(world, who, procedure, payload.clone());
        let (token, work) = world.work();
        world.answer(token, Answer::Records(records));
        (work, world.reply(who).unwrap())
    };
    let both = vec![record(5), record(6)];
    let (work, value) = found(&mut world, "_dht.find_record", &key, both.clone());
    assert_eq!((work, value), (Work::FindRecord { key: [9; 32] }, canonical(&record(5).to_call())));
    assert_eq!(found(&mut world, "_dht.find_record", &key, vec![]).1, text("not_found"));
    let (work, value) = found(&mut world, "_dht.find_records", &key, both.clone());
    let all = canonical(&Value::List(vec![record(5).to_call(), record(6).to_call()]));
    assert_eq!((work, value), (Work::FindRecords { key: [9; 32] }, all.clone()));
    let by_type = Value::map([("type", uint(6))]);
    let (work, value) = found(&mut world, "_dht.find_records_by_type", &by_type, both);
    assert_eq!((work, value), (Work::FindRecordsByType { record_type: 6 }, all));
    assert_eq!(found(&mut world, "_dht.find_records", &key, vec![]).1, Value::List(vec![]));
}

#[test]
fn an_answer_of_many_records_is_cut_to_four_mebibytes() {
    let mut world = World::new();
    let who = world.join(1);
    let large = Record { payload: Value::map([("x", bytes(vec![0; 60_000]))]), ..record(5) };
    let large = large.sign(&NodeKey::from_seed(&[5; 32]));
    ask(&mut world, who, "_dht.find_records", Value::map([("key", bytes([9; 32]))]));
    let (token, _) = world.work();
    world.answer(token, Answer::Records(vec![large; 100]));
    assert!(world.clients[who].raw[0].len() <= 4 << 20);
    let Ok(Value::List(found)) = world.reply(who) else { panic!("a list") };
    assert!((65..70).contains(&found.len()), "{}", found.len());
}

#[test]
fn a_block_is_stored_if_it_is_what_its_mcid_says() {
    let mut world = World::new();
    let who = world.join(1);
    let mcid = Mcid::of_raw(b"hello");
    let put = |content: &[u8]| Value::map([("mcid", bytes(mcid.to_bytes())), ("payload", bytes(content))]);
    ask(&mut world, who, "_content.put_block", put(b"hello"));
    let (token, work) = world.work();
    assert_eq!(work, Work::PutBlock { mcid, bytes: b"hello".to_vec() });
    world.answer(token, Answer::Done);
    assert_eq!(world.reply(who), Ok(text("ok")));
    ask(&mut world, who, "_content.put_block", put(b"hullo"));
    assert_eq!(world.reply(who), Ok(text("hash_mismatch")));
    ask(&mut world, who, "_content.put_block", put(&vec![0; 262_145]));
    assert_eq!(world.reply(who).unwrap_err().0, ErrorCode::PayloadTooLarge as u8);
    ask(&mut world, who, "_content.put_block", Value::map([("mcid", bytes(mcid.to_bytes()))]));
    assert!(world.reply(who).unwrap_err().1.starts_with("bad_request"));
    assert_eq!(world.works, []);
}

#[test]
fn a_block_is_fetched_or_not_there() {
    let mut world = World::new();
    let who = world.join(1);
    let mcid = Mcid::of_raw(b"hello");
    for (answer, expected) in [(Some(b"hello".to_vec()), bytes(b"hello")), (None, text("not_found"))] {
        ask(&mut world, who, "_content.get_block", Value::map([("mcid", bytes(mcid.to_bytes()))]));
        let (token, work) = world.work();
        assert_eq!(work, Work::GetBlock(mcid));
        world.answer(token, Answer::Block(answer));
        assert_eq!(world.reply(who), Ok(expected));
    }
    ask(&mut world, who, "_content.get_block", Value::map([("mcid", bytes(list().mcid().to_bytes()))]));
    assert!(world.reply(who).unwrap_err().1.starts_with("bad_request"), "a manifest is no block");
}

#[test]
fn a_manifest_is_stored_if_it_adds_up_and_comes_back_the_same() {
    let mut world = World::new();
    let who = world.join(1);
    let wire = manifest::to_wire(&list()).unwrap();
    ask(&mut world, who, "_content.put_manifest", Value::map([("manifest", wire.clone())]));
    let (token, work) = world.work();
    assert_eq!(work, Work::PutManifest(list()));
    world.answer(token, Answer::Done);
    assert_eq!(world.reply(who), Ok(text("ok")));
    let mcid = || Value::map([("mcid", bytes(list().mcid().to_bytes()))]);
    ask(&mut world, who, "_content.get_manifest", mcid());
    let (token, work) = world.work();
    assert_eq!(work, Work::GetManifest(list().mcid()));
    world.answer(token, Answer::Manifest(Some(list())));
    assert_eq!(world.reply(who), Ok(canonical(&wire)));
    ask(&mut world, who, "_content.get_manifest", mcid());
    let (token, _) = world.work();
    world.answer(token, Answer::Manifest(None));
    assert_eq!(world.reply(who), Ok(text("not_found")));
    let Value::Map(mut pairs) = wire else { panic!("a map") };
    pairs.retain(|(key, _)| *key != text("size"));
    ask(&mut world, who, "_content.put_manifest", Value::map([("manifest", Value::Map(pairs))]));
    assert!(world.reply(who).unwrap_err().1.contains("`size` is missing"));
}

#[test]
fn what_the_node_cannot_do_is_said_in_its_words() {
    let mut world = World::new();
    let who = world.join(1);
    ask(&mut world, who, "_content.get_block", Value::map([("mcid", bytes(Mcid::of_raw(b"").to_bytes()))]));
    let (token, _) = world.work();
    world.answer(token, Answer::Failed("the disk is full".into()));
    assert_eq!(world.reply(who), Err((0x0f, "the disk is full".into())));
}

#[test]
fn work_that_takes_too_long_is_answered_by_an_error_once() {
    let mut world = World::new();
    let who = world.join(1);
    ask(&mut world, who, "_dht.find_record", Value::map([("key", bytes([9; 32]))]));
    let (token, _) = world.work();
    world.advance(10_000);
    assert_eq!(world.reply(who), Err((0x02, "no answer before the deadline".into())));
    world.answer(token, Answer::Records(vec![]));
    assert_eq!(world.take(who), []);
    assert_eq!(world.station.counters().answers_late, 1);
}

#[test]
fn work_for_a_client_that_went_is_forgotten() {
    let mut world = World::new();
    let who = world.join(1);
    ask(&mut world, who, "_dht.find_record", Value::map([("key", bytes([9; 32]))]));
    let (token, _) = world.work();
    world.vanish(who);
    assert_eq!(world.station.next_deadline(), None);
    world.answer(token, Answer::Records(vec![]));
}

#[test]
fn the_node_decides_about_each_kind_of_work() {
    let read_only = |r: &Request<'_>| match r.action {
        Action::PutRecord { record_type: 6, key } if *key == procedure_key("x") => Err("read only".into()),
        Action::PutContent(_) => Err("read only".to_string()),
        _ => Ok(()),
    };
    let mut world = World::with(Config::default(), read_only);
    let who = world.join(1);
    let block = Value::map([("mcid", bytes(Mcid::of_raw(b"x").to_bytes())), ("payload", bytes(b"x"))]);
    let manifest = Value::map([("manifest", manifest::to_wire(&list()).unwrap())]);
    let puts = [
        ("_dht.put_record", record(5).to_call()),
        ("_content.put_block", block.clone()),
        ("_content.put_manifest", manifest),
    ];
    for (procedure, payload) in puts {
        ask(&mut world, who, procedure, payload);
        assert_eq!(world.reply(who), Err((0x10, "read only".into())), "{procedure}");
    }
    ask(&mut world, who, "_content.get_block", block);
    assert!(matches!(world.work().1, Work::GetBlock(_)));
}

#[test]
fn no_client_can_stand_in_for_the_stations_procedures() {
    let mut world = World::new();
    let (liar, caller) = (world.join(1), world.join(2));
    let procedure = "_relay.ping".to_string();
    let advertise = Advertise { realm: SYSTEM_REALM, procedure, advertiser: world.id(liar) };
    world.send(liar, Frame::Advertise(advertise));
    ask(&mut world, caller, "_relay.ping", Value::Null);
    assert!(world.reply(caller).is_ok());
    assert_eq!(world.take(liar), []);
}
