//! From what a claimant hands over to what the node is: the one place where the two are mapped.

use anyhow::{Context, Result};
use os_config::{Config, edit};
use os_identity::NodeId;
use pairing_proto::setup::{Declined, Network, Role, Wifi};
use pairing_proto::{Answer, HandOver, Paired};
use services_api::pairing::Adoption;
use services_api::report::ConfigChange;

use crate::desk::Desk;
use crate::node::said;

const MAX_SEEDS: usize = 64;
/// A network that was not seen within so many seconds hides its name.
const SEEN_WITHIN_S: u32 = 600;

/// What this node can use of a hand-over beyond owner, name, realm and peers.
pub fn abilities(has_wifi: bool) -> Vec<String> {
    let known = |key: &str, value: &str| edit::set_all("", &[(key, value)]).is_ok();
    let words = [("channel", true), ("time-zone", known("time_zone", "\"UTC\"")), ("wifi", has_wifi)];
    words.into_iter().filter(|(_, can)| *can).map(|(word, _)| word.to_owned()).collect()
}

/// Does it, or nothing.
pub async fn carry_out(
    desk: &Desk,
    claimant: NodeId,
    (role, invitation): (Role, &[u8]),
    wishes: &HandOver,
) -> Answer {
    let done = match role {
        Role::Delegate => delegate(desk, claimant, invitation).await,
        Role::Owner | Role::NewOwner => own(desk, claimant, role, wishes).await,
    };
    done.map(Answer::Paired).unwrap_or_else(|e| {
        tracing::warn!("a hand-over is declined: {e:#}");
        Answer::Declined(Declined { why: format!("{e:#}").chars().take(400).collect() })
    })
}

async fn own(desk: &Desk, claimant: NodeId, role: Role, wishes: &HandOver) -> Result<Paired> {
    let present = desk.node().config.clone().context("config.toml on this node cannot be read")?;
    let networks = match wishes.wifi.is_empty() && wishes.country.is_none() {
        true => None,
        false => desk.links.networks(SEEN_WITHIN_S).await,
    };
    let (changes, notes) = changes(&present, claimant, wishes, networks.as_deref());
    let (_, after) = edit::set_all("", &pairs(&changes)).context("what was handed over")?;
    let delegation = desk.links.identity().await?.delegate(claimant.as_bytes(), &[]).await.map_err(said)?;
    let who = match role {
        Role::NewOwner => format!("{claimant} is the owner now, invited by the one before"),
        _ => format!("{claimant} is the owner, by the code of this node"),
    };
    desk.adopt(Adoption { who, changes: changes.clone() }).await?;
    // From here on it is done, on the disk.
    remember(desk, present, after, &changes);
    let config = desk.node().config.clone().unwrap_or_default();
    tracing::info!("{claimant} is the owner of this node");
    Ok(Paired {
        delegation: delegation.into(),
        name: config.name,
        realm: config.realm,
        addresses: desk.addresses().clone(),
        notes,
        role,
    })
}

async fn delegate(desk: &Desk, claimant: NodeId, invitation: &[u8]) -> Result<Paired> {
    let delegation =
        desk.links.identity().await?.delegate(claimant.as_bytes(), invitation).await.map_err(said)?;
    let who = format!("{claimant} may what the owner has said, invited by the owner");
    desk.adopt(Adoption { who, changes: Vec::new() }).await?;
    let config = desk.node().config.clone().unwrap_or_default();
    Ok(Paired {
        delegation: delegation.into(),
        name: config.name,
        realm: config.realm,
        addresses: desk.addresses().clone(),
        notes: Vec::new(),
        role: Role::Delegate,
    })
}

