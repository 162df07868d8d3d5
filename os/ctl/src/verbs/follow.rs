//! `logs -f` and `events -f`: what several nodes say, as they say it.
//!
//! Each node has a task that asks for what comes after its [`LogPlace`] or [`EventPlace`], and comes back when the node was away. Lines
//! go to stdout, what happened to the connection to stderr.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use services_api::report::{EventReport, LogsPage, LogsSince};
use tokio::task::JoinSet;

use super::{Session, status, units};
use crate::fleet::Member;
use crate::node::Node;
use crate::output::{Color, clean, one_line, print};

/// How long a node waits for a line before it says that there is none.
const LOG_WAIT_MS: u32 = 20_000;
const EMPTY_AT_MOST_EVERY: Duration = Duration::from_secs(1);
const PAGE_LINES: u32 = 1_000;
const EVENTS_EVERY: Duration = Duration::from_secs(2);
/// Longer than any page is waited for: who is silent for so long is away.
const PATIENCE: Duration = Duration::from_secs(40);
const BACK_OFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// How far a node's log has been read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LogPlace {
    run: String,
    after: u64,
}

impl LogPlace {
    pub fn ask(&self, unit: &str, first_lines: u32) -> LogsSince {
        let max_lines = if self.run.is_empty() { first_lines } else { PAGE_LINES };
        let (run, after) = (self.run.clone(), self.after);
        LogsSince { unit: unit.to_owned(), run, after, max_lines, wait_ms: LOG_WAIT_MS }
    }

    /// Moves on to the end of a page. What is to be said before its lines.
    pub fn take(&mut self, page: &LogsPage) -> Option<&'static str> {
        let restarted = !self.run.is_empty() && self.run != page.run;
        (self.run, self.after) = (page.run.clone(), page.last);
        match (restarted, page.lost) {
            (true, false) => Some("has started anew, its log begins again"),
            (true, true) => {
                Some("has started anew, its log begins again; the first lines of it are lost already")
            }
            (false, true) => Some("lines are lost: they came faster than they were read"),
            (false, false) => None,
        }
    }
}

/// The newest event that has been seen.
#[derive(Debug, Default)]
pub struct EventPlace(Option<EventReport>);

impl EventPlace {
    /// The events that are new, and whether there may have been others between.
    pub fn take(&mut self, events: &[EventReport]) -> (Vec<EventReport>, bool) {
        let (from, missed) = match &self.0 {
            None => (0, false),
            Some(seen) => match events.iter().rposition(|e| is_same(e, seen)) {
                // The same again moves its time.
                Some(at) => (at + usize::from(events[at].at_unix == seen.at_unix), false),
                None => (0, !events.is_empty()),
            },
        };
        if let Some(newest) = events.last() {
            self.0 = Some(newest.clone());
        }
        (events[from..].to_vec(), missed)
    }
}

fn is_same(event: &EventReport, seen: &EventReport) -> bool {
    let numbered = event.number == seen.number && (event.number != 0 || event.at_unix == seen.at_unix);
    numbered && event.kind == seen.kind && event.text == seen.text
}

/// Before the next attempt to get back to a node.
pub fn back_off(failures: u32) -> Duration {
    let [first, most] = BACK_OFF;
    first.saturating_mul(1 << failures.min(10)).min(most)
}

#[derive(Clone)]
enum What {
    Logs { unit: String, lines: u32 },
    Events,
}

pub async fn logs(s: &Session, all: bool, unit: String, lines: u32) -> Result<()> {
    follow(s, all, &What::Logs { unit, lines }).await
}

pub async fn events(s: &Session, all: bool) -> Result<()> {
    follow(s, all, &What::Events).await
}

async fn follow(s: &Session, all: bool, what: &What) -> Result<()> {
    let members = s.members(all)?;
    let alone = members.len() == 1;
    let width = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for member in members {
        let mut follower = Follower {
            session: s.clone(),
            name: member.label(),
            member,
            met: false,
            alone,
            width: width.clone(),
            what: what.clone(),
            log: LogPlace::default(),
            events: EventPlace::default(),
        };
        tasks.spawn(async move { follower.run().await });
    }
    // Each goes on for ever, but for one that cannot even begin.
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(e)) if alone => return Err(e),
            Ok(Err(e)) => eprintln!("maculactl: {}", one_line(&e)),
            Err(e) => bail!("cannot follow: {e}"),
        }
    }
    bail!("none of the nodes can be followed")
}

struct Follower {
    session: Session,
    member: Member,
    name: String,
    /// It has answered once, so it is worth waiting for.
    met: bool,
    alone: bool,
    /// Of the longest name, so that lines stand under each other.
    width: Arc<AtomicUsize>,
    what: What,
    log: LogPlace,
    events: EventPlace,
}

impl Follower {
    async fn run(&mut self) -> Result<()> {
        let mut failures = 0;
        loop {
            let error = match self.on_one_connection(&mut failures).await {
                Ok(never) => match never {},
                Err(e) => e,
            };
            if (self.alone && !self.met) || is_too_old(&error) {
                return Err(error.context(self.name.clone()));
            }
            if failures == 0 {
                self.notice(&format!("is away, waiting for it ({})", one_line(&error)));
            }
            tokio::time::sleep(back_off(failures)).await;
            failures += 1;
        }
    }

    /// Until it breaks.
    async fn on_one_connection(&mut self, failures: &mut u32) -> Result<std::convert::Infallible> {
        let node = self.session.reach(&self.member).await?;
        let ended = self.listen(&node, failures).await;
        node.close().await;
        ended
    }

