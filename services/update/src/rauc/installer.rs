//! `de.pengutronix.rauc.Installer`, as RAUC documents it.
//!
//! A bundle is a release, its source the release's MCID: `mcid:mcid1-raw-blake3-...`. RAUC's own client wants a scheme or an
//! existing file, so whatever stands before the last `:` or `/` is passed over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use os_content_id::Mcid;
use services_api::bus::failed;
use zbus::object_server::{InterfaceRef, SignalEmitter};
use zbus::{Connection, OwnedVariant, Variant, fdo};

use super::mark::{self, Action};
use super::slot_status::{self, Activity};
use crate::updater::{Finished, Standing, Updater};

pub const PATH: &str = "/";
/// How often a client that is connected is told of progress.
const TELL_EVERY: Duration = Duration::from_millis(250);

pub struct Installer {
    pub updater: Arc<Updater>,
    pub may_change: bool,
}

type Dictionary = HashMap<String, OwnedVariant>;

#[zbus::interface(name = "de.pengutronix.rauc.Installer")]
impl Installer {
    /// Deprecated by RAUC.
    async fn install(&self, source: &str) -> fdo::Result<()> {
        self.install_bundle(source, HashMap::new()).await
    }

    /// Returns when the order is taken; what comes of it is told by the properties and by `Completed`.
    async fn install_bundle(&self, source: &str, args: Dictionary) -> fdo::Result<()> {
        self.check_may_change()?;
        check_arguments(&args).map_err(failed)?;
        let mcid = parse_source(source).map_err(failed)?;
        if self.updater.standing() == Standing::Installing {
            return Err(fdo::Error::Failed("Already processing a different method".into()));
        }
        let updater = self.updater.clone();
        tokio::spawn(async move {
            if let Err(e) = updater.install(mcid, false).await {
                tracing::info!("a RAUC client's order of {mcid} is refused: {e:#}");
            }
        });
        Ok(())
    }

    #[zbus(out_args("compatible", "version"))]
    async fn info(&self, bundle: &str) -> fdo::Result<(String, String)> {
        let release = self.updater.look_at(&parse_source(bundle).map_err(failed)?).await.map_err(failed)?;
        Ok((release.board, release.version.to_string()))
    }

    #[zbus(out_args("info"))]
    async fn inspect_bundle(&self, source: &str, args: Dictionary) -> fdo::Result<Dictionary> {
        check_arguments(&args).map_err(failed)?;
        let (compatible, version) = self.info(source).await?;
        let update = HashMap::from([("compatible", compatible), ("version", version)]);
        Ok(HashMap::from([("update".to_string(), owned(Variant::from(update))?)]))
    }

    #[zbus(out_args("slot_name", "message"))]
    async fn mark(&self, state: &str, slot_identifier: &str) -> fdo::Result<(String, String)> {
        self.check_may_change()?;
        let (updater, entries) = (&self.updater, self.updater.entries().await.map_err(failed)?);
        let (boot, standing) = (&updater.node.boot, updater.standing());
        let view = mark::View { boot, standing, entries: &entries };
        let decision = mark::decide(state, slot_identifier, &view).map_err(fdo::Error::Failed)?;
        match decision.action {
            Action::Nothing => {}
            Action::Change(change) => updater.mark(change).await.map_err(failed)?,
            Action::EndTrial => updater.rollback().await.map_err(failed)?,
        }
        tracing::info!("rauc: {}", decision.message);
        Ok((slot_status::name(decision.slot).into(), decision.message))
    }

    #[zbus(out_args("slot_status_array"))]
    async fn get_slot_status(&self) -> fdo::Result<Vec<(String, Dictionary)>> {
        let updater = &self.updater;
        let entries = updater.entries().await.map_err(failed)?;
        let installed = |e: &os_slots::Entry| updater.records.installed(e.slot(), e.seq);
        let slots = slot_status::slots(&updater.node.boot, &entries, installed);
        let dictionary = |values: Vec<(&str, String)>| -> fdo::Result<Dictionary> {
            values.into_iter().map(|(key, value)| Ok((key.into(), owned(Variant::from(value))?))).collect()
        };
        slots.into_iter().map(|s| Ok((s.name.to_string(), dictionary(s.values)?))).collect()
    }

    /// Everything that a release brings is in its slot.
    #[zbus(out_args("artifacts"))]
    fn get_artifact_status(&self) -> Vec<Dictionary> {
        Vec::new()
    }

    #[zbus(out_args("primary"))]
    async fn get_primary(&self) -> fdo::Result<String> {
        let entries = self.updater.entries().await.map_err(failed)?;
        let primary = slot_status::primary(&entries).context("the boot loader has no entry of ours");
        Ok(slot_status::name(primary.map_err(failed)?).into())
    }

    #[zbus(property)]
    fn operation(&self) -> String {
        now(&self.updater).0.operation.into()
    }

    #[zbus(property)]
    fn last_error(&self) -> String {
        now(&self.updater).0.last_error
    }