/// By the owner's order: who need not have been here.
pub async fn transfer(desk: &Desk, owner: NodeId, by: &str) -> Result<()> {
    let present = desk.node().config.clone().context("config.toml on this node cannot be read")?;
    let changes = vec![set("owner", quoted(&owner.to_string()))];
    let who = format!("{owner} is the owner now, by order of {by}");
    desk.adopt(Adoption { who, changes: changes.clone() }).await?;
    let (_, after) = edit::set_all("", &pairs(&changes))?;
    remember(desk, present, after, &changes);
    Ok(())
}

fn remember(desk: &Desk, present: Config, after: Config, changes: &[ConfigChange]) {
    let has = |key: &str| changes.iter().any(|change| change.key == key);
    let config = Config {
        owner: after.owner,
        name: if has("name") { after.name } else { present.name },
        realm: if has("realm") { after.realm } else { present.realm },
        ..present
    };
    desk.node().config = Some(config);
}

/// What is to be written, and what is not used, for people. `networks` are the Wi-Fi networks in reach.
fn changes(
    present: &Config,
    owner: NodeId,
    wishes: &HandOver,
    networks: Option<&[Network]>,
) -> (Vec<ConfigChange>, Vec<String>) {
    let mut changes = vec![set("owner", quoted(&owner.to_string()))];
    let mut notes = Vec::new();
    let texts = [("name", &wishes.name), ("realm", &wishes.realm)];
    for (key, text) in texts {
        changes.extend(text.as_deref().map(|text| set(key, quoted(text))));
    }
    if let (Some(channel), Some(publisher)) = (&wishes.channel, &wishes.publisher) {
        changes.push(set("update.channel", quoted(channel)));
        changes.push(set("update.publisher", quoted(publisher)));
    }
    if !wishes.release_keys.is_empty() {
        changes.push(set("update.release_keys", array(wishes.release_keys.iter().map(|key| quoted(key)))));
    }
    let seeds = seeds(present, &wishes.peers);
    if !wishes.peers.is_empty() {
        changes.push(set("mesh.seeds", array(seeds.iter().map(|seed| quoted(seed)))));
    }
    changes.extend(wishes.time_zone.as_deref().map(|zone| set("time_zone", quoted(zone))));
    changes.extend(wishes.country.as_deref().map(|country| set("network.country", quoted(country))));
    if !wishes.wifi.is_empty() {
        let wifi = wishes.wifi.iter().map(|wifi| network(wifi, networks.unwrap_or_default()));
        changes.push(set("network.wifi", array(wifi)));
        if networks.is_none() {
            notes.push("this node has no Wi-Fi: what was handed over is kept for when it has".into());
        }
    }
    (changes, notes)
}

/// Those of before stay.
fn seeds(present: &Config, peers: &[String]) -> Vec<String> {
    let before = present.mesh.seeds.iter().map(|seed| format!("{}@{}", seed.node, seed.address));
    let mut all: Vec<String> = Vec::new();
    for seed in before.chain(peers.iter().cloned()) {
        if !all.contains(&seed) && all.len() < MAX_SEEDS {
            all.push(seed);
        }
    }
    all
}

/// Nobody says that a network hides its name; one that is not seen may, and to ask for it by its name does no harm.
fn network(wifi: &Wifi, seen: &[Network]) -> String {
    let passphrase = wifi.passphrase.as_deref().map(|text| format!(", passphrase = {}", quoted(text)));
    let hidden = if seen.iter().any(|network| network.ssid == wifi.ssid) { "" } else { ", hidden = true" };
    format!("{{ ssid = {}{}{hidden} }}", quoted(&wifi.ssid), passphrase.unwrap_or_default())
}

fn set(key: &str, value: String) -> ConfigChange {
    ConfigChange { key: key.into(), value: Some(value) }
}

fn pairs(changes: &[ConfigChange]) -> Vec<(&str, &str)> {
    changes.iter().filter_map(|change| Some((change.key.as_str(), change.value.as_deref()?))).collect()
}

fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// As TOML writes a string: quotes and all.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use os_identity::NodeKey;

    use super::*;

    fn did(seed: u8) -> String {
        NodeKey::from_seed(&[seed; 32]).node_id().to_string()
    }

    fn applied(present: &str, wishes: &HandOver) -> (Config, Vec<String>) {
        let config = Config::parse(present).unwrap();
        let (changes, notes) = changes(&config, did(1).parse().unwrap(), wishes, None);
        (edit::set_all(present, &pairs(&changes)).unwrap().1, notes)
    }

    #[test]
    fn a_node_becomes_what_was_handed_over() {
        let wishes = HandOver {
            owner: did(1),
            name: Some("roof-3".into()),
            realm: Some("acme".into()),
            channel: Some("stable".into()),
            publisher: Some(did(3)),
            release_keys: vec![did(3), did(4)],
            peers: vec![format!("{}@192.0.2.1:4433", did(5)), format!("{}@192.0.2.9:4433", did(6))],
            ..HandOver::default()
        };
        let before = format!("[mesh]\nport = 5000\nseeds = [\"{}@192.0.2.1:4433\"]\n", did(5));
        let (config, notes) = applied(&before, &wishes);
        assert_eq!(config.owner, did(1).parse().ok());
        assert_eq!((config.name.as_str(), config.realm.as_str()), ("roof-3", "acme"));
        assert_eq!(config.update.channel.map(|c| c.name).as_deref(), Some("stable"));
        assert_eq!(config.update.release_keys.len(), 2);
        assert_eq!((config.mesh.port, config.mesh.seeds.len()), (5000, 2));
        assert!(notes.is_empty());
    }

    #[test]
    fn what_is_not_said_stays() {
        let (config, _) = applied("name = \"a\"\nrealm = \"b\"\n", &HandOver::default());
        assert_eq!((config.name.as_str(), config.realm.as_str()), ("a", "b"));
        assert!(config.owner.is_some());
    }

    #[test]
    fn nothing_that_is_handed_over_breaks_out_of_its_string() {
        let evil = "a\"\nowner = \"x".to_string();
        let wishes = HandOver { realm: Some(evil.clone()), ..HandOver::default() };
        let (changes, _) = changes(&Config::default(), did(1).parse().unwrap(), &wishes, None);
        assert!(edit::set_all("", &pairs(&changes)).unwrap_err().to_string().contains("realm"));
        let wifi = Wifi { ssid: evil.clone(), passphrase: Some("back\\slash\u{1}\"".into()) };
        let table: toml::Table = format!("w = {}", network(&wifi, &[])).parse().unwrap();
        assert_eq!(table["w"]["ssid"].as_str(), Some(evil.as_str()));
        assert_eq!(table["w"]["passphrase"].as_str(), wifi.passphrase.as_deref());
    }

    #[test]
    fn wifi_is_kept_and_a_node_that_has_none_says_so() {
        let wishes = HandOver {
            country: Some("DE".into()),
            wifi: vec![
                Wifi { ssid: "attic".into(), passphrase: None },
                Wifi { ssid: "cellar".into(), passphrase: Some("12345678".into()) },
            ],
            ..HandOver::default()
        };
        let around = [Network { ssid: "attic".into(), dbm: -40, secured: false }];
        for networks in [None, Some(&around[..])] {
            let (changes, notes) = changes(&Config::default(), did(1).parse().unwrap(), &wishes, networks);
            let network = edit::set_all("", &pairs(&changes)).unwrap().1.network;
            assert_eq!((network.country.as_deref(), network.wifi.len()), (Some("DE"), 2));
            assert_eq!(network.wifi[0].hidden, networks.is_none(), "what is seen is not hidden");
            assert!(network.wifi[1].hidden);
            assert_eq!(notes.iter().any(|note| note.contains("has no Wi-Fi")), networks.is_none());
        }
        assert!(abilities(true).contains(&"wifi".into()) && !abilities(false).contains(&"wifi".into()));
    }
}
