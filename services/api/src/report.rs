//! What people and other services are shown, as serde types: JSON over D-Bus and `maculactl --json`, CBOR over the mesh.
//!
//! Fields are only ever added; readers ignore what they do not know.

use serde::{Deserialize, Serialize};

/// `io.macula.Update1.Status`, `maculactl status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OsReport {
    pub node: String,
    pub name: String,
    pub board: String,
    pub version: String,
    /// `A` or `B`.
    pub slot: String,
    pub seq: u32,
    /// What the boot loader would start, in its order: `macula-000002.efi`.
    pub entries: Vec<String>,
    pub uptime_s: u64,
    pub boot_id: String,
    pub trial: Option<TrialReport>,
    pub installing: Option<InstallReport>,
    /// What happened lately, newest last: installs, commits, rollbacks, refusals. Bounded.
    pub events: Vec<EventReport>,
    pub failed_releases: Vec<FailedReport>,
    /// What the owner should look after now, such as a full disk.
    pub warnings: Vec<String>,
    /// MCID text of the release this slot was installed from; empty for the factory image.
    pub release: String,
    /// Why the rescue system runs; empty when a slot does. `version`, `slot` and `seq` are then those of the release that
    /// was committed last.
    pub rescue: String,
    /// Version of the rescue system on the disk; empty when this node has not renewed it.
    pub rescue_version: String,
    /// What the firmware says: `on`, `off`, `setup mode` or `absent`.
    pub secure_boot: String,
    /// What opens the encrypted state partition: `tpm`, `tpm-pin` or `passphrase`; empty when it is not encrypted.
    pub encryption: String,
    /// The hottest sensor, in degrees Celsius; absent where the machine has none.
    pub temperature_c: Option<i32>,
    /// How much of its life the disk says it has used, at most so many percent; absent where it does not say.
    pub disk_wear_percent: Option<u8>,
    /// The channel that it follows; absent: it updates only when told to.
    pub follows: Option<FollowsReport>,
    /// How many keys may sign what it installs: with none it takes no release. Absent: it is too old to say.
    pub release_keys: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowsReport {
    pub channel: String,
    /// `did:key` of whose channel it is.
    pub publisher: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrialReport {
    pub version: String,
    pub release: String,
    pub slot: String,
    pub tries_left: u32,
    /// What the gate is waiting for, or its verdict.
    pub gate: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstallReport {
    pub version: String,
    pub release: String,
    /// `release`, `manifest`, `compare`, `fetch`, `verify`, `switch`, `reboot`.
    pub phase: String,
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// Bytes found in this node's own slots.
    pub bytes_reused: u64,
    /// Bytes by provider (`did:key`).
    pub from: Vec<(String, u64)>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventReport {
    pub at_unix: u64,
    /// `installed`, `committed`, `rolled-back`, `refused`, `corruption`, `install-failed`, `boot-failed`, `interrupted`, ...
    pub kind: String,
    pub text: String,
    /// Last log lines of what failed; bounded, and dropped from older events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// Of its record in the audit log; they grow, with gaps. 0: from before events were numbered, or not on record.
    pub number: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedReport {
    pub release: String,
    pub version: String,
    pub reason: String,
    pub log_tail: Vec<String>,
    pub at_unix: u64,
}

/// One unit as the supervisor sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitReport {
    pub name: String,
    /// `starting`, `ready`, `restarting`, `failed`, `stopped`, `idle` (starts when it is needed).
    pub state: String,
    pub required: bool,
    pub pid: u32,
    /// Seconds in this state.
    pub since_s: u64,
    pub restarts: u32,
    /// cgroup `memory.current`.
    pub memory_bytes: u64,
    /// Sum of resident memory of the unit's processes.
    pub rss_bytes: u64,
    /// Proportional set size: shared pages counted once.
    pub pss_bytes: u64,
    pub status: String,
    pub last_exit: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLine {
    /// Milliseconds since boot.
    pub at_ms: u64,
    pub unit: String,
    /// syslog priority, 0 to 7.
    pub priority: u8,
    pub text: String,
    /// Counts all units' lines from 1 on, in the supervisor's current run; 0 from releases that do not number lines.
    pub seq: u64,
}

/// Answer to `logs_since`: what came after a place in the log, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogsPage {
    /// Names the supervisor's run: another one begins with each boot, and counts lines anew.
    pub run: String,
    /// Where the next page begins: [`LogsSince::after`].
    pub last: u64,
    /// Lines between the place asked for and the first one here fell out of the bounded log.
    pub lost: bool,
    pub lines: Vec<LogLine>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeResult {
    pub attempt: String,
    pub allowed: bool,
    /// errno name when denied.
    pub error: String,
}

/// How a check ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckReport {
    pub passed: bool,
    /// One sentence, if it did not.
    pub reason: String,
}

/// A peer of `mesh`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerReport {
    pub node: String,
    pub connected: bool,
    /// `incoming` or `outgoing`.
    pub direction: String,
    /// The address in use, or the last one; empty for a peer that is reached by a detour.
    pub address: String,
    /// Through which relay (`did:key`) a peer is reached, or `tcp`; empty for a direct connection.
    pub via: String,
    /// It carries packets for others.
    pub relay: bool,
    pub addresses: Vec<String>,
    /// How it became known: `mdns`, `seed`, `dht`, `incoming`.
    pub source: String,
    pub rtt_us: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub last_error: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DhtReport {
    pub contacts: u32,
    pub buckets: u32,
    pub records_stored: u32,
    pub provided: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContentReport {
    pub blocks: u64,
    pub bytes: u64,
    pub offered: Vec<String>,
    /// Newest last; bounded.
    pub transfers: Vec<TransferReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransferReport {
    pub mcid: String,
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// Bytes by provider (`did:key`; `local` for our own store).
    pub from: Vec<(String, u64)>,
    /// Providers given up on, each with the reason.
    pub dropped: Vec<(String, String)>,
    pub finished: bool,
    pub error: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkReport {
    pub name: String,
    pub up: bool,
    pub mac: String,
    pub addresses: Vec<String>,
    /// `bound`, `selecting`, `none`, ...
    pub dhcp: String,
    /// Of a radio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wifi: Option<WifiReport>,
}

/// What a radio does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WifiReport {
    /// The network that it is in; empty: in none.
    pub ssid: String,
    /// How strong that network is.
    pub dbm: i16,
    /// Why it is in none, for people.
    pub note: String,
}

/// A Wi-Fi network in reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WifiNetwork {
    pub ssid: String,
    pub dbm: i16,
    /// Whether it asks for a passphrase.
    pub secured: bool,
}

/// Parameters of the owner's `install`. `release` is the MCID of a metadata bundle, as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstallParams {
    pub release: String,
    #[serde(default)]
    pub again: bool,
}

/// Parameters of the owner's `put`: so many raw bytes follow the request frame. Content of more than one chunk gets a manifest
/// under this name. The answer is the MCID's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutParams {
    pub name: String,
    pub size: u64,
}

/// Answer to the owner's `get` (its parameter is the MCID's text): so many raw bytes follow the answer frame
/// (`control::read_call`, then `control::reply`). A stream that ends early means that the rest could not be had.
///
/// `has` takes the MCID's text, too, and answers `bool`: whether all of the content is here, stored or offered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GetAnswer {
    /// As in the manifest; empty for a raw block.
    pub name: String,
    pub size: u64,
}

/// Parameters of `logs`. An empty unit means all of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogsParams {
    pub unit: String,
    pub max_lines: u32,
}