    async fn listen(&mut self, node: &Node, failures: &mut u32) -> Result<std::convert::Infallible> {
        let status = tokio::time::timeout(PATIENCE, node.status()).await??;
        if !status.name.is_empty() {
            self.name = clean(&status.name);
        }
        self.width.fetch_max(self.name.chars().count(), Ordering::Relaxed);
        loop {
            match self.what.clone() {
                What::Logs { unit, lines } => {
                    let asked = Instant::now();
                    let place = self.log.ask(&unit, lines);
                    let page = tokio::time::timeout(PATIENCE, node.logs_since(&place)).await??;
                    self.is_back(failures);
                    self.show_page(&page)?;
                    // A node with too many listeners does not let them wait.
                    if page.lines.is_empty() {
                        tokio::time::sleep(EMPTY_AT_MOST_EVERY.saturating_sub(asked.elapsed())).await;
                    }
                }
                What::Events => {
                    let report = tokio::time::timeout(PATIENCE, node.status()).await??;
                    self.is_back(failures);
                    self.show_events(&report.events)?;
                    tokio::time::sleep(EVENTS_EVERY).await;
                }
            }
        }
    }

    fn is_back(&mut self, failures: &mut u32) {
        if *failures > 0 {
            self.notice("is back");
        }
        (*failures, self.met) = (0, true);
    }

    fn show_page(&mut self, page: &LogsPage) -> Result<()> {
        if let Some(notice) = self.log.take(page) {
            self.notice(notice);
        }
        for line in &page.lines {
            self.line(&serde_json::to_value(line)?, &units::log_line(line, 0, self.session.out.palette))?;
        }
        Ok(())
    }

    fn show_events(&mut self, events: &[EventReport]) -> Result<()> {
        let (new, missed) = self.events.take(events);
        if missed {
            self.notice("events may be missing here: `maculactl audit show` has them all");
        }
        for event in &new {
            self.line(&serde_json::to_value(event)?, &status::event_line(event, self.session.out.palette))?;
        }
        Ok(())
    }

    fn line(&self, value: &serde_json::Value, text: &str) -> Result<()> {
        let out = &self.session.out;
        if out.json {
            let mut value = value.clone();
            value["node"] = self.name.as_str().into();
            return out.show_line(&value);
        }
        if self.alone {
            print(&format!("{text}\n"));
        } else {
            let name = format!("{:1$}", self.name, self.width.load(Ordering::Relaxed));
            print(&format!("{}  {text}\n", out.palette.paint(Color::Bold, &name)));
        }
        Ok(())
    }

    fn notice(&self, text: &str) {
        eprintln!("maculactl: {}: {text}", self.name);
    }
}

/// Waiting does not make a release newer.
fn is_too_old(error: &anyhow::Error) -> bool {
    error.to_string().contains("does not know the method")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(run: &str, last: u64, lost: bool) -> LogsPage {
        LogsPage { run: run.into(), last, lost, lines: Vec::new() }
    }

    #[test]
    fn a_log_is_followed_across_restarts() {
        let mut place = LogPlace::default();
        assert_eq!((place.ask("mesh", 7).max_lines, place.ask("", 7).run.as_str()), (7, ""));
        assert_eq!(place.take(&page("one", 40, false)), None);
        let asked = place.ask("mesh", 7);
        assert_eq!((asked.run.as_str(), asked.after, asked.max_lines), ("one", 40, PAGE_LINES));
        assert!(place.take(&page("one", 60, true)).unwrap().contains("lost"));
        assert!(place.take(&page("two", 3, false)).unwrap().contains("anew"));
        assert!(place.take(&page("three", 3, true)).unwrap().contains("lost already"));
        assert_eq!(place.ask("", 7).after, 3);
    }

    fn event(number: u64, at_unix: u64) -> EventReport {
        EventReport { number, at_unix, kind: "installed".into(), text: "0.2.0".into(), ..Default::default() }
    }

    #[test]
    fn each_event_is_told_once_and_again_when_it_happens_again() {
        let mut place = EventPlace::default();
        let told = |(events, missed): (Vec<EventReport>, bool)| {
            (events.iter().map(|e| (e.number, e.at_unix)).collect::<Vec<_>>(), missed)
        };
        assert_eq!(told(place.take(&[event(1, 10), event(3, 30)])), (vec![(1, 10), (3, 30)], false));
        assert_eq!(told(place.take(&[event(1, 10), event(3, 30)])), (vec![], false));
        assert_eq!(told(place.take(&[event(3, 30), event(4, 40)])), (vec![(4, 40)], false));
        assert_eq!(told(place.take(&[event(3, 30), event(4, 41)])), (vec![(4, 41)], false));
        assert_eq!(told(place.take(&[event(90, 90)])), (vec![(90, 90)], true));
        assert_eq!(told(place.take(&[])), (vec![], false));
        // From a release that does not number them.
        let mut place = EventPlace::default();
        place.take(&[event(0, 10)]);
        assert_eq!(told(place.take(&[event(0, 10), event(0, 20)])), (vec![(0, 20)], false));
        let mut place = EventPlace::default();
        assert_eq!(told(place.take(&[])), (vec![], false));
        assert_eq!(told(place.take(&[event(1, 1)])), (vec![(1, 1)], false));
    }

    #[test]
    fn a_node_that_is_away_is_asked_less_and_less() {
        let seconds: Vec<u64> = (0..8).map(|n| back_off(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(back_off(u32::MAX), BACK_OFF[1]);
    }
}
