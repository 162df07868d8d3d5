//! The node's configuration while it runs: what holds, and changes by the owner.
//!
//! The file belongs to root; the supervisor writes it (whole, twice, see `os_durable`). This service cannot read a new file
//! of that name before it starts again (Landlock), so it remembers the text that it has had written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use os_config::{Config, Encryption, edit};
use services_api::durable;
use services_api::pairing::Adoption;
use services_api::report::{ConfigChange, ConfigChanged, ResetParams};

use crate::updater::Updater;

/// The answer should leave through the mesh before the mesh starts again.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// In this service's folder.
const RECOVERY_KEY: &str = "recovery.key";
/// What a pairing may change. `pairing` is talked to by strangers.
const ADOPTED: [&str; 10] = [
    "owner",
    "name",
    "realm",
    "time_zone",
    "network.country",
    "network.wifi",
    "update.channel",
    "update.publisher",
    "update.release_keys",
    "mesh.seeds",
];

pub struct Configuration(Mutex<Now>);

struct Now {
    /// `None` when the file cannot be used: then nobody changes it over the mesh either.
    text: Option<String>,
    config: Arc<Config>,
}

impl Configuration {
    pub fn load() -> Self {
        let path = os_config::path();
        let load = || {
            let text = os_config::text(&path)?.unwrap_or_default();
            let config = Config::parse(&text)?;
            Ok::<_, os_config::ConfigError>((text, config))
        };
        match load() {
            Ok((text, config)) => Self::new(Some(text), config),
            Err(e) => {
                // A typo must not take the way out of it away: without keys no release is accepted, but all else works.
                tracing::error!("config.toml is not used: {e}");
                Self::new(None, Config::default())
            }
        }
    }

    pub fn new(text: Option<String>, config: Config) -> Self {
        Self(Mutex::new(Now { text, config: Arc::new(config) }))
    }

    pub fn config(&self) -> Arc<Config> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    pub fn text(&self) -> Result<String> {
        let now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.text.clone().context("config.toml on this node cannot be used; see `maculactl logs update`")
    }

    #[cfg(test)]
    pub fn set_text(&self, text: &str) {
        self.replace(text.to_owned(), Config::parse(text).unwrap_or_default());
    }

    fn replace(&self, text: String, config: Config) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Now { text: Some(text), config: Arc::new(config) };
    }
}

/// Makes the change if the whole configuration is valid with it.
pub async fn change(updater: &Arc<Updater>, change: &ConfigChange, who: &str) -> Result<ConfigChanged> {
    let _turn = updater.config_turn.lock().await;
    let further = change.and.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let keys = || std::iter::once(change.key.as_str()).chain(further.clone().map(|(key, _)| key));
    if let Some(key) = keys().find(|key| key.starts_with("state.")) {
        bail!("{key} holds from a factory reset on: `maculactl reset --yes --encryption KIND`");
    }
    let configuration = &updater.node.configuration;
    let before = configuration.text()?;
    let (text, config) = match &change.value {
        Some(value) if change.and.is_empty() => edit::set(&before, &change.key, value)?,
        Some(value) => {
            let first = std::iter::once((change.key.as_str(), value.as_str()));
            edit::set_together(&before, &first.chain(further.clone()).collect::<Vec<_>>())?
        }
        None if change.and.is_empty() => edit::unset(&before, &change.key)?,
        None => bail!("`{}` has no value", change.key),
    };
    let (restart, effect) = effect_of(keys());
    if text == before {
        return Ok(ConfigChanged { effect: "nothing changes".into() });
    }
    updater
        .links
        .supervisor()
        .await?
        .write_config(&text)
        .await
        .context("the supervisor does not write it")?;
    configuration.replace(text, config);
    updater.records.event("config", format!("{} by {who}", describe(change)));
    restart_later(updater.clone(), restart);
    Ok(ConfigChanged { effect })
}

/// Makes the changes that a pairing asks for: all, in one write, or none. The node is its new owner's from that write on.
pub async fn adopt(updater: &Arc<Updater>, adoption: &Adoption) -> Result<()> {
    let _turn = updater.config_turn.lock().await;
    let mut changes = Vec::new();
    for change in &adoption.changes {
        if !ADOPTED.contains(&change.key.as_str()) {
            bail!("`{}` is not for pairing to change", change.key);
        }
        let value = change.value.as_deref().with_context(|| format!("`{}` has no value", change.key))?;
        changes.push((change.key.as_str(), value));
    }
    let configuration = &updater.node.configuration;
    let before = configuration.text()?;
    let (text, config) = edit::set_all(&before, &changes)?;
    let supervisor = updater.links.supervisor().await?;
    if text != before {
        supervisor.write_config(&text).await.context("the supervisor does not write it")?;
        configuration.replace(text, config);
    }
    let keys: Vec<&str> = changes.iter().map(|(key, _)| *key).collect();
    updater.records.event("paired", format!("{}; changed: {}", adoption.who, keys.join(", ")));
    // Also when the text is this already: then this service was cut off before the restart.
    if !changes.is_empty() {
        // Not `pairing`, whose answer is not out yet. `mesh` last: it ends the connection that the answer takes.
        let (mut restart, _) = effect_of(keys.into_iter());
        restart.retain(|unit| !["mesh", "pairing"].contains(unit));
        restart.push("mesh");
        restart_later(updater.clone(), restart);
    }
    Ok(())
}

