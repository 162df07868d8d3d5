//! `config.toml`: what the owner wants of a node.
//!
//! What is written ([`written`]) becomes what is meant ([`Config`]) in one validating step. Every field is optional; its
//! comment says what absence means. Unknown keys are refused by name: a typo must not be silence.
//!
//! On a node the file ends with a comment line that holds its checksum, and has a second copy beside it
//! ([`os_durable::Form::Text`]; `docs/decisions/0009`): a damaged file never means the defaults, for then the node would
//! have lost its owner.

pub mod edit;
mod secret;
mod written;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use image_layout::encryption::Encryption;
use os_durable::{Form, Found};
use os_identity::NodeId;
pub use secret::{Mistake, Secret};

/// The format version this code writes and the newest that it reads.
pub const VERSION: u32 = 1;
/// Largest `config.toml`, in bytes.
pub const MAX_SIZE: u64 = 64 * 1024;

/// A node's configuration, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What people call the node: 1 to 63 of `[a-z0-9-]`. Default `macula`.
    pub name: String,
    /// Default `home`.
    pub realm: String,
    /// Whoever may do everything here. Absent: nobody (the node waits to be paired).
    pub owner: Option<NodeId>,
    /// IANA name such as `Europe/Berlin`, for what is shown at the node; everything else is UTC. Default `UTC`.
    pub time_zone: String,
    pub network: Network,
    pub mesh: Mesh,
    pub clients: Clients,
    pub gateway: Gateway,
    pub update: Update,
    pub gate: Gate,
    pub state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Where the node is, ISO 3166-1 alpha-2 such as `DE`: which Wi-Fi channels it may use. Absent: those that are allowed
    /// everywhere.
    pub country: Option<String>,
    /// Wi-Fi networks that it may join, the first of those in reach. Default none.
    pub wifi: Vec<Wifi>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wifi {
    /// 1 to 32 bytes.
    pub ssid: String,
    /// 8 to 63 printable ASCII characters, or the key itself as 64 hex digits. Absent: an open network.
    pub passphrase: Option<Secret>,
    /// It does not announce its name, so it has to be asked for. Default false.
    pub hidden: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// UDP port, default 4433.
    pub port: u16,
    /// Announce and look for neighbours by mDNS, default true.
    pub mdns: bool,
    /// Nodes to meet at start, default none.
    pub seeds: Vec<Seed>,
    /// Carry packets between peers that do not reach each other, default false. They are encrypted from end to end. Such a node
    /// should be reachable from everywhere; it also listens on TCP, for peers whose network blocks UDP.
    pub relay: bool,
    /// Megabit per second that it carries at most, 1 to 4000, default 10; one peer gets half of it at most.
    pub relay_mbit: u32,
}

/// `did:key:...@ip:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    pub node: NodeId,
    pub address: SocketAddr,
}

/// Existing Macula clients, which use this node as a station.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// Default: nobody, and the node does not speak to them at all.
    pub macula: Welcome,
    /// Keys that are welcome, and may bring records and content.
    pub keys: Vec<NodeId>,
    /// Names of the realms that the station says it serves.
    pub realms: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    Nobody,
    /// The owner's key and those listed.
    Listed,
    /// Others may meet here, look things up and fetch content.
    Anybody,
}

/// HTTP/1.1, 2 and 3, on the TCP and UDP port of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Whether it is there at all, default true. Without `public` and without tokens it gives out the node document and nothing else.
    pub enabled: bool,
    /// What needs no token, default nothing: `content/<mcid>`, `rpc/<procedure>` and `topic/<topic>` of this node, or with `/*` at the
    /// end all beneath it. It is then open to everybody, also where a service serves it to the owner alone.
    pub public: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The channel to follow. Absent: the node updates only when told to.
    pub channel: Option<Channel>,
    /// Keys whose signatures make a release, default none: then no release is accepted.
    pub release_keys: Vec<NodeId>,
    /// How many of them must have signed, default 1.
    pub threshold: usize,
    /// Seconds between looks at the channel, default 60.
    pub interval_s: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    pub publisher: NodeId,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Seconds after boot by which a trial must have passed, default 180.
    pub timeout_s: u32,
    /// Seconds that all required units must stay ready, default 10.
    pub steady_s: u32,
    /// What must pass besides (`[[gate.check]]`), default nothing.
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// How the state partition is to be encrypted, default not at all. Done at the first boot, so it means nothing later.
    pub encryption: Option<Encryption>,
}

