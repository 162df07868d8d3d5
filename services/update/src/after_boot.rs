//! What this boot means, and what follows: `os_slots::after_boot` judges, this acts.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use os_content_id::Mcid;
use os_slots::{BootVerdict, Entry, FailedRelease, GateVerdict, Trial, after_boot};

use crate::links::reboot;
use crate::node::now_unix;
use crate::updater::{Standing, Updater};
use crate::{configuration, gate, renewal, rescue, seed};

const AGAIN: Duration = Duration::from_secs(10);
/// How often an install that a power cut interrupted is begun again in one boot: its content may be out of reach.
const RESUMES_MAX: u32 = 10;
const RESUME_EVERY: Duration = Duration::from_secs(15);

/// Judges the boot, acts on it, then keeps this slot's seed offered.
pub async fn settle(updater: Arc<Updater>) {
    while let Err(e) = configuration::forget_owner_if_asked(&updater).await {
        tracing::error!("the owner is not forgotten yet: {e:#}; trying again");
        tokio::time::sleep(AGAIN).await;
    }
    while let Err(e) = judge(&updater).await {
        tracing::error!("what booted cannot be judged: {e:#}; trying again");
        tokio::time::sleep(AGAIN).await;
    }
    tokio::spawn(note_node(updater.clone()));
    let boot = &updater.node.boot;
    if boot.rescue.is_some() {
        return rescue::run(&updater).await;
    }
    updater.records.note_flashed(boot);
    if let Some(installed) = updater.records.installed(boot.slot, boot.seq) {
        tokio::spawn(seed::keep_offered(updater.clone(), installed));
    }
    tokio::spawn(renewal::keep_up(updater.clone()));
    resume(&updater).await;
}

/// Which node this is, in the audit log, once `identity` says it.
async fn note_node(updater: Arc<Updater>) {
    match updater.links.node_id().await {
        Ok(node) => updater.records.note_node(&node),
        Err(e) => tracing::debug!("identity does not say which node this is: {e:#}"),
    }
}

async fn judge(updater: &Arc<Updater>) -> Result<()> {
    let records = &updater.records;
    records.tell_bad_ends(&updater.node.boot)?;
    let trial = records.trial();
    let entries = updater.entries().await?;
    let verdict = after_boot(&entries, &updater.node.boot, trial.as_ref(), &records.failed());
    tracing::debug!("this boot: {verdict:?}");
    match verdict {
        BootVerdict::NoTrial => {}
        BootVerdict::OnTrial { recorded } => on_trial(updater, trial.filter(|_| recorded)).await?,
        BootVerdict::Committed => committed(updater)?,
        BootVerdict::NeverArmed => never_armed(updater, trial)?,
        BootVerdict::NeverBooted { entry } => never_booted(updater, trial, entry).await?,
        BootVerdict::Silent { entry, pause_ms } => silent(updater, trial, entry, pause_ms).await?,
        BootVerdict::TrialFailed { entry, running, reason, log_tail } => {
            trial_failed(updater, trial, entry, running, reason, log_tail).await?;
        }
        BootVerdict::FellBack { entry, reason, log_tail } => {
            fell_back(updater, entry, reason, &log_tail).await?;
        }
    }
    updater.set_standing(Standing::Settled);
    Ok(())
}

async fn on_trial(updater: &Arc<Updater>, trial: Option<Trial>) -> Result<()> {
    updater.set_standing(Standing::OnTrial);
    let had_peers = trial.as_ref().is_some_and(|t| t.had_peers);
    let peers = trial.as_ref().map(|t| t.peers.clone()).unwrap_or_default();
    match gate::run(updater, had_peers, &peers).await {
        GateVerdict::Fail(reason) => {
            let log_tail = gate::log_tail(&updater.links).await;
            let entry = running_entry(updater).await?;
            trial_failed(updater, trial, Some(entry), true, reason, log_tail).await
        }
        GateVerdict::Commit | GateVerdict::Wait => {
            let entry = running_entry(updater).await?;
            updater.esp(move |esp| esp.commit(entry)).await.context("committing")?;
            committed(updater)
        }
    }
}

async fn running_entry(updater: &Arc<Updater>) -> Result<Entry> {
    let entries = updater.entries().await?;
    let seq = updater.node.boot.seq;
    entries.into_iter().find(|e| e.seq == seq).context("the running entry is not on the ESP")
}

/// The entry is committed: what is left is to say so and to clear the record.
fn committed(updater: &Updater) -> Result<()> {
    let boot = &updater.node.boot;
    updater.records.event("committed", format!("{} in slot {}", boot.version, boot.slot));
    updater.clock.save();
    updater.records.clear_trial()
}

/// The record was written and the switch was not: back to an install that has been asked for.
fn never_armed(updater: &Updater, trial: Option<Trial>) -> Result<()> {
    let files = trial.as_ref().and_then(|t| updater.records.seed_files(t.slot));
    if let Some((trial, files)) = trial.zip(files) {
        let again = updater.records.failed().find(&trial.release_mcid).is_some();
        let release = Mcid::of_raw(&files.release).to_string();
        updater.records.set_intent(&crate::records::Intent { release, again })?;
    }
    updater.records.clear_trial()
}

