//! What the SDK's own code gives for known inputs. `vectors/*.json` say how they were made.

mod common;

use common::*;
use mesh_macula::*;
use os_content_id::{ManifestBuilder, Mcid};
use os_identity::NodeKey;

/// The value that a label of `cbor_encode.json` names, where one sentence can say it.
fn labelled(label: &str) -> Option<Value> {
    let (kind, rest) = label.split_once(' ')?;
    match kind {
        "int" => Some(Value::Int(Int::try_from(rest.parse::<i128>().ok()?).ok()?)),
        "float" => Some(Value::Float(rest.parse().ok()?)),
        "text" => Some(Value::Text(if rest == "utf8 u+00fc" { "ü" } else { rest }.into())),
        "bytes" if rest == "empty" => Some(Value::Bytes(vec![])),
        "bytes" if rest == "01020304" => Some(Value::Bytes(vec![1, 2, 3, 4])),
        _ => None,
    }
}

#[test]
fn values_are_encoded_as_the_sdk_encodes_them() {
    let cbor = vectors(include_str!("vectors/cbor_encode.json"));
    let mut named = 0;
    for case in each(&cbor["cases"]) {
        let (label, bytes) = (case["label"].as_str().unwrap(), unhex(&case["cbor"]));
        let value = decode(&bytes).unwrap_or_else(|e| panic!("{label}: {e}"));
        assert_eq!(value.encode(), bytes, "{label}");
        if let Some(expected) = labelled(label) {
            assert_eq!(value, expected, "{label}");
            named += 1;
        }
    }
    assert!(named > 15, "only {named} labels were understood");
}

#[test]
fn keys_are_sorted_by_their_encoded_form() {
    let int = |n: i64| Value::Int(n.into());
    let text = |t: &str| Value::Text(t.into());
    let mixed = Value::Map(vec![
        (text("b"), int(5)),
        (Value::Bytes(vec![0x7a]), int(3)),
        (text("z"), int(4)),
        (int(100), int(2)),
        (int(10), int(1)),
    ]);
    assert_eq!(decode(&mixed.encode()).unwrap().encode(), mixed.encode());
    let Value::Map(pairs) = decode(&mixed.encode()).unwrap() else { panic!("a map") };
    let order: Vec<_> = pairs.into_iter().map(|(key, _)| key).collect();
    assert_eq!(order, [int(10), int(100), Value::Bytes(vec![0x7a]), text("b"), text("z")]);
}

/// The SDK's decoder takes some of these. We take none: no honest sender makes them.
#[test]
fn what_only_a_lenient_decoder_takes_is_refused() {
    let cbor = vectors(include_str!("vectors/cbor_encode.json"));
    for case in each(&cbor["decoder_leniency"]) {
        assert!(decode(&unhex(&case["cbor"])).is_err(), "{case}");
    }
}

#[test]
fn keys_sign_and_puzzle_as_known() {
    let identity = vectors(include_str!("vectors/identity.json"));
    for case in each(&identity["keys"]) {
        let key = NodeKey::from_seed(&array(&case["seed"]));
        assert_eq!(key.node_id().to_vec(), unhex(&case["node_id"]));
        assert_eq!(puzzle_evidence(&key.node_id()).to_vec(), unhex(&case["puzzle_evidence"]));
        assert_eq!(puzzle_solved(&key.node_id()), case["puzzle_ok_8bits"].as_bool().unwrap());
        assert_eq!(key.sign_raw(&unhex(&case["msg"])).to_vec(), unhex(&case["sig"]));
    }
}

#[test]
fn every_frame_has_the_signature_that_the_sdk_gives_it() {
    let known = vectors(include_str!("vectors/frames.json"));
    let key = known_key();
    for (name, frame) in known_frames() {
        let bytes = frame.sign(&header(), &key);
        assert_eq!(Some(bytes.len() as u64), known["frames"][name]["length"].as_u64(), "{name}");
        let received = Received::decode(&bytes[4..]).unwrap();
        assert_eq!(received.frame, frame, "{name}");
        assert!(received.verify(&key.node_id()).is_ok(), "{name}");
        let Some(Value::Bytes(signature)) = decode(&bytes[4..]).unwrap().get("signature").cloned() else {
            panic!("{name} is not signed")
        };
        assert_eq!(signature, unhex(&known["frames"][name]["signature"]), "{name}");
    }
}

