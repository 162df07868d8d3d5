//! What the mesh costs, beside bare QUIC in the same run: `cargo xtask bench mesh [--json]`.
//!
//! One line of JSON per figure, `{metric, value, unit, reference}`; what is going on is on standard error.

#[path = "../../tests/it/support/mod.rs"]
mod support;

mod bare;
mod calls;
mod handshakes;
mod peers;
mod topics;

use std::time::Duration;

/// Prints a figure; `reference` is the same thing done with bare QUIC, where there is such a thing.
fn figure(metric: &str, value: f64, unit: &str, reference: Option<f64>) {
    println!(
        "{}",
        serde_json::json!({ "metric": metric, "value": value, "unit": unit, "reference": reference })
    );
}

fn say(text: &str) {
    eprintln!("  {text}");
}

/// Of so many in a thousand, sorted, in microseconds.
fn permille(times: &[Duration], permille: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * permille / 1000).min(times.len().saturating_sub(1));
    times.get(at).map_or(0.0, |t| t.as_secs_f64() * 1e6)
}

fn main() {
    // Cargo says `--bench`; a name runs one of them.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    support::allow_many_files();
    if wanted.iter().any(|w| w == peers::BARE_SERVER) {
        return runtime.block_on(peers::serve_bare());
    }
    if runs("calls") {
        runtime.block_on(calls::within_a_process());
        runtime.block_on(calls::between_services());
    }
    if runs("topics") {
        runtime.block_on(topics::a_thousand_subscribers());
    }
    if runs("handshakes") {
        runtime.block_on(handshakes::both());
    }
    if runs("peers") {
        runtime.block_on(peers::idle());
    }
}
