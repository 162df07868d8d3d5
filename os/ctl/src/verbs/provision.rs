//! `provision`: a checked macula.toml onto a card or into an image, for one node or for many.
//!
//! Everything is checked before anything is written. Passphrases are never shown.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use os_config::{Config, ConfigError, edit};
use toml::{Table, Value};

use super::{Session, config};
use crate::card_list::{self, Changes};
use crate::cli::provision::{Provision, Whose};
use crate::{boot_partition, image_copy, whole_file};

/// Where names of time zones can be looked up on most machines.
const ZONES: &str = "/usr/share/zoneinfo";
const PASSPHRASE_MAX: u64 = 1024;

/// One node's file.
struct Card {
    text: String,
    config: Config,
}

pub fn provision(s: &Session, args: &Provision) -> Result<()> {
    let cards = cards(s, args)?;
    let mut written = Vec::new();
    for (n, card) in cards.iter().enumerate() {
        let target = target(args, card)?;
        let place = target.as_deref().or(args.image.as_deref()).context("where to? Say --image or --out")?;
        let what = format!("{} ({} of {})", card.config.name, n + 1, cards.len());
        put(s, args, target.as_deref(), &card.text, &what)?;
        written.push((card.config.name.clone(), place.display().to_string()));
    }
    let notes: BTreeSet<String> = cards.iter().flat_map(|card| notes(&card.config)).collect();
    let lines = written.iter().map(|(name, file)| serde_json::json!({ "name": name, "file": file }));
    let json = serde_json::json!({ "nodes": lines.collect::<Vec<_>>(), "warnings": notes });
    s.out.show(&json, |_| {
        let nodes: String = written.iter().map(|(name, file)| format!("{name}: {file}\n")).collect();
        nodes + &notes.iter().map(|note| format!("note: {note}\n")).collect::<String>()
    })
}

/// The configuration of each node, as a node would take it.
fn cards(s: &Session, args: &Provision) -> Result<Vec<Card>> {
    let base = match &args.config {
        Some(file) => config::read(file)?,
        None => String::new(),
    };
    let me = s.key().ok().map(|key| key.node_id().to_string());
    let shared = changes(args, me.as_deref())?;
    let rows = match &args.list {
        Some(list) => card_list::read(list, me.as_deref())?,
        None => vec![Changes::new()],
    };
    let mut names = BTreeSet::new();
    let mut cards = Vec::new();
    for (n, row) in rows.into_iter().enumerate() {
        let node = || {
            args.list
                .as_ref()
                .map_or("the configuration".into(), |list| format!("node {} of {}", n + 1, list.display()))
        };
        let all: Changes = shared.iter().cloned().chain(row).collect();
        let (text, config) = edit::set_all(&base, &all).map_err(|e| refused(&node(), &e))?;
        if args.list.is_some() && !names.insert(config.name.clone()) {
            bail!("{} is called `{}`, like another one before it", node(), config.name);
        }
        cards.push(Card { text: with_line_end(text), config });
    }
    Ok(cards)
}

fn refused(what: &str, error: &ConfigError) -> anyhow::Error {
    anyhow!("a node would not take {what}: {error}")
}

fn with_line_end(text: String) -> String {
    if text.is_empty() || text.ends_with('\n') { text } else { text + "\n" }
}

/// What the options say.
fn changes(args: &Provision, me: Option<&str>) -> Result<Changes> {
    let mut changes = Changes::new();
    let who = |whose: &Whose| match whose {
        Whose::Of(id) => Ok(id.to_string()),
        Whose::Mine => me.map(str::to_owned).context("`me` needs your key: `maculactl key new` makes it"),
    };
    let mut set = |key: &str, value: Option<Value>| {
        changes.extend(value.map(|value| (key.to_owned(), value.to_string())));
    };
    let text = |text: &Option<String>| text.clone().map(Value::from);
    set("name", text(&args.name));
    set("realm", text(&args.realm));
    set("time_zone", text(&args.time_zone));
    set("owner", args.owner.as_ref().map(who).transpose()?.map(Value::from));
    set("update.channel", text(&args.channel));
    set("update.publisher", args.publisher.as_ref().map(who).transpose()?.map(Value::from));
    let keys: Vec<Value> =
        args.release_keys.iter().map(|k| who(k).map(Value::from)).collect::<Result<_>>()?;
    set("update.release_keys", (!keys.is_empty()).then(|| keys.into()));
    set("mesh.seeds", (!args.seeds.is_empty()).then(|| args.seeds.clone().into()));
    set("network.country", text(&args.country));
    set("state.encryption", text(&args.encryption));
    set("network.wifi", wifi(args)?);
    Ok(changes)
}

fn wifi(args: &Provision) -> Result<Option<Value>> {
    let Some(ssid) = &args.wifi_ssid else { return Ok(None) };
    let mut network = Table::from_iter([("ssid".to_owned(), Value::from(ssid.as_str()))]);
    if let Some(file) = &args.wifi_passphrase_file {
        network.insert("passphrase".into(), passphrase(file)?.into());
    }
    if args.wifi_hidden {
        network.insert("hidden".into(), true.into());
    }
    Ok(Some(Value::Array(vec![network.into()])))
}

fn passphrase(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().take(PASSPHRASE_MAX).read_to_string(&mut text),
        false => std::fs::File::open(file).and_then(|f| f.take(PASSPHRASE_MAX).read_to_string(&mut text)),
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.lines().next().unwrap_or("").to_owned())
}

/// The file that is made for a card; `None`: the image itself is changed.
fn target(args: &Provision, card: &Card) -> Result<Option<PathBuf>> {
    let Some(out) = &args.out else { return Ok(None) };
    if args.list.is_none() {
        return Ok(Some(out.clone()));
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let ending = if args.image.is_some() { "img" } else { "toml" };
    Ok(Some(out.join(format!("{}.{ending}", card.config.name))))
}

fn put(s: &Session, args: &Provision, target: Option<&Path>, text: &str, what: &str) -> Result<()> {
    if let Some(target) = target.filter(|t| t.exists() && !args.force) {
        bail!("{} exists; --force replaces it", target.display());
    }
    match (&args.image, target) {
        (None, None) => Ok(()),
        (None, Some(target)) => whole_file::write_private(target, text.as_bytes()),
        (Some(image), None) if image.is_file() && image_copy::is_packed(image)? => {
            bail!("{} is packed: say with --out where the unpacked image goes", image.display())
        }
        (Some(image), None) => boot_partition::write(image, text, args.force),
        (Some(image), Some(target)) => {
            let bar = s.out.bytes_bar(what, 0);
            let copy = image_copy::begin(image, target, &bar);
            bar.finish_and_clear();
            let copy = copy?;
            boot_partition::write(copy.path(), text, args.force)
                .with_context(|| format!("{} cannot be used", image.display()))?;
            image_copy::finish(copy, target)
        }
    }
}

/// Valid, but perhaps not what was meant.
fn notes(config: &Config) -> Vec<String> {
    let mut notes: Vec<String> = config::warnings(config).into_iter().map(str::to_owned).collect();
    let zones = Path::new(ZONES);
    if zones.is_dir() && !zones.join(&config.time_zone).exists() {
        notes.push(format!("this machine knows no time zone `{}`: is it spelt right?", config.time_zone));
    }
    notes
}
