//! `config.toml` as written.

use os_identity::NodeId;
use serde::Deserialize;

use crate::{
    Channel, Check, CheckWhat, Clients, ConfigError, Encryption, Gate, Gateway, Mesh, Network, Secret, Seed,
    State, Update, VERSION, Welcome, Wifi,
};

const MAX_WIFI: usize = 16;
/// Longest part of a name in the tz database, with room.
const MAX_ZONE_PART: usize = 24;
const MAX_SEEDS: usize = 64;
const MAX_RELAY_MBIT: u32 = 4000;
const MAX_KEYS: usize = 32;
const MAX_CLIENTS: usize = 256;
const MAX_REALMS: usize = 16;
const MAX_REALM: usize = 255;
const MAX_PUBLIC: usize = 64;
const MAX_PUBLIC_LEN: usize = 160;
const MAX_CHECKS: usize = 16;
const MAX_WORDS: usize = 32;
const MAX_WORD: usize = 1024;
const CHECK_TIMEOUT_S: u32 = 10;
const MAX_CHECK_TIMEOUT_S: u32 = 60;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    version: Option<u32>,
    name: Option<String>,
    realm: Option<String>,
    owner: Option<String>,
    time_zone: Option<String>,
    #[serde(default)]
    network: NetworkTable,
    #[serde(default)]
    mesh: MeshTable,
    #[serde(default)]
    clients: ClientsTable,
    #[serde(default)]
    gateway: GatewayTable,
    #[serde(default)]
    update: UpdateTable,
    #[serde(default)]
    gate: GateTable,
    #[serde(default)]
    state: StateTable,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct NetworkTable {
    country: Option<String>,
    #[serde(default)]
    wifi: Vec<WifiTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WifiTable {
    ssid: String,
    passphrase: Option<String>,
    hidden: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct MeshTable {
    port: Option<u16>,
    mdns: Option<bool>,
    #[serde(default)]
    seeds: Vec<String>,
    relay: Option<bool>,
    relay_mbit: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ClientsTable {
    macula: Option<String>,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    realms: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct GatewayTable {
    enabled: Option<bool>,
    #[serde(default)]
    public: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct UpdateTable {
    channel: Option<String>,
    publisher: Option<String>,
    #[serde(default)]
    release_keys: Vec<String>,
    threshold: Option<usize>,
    interval_s: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct GateTable {
    timeout_s: Option<u32>,
    steady_s: Option<u32>,
    #[serde(default)]
    check: Vec<CheckTable>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct StateTable {
    encryption: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckTable {
    name: String,
    exec: Option<Vec<String>>,
    http: Option<String>,
    timeout_s: Option<u32>,
}

impl TryFrom<Config> for crate::Config {
    type Error = ConfigError;

    fn try_from(w: Config) -> Result<Self, ConfigError> {
        if w.version.is_some_and(|v| v != VERSION) {
            return Err(ConfigError::value("version", format!("this release reads version {VERSION}")));
        }
        let defaults = crate::Config::default();
        Ok(Self {
            name: w.name.map_or(Ok(defaults.name), |n| name("name", n))?,
            realm: w.realm.map_or(Ok(defaults.realm), |n| name("realm", n))?,
            owner: w.owner.map(|o| key("owner", &o)).transpose()?,
            time_zone: w.time_zone.map_or(Ok(defaults.time_zone), time_zone)?,
            network: network(w.network)?,
            mesh: mesh(w.mesh, defaults.mesh)?,
            clients: clients(w.clients)?,
            gateway: gateway(w.gateway, defaults.gateway)?,
            update: update(w.update, defaults.update)?,
            gate: gate(w.gate, defaults.gate)?,
            state: State { encryption: encryption(w.state.encryption.as_deref())? },
        })
    }
}

fn encryption(w: Option<&str>) -> Result<Option<Encryption>, ConfigError> {
    Encryption::parse(w.unwrap_or("off")).map_err(|e| ConfigError::value("state.encryption", e))
}

/// Names of the tz database: Area/Location, perhaps with a third part; three letters or more (`UTC`, `EST5EDT`) stand alone.
fn time_zone(text: String) -> Result<String, ConfigError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+');
    let part =
        |p: &str| (1..=MAX_ZONE_PART).contains(&p.len()) && !p.starts_with('-') && p.bytes().all(plain);
    let parts = text.split('/').count();
    let begins = text.starts_with(|c: char| c.is_ascii_uppercase());
    if begins && parts <= 3 && text.len() >= 3 && text.split('/').all(part) {
        Ok(text)
    } else {
        Err(ConfigError::value("time_zone", "an IANA name such as Europe/Berlin or UTC"))
    }
}

fn network(w: NetworkTable) -> Result<Network, ConfigError> {
    if w.country.as_ref().is_some_and(|c| c.len() != 2 || !c.bytes().all(|b| b.is_ascii_uppercase())) {
        return Err(ConfigError::value("network.country", "two capital letters such as DE (ISO 3166-1)"));
    }
    if w.wifi.len() > MAX_WIFI {
        return Err(ConfigError::value("network.wifi", format!("at most {MAX_WIFI} networks")));
    }
    let mut networks: Vec<Wifi> = Vec::new();
    for (i, written) in w.wifi.into_iter().enumerate() {
        let at = format!("network.wifi[{i}]");
        if networks.iter().any(|known| known.ssid == written.ssid) {
            return Err(ConfigError::value(format!("{at}.ssid"), "is there twice"));
        }
        networks.push(wifi(&at, written)?);
    }
    Ok(Network { country: w.country, wifi: networks })
}

/// Lengths: IEEE 802.11 (an SSID is 0 to 32 bytes) and its annex on passphrases (8 to 63 characters).
fn wifi(at: &str, w: WifiTable) -> Result<Wifi, ConfigError> {
    if !(1..=32).contains(&w.ssid.len()) || w.ssid.contains('\0') {
        return Err(ConfigError::value(format!("{at}.ssid"), "1 to 32 bytes"));
    }
    let is_key = |p: &str| p.len() == 64 && p.bytes().all(|b| b.is_ascii_hexdigit());
    let is_phrase = |p: &str| (8..=63).contains(&p.len()) && p.bytes().all(|b| (0x20..0x7f).contains(&b));
    if w.passphrase.as_ref().is_some_and(|p| !is_phrase(p) && !is_key(p)) {
        let why = "8 to 63 characters of ASCII, or 64 hex digits; leave it out for an open network";
        return Err(ConfigError::value(format!("{at}.passphrase"), why));
    }
    Ok(Wifi { ssid: w.ssid, passphrase: w.passphrase.map(Secret::new), hidden: w.hidden.unwrap_or(false) })
}

fn mesh(w: MeshTable, defaults: Mesh) -> Result<Mesh, ConfigError> {
    if w.port == Some(0) {
        return Err(ConfigError::value("mesh.port", "a port is 1 to 65535"));
    }
    let relay_mbit = w.relay_mbit.unwrap_or(defaults.relay_mbit);
    if !(1..=MAX_RELAY_MBIT).contains(&relay_mbit) {
        let why = format!("1 to {MAX_RELAY_MBIT} megabit per second");
        return Err(ConfigError::value("mesh.relay_mbit", why));
    }
    if w.seeds.len() > MAX_SEEDS {
        return Err(ConfigError::value("mesh.seeds", format!("at most {MAX_SEEDS} seeds")));
    }
    let seeds = w.seeds.iter().enumerate().map(|(i, s)| seed(&format!("mesh.seeds[{i}]"), s));
    Ok(Mesh {
        port: w.port.unwrap_or(defaults.port),
        mdns: w.mdns.unwrap_or(defaults.mdns),
        seeds: seeds.collect::<Result<_, _>>()?,
        relay: w.relay.unwrap_or(defaults.relay),
        relay_mbit,
    })
}

fn clients(w: ClientsTable) -> Result<Clients, ConfigError> {
    if w.keys.len() > MAX_CLIENTS {
        return Err(ConfigError::value("clients.keys", format!("at most {MAX_CLIENTS} keys")));
    }
    if w.realms.len() > MAX_REALMS || w.realms.iter().any(|r| !(1..=MAX_REALM).contains(&r.len())) {
        let why = format!("at most {MAX_REALMS} names of 1 to {MAX_REALM} bytes");
        return Err(ConfigError::value("clients.realms", why));
    }
    let macula = match w.macula.as_deref() {
        None | Some("nobody") => Welcome::Nobody,
        Some("listed") => Welcome::Listed,
        Some("anybody") => Welcome::Anybody,
        Some(_) => return Err(ConfigError::value("clients.macula", "nobody, listed or anybody")),
    };
    let keys = w.keys.iter().enumerate().map(|(i, text)| key(&format!("clients.keys[{i}]"), text));
    Ok(Clients { macula, keys: keys.collect::<Result<_, _>>()?, realms: w.realms })
}

fn gateway(w: GatewayTable, defaults: Gateway) -> Result<Gateway, ConfigError> {
    if w.public.len() > MAX_PUBLIC {
        return Err(ConfigError::value("gateway.public", format!("at most {MAX_PUBLIC} entries")));
    }
    if let Some(at) = w.public.iter().position(|text| !is_public_thing(text)) {
        let why =
            "reads content/<mcid>, rpc/<procedure> or topic/<topic> of a-z, 0-9, - _ . ~, or ends with /*";
        return Err(ConfigError::value(format!("gateway.public[{at}]"), why));
    }
    Ok(Gateway { enabled: w.enabled.unwrap_or(defaults.enabled), public: w.public })
}

/// The grammar of what tokens are about (`os/ucan`), without its owner.
fn is_public_thing(text: &str) -> bool {
    let mut segments = text.strip_suffix("/*").unwrap_or(text).split('/');
    let kind = segments.next().is_some_and(|kind| matches!(kind, "content" | "rpc" | "topic"));
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b'~');
    let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(good);
    kind && text.contains('/') && text.len() <= MAX_PUBLIC_LEN && segments.all(segment)
}

fn update(w: UpdateTable, defaults: Update) -> Result<Update, ConfigError> {
    if w.release_keys.len() > MAX_KEYS {
        return Err(ConfigError::value("update.release_keys", format!("at most {MAX_KEYS} keys")));
    }
    let keys = w.release_keys.iter().enumerate().map(|(i, k)| key(&format!("update.release_keys[{i}]"), k));
    let release_keys: Vec<NodeId> = keys.collect::<Result<_, _>>()?;
    let threshold = w.threshold.unwrap_or(defaults.threshold);
    if threshold == 0 || threshold > release_keys.len().max(1) {
        let why = format!("must be 1 to the number of release_keys ({})", release_keys.len());
        return Err(ConfigError::value("update.threshold", why));
    }
    let channel = match (w.channel, w.publisher) {
        (None, None) => None,
        (Some(n), Some(p)) => {
            Some(Channel { publisher: key("update.publisher", &p)?, name: name("update.channel", n)? })
        }
        (Some(_), None) => {
            return Err(ConfigError::value("update.publisher", "a channel needs its publisher's did:key"));
        }
        (None, Some(_)) => return Err(ConfigError::value("update.channel", "a publisher needs a channel")),
    };
    let interval_s = w.interval_s.unwrap_or(defaults.interval_s).clamp(5, 24 * 3600);
    Ok(Update { channel, release_keys, threshold, interval_s })
}

fn gate(w: GateTable, defaults: Gate) -> Result<Gate, ConfigError> {
    let gate = Gate {
        timeout_s: w.timeout_s.unwrap_or(defaults.timeout_s),
        steady_s: w.steady_s.unwrap_or(defaults.steady_s),
        checks: checks(w.check)?,
    };
    if gate.timeout_s < gate.steady_s + 10 {
        let why = "must be at least ten seconds more than gate.steady_s, or no trial could pass";
        return Err(ConfigError::value("gate.timeout_s", why));
    }
    Ok(gate)
}

fn checks(written: Vec<CheckTable>) -> Result<Vec<Check>, ConfigError> {
    if written.len() > MAX_CHECKS {
        return Err(ConfigError::value("gate.check", format!("at most {MAX_CHECKS} checks")));
    }
    let mut checks: Vec<Check> = Vec::new();
    for (i, w) in written.into_iter().enumerate() {
        let at = format!("gate.check[{i}]");
        let check = check(&at, w)?;
        if checks.iter().any(|known| known.name == check.name) {
            return Err(ConfigError::value(format!("{at}.name"), format!("{} is there twice", check.name)));
        }
        checks.push(check);
    }
    Ok(checks)
}

fn check(at: &str, w: CheckTable) -> Result<Check, ConfigError> {
    let timeout_s = w.timeout_s.unwrap_or(CHECK_TIMEOUT_S);
    if !(1..=MAX_CHECK_TIMEOUT_S).contains(&timeout_s) {
        let why = format!("1 to {MAX_CHECK_TIMEOUT_S} seconds");
        return Err(ConfigError::value(format!("{at}.timeout_s"), why));
    }
    let what = match (w.exec, w.http) {
        (Some(words), None) => CheckWhat::Exec(program(&format!("{at}.exec"), words)?),
        (None, Some(url)) => CheckWhat::Http(local_url(&format!("{at}.http"), url)?),
        _ => return Err(ConfigError::value(at, "a check has either exec or http")),
    };
    Ok(Check { name: name(&format!("{at}.name"), w.name)?, what, timeout_s })
}

fn program(at: &str, words: Vec<String>) -> Result<Vec<String>, ConfigError> {
    if !words.first().is_some_and(|program| program.starts_with('/')) {
        return Err(ConfigError::value(at, "begins with the absolute path of a program"));
    }
    if words.len() > MAX_WORDS || words.iter().any(|word| word.len() > MAX_WORD || word.contains('\0')) {
        let why = format!("at most {MAX_WORDS} words of at most {MAX_WORD} bytes, none with a zero byte");
        return Err(ConfigError::value(at, why));
    }
    Ok(words)
}

fn local_url(at: &str, url: String) -> Result<String, ConfigError> {
    let host = url.strip_prefix("http://").unwrap_or("");
    let plain = url.bytes().all(|b| b.is_ascii_graphic());
    if host.is_empty() || host.starts_with('/') || !plain || url.len() > MAX_WORD {
        return Err(ConfigError::value(at, "reads http://host[:port]/path; https is not spoken here"));
    }
    Ok(url)
}

fn name(key: &str, text: String) -> Result<String, ConfigError> {
    let fits = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits && (1..=63).contains(&text.len()) && !text.starts_with('-') {
        Ok(text)
    } else {
        Err(ConfigError::value(key, "1 to 63 of a-z, 0-9 and -"))
    }
}

fn key(key: &str, text: &str) -> Result<NodeId, ConfigError> {
    text.parse().map_err(|e| ConfigError::value(key, e))
}

fn seed(at: &str, text: &str) -> Result<Seed, ConfigError> {
    let (node, address) =
        text.split_once('@').ok_or_else(|| ConfigError::value(at, "a seed reads did:key:...@ip:port"))?;
    let address = address.parse().map_err(|_| ConfigError::value(at, "after @ comes ip:port"))?;
    Ok(Seed { node: key(at, node)?, address })
}
