//! From the name of a metadata bundle to a release that may be installed: fetched, believed, fitting, not failed before.

use anyhow::{Context, Result, bail};
use os_content_id::Mcid;
use os_release::{Anchor, Bundle, Expected, Named, Release, installable};
use os_slots::slot_of_seq;

use crate::clock;
use crate::install::Accepted;
use crate::node::now_unix;
use crate::records::Intent;
use crate::updater::Updater;

impl Updater {
    /// `mcid` names a metadata bundle; the newest release in it that this node may install is accepted.
    pub(crate) async fn accept(&self, mcid: Mcid, again: bool) -> Result<Accepted> {
        self.show_phase(&mcid, "release");
        let bytes = self.fetch_block(mcid).await.context("the release cannot be fetched")?;
        let bundle = Bundle::decode(&bytes)?;
        // Judged as on its first day: its signers' word has been taken already.
        let (believed, now_unix) = match self.ran_here(&bundle, &bytes) {
            Some(named) => (vec![named], 0),
            None => {
                let now_unix = self.trusted_now().await;
                (self.believe(&bundle, now_unix)?, now_unix)
            }
        };
        let (board, running) = (&self.node.boot.board, &self.node.version);
        let reinstall = self.node.boot.rescue.is_some();
        let fitting = installable(believed, &Expected { board, running, reinstall, now_unix })?;
        let named = self.not_failed(fitting, again)?;
        self.records.set_intent(&Intent { release: mcid.to_string(), again })?;
        Ok(Accepted { named, bundle: bytes })
    }

    /// Believes what a metadata bundle says about its signers, whether or not it has anything to install.
    pub async fn follow(&self, mcid: Mcid) -> Result<()> {
        let bytes = self.fetch_block(mcid).await.context("the metadata cannot be fetched")?;
        let now_unix = self.trusted_now().await;
        self.believe(&Bundle::decode(&bytes)?, now_unix).map(drop)
    }

    async fn fetch_block(&self, mcid: Mcid) -> Result<Vec<u8>> {
        let content = self.links.content().await?;
        let bytes = content.get(&mcid.to_bytes()).await?;
        if Mcid::of_raw(&bytes) != mcid {
            bail!("the content service delivered something else");
        }
        Ok(bytes)
    }

    /// In rescue: what one of the slots was installed from was believed then, and is so however old it has become since.
    fn ran_here(&self, bundle: &Bundle, bytes: &[u8]) -> Option<Named> {
        self.node.boot.rescue.as_ref()?;
        let slots = self.records.slots().into_iter();
        let installed = slots.into_iter().find(|installed| {
            let files = self.records.seed_files(slot_of_seq(installed.seq));
            files.is_some_and(|files| files.release == bytes)
        })?;
        let statement =
            bundle.statements.iter().find(|s| Mcid::of_raw(s).to_string() == installed.release)?;
        Some(Named { release: Release::decode(statement).ok()?, mcid: Mcid::of_raw(statement) })
    }

    /// What the metadata proves, by what this node has come to trust; both are remembered.
    fn believe(&self, bundle: &Bundle, now_unix: u64) -> Result<Vec<Named>> {
        let config = self.node.config();
        let update = &config.update;
        let anchor = Anchor::new(&update.release_keys, update.threshold);
        if anchor.is_empty() {
            bail!("config.toml names no update.release_keys, so no release can be trusted");
        }
        let before = self.records.trust();
        if before.is_foreign(&anchor) {
            let text = "config.toml has other release keys than before: what was trusted is forgotten";
            self.records.event("trust-reset", text);
        }
        let mut trust = before.clone();
        let believed = trust.accept(&anchor, bundle, now_unix);
        if trust != before {
            self.records.set_trust(&trust)?;
            self.clock.raise(trust.signed_unix());
        }
        let (was, is) = (before.root_version(), trust.root_version());
        if let (Some(was), Some(is)) = (was, is)
            && was < is
        {
            self.records.event("root-keys", format!("the signers' root went from version {was} to {is}"));
        }
        Ok(believed?)
    }

    fn not_failed(&self, fitting: Vec<Named>, again: bool) -> Result<Named> {
        let failed = self.records.failed();
        let failure = |named: &Named| failed.find(&named.mcid.to_string()).filter(|_| !again);
        let reason = fitting.first().and_then(failure).map(|f| f.reason.clone()).unwrap_or_default();
        let chosen = fitting.into_iter().find(|named| failure(named).is_none());
        chosen.with_context(|| format!("it failed here before ({reason}); order it again to try once more"))
    }

    /// The system's time with its floor, moved forward by enough peers.
    async fn trusted_now(&self) -> u64 {
        let peers = clock::of_peers(&self.links.streams, &self.connected_peers().await).await;
        os_clock::trusted(now_unix(), self.clock.floor(), &peers)
    }
}
