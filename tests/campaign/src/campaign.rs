//! The campaign: cuts from a seed and from the regression file, each judged, some really booted.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use qemu_lab::Releases;

use crate::boot::{Bench, Job};
use crate::cuts::{Cut, Kind, Place, Random, generate};
use crate::expect::{Ends, findings};
use crate::model::{Judgement, Model};
use crate::operation::{OPERATIONS, Operation};
use crate::record::Recording;
use crate::replay::{Placed, Replay};
use crate::report::{Case, Report};

/// Cuts that once were lost, one a line; always judged.
const REGRESSIONS: &str = include_str!("../regressions.txt");
/// Of the boots, one in so many goes on to the end of the update.
const FINISH_EVERY: usize = 8;

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// Judged cuts over all operations, besides the regressions.
    pub cuts: usize,
    /// Real boots.
    pub boots: usize,
    /// Machines at a time.
    pub jobs: usize,
    /// The last operation that is looked at.
    pub until: Operation,
    /// Only this cut.
    pub only: Option<Cut>,
    /// Where recordings are kept.
    pub folder: PathBuf,
    /// Init's own e2fsck, or the host's.
    pub e2fsck: PathBuf,
}

impl Plan {
    fn operations(&self) -> Vec<Operation> {
        OPERATIONS.into_iter().filter(|o| *o <= self.until).collect()
    }
}

/// Runs the plan. `say` is told how far it is.
pub fn run(plan: &Plan, releases: &Releases, say: &(dyn Fn(&str) + Sync)) -> Result<Report> {
    let recording = Recording::find_or_make(&plan.folder, releases, plan.until, say)?;
    let replay = Replay::load(&recording.log)?;
    let cuts = choose(plan, &recording, &replay, say)?;
    let base = File::open(recording.base()).context("the recording's base disk")?;
    let model = Model::new(releases, &base, plan.e2fsck.clone())?;
    let ends = ends(plan, &recording, &replay, &model)?;
    let mut cases = judge(&recording, &replay, &model, &ends, cuts, say)?;
    cases.sort_by(|a, b| a.placed.cut.cmp(&b.placed.cut));
    let jobs = sample(plan, &cases);
    if !jobs.is_empty() {
        let bench = Bench::new(&recording, &replay, releases)?;
        bench.run(&jobs, plan.jobs, &mut cases, say)?;
    }
    Ok(Report::new(plan.seed, cases))
}

fn choose(plan: &Plan, recording: &Recording, replay: &Replay, say: &dyn Fn(&str)) -> Result<Vec<Placed>> {
    if let Some(only) = &plan.only {
        return Ok(vec![replay.place(recording, only)?]);
    }
    let mut cuts: BTreeSet<Cut> = BTreeSet::new();
    let operations = plan.operations();
    for (index, operation) in operations.iter().enumerate() {
        let span = recording.span(*operation).with_context(|| format!("{operation} was not recorded"))?;
        let share = plan.cuts * (index + 1) / operations.len() - plan.cuts * index / operations.len();
        cuts.extend(generate(*operation, replay.requests(span), plan.seed, share));
    }
    let mut placed = cuts.iter().map(|cut| replay.place(recording, cut)).collect::<Result<Vec<_>>>()?;
    for cut in regressions()?.into_iter().filter(|c| operations.contains(&c.operation) && !cuts.contains(c)) {
        // Not every recording of an operation has every request: a superblock is written now and then.
        match replay.place(recording, &cut) {
            Ok(cut) => placed.push(cut),
            Err(e) => say(&format!("left out of the regressions: {e:#}")),
        }
    }
    Ok(placed)
}

/// The cuts of the regression file.
pub fn regressions() -> Result<Vec<Cut>> {
    let lines = REGRESSIONS.lines().map(|l| l.split("//").next().unwrap_or_default().trim());
    lines
        .filter(|l| !l.is_empty())
        .map(|l| l.parse().with_context(|| format!("regressions.txt: {l}")))
        .collect()
}

