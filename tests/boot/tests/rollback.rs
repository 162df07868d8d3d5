//! A release whose mesh never becomes ready sends the node back to the old slot by itself, and is not tried again.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests_boot::{Bench, CHANNEL, UPDATE, events, say, with_console};

#[test]
fn a_deaf_release_is_rolled_back_remembered_and_left_alone() -> Result<()> {
    let bench = Bench::new()?;
    let (a, b) = (bench.node("holder")?, bench.follower("follower")?);
    let deaf = &bench.releases.deaf;
    with_console(&b, b.wait_peers(1))?;
    deaf.publish(&bench.lab.owner, bench.lab.dir(), &a.address, CHANNEL)?;
    let failed = |s: &serde_json::Value| {
        let list = s["failed_releases"].as_array().cloned().unwrap_or_default();
        s["slot"] == "A" && list.iter().any(|f| f["version"] == deaf.version.as_str())
    };
    let status = with_console(&b, b.wait_status("to be back and remember", UPDATE, failed))?;
    let reason = status["failed_releases"][0]["reason"].as_str().unwrap_or("").to_string();
    ensure!(reason.contains("mesh"), "the reason names the unit: {reason}");
    ensure!(status["version"] == bench.releases.first.version.as_str(), "{status}");
    say(&format!("rolled back: {reason}"));

    // The channel still offers it; six looks at it change nothing.
    std::thread::sleep(Duration::from_secs(30));
    let after = b.status()?;
    ensure!(
        after["boot_id"] == status["boot_id"] && after["installing"].is_null(),
        "tried again: {:?}",
        events(&after)
    );
    ensure!(after["trial"].is_null(), "{after}");
    Ok(())
}