/// What lets an owner in, or whom the owner lets in.
const OWNERS: [&str; 7] = [
    "owner",
    "clients",
    "gateway.public",
    "update.channel",
    "update.publisher",
    "update.release_keys",
    "update.threshold",
];
/// In this service's folder: the boot in which the owner was forgotten last, so that a restart does not forget the next one, too.
const FORGOTTEN_IN: &str = "owner-forgotten";

/// Forgets the owner, if somebody at the machine has said so in this boot. Everything else stays.
pub async fn forget_owner_if_asked(updater: &Arc<Updater>) -> Result<()> {
    let boot = &updater.node.boot;
    let path = updater.node.state_dir.join(FORGOTTEN_IN);
    if !boot.forget_owner || durable::read(&path).as_deref() == Some(boot.boot_id.as_bytes()) {
        return Ok(());
    }
    let _turn = updater.config_turn.lock().await;
    let configuration = &updater.node.configuration;
    let (text, config) = edit::unset_all(&configuration.text()?, &OWNERS)?;
    let supervisor = updater.links.supervisor().await?;
    supervisor.write_config(&text).await.context("the supervisor does not write it")?;
    configuration.replace(text, config);
    durable::write(&path, boot.boot_id.as_bytes())?;
    updater.records.event("recovered", "the owner was forgotten, by somebody at the machine");
    restart_later(updater.clone(), vec!["reconciler", "mesh", "pairing"]);
    Ok(())
}

fn describe(change: &ConfigChange) -> String {
    let one = |key: &str, value: &str| match edit::is_secret(key) {
        true => format!("{key} set"),
        false => format!("{key} = {}", edit::value_for_logs(key, value)),
    };
    let Some(value) = &change.value else { return format!("{} removed", change.key) };
    let further = change.and.iter().map(|(key, value)| one(key, value));
    std::iter::once(one(&change.key, value)).chain(further).collect::<Vec<_>>().join(", ")
}

/// The text, secrets hidden, or one key's value.
pub fn show(updater: &Updater, key: Option<&str>) -> Result<String> {
    Ok(edit::show(&updater.node.configuration.text()?, key)?)
}

/// The same with its secrets, which goes on record.
pub fn reveal(updater: &Updater, key: Option<&str>, who: &str) -> Result<String> {
    let text = edit::reveal(&updater.node.configuration.text()?, key)?;
    updater.records.event("config-secrets", format!("{} told to {who}", key.unwrap_or("config.toml")));
    Ok(text)
}

struct Effect {
    /// Units that read the file at their start and must not go on with the old one.
    restart: &'static [&'static str],
    says: &'static str,
}

/// Of several keys: whatever one of them restarts, in the order of the first, and all that is to be said, each once.
fn effect_of<'a>(keys: impl Iterator<Item = &'a str>) -> (Vec<&'static str>, String) {
    let (mut restart, mut says) = (Vec::new(), Vec::new());
    for effect in keys.map(effect) {
        for unit in effect.restart {
            if !restart.contains(unit) {
                restart.push(*unit);
            }
        }
        if !says.contains(&effect.says) {
            says.push(effect.says);
        }
    }
    (restart, says.join("; "))
}

/// `reconciler` reads the file again and again, so it always starts again.
fn effect(key: &str) -> Effect {
    match key.split('.').next().unwrap_or(key) {
        "owner" => Effect {
            restart: &["reconciler", "mesh", "pairing"],
            says: "holds in a second, when the mesh has started again; connections end",
        },
        "mesh" | "clients" => Effect {
            restart: &["reconciler", "mesh"],
            says: "holds in a second, when the mesh has started again; connections end",
        },
        "network" => Effect {
            restart: &["reconciler", "network"],
            says: "holds in a few seconds; Wi-Fi is joined anew",
        },
        "update" | "gate" => Effect { restart: &["reconciler"], says: "holds at once" },
        _ => Effect { restart: &["reconciler"], says: "holds from the next boot on" },
    }
}

fn restart_later(updater: Arc<Updater>, units: Vec<&'static str>) {
    tokio::spawn(async move {
        tokio::time::sleep(RESTART_DELAY).await;
        for unit in units {
            let restarted =
                async { anyhow::Ok(updater.links.supervisor().await?.restart(unit).await?) }.await;
            if let Err(e) = restarted {
                tracing::error!("{unit} goes on with the old configuration: it cannot be restarted: {e:#}");
            }
        }
    });
}

