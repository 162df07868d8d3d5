//! The service against stand-ins for its neighbours on real D-Bus sockets, with files as devices: from the owner's order
//! over the armed entry to commit, failure and fallback.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use os_bootloader::Bootloader;
use os_config::{Check, CheckWhat};
use os_content_id::{CHUNK_SIZE, Mcid};
use os_identity::NodeKey;
use os_release::Version;
use os_release::author::keyring;
use os_slots::{Evidence, Slot, slot_of_seq};
use services_api::control;
use services_api::mesh::Incoming;
use services_api::report::{ConfigParams, LogsPage, LogsSince};

use crate::node::now_unix;
use crate::updater::Updater;

mod adoption;
mod neighbours;
mod renewal;
mod rescue;
mod world;

use world::{BOARD, publish_in, repository_of, root};
pub(crate) use world::{TURN, World, settled};

fn has_event(updater: &Updater, kind: &str, part: &str) -> bool {
    updater.records.events().iter().any(|e| e.kind == kind && e.text.contains(part))
}

/// What an owner's call over the mesh is answered with.
async fn call<P: serde::Serialize, T: serde::de::DeserializeOwned>(
    updater: &Arc<Updater>,
    method: &str,
    params: &P,
) -> anyhow::Result<T> {
    let (mut here, stream) = tokio::net::UnixStream::pair().unwrap();
    let peer = NodeKey::from_seed(&[neighbours::OWNER; 32]).node_id();
    let incoming = Incoming {
        peer,
        protocol: control::protocol::OS.into(),
        resource: String::new(),
        deadline: None,
        stream,
    };
    tokio::spawn(crate::owner::serve_stream(updater.clone(), incoming));
    control::call(&mut here, method, params).await
}

#[tokio::test(flavor = "current_thread")]
async fn the_owner_follows_the_log_and_is_on_record_for_secrets() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    let updater = world.updater("macula-000001.efi", None, vec![]);
    let asked = LogsSince { unit: "mesh".into(), run: "one".into(), after: 7, max_lines: 50, wait_ms: 3 };
    let page: LogsPage = call(&updater, "logs_since", &asked).await.unwrap();
    assert_eq!((page.run.as_str(), page.last, page.lost), ("one", 9, true));
    let line = &page.lines[0];
    assert_eq!((line.unit.as_str(), line.seq, line.text.as_str()), ("mesh", 9, "one 7 50 3"));

    let wifi = "[network]\nwifi = [{ ssid = \"attic\", passphrase = \"hunter2 hunter2\" }]\n";
    updater.node.configuration.set_text(wifi);
    let key = ConfigParams { key: None };
    let shown: String = call(&updater, "config", &key).await.unwrap();
    assert!(shown.contains("attic") && !shown.contains("hunter2"), "{shown}");
    assert!(!has_event(&updater, "config-secrets", ""));
    assert_eq!(call::<_, String>(&updater, "config_secrets", &key).await.unwrap(), wifi);
    assert!(has_event(&updater, "config-secrets", "told to"));
}

#[tokio::test(flavor = "current_thread")]
async fn an_update_is_installed_tried_committed_and_offered() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let (updater, published) = world.on_trial().await;
    let (wanted, ..) = root(2);
    let mut written = vec![0; wanted.len()];
    File::open(world.device("inactive-root")).unwrap().read_exact(&mut written).unwrap();
    assert!(written == wanted);
    assert!(has_event(&updater, "installed", "from did:key:neighbour"), "{:?}", updater.records.events());
    // The third of the root's four chunks is in the running slot.
    let changed = wanted.len() as u64 - u64::from(CHUNK_SIZE);
    assert_eq!(world.shelf.lock().unwrap().fetched, changed + 600_000);

    settled(&updater).await;
    assert_eq!(world.entries(), ["macula-000002.efi", "macula-000001.efi"]);
    assert!(updater.records.trial().is_none() && has_event(&updater, "committed", "0.2.0 in slot B"));
    let status = updater.status().await;
    assert_eq!(
        (status.release, status.trial, status.slot.as_str()),
        (published.statement.to_string(), None, "B")
    );
    for _ in 0..100 {
        if !world.shelf.lock().unwrap().offered.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(world.shelf.lock().unwrap().offered[0].ends_with("dev/content/root-b"));

    updater.rollback().await.unwrap();
    assert_eq!(world.next_reboot().await, "rollback by order");
    assert_eq!(world.entries(), ["macula-000001.efi", "macula-000002+0-3.efi"]);
    assert!(updater.records.failed().find(&published.statement.to_string()).is_some());
}