/// One thing that the owner wants to see work before a release is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// 1 to 63 of `[a-z0-9-]`.
    pub name: String,
    pub what: CheckWhat,
    /// Seconds within which it must pass, 1 to 60, default 10.
    pub timeout_s: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckWhat {
    /// A program of the image and its arguments: passes with exit code 0.
    Exec(Vec<String>),
    /// `http://host[:port]/path`: passes with a status of 200 to 299.
    Http(String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "macula".into(),
            realm: "home".into(),
            owner: None,
            time_zone: "UTC".into(),
            network: Network { country: None, wifi: Vec::new() },
            mesh: Mesh { port: 4433, mdns: true, seeds: Vec::new(), relay: false, relay_mbit: 10 },
            clients: Clients { macula: Welcome::Nobody, keys: Vec::new(), realms: Vec::new() },
            gateway: Gateway { enabled: true, public: Vec::new() },
            update: Update { channel: None, release_keys: Vec::new(), threshold: 1, interval_s: 60 },
            gate: Gate { timeout_s: 180, steady_s: 10, checks: Vec::new() },
            state: State { encryption: None },
        }
    }
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{0} is damaged and so is its second copy; put a new one on the ESP as macula.toml")]
    Damaged(PathBuf),
    #[error("{0} is not UTF-8 text")]
    NotText(PathBuf),
    #[error("{0} is larger than {MAX_SIZE} bytes")]
    TooLarge(PathBuf),
    #[error("not valid TOML or not a known key: {0}")]
    Toml(Mistake),
    #[error("`{key}`: {why}")]
    Value { key: String, why: String },
}

impl ConfigError {
    fn value(key: impl Into<String>, why: impl ToString) -> Self {
        ConfigError::Value { key: key.into(), why: why.to_string() }
    }
}

/// Where a node keeps it. `MACULA_CONFIG` moves it, for tests on a host.
pub fn path() -> PathBuf {
    std::env::var_os("MACULA_CONFIG").map_or_else(|| PathBuf::from("/state/config.toml"), PathBuf::from)
}

impl Config {
    /// Reads the node's configuration; the defaults when there is no file.
    pub fn load() -> Result<Self, ConfigError> {
        Self::load_from(&path())
    }

    pub fn load_from(path: &Path) -> Result<Self, ConfigError> {
        match text(path)? {
            None => Ok(Self::default()),
            Some(text) => Self::parse(&text),
        }
    }

    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str::<written::Config>(text)
            .map_err(|e| ConfigError::Toml(Mistake::new(text, &e)))?
            .try_into()
    }
}