    #[zbus(property)]
    fn progress(&self) -> (i32, String, i32) {
        now(&self.updater).0.progress
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn compatible(&self) -> String {
        self.updater.node.boot.board.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn variant(&self) -> String {
        String::new()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn system_version(&self) -> String {
        self.updater.node.boot.version.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn boot_slot(&self) -> String {
        self.updater.node.boot.slot.to_string()
    }

    /// 0: it is installed, and the node is about to reboot into it.
    #[zbus(signal)]
    async fn completed(emitter: &SignalEmitter<'_>, result: i32) -> zbus::Result<()>;
}

impl Installer {
    fn check_may_change(&self) -> fdo::Result<()> {
        match self.may_change {
            true => Ok(()),
            false => Err(fdo::Error::AccessDenied("the console only looks".into())),
        }
    }
}

fn owned(value: Variant<'_>) -> fdo::Result<OwnedVariant> {
    value.try_to_owned().map_err(|e| fdo::Error::Failed(e.to_string()))
}

fn parse_source(source: &str) -> Result<Mcid> {
    let name = source.rsplit([':', '/']).next().unwrap_or(source);
    name.parse().map_err(|e| {
        let shown: String = source.chars().take(120).collect();
        anyhow!("`{shown}` is no release: say mcid:mcid1-raw-blake3-... ({e})")
    })
}

/// RAUC's arguments are about bundles behind a web server, but for one: whether any board will do. Here none will but ours.
fn check_arguments(args: &Dictionary) -> Result<()> {
    for (key, value) in args {
        match (key.as_str(), bool::try_from(&**value)) {
            ("ignore-compatible", Ok(false)) => {}
            ("ignore-compatible", _) => {
                return Err(anyhow!("a release for another board is never installed"));
            }
            _ => return Err(anyhow!("Unsupported key: {key}")),
        }
    }
    Ok(())
}

fn now(updater: &Updater) -> (Activity, Finished) {
    let finished = updater.finished().borrow().clone();
    (slot_status::activity(updater.installing().as_ref(), &finished), finished)
}

/// Tells a client what changes, until it goes.
pub async fn narrate(updater: Arc<Updater>, connection: Connection) {
    let closed = connection.closed();
    tokio::select! {
        () = closed => {}
        told = tell_changes(&updater, &connection) => {
            if let Err(e) = told {
                tracing::debug!("a RAUC client hears no more: {e}");
            }
        }
    }
}

async fn tell_changes(updater: &Updater, connection: &Connection) -> zbus::Result<()> {
    let installer = connection.object_server().interface::<_, Installer>(PATH).await?;
    let mut ends = updater.finished();
    let mut told = now(updater);
    loop {
        tokio::select! {
            _ = ends.changed() => {}
            () = tokio::time::sleep(TELL_EVERY) => {}
        }
        let current = now(updater);
        tell(&installer, &told, &current).await?;
        told = current;
    }
}

/// `Completed` comes after the last progress and the error, before `idle`: clients stop listening there.
async fn tell(
    installer: &InterfaceRef<Installer>,
    (old, old_finished): &(Activity, Finished),
    (new, finished): &(Activity, Finished),
) -> zbus::Result<()> {
    let emitter = installer.signal_emitter();
    let begins = new.operation != "idle";
    if begins && old.operation != new.operation {
        installer.get().await.operation_changed(emitter).await?;
    }
    if old.last_error != new.last_error {
        installer.get().await.last_error_changed(emitter).await?;
    }
    if old.progress != new.progress {
        installer.get().await.progress_changed(emitter).await?;
    }
    if old_finished.count != finished.count {
        Installer::completed(emitter, i32::from(finished.error.is_some())).await?;
    }
    if !begins && old.operation != new.operation {
        installer.get().await.operation_changed(emitter).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_mcid_behind_whatever_a_client_needs() {
        let mcid = Mcid::of_raw(b"release");
        for before in ["", "mcid:", "mcid://", "/home/me/", "https://host:80/a/"] {
            assert_eq!(parse_source(&format!("{before}{mcid}")).unwrap(), mcid, "{before}");
        }
        for bad in ["", "bundle.raucb", "mcid:", &"/".repeat(1000)] {
            assert!(parse_source(bad).unwrap_err().to_string().contains("mcid:mcid1-"), "{bad}");
        }
    }

    #[test]
    fn arguments_that_would_loosen_a_rule_are_refused() {
        let with = |key: &str, value: Variant<'_>| {
            check_arguments(&HashMap::from([(key.to_string(), value.try_to_owned().unwrap())]))
        };
        with("ignore-compatible", false.into()).unwrap();
        assert!(with("ignore-compatible", true.into()).unwrap_err().to_string().contains("another board"));
        assert!(with("ignore-compatible", "no".into()).is_err());
        assert!(with("tls-no-verify", false.into()).unwrap_err().to_string().contains("tls-no-verify"));
    }
}
