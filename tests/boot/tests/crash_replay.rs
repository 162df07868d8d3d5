//! The campaign's short form: one node's first boot is recorded, some hundred power cuts of it are judged, two really booted.

use std::fs::File;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use image_layout::{ESP, ROOT_A};
use qemu_lab::Releases;
use tests_campaign::campaign::{self, Plan};
use tests_campaign::disk::Disk;
use tests_campaign::expect::findings;
use tests_campaign::model::Model;
use tests_campaign::operation::Operation;
use tests_campaign::record::Recording;
use tests_campaign::replay::Replay;

#[test]
fn power_cuts_during_a_first_boot_lose_nothing() -> Result<()> {
    let releases = Releases::of_test_run()?;
    let seed = std::env::var("MACULA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(seed_of_now);
    eprintln!("    MACULA_SEED={seed} repeats these cuts, on another recording");
    let folder = tempfile::tempdir()?;
    let plan = Plan {
        seed,
        cuts: 400,
        boots: 2,
        jobs: 2,
        until: Operation::FirstBoot,
        only: None,
        folder: folder.path().to_path_buf(),
        e2fsck: e2fsck()?,
    };
    let say = |line: &str| eprintln!("    {line}");
    let report = campaign::run(&plan, &releases, &say)?;
    ensure!(report.judged() >= 400 && report.booted() == 2, "{report:?}");
    ensure!(report.troubles.is_empty(), "{:#?}", report.troubles);
    damage_is_seen(&plan, &releases)
}

/// What no cut can do, the model must see all the same: otherwise "nothing lost" would mean nothing.
fn damage_is_seen(plan: &Plan, releases: &Releases) -> Result<()> {
    let recording = Recording::find_or_make(&plan.folder, releases, plan.until, &|_| ())?;
    let base = File::open(recording.base())?;
    let model = Model::new(releases, &base, e2fsck()?)?;
    let ends = campaign::ends(plan, &recording, &Replay::load(&recording.log)?, &model)?;
    let first_boot = ends.first().context("no operation")?;
    let findings_after = |offset: u64, bytes: &[u8]| -> Result<Vec<String>> {
        let mut disk = Disk::new(&base)?;
        disk.write(offset, bytes)?;
        Ok(findings(first_boot, 0, &model.judge(&disk)?, &recording.about))
    };
    ensure!(findings_after(ROOT_A.start + 2_000_000, b"")?.is_empty(), "an untouched disk is in order");
    for (what, offset) in [("root", ROOT_A.start + 2_000_000), ("boot sector of the ESP", ESP.start + 11)] {
        let found = findings_after(offset, &[0x5a; 3])?;
        ensure!(!found.is_empty(), "a damaged {what} is not noticed");
    }
    let found = findings(first_boot, usize::MAX, &model.judge(&Disk::new(&base)?)?, &recording.about);
    ensure!(found == ["the key is gone"], "{found:?}");
    Ok(())
}

fn e2fsck() -> Result<PathBuf> {
    image_builder::tools::find("e2fsck").context("there is no e2fsck (package e2fsprogs)")
}

fn seed_of_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
}
