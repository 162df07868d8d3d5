//! A node gets an owner, and loses one: one write of the configuration each.

use std::time::Duration;

use os_identity::NodeKey;
use services_api::pairing::Adoption;
use services_api::report::ConfigChange;

use super::world::{TURN, World};
use crate::configuration::{adopt, forget_owner_if_asked};
use crate::pair_file;

const ENTRY: &str = "macula-000001.efi";

fn did(seed: u8) -> String {
    NodeKey::from_seed(&[seed; 32]).node_id().to_string()
}

fn adoption(changes: &[(&str, String)]) -> Adoption {
    let change = |(key, value): &(&str, String)| ConfigChange {
        key: (*key).into(),
        value: Some(value.clone()),
        ..ConfigChange::default()
    };
    Adoption { who: "somebody is the owner".into(), changes: changes.iter().map(change).collect() }
}

#[tokio::test(flavor = "current_thread")]
async fn a_node_gets_its_owner_in_one_write() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    world.config_text = Some("# mine\nname = \"a\"\n".into());
    let updater = world.updater(ENTRY, None, Vec::new());
    let owner = ("owner", format!("\"{}\"", did(9)));

    let refused =
        adopt(&updater, &adoption(&[owner.clone(), ("mesh.port", "5000".into())])).await.unwrap_err();
    assert!(refused.to_string().contains("`mesh.port` is not for pairing"), "{refused}");
    let refused =
        adopt(&updater, &adoption(&[owner.clone(), ("name", "\"Kitchen Pi\"".into())])).await.unwrap_err();
    assert!(format!("{refused:#}").contains("name"), "{refused:#}");
    assert_eq!((world.written().0, updater.node.config().owner), (None, None), "all or nothing");

    let realm = ("realm", "\"acme\"".to_string());
    adopt(&updater, &adoption(&[owner.clone(), realm.clone()])).await.unwrap();
    let text = world.written().0.unwrap();
    assert!(text.starts_with("# mine") && text.contains(&did(9)) && text.contains("acme"), "{text}");
    assert_eq!(updater.node.config().owner.unwrap().to_string(), did(9));
    assert!(updater.records.events().iter().any(|e| e.kind == "paired" && e.text.contains("owner, realm")));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let restarts = world.written().1;
    assert!(
        restarts.contains("mesh") && !restarts.contains("pairing"),
        "its answer is not out yet: {restarts}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_node_forgets_its_owner_once_in_a_boot() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let owned = format!(
        "name = \"a\"\nowner = \"{}\"\n[gateway]\npublic = [\"content/*\"]\n[update]\nrelease_keys = [\"{}\"]\n",
        did(8),
        did(8)
    );
    world.config_text = Some(owned.clone());
    let updater = world.updater(ENTRY, None, Vec::new());
    forget_owner_if_asked(&updater).await.unwrap();
    assert_eq!(world.written().0, None, "nobody has asked");

    world.forget_owner = true;
    let updater = world.updater(ENTRY, None, Vec::new());
    forget_owner_if_asked(&updater).await.unwrap();
    let config = updater.node.config();
    assert_eq!((config.owner, config.update.release_keys.len(), config.gateway.public.len()), (None, 0, 0));
    assert_eq!(config.name, "a");
    let text = world.written().0.unwrap();
    assert!(!text.contains(&did(8)), "{text}");

    // The same boot, another owner, and this service starts again.
    world.config_text = Some(owned.clone());
    std::fs::remove_file(world.dir.path().join("config.toml")).unwrap();
    let updater = world.updater(ENTRY, None, Vec::new());
    forget_owner_if_asked(&updater).await.unwrap();
    assert_eq!((world.written().0, updater.node.config().owner.is_some()), (None, true));
}

#[tokio::test(flavor = "current_thread")]
async fn the_file_for_a_node_without_a_screen_comes_and_goes() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    let updater = world.updater(ENTRY, None, Vec::new());
    let read = || {
        use os_bootloader::Bootloader;
        world.esp().read_file("macula-pair.txt", 4096).unwrap()
    };
    pair_file::put(&updater, String::new()).await.unwrap();
    assert_eq!(read(), None);
    for text in ["one", "one", "two"] {
        pair_file::put(&updater, text.into()).await.unwrap();
        assert_eq!(read().as_deref(), Some(text.as_bytes()));
    }
    let mut written = 0;
    for n in 0..50 {
        written += u32::from(pair_file::put(&updater, n.to_string()).await.is_ok());
    }
    assert!((1..10).contains(&written), "{written} writes");
    assert!(pair_file::put(&updater, "x".repeat(5000)).await.is_err());
    pair_file::put(&updater, String::new()).await.unwrap();
    assert_eq!(read(), None, "gone, however often it was written");
}
