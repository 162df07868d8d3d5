//! Real mesh processes behind routers of all kinds, in network namespaces: who reaches whom, how, and how fast.
//!
//! `cargo xtask test network` builds and runs it; it needs root, `ip`, `nft` and `/dev/net/tun`. Prints the table of
//! `docs/guides/reaching.md`, and fails if a pair is not reached in the way it must be.

mod cases;
mod lab;
mod nat;
mod node;
mod probe;
mod wire;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use clap::Parser;

use cases::{Case, Row};

#[derive(Parser)]
struct Options {
    /// Only cases whose name contains this.
    only: Option<String>,
    /// A few cases, one of each sort.
    #[arg(long)]
    short: bool,
    /// Cases at once. More of them make the times worse.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let only = options.only.unwrap_or_default();
    let mut cases = if options.short { cases::few() } else { cases::all() };
    cases.retain(|case| case.name().contains(&only));
    if let Err(e) = check_routers() {
        println!("a router is not what it is called: {e:#}");
        return ExitCode::FAILURE;
    }
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<Row>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, 16) {
            scope.spawn(|| work(&cases, &next, &results));
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(number, _)| *number);
    show(&cases, &results)
}

fn check_routers() -> Result<()> {
    let kinds = nat::KINDS.iter().chain([&nat::Nat::NoUdp]);
    kinds.enumerate().try_for_each(|(i, kind)| probe::check(1000 + i, *kind))?;
    println!("the routers behave as they are called");
    Ok(())
}

fn work(cases: &[Case], next: &AtomicUsize, results: &Mutex<Vec<(usize, Result<Row>)>>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(case) = cases.get(number) else { return };
        let result = run(case, number);
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("{}: {word}", case.name());
        results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((number, result));
    }
}

fn run(case: &Case, number: usize) -> Result<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(case.run(number))
}

fn show(cases: &[Case], results: &[(usize, Result<Row>)]) -> ExitCode {
    println!("\n| from | to | in the end | first byte | direct after | |\n|---|---|---|---:|---:|---|");
    for row in results.iter().filter_map(|(_, result)| result.as_ref().ok()) {
        let direct = row.direct_after.map_or(String::new(), |d| format!("{:.2} s", d.as_secs_f64()));
        let first = row.first_byte.as_secs_f64();
        println!("| {} | {} | {} | {first:.2} s | {direct} | {} |", row.a, row.b, row.way, row.note);
    }
    let failed: Vec<_> = results.iter().filter_map(|(n, r)| Some((n, r.as_ref().err()?))).collect();
    for (number, error) in &failed {
        println!("\n{}: {error:#}", cases[**number].name());
    }
    println!("\n{} of {} as expected", results.len() - failed.len(), results.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
