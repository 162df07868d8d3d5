//! What this service remembers across power cuts: small checksummed files in `/state/update`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use os_release::Trust;
use os_slots::{BootInfo, FailedRelease, FailedReleases, LOG_TAIL_MAX, Slot, Trial};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use services_api::durable;
use services_api::report::EventReport;

use crate::audit::{Audit, Opened};
use crate::node::now_unix;

const EVENTS_MAX: usize = 32;
/// Log lines kept of an event, and how many of the newest events keep theirs.
const EVENT_LINES_MAX: usize = LOG_TAIL_MAX;
const EVENTS_WITH_LINES_MAX: usize = 8;

/// An install that has been asked for and is neither armed nor given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Text of the metadata bundle's MCID.
    pub release: String,
    pub again: bool,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    pub seq: u32,
    pub version: String,
    /// Text of the release statement's MCID.
    pub release: String,
    /// Seconds since 1970 by this node's clock; 0: not known.
    #[serde(default)]
    pub at_unix: u64,
}

/// The release that a slot was flashed with: nothing was installed, but its version is known once it has run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Flashed {
    seq: u32,
    version: String,
}

/// The rescue system on the ESP, as far as this service has written it. Without a version it is what the disk was flashed
/// with, or was put there before a factory reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueSystem {
    pub version: Option<String>,
    /// Text of the MCID of a newer one that cannot be put there: it is not tried again.
    #[serde(default)]
    pub unfit: Option<String>,
}

/// The bytes that a slot's seed needs: the metadata bundle that proved the release, and the manifests of its root and its
/// UKI.
pub struct SeedFiles {
    pub release: Vec<u8>,
    pub root_manifest: Vec<u8>,
    pub uki_manifest: Vec<u8>,
}

pub struct Records {
    dir: PathBuf,
    events: Mutex<Vec<EventReport>>,
    audit: Mutex<Audit>,
}

