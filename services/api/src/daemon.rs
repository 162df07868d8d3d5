//! What every daemon does at its start.

use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Logs to stderr, one line per event, starting with the syslog priority in angle brackets as sd-daemon(3) has it: the
/// supervisor reads it, adds time and unit, and keeps the line in RAM. `MACULA_LOG` sets the level (default `info`).
pub fn init_logging() {
    let level = std::env::var("MACULA_LOG").ok().and_then(|l| l.parse().ok()).unwrap_or(Level::INFO);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .event_format(PriorityLines)
        .init();
}

/// Tells the supervisor that this service is ready, and from then on, if its unit is watched, that its runtime still turns:
/// each daemon has one thread for all its tasks, so one that is stuck stops these words, and the supervisor kills it.
/// Call it within the runtime. Without a supervisor (tests on a host) nothing happens.
pub fn ready() {
    notify(&[sd_notify::NotifyState::Ready]);
    if let Some(longest) = sd_notify::watchdog_enabled().filter(|longest| !longest.is_zero()) {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(longest / 3).await;
                notify(&[sd_notify::NotifyState::Watchdog]);
            }
        });
    }
}

/// One line about what the service is doing, shown by `maculactl units`.
pub fn status(text: &str) {
    notify(&[sd_notify::NotifyState::Status(text)]);
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("cannot notify the supervisor: {e}");
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

struct PriorityLines;

impl<S, N> FormatEvent<S, N> for PriorityLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut w: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(w, "<{priority}>")?;
        ctx.field_format().format_fields(w.by_ref(), event)?;
        writeln!(w)
    }
}