#[tokio::test(flavor = "current_thread")]
async fn a_release_whose_mesh_never_comes_up_is_left_and_not_tried_again() {
    let _turn = TURN.lock().await;
    let mut world = World::new("starting");
    let (updater, published) = world.on_trial().await;
    assert!(world.next_reboot().await.contains("mesh (starting)"));
    assert_eq!(world.entries(), ["macula-000001.efi", "macula-000002+0-1.efi"]);
    drop(updater);

    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let status = updater.status().await;
    assert_eq!(status.failed_releases.len(), 1);
    assert!(status.failed_releases[0].reason.contains("mesh"), "{status:?}");
    assert!(status.failed_releases[0].log_tail.iter().any(|l| l.contains("cannot bind")));
    // Signed anew it is still the release that failed.
    let again = {
        let mut repository = world.repository.lock().unwrap();
        repository.refresh(&world.key, 1000, now_unix()).unwrap();
        repository.sign(&world.key, now_unix()).unwrap();
        world.put(repository.bundle().unwrap().encode().unwrap())
    };
    assert!(again != published.bundle);
    let refusal = updater.install(again, false).await.unwrap_err().to_string();
    assert!(refusal.contains("failed here before"), "{refusal}");
    updater.install(again, true).await.unwrap();
    assert_eq!(world.next_reboot().await, "trial of 0.2.0");
    assert_eq!(world.entries(), ["macula-000004+3.efi", "macula-000001.efi"]);
}

#[tokio::test(flavor = "current_thread")]
async fn refusals_say_which_and_write_no_switch() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let before = std::fs::read(world.device("esp")).unwrap();
    let first = world.publish(|r| r.board = "rpi5".into()).bundle;
    let stranger = NodeKey::from_seed(&[66; 32]);
    let (forged, _) = publish_in(&mut repository_of(&stranger), &world.release(|_| {}), &stranger);
    let cases = [
        (first, "wrong board: the release is for rpi5"),
        (world.put(forged), "not enough signatures"),
        (world.publish(|r| r.version = Version::new(0, 0, 9)).bundle, "older version"),
        (world.publish(|r| r.expires_unix = 2).bundle, "release expired"),
        (world.put(world.signed_anew(-5)), "timestamp expired"),
        (first, "rolled back: timestamp version 1 is offered, version 3 has been seen"),
        (world.put(world.mixed()), "mixed up: snapshot"),
        (world.put(world.cut_off()), "truncated"),
        (Mcid::of_raw(b"nobody has this"), "cannot be fetched"),
    ];
    for (mcid, words) in cases {
        let error = format!("{:#}", updater.install(mcid, false).await.unwrap_err());
        assert!(error.contains(words), "{error}");
        assert!(has_event(&updater, "refused", words));
    }
    assert!(std::fs::read(world.device("esp")).unwrap() == before);
    assert!(updater.records.intent().is_none());
    assert!(std::fs::read(world.device("inactive-root")).unwrap().iter().all(|b| *b == 0));
}

#[tokio::test(flavor = "current_thread")]
async fn an_interrupted_install_goes_on_with_what_it_has() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let mcid = world.publish(|_| {}).bundle;
    // The stream ends after the UKI and one chunk of the root; the intent is what a power cut would leave.
    world.shelf.lock().unwrap().chunks_left = 4;
    updater.install(mcid, false).await.unwrap();
    let fetched = 600_000 + u64::from(CHUNK_SIZE);
    for _ in 0..200 {
        if world.shelf.lock().unwrap().fetched == fetched {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let intent = updater.records.intent().unwrap();
    assert_eq!(intent.release, mcid.to_string());
    assert_eq!(world.entries(), ["macula-000001.efi"]);

    world.shelf.lock().unwrap().chunks_left = usize::MAX;
    assert_eq!(world.next_reboot().await, "trial of 0.2.0");
    let rest = root(2).0.len() as u64 - 2 * u64::from(CHUNK_SIZE);
    assert_eq!(world.shelf.lock().unwrap().fetched, fetched + rest);
    assert!(updater.records.intent().is_none());
}

#[tokio::test(flavor = "current_thread")]
async fn rule_5_power_cuts_around_the_switch_are_finished() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let mcid = world.publish(|_| {}).bundle;
    updater.install(mcid, false).await.unwrap();
    world.next_reboot().await;

    // Armed, but the boot loader was not reached.
    world.boot("macula-000001.efi", vec![]);
    assert_eq!(world.next_reboot().await, "trial of 0.2.0");
    // Recorded, but not armed: as if the switch had not been written.
    world.esp().remove("macula-000002+3.efi".parse().unwrap()).unwrap();
    let fetched = world.shelf.lock().unwrap().fetched;
    world.boot("macula-000001.efi", vec![]);
    assert_eq!(world.next_reboot().await, "trial of 0.2.0");
    assert_eq!(world.entries(), ["macula-000004+3.efi", "macula-000001.efi"]);
    // The root is all there, and so is the copy of the UKI.
    assert_eq!(world.shelf.lock().unwrap().fetched, fetched);
}

