//! Power cut at five random moments of an update: the node boots each time and finishes in the end.

use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_lab::Node;
use serde_json::Value;
use tests_boot::{Bench, CHANNEL, UPDATE, events, say, with_console};

const CUTS: u32 = 5;
/// Boots of a trial, as `os-slots` arms it.
const TRIES: u32 = 3;

#[test]
fn power_cuts_at_random_moments_of_an_update_are_survived() -> Result<()> {
    let seed = std::env::var("MACULA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(seed_of_now);
    say(&format!("MACULA_SEED={seed} repeats these moments"));
    let mut random = seed | 1;
    let bench = Bench::new()?;
    let (a, b) = (bench.node("holder")?, bench.follower("follower")?);
    let second = &bench.releases.second;
    with_console(&b, b.wait_peers(1))?;
    second.publish(&bench.lab.owner, bench.lab.dir(), &a.address, CHANNEL)?;
    for cut in 1..=CUTS {
        // From the moment it was told of the release, or booted again, to about when it would have committed.
        let wait = Duration::from_millis(2_000 + next(&mut random) % 40_000);
        std::thread::sleep(wait);
        b.vm.power_cut()?;
        say(&format!("cut {cut} of {CUTS} after {:.1} s", wait.as_secs_f64()));
        b.vm.restart()?;
    }
    finishes(&b, &second.version)?;
    Ok(())
}

/// The boot loader counts boots, not failures: three cuts use up a trial's tries and leave the node in the old slot.
#[test]
fn power_cuts_that_use_up_a_trials_tries_do_not_condemn_the_release() -> Result<()> {
    let bench = Bench::new()?;
    let (a, b) = (bench.node("holder")?, bench.follower("follower")?);
    let second = &bench.releases.second;
    with_console(&b, b.wait_peers(1))?;
    second.publish(&bench.lab.owner, bench.lab.dir(), &a.address, CHANNEL)?;
    let on_trial = format!("this is Macula OS {}", second.version);
    for cut in 1..=TRIES {
        with_console(&b, b.vm.serial().wait_for(&on_trial, UPDATE).map_err(Into::into))?;
        b.vm.power_cut()?;
        say(&format!("cut {cut} of {TRIES}, on trial"));
        b.vm.restart()?;
    }
    let status = finishes(&b, &second.version)?;
    let said = events(&status);
    ensure!(said.iter().any(|e| e.starts_with("interrupted")), "it says what happened: {said:?}");
    Ok(())
}

fn finishes(node: &Node, version: &str) -> Result<Value> {
    let done = |s: &Value| s["version"] == version && s["trial"].is_null();
    let status = with_console(node, node.wait_status("to finish the update", UPDATE, done))?;
    ensure!(status["slot"] == "B", "{status}");
    ensure!(
        status["failed_releases"].as_array().is_none_or(Vec::is_empty),
        "power cuts are not the release's fault: {status}"
    );
    Ok(status)
}

fn seed_of_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
}

/// xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