impl Records {
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let Opened { audit, complaint } = Audit::open(&dir.join("audit"))?;
        let records = Self { dir: dir.to_path_buf(), events: Mutex::default(), audit: Mutex::new(audit) };
        let events = records.read("events").unwrap_or_default();
        let records = Self { events: Mutex::new(events), ..records };
        if let Some(complaint) = complaint {
            records.event("audit-damaged", complaint);
        }
        Ok(records)
    }

    pub fn trial(&self) -> Option<Trial> {
        self.read("trial")
    }

    pub fn set_trial(&self, trial: &Trial) -> Result<()> {
        self.write("trial", trial)
    }

    pub fn clear_trial(&self) -> Result<()> {
        self.remove("trial")
    }

    pub fn intent(&self) -> Option<Intent> {
        self.read("installing")
    }

    pub fn set_intent(&self, intent: &Intent) -> Result<()> {
        self.write("installing", intent)
    }

    pub fn clear_intent(&self) -> Result<()> {
        if self.intent().is_none() { Ok(()) } else { self.remove("installing") }
    }

    /// What the releases' signers have come to be; nothing yet when there is no record.
    pub fn trust(&self) -> Trust {
        let Some(bytes) = durable::read(&self.trust_path()) else { return Trust::default() };
        Trust::decode(&bytes).unwrap_or_else(|e| {
            tracing::error!("the record of trust is intact but not understood, so it begins anew: {e}");
            Trust::default()
        })
    }

    pub fn set_trust(&self, trust: &Trust) -> Result<()> {
        let path = self.trust_path();
        let dir = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        durable::write(&path, &trust.encode()).context("cannot write the record of trust")
    }

    pub fn failed(&self) -> FailedReleases {
        self.read("failed").unwrap_or_default()
    }

    pub fn record_failure(&self, failure: FailedRelease) -> Result<()> {
        let mut failed = self.failed();
        failed.record(failure);
        self.write("failed", &failed)
    }

    /// What a slot holds, if `seq` is what was installed there last.
    pub fn installed(&self, slot: Slot, seq: u32) -> Option<Installed> {
        self.read(&format!("slot-{slot}")).filter(|i: &Installed| i.seq == seq)
    }

    /// The version of what a slot holds, also if the disk was flashed with it.
    pub fn version_in(&self, slot: Slot, seq: u32) -> Option<String> {
        let flashed = || self.read("flashed").filter(|f: &Flashed| f.seq == seq).map(|f| f.version);
        self.installed(slot, seq).map(|i| i.version).or_else(flashed)
    }

    /// Notes what runs if it was not installed, once: the rescue system may be newer one day, and must not think this old.
    pub fn note_flashed(&self, boot: &BootInfo) {
        if self.version_in(boot.slot, boot.seq).is_some() {
            return;
        }
        let flashed = Flashed { seq: boot.seq, version: boot.version.clone() };
        if let Err(e) = self.write("flashed", &flashed) {
            tracing::warn!("{e:#}");
        }
    }

    /// What the slots hold, as far as known.
    pub fn slots(&self) -> Vec<Installed> {
        [Slot::A, Slot::B].iter().filter_map(|s| self.read(&format!("slot-{s}"))).collect()
    }

    pub fn set_installed(&self, slot: Slot, installed: &Installed, files: &SeedFiles) -> Result<()> {
        self.write_bytes(&format!("slot-{slot}.release"), &files.release)?;
        self.write_bytes(&format!("slot-{slot}.manifest"), &files.root_manifest)?;
        self.write_bytes(&format!("slot-{slot}.uki-manifest"), &files.uki_manifest)?;
        self.write(&format!("slot-{slot}"), installed)
    }

    pub fn seed_files(&self, slot: Slot) -> Option<SeedFiles> {
        Some(SeedFiles {
            release: durable::read(&self.dir.join(format!("slot-{slot}.release")))?,
            root_manifest: durable::read(&self.dir.join(format!("slot-{slot}.manifest")))?,
            uki_manifest: durable::read(&self.dir.join(format!("slot-{slot}.uki-manifest")))?,
        })
    }

    /// The highest install sequence number that anything here or in the evidence mentions.
    pub fn highest_seq(&self, boot: &BootInfo) -> u32 {
        let slots = self.slots();
        let known = slots.iter().map(|i| i.seq).chain(self.trial().map(|t| t.seq));
        let failed = self.failed();
        let failed = failed.iter().map(|f| f.seq);
        known.chain(failed).chain(boot.evidence.iter().map(|e| e.seq)).max().unwrap_or(0)
    }

    pub fn events(&self) -> Vec<EventReport> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers what happened, for long in the audit log. The same event again only moves the time, so that a retry every minute does not push
    /// everything else out (nor wear the disk).
    pub fn event(&self, kind: &str, text: impl Into<String>) {
        self.event_with_log(kind, text, &[]);
    }

    /// For what the audit log alone is the place for.
    pub fn audit_only(&self, kind: &str, text: &str) -> Result<()> {
        self.audit().append(now_unix(), kind, text).map(drop)
    }

    /// The same, with the last log lines of what failed.
    pub fn event_with_log(&self, kind: &str, text: impl Into<String>, log: &[String]) {
        let text = text.into();
        let log_tail = log[log.len().saturating_sub(EVENT_LINES_MAX)..].to_vec();
        tracing::info!("{kind}: {text}");
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = events.last_mut().filter(|e| e.kind == kind && e.text == text) {
            (last.at_unix, last.log_tail) = (now_unix(), log_tail);
            return;
        }
        let at_unix = now_unix();
        let number = match self.audit().append(at_unix, kind, &text) {
            Ok(record) => record.number,
            Err(e) => {
                tracing::error!("this is not in the audit log: {e:#}");
                0
            }
        };
        events.push(EventReport { at_unix, kind: kind.into(), text, log_tail, number });
        let surplus = events.len().saturating_sub(EVENTS_MAX);
        events.drain(..surplus);
        let with_lines = events.iter_mut().rev().filter(|e| !e.log_tail.is_empty());
        with_lines.skip(EVENTS_WITH_LINES_MAX).for_each(|e| e.log_tail.clear());
        if let Err(e) = self.write("events", &*events) {
            tracing::warn!("event is not kept: {e:#}");
        }
    }

    /// The audit log's segments, oldest first, for `os_audit::verify`.
    pub fn audit_segments(&self) -> Vec<Vec<u8>> {
        self.audit().segments()
    }

    /// Notes which node this is, when it is not the one that was noted last: its key was made since.
    pub fn note_node(&self, node: &str) {
        if self.read::<String>("node").is_some_and(|known| known == node) {
            return;
        }
        self.event("node-key", format!("this node is {node}"));
        if let Err(e) = self.write("node", &node) {
            tracing::warn!("{e:#}");
        }
    }

    fn audit(&self) -> MutexGuard<'_, Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers, once each, the boots that ended badly: those that left evidence, and the last one if it left none.
    /// Writes nothing when there is nothing new.
    pub fn tell_bad_ends(&self, boot: &BootInfo) -> Result<()> {
        let told: Vec<String> = self.read("told").unwrap_or_default();
        let is_new = |id: &String| !told.contains(id);
        for e in boot.evidence.iter().filter(|e| is_new(&e.boot_id)) {
            let text = format!("install {} in slot {}, {}: {}", e.seq, e.slot, e.stage, e.reason);
            self.event_with_log("boot-failed", text, &e.log_tail);
        }
        if let Some(last) = boot.interrupted.as_ref().filter(|last| is_new(&last.boot_id)) {
            let text = format!(
                "the boot of {} before this one ended without a word: power cut or reset button",
                last.version
            );
            self.event_with_log("interrupted", text, &last.log_tail);
        }
        let last = boot.interrupted.iter().map(|last| &last.boot_id);
        let ids: Vec<&String> = boot.evidence.iter().map(|e| &e.boot_id).chain(last).collect();
        if ids.iter().any(|id| is_new(id)) { self.write("told", &ids) } else { Ok(()) }
    }

    pub fn rescue(&self) -> RescueSystem {
        self.read("rescue").unwrap_or_default()
    }

    pub fn set_rescue(&self, rescue: &RescueSystem) -> Result<()> {
        self.write("rescue", rescue)
    }

    /// Where the next rescue system is put together, and where it is kept for neighbours once it is on the ESP.
    pub fn rescue_files(&self) -> [PathBuf; 2] {
        ["rescue.part", "rescue.efi"].map(|name| self.dir.join(name))
    }

    /// The manifest of the one that is kept.
    pub fn rescue_manifest(&self) -> Option<Vec<u8>> {
        durable::read(&self.dir.join("rescue.manifest"))
    }

    pub fn set_rescue_manifest(&self, manifest: &[u8]) -> Result<()> {
        self.write_bytes("rescue.manifest", manifest)
    }

    /// Where a UKI is put together before it goes to the ESP.
    pub fn uki_part(&self) -> PathBuf {
        self.dir.join("uki.part")
    }

    /// The UKI that went into a slot: neighbours get it from here, and rescue when the ESP's is gone. (On the ESP it lies in
    /// clusters, which only the boot loader's code can follow.)
    pub fn uki(&self, slot: Slot) -> PathBuf {
        self.dir.join(format!("uki-{slot}.efi"))
    }

    /// Whether the state partition takes and gives back what is written. Only for the gate: it writes.
    pub fn state_is_intact(&self, boot_id: &str) -> bool {
        let path = self.path("gate");
        let intact = durable::write(&path, boot_id.as_bytes()).is_ok()
            && durable::read(&path).is_some_and(|b| b == boot_id.as_bytes());
        intact && durable::remove(&path).is_ok()
    }

    fn trust_path(&self) -> PathBuf {
        self.dir.join("trust").join("metadata.cbor")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let bytes = durable::read(&self.path(name))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| {
                tracing::error!("{name}.json is intact but not understood, so it is passed over: {e}")
            })
            .ok()
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(value)?;
        durable::write(&self.path(name), &bytes).with_context(|| format!("cannot write {name}.json"))
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        durable::write(&self.dir.join(name), bytes).with_context(|| format!("cannot write {name}"))
    }

    fn remove(&self, name: &str) -> Result<()> {
        durable::remove(&self.path(name)).with_context(|| format!("cannot remove {name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_audit_log_once_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.event("refused", "too old");
        records.event("refused", "too old");
        records.note_node("did:key:a");
        records.note_node("did:key:a");
        (0..EVENTS_MAX).for_each(|n| records.event("installed", n.to_string()));
        let before = records.events();
        assert_eq!(before.len(), EVENTS_MAX);
        let records = Records::open(dir.path()).unwrap();
        assert_eq!(records.events(), before);
        assert!(before.windows(2).all(|pair| pair[0].number < pair[1].number), "{before:?}");
        let verified = os_audit::verify(&records.audit_segments()).unwrap();
        assert_eq!(verified.records.len(), EVENTS_MAX + 2);
        assert_eq!(
            (verified.records[0].kind.as_str(), verified.records[1].kind.as_str()),
            ("refused", "node-key")
        );
    }
}
