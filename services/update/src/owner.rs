//! `control/1`: what the owner asks over the mesh. Mesh lets the owner's key open such a stream, and whoever the owner delegated
//! the method to (`macula/os/METHOD`); `control-rauc/1` is for the owner alone. Peers may ask the time, nothing else.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use os_content_id::Mcid;
use services_api::control::{self, Answer, Call, ok};
use services_api::mesh::{Incoming, MeshEvent};
use services_api::report::{
    AuditAnswer, ConfigParams, InstallParams, KillParams, LinkReport, LogLine, LogsPage, LogsParams,
    LogsSince, PowerParams, ProbeResult, UnitParams,
};
use tokio::sync::mpsc;

use crate::clock;
use crate::configuration;
use crate::links::from_json;
use crate::rauc;
use crate::updater::Updater;

/// A stream that is not done by then is closed.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
const LOG_LINES_MAX: u32 = 4_000;

pub async fn serve(updater: Arc<Updater>, mut events: mpsc::Receiver<MeshEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            MeshEvent::Stream(incoming) if incoming.protocol == control::protocol::RAUC => {
                tokio::spawn(rauc::serve_stream(updater.clone(), incoming));
            }
            MeshEvent::Stream(incoming) if incoming.protocol == clock::TIME => {
                let updater = updater.clone();
                tokio::spawn(async move { clock::answer(&updater.clock, incoming).await });
            }
            MeshEvent::Stream(incoming) => {
                tokio::spawn(serve_stream(updater.clone(), incoming));
            }
            _ => {}
        }
    }
}

pub(crate) async fn serve_stream(updater: Arc<Updater>, incoming: Incoming) {
    let peer = incoming.peer;
    let work = control::serve_one(incoming.stream, &incoming.resource, |call, stream| async move {
        (answer(&updater, &call, &peer.short()).await, stream)
    });
    match tokio::time::timeout(CALL_TIMEOUT, work).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!("a call by {peer} failed: {e:#}"),
        Err(_) => tracing::warn!("a call by {peer} took too long"),
    }
}

async fn answer(updater: &Arc<Updater>, call: &Call, who: &str) -> Result<Answer> {
    let links = &updater.links;
    match call.method.as_str() {
        "status" => ok(&updater.status().await),
        "units" => ok(&links.units().await?),
        "logs" => {
            let p: LogsParams = call.params()?;
            let text = links.supervisor().await?.logs(&p.unit, p.max_lines.min(LOG_LINES_MAX)).await?;
            ok(&from_json::<Vec<LogLine>>(&text)?)
        }
        "logs_since" => {
            let p: LogsSince = call.params()?;
            let supervisor = links.supervisor().await?;
            let text = supervisor.logs_since(&p.unit, &p.run, p.after, p.max_lines, p.wait_ms).await?;
            ok(&from_json::<LogsPage>(&text)?)
        }
        "probe" => {
            let p: UnitParams = call.params()?;
            ok(&from_json::<Vec<ProbeResult>>(&links.supervisor().await?.probe(&p.unit).await?)?)
        }
        "links" => ok(&from_json::<Vec<LinkReport>>(&links.network().await?.links().await?)?),
        "plan" => ok(&links.reconciler().await?.plan().await?),
        "audit" => ok(&AuditAnswer { segments: updater.records.audit_segments() }),
        "config" => ok(&configuration::show(updater, call.params::<ConfigParams>()?.key.as_deref())?),
        "config_secrets" => {
            ok(&configuration::reveal(updater, call.params::<ConfigParams>()?.key.as_deref(), who)?)
        }
        "recovery_key" => ok(&configuration::recovery_key(updater, who)?),
        "refresh" => ok(&links.reconciler().await?.refresh().await?),
        _ => {
            tracing::info!("{who} orders {}", call.method);
            let leaves = ["kill", "restart", "reboot", "rescue", "poweroff", "install", "rollback"];
            if leaves.contains(&call.method.as_str()) {
                updater.records.event("ordered", format!("{} by {who}", call.method));
            }
            act(updater, call, who).await
        }
    }
}

/// What changes something.
async fn act(updater: &Arc<Updater>, call: &Call, who: &str) -> Result<Answer> {
    let links = &updater.links;
    match call.method.as_str() {
        "install" => {
            let p: InstallParams = call.params()?;
            let mcid: Mcid = p.release.parse().context("the release's name")?;
            updater.install(mcid, p.again).await?;
        }
        "rollback" => updater.rollback().await?,
        "config_change" => return ok(&configuration::change(updater, &call.params()?, who).await?),
        "reset" => configuration::reset(updater, &call.params()?, who).await?,
        "kill" => {
            let p: KillParams = call.params()?;
            links.supervisor().await?.kill(&p.unit, p.signal).await?;
        }
        "restart" => {
            let p: UnitParams = call.params()?;
            links.supervisor().await?.restart(&p.unit).await?;
        }
        "reboot" => {
            let p: PowerParams = call.params()?;
            links.supervisor().await?.reboot(&p.reason).await?;
        }
        "rescue" => {
            let p: PowerParams = call.params()?;
            links.supervisor().await?.rescue(&p.reason).await?;
        }
        "poweroff" => {
            let p: PowerParams = call.params()?;
            links.supervisor().await?.poweroff(&p.reason).await?;
        }
        _ => return Err(call.unknown()),
    }
    ok(&())
}