/// Parameters of `logs_since`. With an empty `run` the page is the newest lines, wherever they begin; with one that is over, the
/// log's first lines; otherwise the first lines after number `after`. An empty unit means all of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogsSince {
    pub unit: String,
    pub run: String,
    pub after: u64,
    pub max_lines: u32,
    /// How long to wait for a line when there is none yet; the node waits 25 s at most.
    pub wait_ms: u32,
}

/// Parameters of `restart` and `probe`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitParams {
    pub unit: String,
}

/// Parameters of `kill`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KillParams {
    pub unit: String,
    pub signal: i32,
}

/// Parameters of `reboot` and `poweroff`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PowerParams {
    pub reason: String,
}

/// Parameters of `reset`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResetParams {
    /// How the new state is encrypted: `off`, `tpm`, `tpm-pin` or `passphrase`. Absent: as it is.
    pub encryption: Option<String>,
}

/// Parameters of `config`, which answers the text of the node's configuration (secrets hidden), or one key's value. `config_secrets`
/// does not hide them, and is another ability.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigParams {
    /// Such as `mesh.port`.
    pub key: Option<String>,
}

/// Parameters of `config_change`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigChange {
    pub key: String,
    /// TOML, or a string without its quotes; absent: the key is removed, and its default holds.
    pub value: Option<String>,
    /// Further keys and their values, for the same write: some are only valid together.
    pub and: Vec<(String, String)>,
}

/// Answer to `config_change`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigChanged {
    /// From when on it holds, for people.
    pub effect: String,
}

/// Answer to `audit`: the segments of the audit log as they are on the disk, oldest first (`os_audit::verify`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditAnswer {
    pub segments: Vec<Vec<u8>>,
}
