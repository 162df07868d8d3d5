//! `update`, `rollback`, `reboot`, `poweroff`, `plan`.

use anyhow::{Result, anyhow};
use os_content_id::Mcid;
use services_api::report::OsReport;

use super::{Session, status};
use crate::output::clean;

pub async fn update(s: &Session, release: Option<Mcid>, again: bool, watch: bool) -> Result<()> {
    let before = s.ask(async |n| {
        let before = n.status().await?;
        n.install(release, again).await?;
        Ok(before)
    });
    let before = before.await?;
    if watch {
        return status::watch(s, Some(Box::new(move |now| verdict(&before, now)))).await;
    }
    s.out.done("the node installs it: `maculactl status --watch` shows how it goes")
}

/// How the update that began after `before` ended, judged by what the node says happened since.
fn verdict(before: &OsReport, now: &OsReport) -> Option<Result<String>> {
    if now.installing.is_some() || now.trial.is_some() {
        return None;
    }
    // Events are bounded: find the last one seen before rather than count.
    let seen = before.events.last().and_then(|last| now.events.iter().rposition(|e| e == last));
    let since = &now.events[seen.map_or(0, |i| i + 1)..];
    since.iter().rev().find_map(|event| match event.kind.as_str() {
        "committed" => Some(Ok(format!("committed: {}", clean(&event.text)))),
        "refused" | "rolled-back" | "install-failed" => Some(Err(anyhow!("{}: {}", event.kind, event.text))),
        _ => None,
    })
}

pub async fn rollback(s: &Session) -> Result<()> {
    s.ask(async |n| n.rollback().await).await?;
    s.out.done("the node boots its other slot")
}

pub async fn reboot(s: &Session, reason: &str) -> Result<()> {
    s.ask(async |n| n.reboot(reason).await).await?;
    s.out.done("the node restarts")
}

pub async fn poweroff(s: &Session, reason: &str) -> Result<()> {
    s.ask(async |n| n.poweroff(reason).await).await?;
    s.out.done("the node switches off")
}

pub async fn plan(s: &Session) -> Result<()> {
    let plan = s.ask(async |n| n.plan().await).await?;
    s.out.show(&plan, |_| plan.lines().map(|l| clean(l) + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use services_api::report::{EventReport, InstallReport};

    fn event(at_unix: u64, kind: &str) -> EventReport {
        EventReport { at_unix, kind: kind.into(), text: "text".into() }
    }

    #[test]
    fn only_what_happened_since_ends_the_watching() {
        let before =
            OsReport { events: vec![event(1, "committed"), event(2, "refused")], ..OsReport::default() };
        assert!(verdict(&before, &before).is_none());
        let with = |kind| {
            let mut now = before.clone();
            now.events.push(event(3, kind));
            now
        };
        assert!(verdict(&before, &with("installed")).is_none());
        assert!(verdict(&before, &with("committed")).unwrap().is_ok());
        assert!(verdict(&before, &with("rolled-back")).unwrap().is_err());
        let busy = OsReport { installing: Some(InstallReport::default()), ..with("install-failed") };
        assert!(verdict(&before, &busy).is_none());
        // The old events fell out of the bounded list.
        let mut moved = with("committed");
        moved.events.drain(..2);
        assert!(verdict(&before, &moved).unwrap().is_ok());
    }
}
