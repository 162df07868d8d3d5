//! The releases that `cargo xtask` built for a run or for the tests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::Owner;

/// The environment variable that tells tests where [`Releases`] are.
const PLACE: &str = "MACULA_RELEASES";

/// One build's outputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseFiles {
    pub version: String,
    /// The folder with `artifacts.json`.
    pub artifacts: PathBuf,
    /// The raw disk image, if one was made.
    pub disk: Option<PathBuf>,
}

/// What there is to boot and to update to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Releases {
    /// What nodes are flashed with.
    pub first: ReleaseFiles,
    /// A rebuild with a changed binary.
    pub second: ReleaseFiles,
    /// Its mesh never becomes ready.
    pub deaf: ReleaseFiles,
    /// As the first, signed for Secure Boot, with the keys to enrol on its disk image. Only for tests.
    pub signed: Option<ReleaseFiles>,
    /// Its init hangs, panics and exits by order (`maculactl reboot --reason "fault: hang"`).
    pub faulty: ReleaseFiles,
    pub maculactl: PathBuf,
    /// The peer that serves flipped bytes (`tests/liar`).
    pub liar: PathBuf,
}

impl Releases {
    pub fn save(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }

    /// Of the test run that `cargo xtask test` started.
    pub fn of_test_run() -> Result<Self> {
        let Some(path) = std::env::var_os(PLACE) else {
            bail!("{PLACE} is not set; run boot tests with `cargo xtask test boot`");
        };
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The variable for a test run's environment.
    pub fn variable(path: &Path) -> (&'static str, &Path) {
        (PLACE, path)
    }
}

impl ReleaseFiles {
    /// `maculactl release create` and `sign`: the folder with the owner's releases, to which this one was added.
    pub fn signed(&self, owner: &Owner, dir: &Path) -> Result<PathBuf> {
        let repository = dir.join("releases");
        let (artifacts, folder) = (text(&self.artifacts)?, text(&repository)?);
        owner.run(&["release", "create", "--artifacts", artifacts, "--repo", folder])?;
        owner.run(&["release", "sign", "--repo", folder])?;
        Ok(repository)
    }

    /// Signs the release and publishes it on a node under a channel. The name to install it by.
    pub fn publish(&self, owner: &Owner, dir: &Path, node: &str, channel: &str) -> Result<String> {
        let repository = self.signed(owner, dir)?;
        let (artifacts, folder) = (text(&self.artifacts)?, text(&repository)?);
        let publish =
            ["release", "publish", "--artifacts", artifacts, "--channel", channel, "--repo", folder];
        let published = owner.json(node, &publish)?;
        Ok(published["metadata"].as_str().context("`release publish` names nothing")?.to_string())
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