#[test]
fn a_publisher_signs_what_it_said_and_not_how_it_travels() {
    let known = vectors(include_str!("vectors/frames.json"));
    let (key, message) = (known_key(), known_message());
    let signature = sign_message(&message, &key);
    assert_eq!(signature.to_vec(), unhex(&known["frames"]["publisher_sig"]["signature"]));
    assert!(verify_message(&message, &signature).is_ok());
    let other = Message { seq: 43, ..message.clone() };
    assert!(verify_message(&other, &signature).is_err());
    let publish =
        Publish { message, published_at_ms: SENT_AT_MS, ttl_ms: Some(5), publisher_sig: Some(signature) };
    let bytes = Frame::Publish(publish.clone()).sign(&header(), &key);
    let received = Received::decode(&bytes[4..]).unwrap();
    assert_eq!(received.frame, Frame::Publish(publish));
    assert!(received.verify(&key.node_id()).is_ok());
}

#[test]
fn records_have_the_signature_that_a_client_gives_them() {
    let known = vectors(include_str!("vectors/records.json"));
    let key = known_key();
    for case in each(&known["records"]) {
        let record = Record {
            record_type: case["type"].as_u64().unwrap() as u8,
            key: key.node_id(),
            version: [0x11; 16],
            created_at_ms: SENT_AT_MS,
            expires_at_ms: SENT_AT_MS + DEFAULT_TTL_MS,
            payload: decode(&unhex(&case["payload"])).unwrap(),
            subject: None,
            signature: array(&case["signature"]),
        };
        assert_eq!(record.verify(SENT_AT_MS), Ok(()));
        assert_eq!(record.clone().sign(&key), record);
        assert_eq!(record.dht_key().unwrap().to_vec(), unhex(&case["dht_key"]));
    }
}

#[test]
fn error_codes_have_their_names() {
    let misc = vectors(include_str!("vectors/misc.json"));
    let known: Vec<_> = each(&misc["bolt4"])
        .map(|c| (c["code"].as_u64().unwrap() as u8, c["name"].as_str().unwrap().to_string()))
        .collect();
    let ours: Vec<_> = ErrorCode::ALL.iter().map(|c| (*c as u8, c.name().to_string())).collect();
    assert_eq!(ours, known);
    assert_eq!(ErrorCode::of(0x10), Some(ErrorCode::Unauthorized));
    assert_eq!(ErrorCode::of(0x11), None);
}

#[test]
fn keys_of_the_dht_and_realm_ids_are_as_known() {
    let misc = vectors(include_str!("vectors/misc.json"));
    for case in each(&misc["realm_ids"]) {
        assert_eq!(realm_id(case["name"].as_str().unwrap()).to_vec(), unhex(&case["id"]));
    }
    for case in each(&misc["procedure_key"]) {
        assert_eq!(procedure_key(case["uri"].as_str().unwrap()).to_vec(), unhex(&case["key"]));
    }
    let content = &misc["content_key"];
    assert_eq!(content_key(&array(&content["mcid"])).to_vec(), unhex(&content["key"]));
    let endpoint = &misc["station_endpoint_key"];
    let station = os_identity::NodeId::from_bytes(array(&endpoint["pub"]));
    assert_eq!(station_endpoint_key(&station).to_vec(), unhex(&endpoint["key"]));
}

#[test]
fn content_has_the_ids_of_the_sdk_in_the_form_that_calls_carry() {
    let content = vectors(include_str!("vectors/content.json"));
    let pattern = |len: u64| (0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>();
    for case in each(&content["blake3"]) {
        let bytes = pattern(case["len"].as_u64().unwrap());
        assert_eq!(Mcid::of_raw(&bytes).to_bytes().to_vec(), unhex(&case["mcid_raw"]));
    }
    for case in each(&content["manifests"]) {
        let chunk_size = case["chunk_size"].as_u64().unwrap() as u32;
        let mut builder = ManifestBuilder::with_chunk_size(case["name"].as_str().unwrap(), chunk_size);
        builder.update(&pattern(case["len"].as_u64().unwrap()));
        let list = builder.finish().unwrap();
        let wire = manifest::to_wire(&list).unwrap();
        assert_eq!(wire.get("mcid"), Some(&Value::Bytes(unhex(&case["mcid"]))));
        assert_eq!(wire.get("root_hash"), Some(&Value::Bytes(unhex(&case["root_hash"]))));
        let Some(Value::List(chunks)) = wire.get("chunks") else { panic!("chunks") };
        let hashes: Vec<_> = chunks.iter().map(|c| c.get("hash").cloned().unwrap()).collect();
        let known: Vec<_> = each(&case["chunk_hashes"]).map(|h| Value::Bytes(unhex(h))).collect();
        assert_eq!(hashes, known);
        assert_eq!(manifest::from_wire(wire), Ok(list));
    }
}
