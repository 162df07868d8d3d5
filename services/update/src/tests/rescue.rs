//! Slots that were left, and the rescue system that follows.

use super::*;
use crate::records::{Installed, SeedFiles};

fn evidence(seq: u32, stage: &str, boot_id: &str) -> Evidence {
    Evidence {
        boot_id: boot_id.into(),
        seq,
        slot: slot_of_seq(seq),
        stage: stage.into(),
        reason: "why".into(),
        log_tail: vec!["last".into()],
        at_unix: 1,
        settled: false,
    }
}

/// A release that was committed and then panicked in every boot is not only marked: a channel must not bring it back.
#[tokio::test(flavor = "current_thread")]
async fn rule_3_a_committed_release_that_kept_failing_is_remembered_once_the_fallback_has_proved_itself() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let (updater, published) = world.on_trial().await;
    settled(&updater).await;
    assert_eq!(world.entries(), ["macula-000002.efi", "macula-000001.efi"]);

    let twice = || vec![evidence(2, "panic", "a"), evidence(2, "panic", "b")];
    settled(&world.boot("macula-000001.efi", twice())).await;
    assert_eq!(world.entries()[0], "macula-000002.efi", "chosen by hand, and not left yet");

    let thrice = [twice(), vec![evidence(2, "watchdog", "c")]].concat();
    let updater = world.boot("macula-000001.efi", thrice);
    settled(&updater).await;
    assert_eq!(world.entries(), ["macula-000001.efi", "macula-000002+0-3.efi"]);
    assert!(has_event(&updater, "fell-back", "slot B (macula-000002.efi) was left: watchdog: why"));
    let failed = updater.records.failed();
    assert_eq!(failed.find(&published.statement.to_string()).unwrap().reason, "watchdog: why");
    let refusal = format!("{:#}", updater.install(published.bundle, false).await.unwrap_err());
    assert!(refusal.contains("failed here before (watchdog: why)"), "{refusal}");
}

/// The release that a slot was installed from may come back in rescue although everything about it has expired since; only
/// there, and only that one.
#[tokio::test(flavor = "current_thread")]
async fn rescue_believes_what_ran_here_however_old_it_is() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    let statement = world.publish(|r| (r.created_unix, r.expires_unix) = (1, 2)).statement;
    let expired = world.signed_anew(-5);
    let bundle = world.put(expired.clone());
    let refusal = async |rescue| {
        let updater = world.updater("macula-000002.efi", rescue, vec![]);
        updater.accept(bundle, true).await.err().map(|e| format!("{e:#}")).unwrap_or_default()
    };
    let rescue = Some("by hand");
    assert!(refusal(rescue).await.contains("timestamp expired"), "nothing was installed here");

    let records = &world.updater("macula-000002.efi", None, vec![]).records;
    let ran = |release: Mcid, bundle: &[u8]| {
        let (version, release) = ("0.2.0".into(), release.to_string());
        let installed = Installed { seq: 2, version, release, at_unix: 0 };
        let files = SeedFiles { release: bundle.to_vec(), root_manifest: vec![], uki_manifest: vec![] };
        records.set_installed(Slot::B, &installed, &files).unwrap();
    };
    // Installed from other metadata; then from this, but another release of it.
    ran(statement, b"another bundle");
    assert!(refusal(rescue).await.contains("timestamp expired"));
    ran(Mcid::of_raw(b"another release"), &expired);
    assert!(refusal(rescue).await.contains("timestamp expired"));

    ran(statement, &expired);
    assert_eq!(refusal(rescue).await, "");
    assert!(refusal(None).await.contains("timestamp expired"), "in a slot it is too old");
    assert_eq!(records.intent().unwrap().release, bundle.to_string());
}

/// A release that was left may have brought a newer rescue system along than what is committed now.
#[tokio::test(flavor = "current_thread")]
async fn rescue_may_install_the_version_that_the_disk_was_flashed_with() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    let lowest = || world.updater("macula-000001.efi", Some("by hand"), vec![]).node.version.to_string();
    assert_eq!(lowest(), "0.2.0", "all that is known is the rescue system's own");
    let flashed = world.dir.path().join("state/flashed.json");
    settled(&world.boot("macula-000001.efi", vec![])).await;
    renewal::until("noted", || flashed.exists()).await;
    assert_eq!(lowest(), "0.1.0");
    let written = std::fs::metadata(&flashed).unwrap().modified().unwrap();
    settled(&world.boot("macula-000001.efi", vec![])).await;
    renewal::a_while().await;
    assert_eq!(std::fs::metadata(&flashed).unwrap().modified().unwrap(), written, "once");
}