async fn never_booted(updater: &Arc<Updater>, trial: Option<Trial>, entry: Entry) -> Result<()> {
    let Some(mut trial) = trial else { return Ok(()) };
    trial.reboots = trial.reboots.saturating_add(1);
    updater.records.set_trial(&trial)?;
    updater.records.event("resumed", format!("{entry} is armed and has not been tried: rebooting into it"));
    reboot_into_trial(updater, &trial).await
}

/// The round is counted before the tries are given back, so that a cut in between cannot make the rounds endless.
async fn silent(updater: &Arc<Updater>, trial: Option<Trial>, entry: Entry, pause_ms: u64) -> Result<()> {
    let Some(mut trial) = trial else { return Ok(()) };
    let (version, seconds) = (&trial.version, pause_ms / 1000);
    updater.set_standing(Standing::Pausing);
    updater.records.event(
        "interrupted",
        format!(
            "every boot of {version} ended without a word, as power cuts do: another round after {seconds} s"
        ),
    );
    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    trial.silent_rounds = trial.silent_rounds.saturating_add(1);
    trial.reboots = 1;
    updater.records.set_trial(&trial)?;
    updater.esp(move |esp| esp.rearm(entry)).await.context("giving the trial its tries back")?;
    reboot_into_trial(updater, &trial).await
}

async fn reboot_into_trial(updater: &Updater, trial: &Trial) -> Result<()> {
    updater.set_standing(Standing::Rebooting);
    reboot(&updater.links, &format!("trial of {}", trial.version)).await?;
    wait_for_the_end().await
}

/// Record, then mark, then clear: whatever is missing after a cut is done by the next boot.
async fn trial_failed(
    updater: &Arc<Updater>,
    trial: Option<Trial>,
    entry: Option<Entry>,
    running: bool,
    reason: String,
    log_tail: Vec<String>,
) -> Result<()> {
    let version = trial.as_ref().map_or(updater.node.boot.version.clone(), |t| t.version.clone());
    if let Some(trial) = &trial {
        updater.records.record_failure(FailedRelease {
            mcid: trial.release_mcid.clone(),
            version: trial.version.clone(),
            seq: trial.seq,
            reason: reason.clone(),
            log_tail: log_tail.clone(),
            at_unix: now_unix(),
        })?;
    }
    if let Some(entry) = entry {
        updater.esp(move |esp| esp.mark_bad(entry)).await.context("marking the failed entry")?;
    }
    let text = format!("{version} failed its trial: {reason}");
    updater.records.event_with_log("rolled-back", text, &log_tail);
    updater.records.clear_trial()?;
    if running {
        updater.set_standing(Standing::Rebooting);
        reboot(&updater.links, &format!("{version} failed its trial: {reason}")).await?;
        wait_for_the_end().await?;
    }
    Ok(())
}

/// Another, newer slot was left by PID 1. Only when this one has proved itself is the other marked: if both are bad, the
/// boot loader must not be left with nothing to choose.
async fn fell_back(updater: &Arc<Updater>, entry: Entry, reason: String, log_tail: &[String]) -> Result<()> {
    updater.set_standing(Standing::FellBack);
    let is_corrupt = updater.node.boot.is_condemned(entry.seq);
    let text = format!("slot {} ({entry}) was left: {reason}", entry.slot());
    updater.records.event_with_log(if is_corrupt { "corruption" } else { "fell-back" }, text, log_tail);
    match gate::run(updater, false, &[]).await {
        GateVerdict::Fail(reason) => {
            updater
                .records
                .event("fallback", format!("slot {} is not well either: {reason}", updater.node.boot.slot));
        }
        // The same bytes, fetched again, may be sound.
        GateVerdict::Commit | GateVerdict::Wait if is_corrupt => {
            updater.esp(move |esp| esp.mark_bad(entry)).await.context("marking the slot that was left")?;
        }
        GateVerdict::Commit | GateVerdict::Wait => updater.condemn(entry, &reason).await?,
    }
    Ok(())
}

/// The supervisor has been asked to reboot; nothing else may happen any more.
async fn wait_for_the_end() -> Result<()> {
    std::future::pending().await
}

/// Begins an interrupted install again. Content may need a while to be found after a boot.
async fn resume(updater: &Arc<Updater>) {
    let Some(intent) = updater.records.intent() else { return };
    let Ok(mcid) = intent.release.parse::<Mcid>() else {
        let _ = updater.records.clear_intent();
        return;
    };
    updater.records.event("resumed", format!("install of {mcid} that was interrupted"));
    for _ in 0..RESUMES_MAX {
        match updater.install(mcid, intent.again).await {
            Ok(()) => return,
            Err(e) => tracing::warn!("the interrupted install cannot go on yet: {e:#}"),
        }
        tokio::time::sleep(RESUME_EVERY).await;
    }
}
