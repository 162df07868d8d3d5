//! The rescue system that a release brings along.

use std::io::Write;

use super::*;
use crate::records::RescueSystem;

fn rescue_system(words: &str, bytes: usize) -> Vec<u8> {
    let mut uki = crate::uki::tests::with_cmdline(&format!("{words} macula.board={BOARD}"));
    uki.resize(bytes, 0x7e);
    uki
}

impl World {
    fn rescue_on_disk(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.esp().read_rescue(&mut bytes).unwrap();
        bytes
    }

    fn fetched(&self) -> u64 {
        self.shelf.lock().unwrap().fetched
    }
}

pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

/// Long enough for what must not happen.
pub async fn a_while() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_committed_release_renews_the_rescue_system_once() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let new = rescue_system("macula.rescue macula.version=0.2.0", 700_000);
    world.rescue = Some(new.clone());
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    assert_eq!(updater.status().await.rescue_version, "", "as flashed");
    let (updater, _) = world.on_trial().await;
    assert_eq!(world.rescue_on_disk(), b"old rescue", "nothing has proved itself yet");
    settled(&updater).await;
    until("renewed", || has_event(&updater, "rescue-renewed", "0.2.0")).await;
    assert!(world.rescue_on_disk() == new);
    until("offered", || world.shelf.lock().unwrap().offered.iter().any(|name| name == "rescue")).await;
    settled(&updater).await;
    let status = updater.status().await;
    assert_eq!((status.rescue_version.as_str(), status.trial), ("0.2.0", None));
    assert_eq!(world.entries(), ["macula-000002.efi", "macula-000001.efi"]);

    // Rule 1: no later boot writes anything there, nor fetches.
    let (esp, fetched) = (std::fs::read(world.device("esp")).unwrap(), world.fetched());
    settled(&world.boot("macula-000002.efi", vec![])).await;
    a_while().await;
    assert!(std::fs::read(world.device("esp")).unwrap() == esp && world.fetched() == fetched);

    // The power went between the switch and the record.
    updater.records.set_rescue(&RescueSystem::default()).unwrap();
    let updater = world.boot("macula-000002.efi", vec![]);
    until("recorded", || updater.records.rescue().version.as_deref() == Some("0.2.0")).await;
    assert!(std::fs::read(world.device("esp")).unwrap() == esp && world.fetched() == fetched);

    // After a rollback the newer rescue system stays.
    settled(&world.boot("macula-000001.efi", vec![])).await;
    a_while().await;
    assert!(std::fs::read(world.device("esp")).unwrap() == esp);
}

#[tokio::test(flavor = "current_thread")]
async fn a_rescue_system_that_is_none_is_not_taken_and_said_so_once() {
    let _turn = TURN.lock().await;
    for (words, why) in [
        ("macula.version=0.2.0", "does not say macula.rescue"),
        ("macula.rescue macula.version=0.1.0", "the UKI is 0.1.0"),
    ] {
        let mut world = World::new("ready");
        world.rescue = Some(rescue_system(words, 300_000));
        let (updater, published) = world.on_trial().await;
        until("refused", || has_event(&updater, "rescue-kept", why)).await;
        until("remembered", || updater.records.rescue().unfit.is_some()).await;
        assert_eq!(world.rescue_on_disk(), b"old rescue");
        let events = updater.records.events().len();
        let fetched = world.fetched();
        let updater = world.boot("macula-000002.efi", vec![]);
        settled(&updater).await;
        a_while().await;
        assert_eq!((updater.records.events().len(), world.fetched()), (events, fetched));
        assert_eq!(updater.status().await.release, published.statement.to_string(), "the release runs on");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn without_room_on_the_esp_the_old_rescue_system_stays() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    world.rescue = Some(rescue_system("macula.rescue macula.version=0.2.0", 3 << 20));
    let file = File::options().read(true).write(true).open(world.device("esp")).unwrap();
    let fs = fatfs::FileSystem::new(file, fatfs::FsOptions::new()).unwrap();
    let mut filler = fs.root_dir().create_file("filler").unwrap();
    filler.write_all(&vec![1; 33 << 20]).unwrap();
    filler.flush().unwrap();
    drop(filler);
    fs.unmount().unwrap();
    let (updater, _) = world.on_trial().await;
    until("said", || has_event(&updater, "rescue-kept", "no room on the boot partition")).await;
    assert_eq!(world.rescue_on_disk(), b"old rescue");
    settled(&updater).await;
    assert_eq!(world.entries(), ["macula-000002.efi", "macula-000001.efi"]);
}
