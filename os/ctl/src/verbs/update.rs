//! `update`, `rollback`, `reboot`, `poweroff`, `plan`.

use anyhow::{Context, Result, anyhow};
use dht_proto::record_types::{CHANNEL_HEAD, channel_key};
use os_content_id::Mcid;
use os_identity::NodeId;
use services_api::daemon::now_ms;
use services_api::report::OsReport;

use super::{Session, status};
use crate::channel;
use crate::node::Node;
use crate::output::clean;

/// Which release.
pub enum Wanted {
    Release(Mcid),
    Channel {
        publisher: NodeId,
        name: String,
    },
    /// Whatever the node itself follows.
    Followed,
}

impl Wanted {
    pub fn new(
        s: &Session,
        release: Option<Mcid>,
        channel: Option<String>,
        publisher: Option<NodeId>,
    ) -> Result<Self> {
        Ok(match (release, channel) {
            (Some(mcid), _) => Wanted::Release(mcid),
            (None, Some(name)) => {
                channel::check_name(&name)?;
                let publisher = publisher.map_or_else(|| s.key().map(|k| k.node_id()), Ok)?;
                Wanted::Channel { publisher, name }
            }
            (None, None) => Wanted::Followed,
        })
    }

    async fn find(&self, node: &Node) -> Result<Option<Mcid>> {
        match self {
            Wanted::Release(mcid) => Ok(Some(*mcid)),
            Wanted::Channel { publisher, name } => {
                let records = node.records(CHANNEL_HEAD, &channel_key(publisher, name)).await?;
                let (mcid, _) = channel::newest(&records, publisher, name, now_ms()).with_context(|| {
                    format!("the mesh knows no valid head of channel `{name}` of {publisher}: publish one, it lives 48 h")
                })?;
                Ok(Some(mcid))
            }
            Wanted::Followed => Ok(None),
        }
    }
}

pub async fn update(s: &Session, wanted: &Wanted, again: bool, watch: bool) -> Result<()> {
    let begin = s.ask(async |n| {
        let before = n.status().await?;
        match wanted.find(n).await? {
            Some(mcid) => n.install(mcid, again).await?,
            None => n.refresh().await?,
        }
        Ok(before)
    });
    let before = begin.await?;
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

pub async fn reboot(s: &Session, reason: &str, rescue: bool) -> Result<()> {
    if rescue {
        s.ask(async |n| n.rescue(reason).await).await?;
        return s.out.done("the node restarts into its rescue system");
    }
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
        EventReport { at_unix, kind: kind.into(), text: "text".into(), ..Default::default() }
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
