//! What an app is given at each start: delegations of what its unit file lists, signed by `identity`, in a file that it alone can read.
//! Beside it lies its name, by which mesh knows whose uid this is. Both are in RAM and made anew at the next start.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use init_plan::app::Right;
use init_plan::unit::Unit;
use services_api::app::DIR;
use services_api::bus;
use services_api::identity::IdentityProxy;

use crate::paths::Paths;

/// `identity` may be starting.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks for an app's delegations; none if it lists nothing.
pub async fn delegations(name: &str, rights: &[Right]) -> Result<Vec<u8>> {
    if rights.is_empty() {
        return Ok(Vec::new());
    }
    let rights: Vec<_> = rights.iter().map(|r| (r.ability.to_owned(), r.path.clone(), r.anywhere)).collect();
    let ask = async {
        let identity = bus::connect_patiently("identity").await;
        let identity = IdentityProxy::new(&identity).await?;
        identity.delegate_to_app(name, &rights).await.context("`identity` does not delegate to it")
    };
    tokio::time::timeout(PATIENCE, ask).await.context("`identity` does not answer")?
}

/// Lays name and delegations down for an app that is about to start. Returns the delegations' path.
pub fn lay_down(paths: &Paths, unit: &Unit, chain: &[u8]) -> Result<PathBuf> {
    let dir = paths.run.join(DIR).join(unit.uid.to_string());
    let lay = || -> std::io::Result<PathBuf> {
        fs::create_dir_all(&dir)?;
        for open in [dir.parent().unwrap_or(&dir), &dir] {
            fs::set_permissions(open, Permissions::from_mode(0o755))?;
        }
        let (name, grants) = (dir.join("name"), dir.join("grants"));
        // Written aside first: mesh may be reading.
        for (path, bytes, mode, group) in
            [(&name, unit.name.as_bytes(), 0o444, 0), (&grants, chain, 0o440, unit.uid)]
        {
            let new = path.with_extension("new");
            let _ = fs::remove_file(&new);
            fs::write(&new, bytes)?;
            chown(&new, Some(0), Some(group))?;
            fs::set_permissions(&new, Permissions::from_mode(mode))?;
            fs::rename(&new, path)?;
        }
        Ok(grants)
    };
    lay().with_context(|| format!("cannot write {}", dir.display()))
}