/// Judges all cuts on all processors, each with its own stretch of the recording.
fn judge(
    recording: &Recording,
    replay: &Replay,
    model: &Model,
    ends: &[Ends],
    mut cuts: Vec<Placed>,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Case>> {
    cuts.sort_by_key(|c| c.at);
    let (all, done) = (cuts.len(), AtomicUsize::new(0));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = all.div_ceil(threads).max(1);
    let stretch = |part: &[Placed]| -> Result<Vec<Case>> {
        let base = File::open(recording.base())?;
        let mut cases = Vec::new();
        replay.each(&base, part.to_vec(), |placed, disk| {
            let judgement = model.judge(disk).with_context(|| placed.cut.to_string())?;
            cases.push(case(placed, judgement, ends, recording)?);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(500) {
                say(&format!("{done} of {all} cuts judged"));
            }
            Ok(())
        })?;
        Ok(cases)
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = cuts.chunks(share).map(|part| scope.spawn(|| stretch(part))).collect();
        let mut cases = Vec::new();
        for part in parts {
            cases.extend(part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(cases)
    })
}

fn case(placed: Placed, judgement: Judgement, ends: &[Ends], recording: &Recording) -> Result<Case> {
    let ends = ends.iter().find(|e| e.operation == placed.cut.operation);
    let ends = ends.with_context(|| format!("{}: that operation was not looked at", placed.cut))?;
    let findings = findings(ends, placed.at, &judgement, &recording.about);
    Ok(Case { placed, judgement, findings, observed: None })
}

/// What the model reads where each operation begins and ends.
pub fn ends(plan: &Plan, recording: &Recording, replay: &Replay, model: &Model) -> Result<Vec<Ends>> {
    let base = File::open(recording.base()).context("the recording's base disk")?;
    let of = |operation: Operation| -> Result<Ends> {
        let span = recording.span(operation).with_context(|| format!("{operation} was not recorded"))?;
        let cut = |at| Cut { operation, place: Place::Number(at), kind: Kind::Prefix };
        let both = [cut(0), cut(span.end - span.start)].map(|cut| replay.place(recording, &cut));
        let mut judgements = Vec::new();
        replay.each(&base, both.into_iter().collect::<Result<_>>()?, |_, disk| {
            judgements.push(model.judge(disk)?);
            Ok(())
        })?;
        let (after, before) = (judgements.pop(), judgements.pop());
        let (before, after) = before.zip(after).context("two ends")?;
        Ends::new(operation, before, after)
    };
    plan.operations().into_iter().map(of).collect()
}

/// Which cases to boot: those with findings first, then as many of each operation.
fn sample(plan: &Plan, cases: &[Case]) -> Vec<Job> {
    let mut random = Random::new(plan.seed ^ 0xb007);
    let mut left: Vec<usize> = (0..cases.len()).collect();
    let mut chosen: Vec<usize> = Vec::new();
    let lost: Vec<usize> = left.iter().copied().filter(|i| !cases[*i].findings.is_empty()).collect();
    chosen.extend(lost.into_iter().take(plan.boots / 2));
    let (mut turn, operations) = (0, plan.operations());
    while chosen.len() < plan.boots && !left.is_empty() {
        let operation = operations[turn % operations.len()];
        turn += 1;
        let of_operation: Vec<usize> =
            (0..left.len()).filter(|i| cases[left[*i]].placed.cut.operation == operation).collect();
        if let Some(at) = of_operation.get(random.below(of_operation.len().max(1))) {
            let index = left.swap_remove(*at);
            if !chosen.contains(&index) {
                chosen.push(index);
            }
        }
    }
    let finishes = |index: usize| cases[index].placed.cut.operation.finishes_in_new_release();
    let mut nth = 0;
    let mut job = |index: usize| {
        nth += usize::from(finishes(index));
        Job { case: index, to_the_end: finishes(index) && nth % FINISH_EVERY == 1 }
    };
    chosen.into_iter().map(&mut job).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_regression_file_is_readable() {
        super::regressions().unwrap();
    }
}