#[tokio::test(flavor = "current_thread")]
async fn a_corrupt_committed_slot_is_marked_once_the_fallback_has_proved_itself() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    world.esp().stage(2, 3, &mut &b"new"[..]).unwrap();
    let armed = world.esp().arm(2).unwrap();
    world.esp().commit(armed).unwrap();
    let evidence = Evidence {
        boot_id: "earlier".into(),
        seq: 2,
        slot: slot_of_seq(2),
        stage: "verity".into(),
        reason: "data block 9 is corrupted".into(),
        log_tail: vec![],
        at_unix: 1,
        settled: false,
    };
    assert_eq!(evidence.slot, Slot::B);
    let updater = world.boot("macula-000001.efi", vec![evidence]);
    settled(&updater).await;
    assert_eq!(world.entries(), ["macula-000001.efi", "macula-000002+0-3.efi"]);
    assert!(has_event(&updater, "corruption", "data block 9 is corrupted"));
}

/// Keys are replaced without a word in the configuration; other keys in the configuration begin anew.
#[tokio::test(flavor = "current_thread")]
async fn trust_follows_the_signers_roots_and_survives_restarts() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let older = world.publish(|r| r.version = Version::new(0, 0, 9)).bundle;
    assert!(updater.install(older, false).await.is_err(), "believed, but older");
    let successor = NodeKey::from_seed(&[2; 32]);
    {
        let mut repository = world.repository.lock().unwrap();
        repository.next_root(&keyring(&[successor.node_id()], 1), now_unix()).unwrap();
        repository.sign(&world.key, now_unix()).unwrap();
    }
    let (bytes, _) = publish_in(
        &mut world.repository.lock().unwrap(),
        &world.release(|r| r.board = "rpi5".into()),
        &successor,
    );
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let newer = world.put(bytes);
    updater.follow(newer).await.unwrap();
    assert_eq!(updater.records.trust().root_version(), Some(2), "nothing needs to be installed for that");
    assert!(has_event(&updater, "root-keys", "from version 1 to 2"));
    let refusal = format!("{:#}", updater.install(newer, false).await.unwrap_err());
    assert!(refusal.contains("wrong board"), "the successor is believed: {refusal}");
    assert_eq!(updater.records.trust().root_version(), Some(2));
    assert!(updater.clock.floor() + 5 > now_unix(), "what was signed is a floor for the clock");

    // Another owner.
    world.key = NodeKey::from_seed(&[3; 32]);
    *world.repository.lock().unwrap() = repository_of(&world.key);
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let other = world.publish(|r| r.version = Version::new(0, 0, 9)).bundle;
    assert!(format!("{:#}", updater.install(other, false).await.unwrap_err()).contains("older version"));
    assert!(has_event(&updater, "trust-reset", "other release keys"));
}

fn check(name: &str, what: CheckWhat) -> Check {
    Check { name: name.into(), what, timeout_s: 1 }
}

#[tokio::test(flavor = "current_thread")]
async fn a_trial_commits_when_the_owners_checks_pass() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    world.checks = vec![
        check("self-test", CheckWhat::Exec(vec!["/usr/bin/app".into()])),
        check("web", CheckWhat::Http("http://127.0.0.1/200".into())),
    ];
    let (updater, _) = world.on_trial().await;
    settled(&updater).await;
    assert_eq!(world.entries(), ["macula-000002.efi", "macula-000001.efi"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_trial_whose_check_fails_is_left_with_the_checks_own_words() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    world.time_left_s = 3;
    world.checks = vec![check("web", CheckWhat::Http("http://127.0.0.1/503".into()))];
    let (updater, published) = world.on_trial().await;
    let reason = world.next_reboot().await;
    assert!(reason.contains("check web did not pass") && reason.contains("not well"), "{reason}");
    assert!(updater.records.failed().find(&published.statement.to_string()).is_some());
    assert!(has_event(&updater, "rolled-back", "check web"));
}

#[tokio::test(flavor = "current_thread")]
async fn bad_ends_of_boots_are_told_once_with_their_last_lines() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    let evidence = |boot_id: &str, stage: &str| Evidence {
        boot_id: boot_id.into(),
        seq: 1,
        slot: slot_of_seq(1),
        stage: stage.into(),
        reason: "why".into(),
        log_tail: (0..100).map(|n| format!("line {n}")).collect(),
        at_unix: 1,
        settled: false,
    };
    let told = world.dir.path().join("state/told.json");
    settled(&world.boot("macula-000001.efi", vec![])).await;
    assert!(!told.exists(), "nothing new, nothing written");
    for _ in 0..2 {
        let bad = vec![evidence("a", "panic"), evidence("b", "watchdog")];
        let updater = world.boot("macula-000001.efi", bad);
        settled(&updater).await;
        let events = updater.records.events();
        let texts: Vec<&str> = events.iter().map(|e| e.text.as_str()).collect();
        assert_eq!(texts, ["install 1 in slot A, panic: why", "install 1 in slot A, watchdog: why"]);
        assert_eq!(events[0].log_tail.len(), os_slots::LOG_TAIL_MAX);
        assert_eq!(events[0].log_tail.last().unwrap(), "line 99");
    }
    assert!(told.exists());
}