/// Orders a factory reset. The slots stay; a trial or an install ends with the state that knew of it.
pub async fn reset(updater: &Updater, params: &ResetParams, who: &str) -> Result<()> {
    if who.is_empty() {
        bail!("a reset needs somebody who orders it");
    }
    let encryption = params.encryption.as_deref();
    if let Some(kind) = encryption.map(Encryption::parse).transpose()?.flatten()
        && kind != Encryption::Passphrase
        && !updater.node.boot.tpm
    {
        bail!(
            "this node has no TPM 2.0 (or its firmware hides it); it can only be encrypted with a passphrase"
        );
    }
    updater.records.event("reset", format!("factory reset by order of {who}"));
    let supervisor = updater.links.supervisor().await?;
    supervisor
        .factory_reset(encryption.unwrap_or("keep"), &format!("by order of {who}"))
        .await
        .context("the supervisor does not pass it on")
}

/// The key that opens the encrypted state partition without TPM, PIN or passphrase. PID 1 left it in this service's folder when
/// it encrypted.
pub fn recovery_key(updater: &Updater, who: &str) -> Result<String> {
    if updater.node.boot.encryption.is_none() {
        bail!("the state of this node is not encrypted, so there is no recovery key");
    }
    let path = updater.node.state_dir.join(RECOVERY_KEY);
    let key = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    updater.records.event("recovery-key", format!("told to {who}"));
    Ok(key)
}

/// The owner's wish for encryption and what is, when they differ.
pub fn encryption_complaint(config: &Config, actual: Option<&str>) -> Option<String> {
    let wish = config.state.encryption.map(Encryption::name);
    (wish.is_some() && wish != actual).then(|| {
        format!(
            "config.toml asks for state.encryption = {:?}, which only a fresh disk or a reset obeys, and the state is {}: \
             `maculactl reset --yes --encryption {}` makes it so",
            wish.unwrap_or_default(),
            actual.map_or("not encrypted".into(), |kind| format!("encrypted otherwise ({kind})")),
            wish.unwrap_or_default()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_changes_is_said_and_done() {
        assert!(effect("owner").restart.contains(&"mesh") && effect("mesh.port").restart.contains(&"mesh"));
        assert!(!effect("update.channel").restart.contains(&"mesh"));
        assert!(effect("network.wifi").restart.contains(&"network"));
        assert!(effect("name").says.contains("next boot"));
        let (restart, says) = effect_of(["update.channel", "update.publisher", "mesh.port"].into_iter());
        assert!(restart.contains(&"mesh") && says.starts_with("holds at once; holds in a second"), "{says}");
        let (restart, says) = effect_of(["mesh.port", "network.wifi", "mesh.relay", "owner"].into_iter());
        assert_eq!(restart, ["reconciler", "mesh", "network", "pairing"], "none is left out");
        assert_eq!(says.matches(';').count(), 3, "nothing is said twice: {says}");
        assert!(
            ["owner", "gate.steady_s", "realm"].iter().all(|key| effect(key).restart.contains(&"reconciler"))
        );
    }

    #[test]
    fn secrets_stay_out_of_the_events() {
        let change = |key: &str, value: Option<&str>| ConfigChange {
            key: key.into(),
            value: value.map(Into::into),
            and: Vec::new(),
        };
        assert_eq!(describe(&change("wifi.password", Some("hunter2"))), "wifi.password set");
        assert_eq!(describe(&change("mesh.port", Some("5000"))), "mesh.port = 5000");
        let wifi =
            describe(&change("network.wifi", Some("[{ssid=\"attic\",passphrase=\"hunter2 hunter2\"}]")));
        assert!(wifi.contains("attic") && !wifi.contains("hunter2"), "{wifi}");
        assert_eq!(describe(&change("mesh.port", None)), "mesh.port removed");
        let and = vec![("wifi.password".to_owned(), "hunter2".to_owned())];
        let both = ConfigChange { and, ..change("mesh.port", Some("5000")) };
        assert_eq!(describe(&both), "mesh.port = 5000, wifi.password set");
    }

    #[test]
    fn a_wish_that_nothing_obeyed_is_said() {
        let config = Config::parse("[state]\nencryption = \"tpm\"").unwrap();
        assert_eq!(encryption_complaint(&config, Some("tpm")), None);
        assert!(encryption_complaint(&config, None).is_some_and(|text| text.contains("--encryption tpm")));
        assert!(encryption_complaint(&config, Some("passphrase")).is_some());
        assert_eq!(encryption_complaint(&Config::default(), Some("tpm")), None, "an order made it so");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_not_changed() {
        let configuration = Configuration::new(None, Config::default());
        assert!(configuration.text().unwrap_err().to_string().contains("cannot be used"));
        configuration.replace("name = \"a\"".into(), Config::parse("name = \"a\"").unwrap());
        assert_eq!(configuration.config().name, "a");
    }
}
