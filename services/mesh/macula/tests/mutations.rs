//! Frames changed at random: the decoder never panics, and what it takes has one form only.

mod common;

use common::*;
use mesh_macula::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const ROUNDS: usize = 60_000;

fn mutate(bytes: &mut Vec<u8>, rng: &mut Xoshiro256PlusPlus) {
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.random()),
            _ => drop(bytes.remove(at)),
        }
    }
}

#[test]
fn no_mutation_breaks_the_decoder_or_has_two_forms() {
    let key = known_key();
    let seeds: Vec<_> = known_frames().iter().map(|(_, f)| f.sign(&header(), &key)[4..].to_vec()).collect();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(0x6d61_6375);
    let (mut values, mut frames, mut believed) = (0, 0, 0);
    for round in 0..ROUNDS {
        let original = &seeds[round % seeds.len()];
        let mut bytes = original.clone();
        mutate(&mut bytes, &mut rng);
        let Ok(value) = decode(&bytes) else { continue };
        assert_eq!(value.encode(), bytes, "round {round}");
        values += 1;
        let Ok(received) = Received::decode(&bytes) else { continue };
        frames += 1;
        // Two mutations can undo each other.
        if received.verify(&key.node_id()).is_ok() {
            assert_eq!(&bytes, original, "round {round}");
            believed += 1;
        }
    }
    assert!(values > ROUNDS / 10 && frames > ROUNDS / 20, "{values} values, {frames} frames of {ROUNDS}");
    assert!(believed < ROUNDS / 100, "{believed}");
}

#[test]
fn mutated_records_and_manifests_are_refused_or_true() {
    let key = known_key();
    let payload = Value::map([("procedure_uri", Value::Text("a.b".into()))]);
    let record = Record {
        record_type: 6,
        key: key.node_id(),
        version: [1; 16],
        created_at_ms: 1,
        expires_at_ms: 2,
        payload,
        subject: None,
        signature: [0; 64],
    };
    let record = record.sign(&key);
    let mut builder = os_content_id::ManifestBuilder::with_chunk_size("m", 8);
    builder.update(&[5; 50]);
    let list = builder.finish().unwrap();
    let (record_bytes, manifest_bytes) = (record.encode(), manifest::to_wire(&list).unwrap().encode());
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
    for _ in 0..ROUNDS / 4 {
        let mut bytes = record_bytes.clone();
        mutate(&mut bytes, &mut rng);
        if let Ok(found) = Record::decode(&bytes).and_then(|r| r.verify(0).map(|()| r)) {
            assert_eq!(found, record);
        }
        let mut bytes = manifest_bytes.clone();
        mutate(&mut bytes, &mut rng);
        if let Some(Ok(found)) = decode(&bytes).ok().map(manifest::from_wire) {
            assert_eq!(found.mcid(), list.mcid());
        }
    }
}
