//! `config`: what a node would say to a config.toml, before it meets it; and what it has, seen and changed. `reset`.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use os_config::{Config, ConfigError, MAX_SIZE};
use services_api::report::{ConfigChange, ResetParams};

use super::Session;
use crate::cli;
use crate::node::Node;
use crate::output::clean;

pub async fn config(s: &Session, verb: cli::Config) -> Result<()> {
    match verb {
        cli::Config::Check { file } => check(s, &file),
        cli::Config::Show { secrets } => get(s, None, secrets).await,
        cli::Config::Get { setting, secrets } => get(s, setting, secrets).await,
        cli::Config::Set { settings } => change(s, pairs(settings)?).await,
        cli::Config::Unset { setting } => {
            change(s, ConfigChange { key: setting, ..ConfigChange::default() }).await
        }
    }
}

async fn get(s: &Session, key: Option<String>, secrets: bool) -> Result<()> {
    let ask = async |n: &Node| if secrets { n.config_secrets(key).await } else { n.config(key).await };
    let text = s.ask(ask).await?;
    s.out.show(&text, |_| text.lines().map(|line| clean(line) + "\n").collect())
}

fn pairs(settings: Vec<String>) -> Result<ConfigChange> {
    let mut words = settings.into_iter();
    let mut all = Vec::new();
    while let Some(key) = words.next() {
        let value = words.next().with_context(|| format!("`{key}` has no value: say KEY VALUE"))?;
        all.push((key, value));
    }
    let (key, value) = all.remove(0);
    Ok(ConfigChange { key, value: Some(value), and: all })
}

async fn change(s: &Session, change: ConfigChange) -> Result<()> {
    let changed = s.ask(async |n| n.change_config(&change).await).await?;
    let keys: Vec<_> = std::iter::once(&change.key).chain(change.and.iter().map(|(key, _)| key)).collect();
    let keys = keys.iter().map(|key| clean(key)).collect::<Vec<_>>().join(", ");
    s.out.done(&format!("{keys}: {}", clean(&changed.effect)))
}

pub async fn recovery_key(s: &Session) -> Result<()> {
    let key = s.ask(async |n| n.recovery_key().await).await?;
    s.out.show(&key, |_| format!("{}\n", clean(&key)))
}

pub async fn reset(s: &Session, yes: bool, encryption: Option<String>) -> Result<()> {
    if !yes {
        bail!("this erases the node's key, owner, configuration and content for good: say `reset --yes`");
    }
    let params = ResetParams { encryption };
    s.ask(async |n| n.reset(&params).await).await?;
    s.out.done(
        "the node reboots and is a new one then: another id, no owner (`maculactl known forget` its address)",
    )
}

fn check(s: &Session, file: &Path) -> Result<()> {
    let config = load(file)?;
    let json = serde_json::json!({
        "ok": true,
        "name": config.name,
        "realm": config.realm,
        "owner": config.owner.map(|o| o.to_string()),
        "seeds": config.mesh.seeds.len(),
        "channel": config.update.channel.as_ref().map(|c| &c.name),
        "warnings": warnings(&config),
    });
    s.out.show(&json, |_| {
        let lines = warnings(&config).into_iter().map(|w| format!("note: {w}\n"));
        format!("{} is good, for node `{}`\n{}", file.display(), config.name, lines.collect::<String>())
    })
}

/// A file that is not there is an error here, while a node would run with the defaults.
pub(super) fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|f| f.take(MAX_SIZE + 1).read_to_string(&mut text));
    read.with_context(|| format!("cannot read {}", file.display()))?;
    if text.len() as u64 > MAX_SIZE {
        return Err(ConfigError::TooLarge(file.to_path_buf()).into());
    }
    Ok(text)
}

fn load(file: &Path) -> Result<Config> {
    let text = read(file)?;
    Config::parse(&text).map_err(|e| {
        let what = match &e {
            ConfigError::Toml(mistake) => mistake.to_string(),
            other => other.to_string(),
        };
        anyhow!("a node would not take {}: {what}", file.display())
    })
}

/// Valid, but perhaps not what was meant.
pub(super) fn warnings(config: &Config) -> Vec<&'static str> {
    let mut found = Vec::new();
    if config.owner.is_none() {
        found.push(
            "no `owner`: nobody can control this node over the mesh (`maculactl key show` prints yours)",
        );
    }
    if config.update.release_keys.is_empty() {
        found.push("no `release_keys`: this node accepts no release");
    }
    if !config.mesh.mdns && config.mesh.seeds.is_empty() {
        found.push("neither mDNS nor `seeds`: this node only meets peers that call it");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_bad_and_missing_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        assert!(format!("{:#}", load(&file).unwrap_err()).contains("cannot read"));
        std::fs::write(&file, "[mesh]\nprot = 1\n").unwrap();
        let error = format!("{:#}", load(&file).unwrap_err());
        assert!(error.contains("config.toml: line 2: ") && error.contains("prot"), "{error}");
        std::fs::write(&file, "name = \"Kitchen Pi\"").unwrap();
        assert!(load(&file).unwrap_err().to_string().contains("`name`"));
        std::fs::write(&file, "name = \"roof\"\n[mesh]\nmdns = false\n").unwrap();
        assert_eq!(warnings(&load(&file).unwrap()).len(), 3);
    }
}