/// The text of the file, without the line that holds its checksum; `None` when there is no file.
pub fn text(path: &Path) -> Result<Option<String>, ConfigError> {
    if let Err(e) = std::fs::metadata(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(ConfigError::Read(path.to_path_buf(), e));
    }
    let bytes = match Form::Text.read(path) {
        Found::Absent => return Ok(None),
        Found::Damaged => return Err(ConfigError::Damaged(path.to_path_buf())),
        Found::Newest(bytes) | Found::Previous(bytes) | Found::Unsealed(bytes) => bytes,
    };
    if bytes.len() as u64 > MAX_SIZE {
        return Err(ConfigError::TooLarge(path.to_path_buf()));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| ConfigError::NotText(path.to_path_buf()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx";

    const TWICE: &str = "[[gate.check]]\nname = \"a\"\nhttp = \"http://b\"\n[[gate.check]]\nname = \"a\"\nhttp = \"http://c\"";

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::load_from(Path::new("/nonexistent/config.toml")).unwrap(), Config::default());
    }

    #[test]
    fn damage_never_means_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let text = format!("owner = \"{KEY}\"\n");
        let owner = |path: &Path| Config::load_from(path).map(|c| c.owner.map(|o| o.to_string()));
        std::fs::write(&path, &text).unwrap();
        assert_eq!(owner(&path).unwrap().as_deref(), Some(KEY), "written by a person, no checksum");
        Form::Text.mirror(&path, text.as_bytes()).unwrap();
        for bytes in [&b""[..], &[0; 80], b"owner", b"# only a comment\n"] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(owner(&path).unwrap().as_deref(), Some(KEY), "{bytes:?}");
        }
        std::fs::write(os_durable::previous(&path), b"").unwrap();
        std::fs::write(&path, b"").unwrap();
        assert!(owner(&path).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn a_full_file_is_understood() {
        let text = format!(
            r#"
            version = 1
            name = "roof-3"
            realm = "acme"
            owner = "{KEY}"
            time_zone = "America/Argentina/Buenos_Aires"
            [network]
            country = "DE"
            wifi = [
                {{ ssid = "Käfer", passphrase = "correct horse" }},
                {{ ssid = "guests", hidden = true }},
            ]
            [mesh]
            port = 5000
            mdns = false
            seeds = ["{KEY}@192.0.2.1:4433", "{KEY}@[2001:db8::1]:4433"]
            relay = true
            relay_mbit = 50
            [clients]
            macula = "listed"
            keys = ["{KEY}"]
            realms = ["io.example"]
            [gateway]
            enabled = true
            public = ["content/*", "rpc/shop/price_v1"]
            [update]
            channel = "stable"
            publisher = "{KEY}"
            release_keys = ["{KEY}"]
            interval_s = 15
            [gate]
            timeout_s = 60
            [[gate.check]]
            name = "web"
            http = "http://127.0.0.1:8080/health"
            [[gate.check]]
            name = "files"
            exec = ["/usr/bin/app", "--self-test"]
            timeout_s = 30
            "#
        );
        let config = Config::parse(&text).unwrap();
        let key: NodeId = KEY.parse().unwrap();
        assert_eq!(config.owner, Some(key));
        assert_eq!(config.time_zone, "America/Argentina/Buenos_Aires");
        assert_eq!(config.network.country.as_deref(), Some("DE"));
        let [home, guests] = &config.network.wifi[..] else { panic!("{:?}", config.network) };
        assert_eq!((home.ssid.as_str(), home.hidden), ("Käfer", false));
        assert_eq!(home.passphrase.as_ref().map(Secret::reveal), Some("correct horse"));
        assert_eq!((guests.passphrase.is_none(), guests.hidden), (true, true));
        assert!(!format!("{config:?}").contains("correct horse"));
        assert_eq!(config.mesh.seeds[1].address.to_string(), "[2001:db8::1]:4433");
        assert_eq!((config.mesh.relay, config.mesh.relay_mbit), (true, 50));
        let realms = vec!["io.example".to_owned()];
        assert_eq!(config.clients, Clients { macula: Welcome::Listed, keys: vec![key], realms });
        assert_eq!(config.gateway.public, ["content/*", "rpc/shop/price_v1"]);
        assert_eq!(config.update.channel, Some(Channel { publisher: key, name: "stable".into() }));
        assert_eq!((config.gate.timeout_s, config.gate.steady_s), (60, 10));
        let [web, files] = &config.gate.checks[..] else { panic!("{:?}", config.gate.checks) };
        assert_eq!(web.what, CheckWhat::Http("http://127.0.0.1:8080/health".into()));
        assert_eq!((web.timeout_s, files.timeout_s, files.name.as_str()), (10, 30, "files"));
    }

    #[test]
    fn mistakes_name_their_key() {
        let cases = [
            ("nmae = \"x\"", "nmae"),
            ("version = 2", "version"),
            ("name = \"Kitchen Pi\"", "name"),
            ("owner = \"me\"", "owner"),
            ("time_zone = \"../etc/passwd\"", "time_zone"),
            ("time_zone = \"Berlin time\"", "time_zone"),
            ("[network]\ncountry = \"de\"", "network.country"),
            ("[network]\nwifi = [{ passphrase = \"correct horse\" }]", "ssid"),
            ("[network]\nwifi = [{ ssid = \"\" }]", "network.wifi[0].ssid"),
            ("[network]\nwifi = [{ ssid = \"123456789012345678901234567890123\" }]", "network.wifi[0].ssid"),
            ("[network]\nwifi = [{ ssid = \"a\" }, { ssid = \"a\" }]", "network.wifi[1].ssid"),
            ("[network]\nwifi = [{ ssid = \"a\", psk = \"correct horse\" }]", "psk"),
            ("[mesh]\nport = 70000", "port"),
            ("[mesh]\nport = 0", "mesh.port"),
            ("[mesh]\nrelay = 1", "relay"),
            ("[mesh]\nrelay_mbit = 0", "mesh.relay_mbit"),
            ("[mesh]\nrelay_mbit = 4001", "mesh.relay_mbit"),
            ("[mesh]\nseeds = [\"192.0.2.1:4433\"]", "mesh.seeds[0]"),
            ("[clients]\nmacula = \"all\"", "clients.macula"),
            ("[clients]\nkeys = [\"x\"]", "clients.keys"),
            ("[clients]\nrealms = [\"\"]", "clients.realms"),
            ("[gateway]\npublic = [\"*\"]", "gateway.public[0]"),
            ("[gateway]\npublic = [\"content/*\", \"control/*\"]", "gateway.public[1]"),
            ("[gateway]\npublic = [\"rpc\"]", "gateway.public[0]"),
            ("[gateway]\npublic = [\"rpc/\"]", "gateway.public[0]"),
            ("[gateway]\npublic = [\"rpc/a/../b\"]", "gateway.public[0]"),
            ("[gateway]\npublic = [\"rpc/a*\"]", "gateway.public[0]"),
            ("[gateway]\npublic = [\"/rpc/a\"]", "gateway.public[0]"),
            ("[gateway]\npublic = [\"topic/A\"]", "gateway.public[0]"),
            ("[update]\nchannel = \"stable\"", "update.publisher"),
            ("[update]\nthreshold = 0", "update.threshold"),
            ("[update]\nthreshold = 2", "update.threshold"),
            ("[gate]\ntimeout_s = 5", "gate.timeout_s"),
            ("[[gate.check]]\nname = \"a\"", "gate.check[0]"),
            ("[[gate.check]]\nname = \"A\"\nexec = [\"/usr/bin/a\"]", "gate.check[0].name"),
            ("[[gate.check]]\nname = \"a\"\nexec = [\"/a\"]\nhttp = \"http://b\"", "gate.check[0]"),
            ("[[gate.check]]\nname = \"a\"\nexec = [\"a\"]", "gate.check[0].exec"),
            ("[[gate.check]]\nname = \"a\"\nexec = []", "gate.check[0].exec"),
            ("[[gate.check]]\nname = \"a\"\nexec = [\"/a\", \"\\u0000\"]", "gate.check[0].exec"),
            ("[[gate.check]]\nname = \"a\"\nhttp = \"https://b\"", "gate.check[0].http"),
            ("[[gate.check]]\nname = \"a\"\nhttp = \"http://b c\"", "gate.check[0].http"),
            ("[[gate.check]]\nname = \"a\"\nhttp = \"http://b\"\ntimeout_s = 61", "gate.check[0].timeout_s"),
            (TWICE, "gate.check[1].name"),
            ("[mesh", "TOML"),
        ];
        for (text, key) in cases {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn mistakes_never_repeat_a_secret() {
        for text in [
            "[network]\nwifi = [{ ssid = \"a\", passphrase = \"hunter2\" }]",
            "[network]\nwifi = [{ ssid = \"a\", passphrase = \"hunter2\\u0007 and more\" }]",
            "[network]\nwifi = [{ ssid = \"a\", passphrase = \"hunter2 }]",
            "[network]\nwifi = \"hunter2\"",
            "[network]\nwifi = [{ ssid = \"a\", hidden = \"hunter2\" }]",
            "[network]\nwifi = [{ ssid = \"a\", passphrase = \"hunter2\", hiden = true }]",
            "[network]\nwifi = [{ ssid = \"a\", passphrase = hunter2 }]",
            "[[network.wifi]]\nssid = \"a\"\npassphrase = 'hunter2' 'b'",
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error} {error:?}");
        }
    }
}
