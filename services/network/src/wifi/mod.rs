//! Wi-Fi: has the supervisor start iwd, and has iwd join the networks of `config.toml`.
//!
//! iwd's files are in `/run`, made anew at each start of this service, so passphrases are on the disk in `config.toml` alone. iwd reads
//! them and cannot write there. When this service ends, iwd does, too, for it has lost its bus.

mod choice;
mod iwd;
mod known;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use os_config::{Config, Network};
use services_api::bus::{self, uid};
use services_api::network::WIFI_MAX;
use services_api::report::{WifiNetwork, WifiReport};
use services_api::supervisor::SupervisorProxy;
use tokio::time::{Instant, sleep};

use self::choice::{Choice, Kind, Seen, State, Step};
use self::iwd::{Iwd, Radio};
use crate::state::Shared;

/// The unit of iwd.
const UNIT: &str = "wifi";
/// Below the folder of this service; the unit's file says it, too.
const FOLDER: &str = "net/iwd";
/// What iwd would make itself if it could write here.
const HOTSPOTS: &str = "hotspot";
const SOCKET: &str = "bus.sock";
/// How often iwd is asked.
const POLL: Duration = Duration::from_secs(3);
const POLL_LOOK: Duration = Duration::from_millis(300);
/// A look around takes no longer.
const LOOK_MAX: Duration = Duration::from_secs(15);
/// After a conversation that went wrong.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs for ever.
pub async fn run(shared: Arc<Shared>) {
    let network = match Config::load() {
        Ok(config) => config.network,
        Err(e) => {
            tracing::error!("no Wi-Fi network is joined: {e}");
            Config::default().network
        }
    };
    let mut wifi =
        Wifi { choice: Choice::new(&network.wifi), shared, started: Instant::now(), told: String::new() };
    loop {
        let Err(e) = wifi.serve(&network).await;
        tracing::warn!("Wi-Fi: {e:#}; again in {PAUSE:?}");
        sleep(PAUSE).await;
    }
}

struct Wifi {
    choice: Choice,
    shared: Arc<Shared>,
    started: Instant,
    /// The note that the log has.
    told: String,
}

impl Wifi {
    async fn serve(&mut self, network: &Network) -> Result<std::convert::Infallible> {
        let folder = bus::run_dir().join(FOLDER);
        lay_down(&folder, network)
            .with_context(|| format!("cannot make iwd's files in {}", folder.display()))?;
        let listener = iwd::listen(&folder.join(SOCKET))?;
        tokio::spawn(start_iwd());
        loop {
            let iwd = Iwd::new(iwd::accept(&listener).await?);
            tracing::info!("iwd is there");
            if let Err(e) = self.talk(&iwd).await {
                tracing::warn!("iwd: {e:#}");
            }
        }
    }

    /// Until iwd goes.
    async fn talk(&mut self, iwd: &Iwd) -> Result<()> {
        while !iwd.is_gone() {
            let pause = match iwd.radio().await? {
                None => PAUSE,
                Some(radio) if radio.is_off() => {
                    iwd.switch_on(&radio).await?;
                    PAUSE
                }
                Some(radio) => self.step(iwd, &radio).await?,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.shared.look.notified() => self.look(iwd).await?,
            }
        }
        Ok(())
    }

    /// One decision; returns how long nothing is to be done.
    async fn step(&mut self, iwd: &Iwd, radio: &Radio) -> Result<Duration> {
        // It is another thing than a station for a moment, when it starts.
        let Some(station) = &radio.station else { return Ok(PAUSE) };
        let (paths, seen): (Vec<_>, Vec<_>) = iwd.seen(radio).await?.into_iter().unzip();
        self.tell(radio, station.joined.as_deref().filter(|_| station.state == State::Joined), &seen);
        match self.choice.next(station.state, &seen, self.started.elapsed()) {
            Step::Rest => Ok(POLL),
            Step::Look => {
                self.look(iwd).await?;
                Ok(Duration::ZERO)
            }
            Step::Join(index) => {
                let (Some(path), Some(network)) = (paths.get(index), seen.get(index)) else {
                    return Ok(POLL);
                };
                match iwd.join(path, network.kind).await {
                    Ok(()) => self.choice.joined(&network.ssid),
                    Err(why) => self.choice.failed(&network.ssid, why, self.started.elapsed()),
                }
                Ok(Duration::ZERO)
            }
        }
    }

    async fn look(&mut self, iwd: &Iwd) -> Result<()> {
        let Some(radio) = iwd.radio().await?.filter(|radio| radio.station.is_some()) else { return Ok(()) };
        iwd.look(&radio).await?;
        let until = Instant::now() + LOOK_MAX;
        while Instant::now() < until {
            sleep(POLL_LOOK).await;
            let Some(radio) = iwd.radio().await? else { return Ok(()) };
            if radio.station.as_ref().is_some_and(|station| !station.looking) {
                let seen = iwd.seen(&radio).await?.into_iter().map(|(_, seen)| seen).collect();
                self.shared.set_around(around(seen));
                return Ok(());
            }
        }
        tracing::warn!("{}: looking for Wi-Fi networks does not end", radio.link);
        Ok(())
    }

    fn tell(&mut self, radio: &Radio, joined: Option<&str>, seen: &[Seen]) {
        let report = match joined {
            Some(ssid) => {
                let dbm = seen.iter().filter(|network| network.ssid == ssid).map(|network| network.dbm).max();
                WifiReport { ssid: ssid.into(), dbm: dbm.unwrap_or_default(), note: String::new() }
            }
            None => WifiReport { note: self.choice.note(seen), ..WifiReport::default() },
        };
        let line = match joined {
            Some(ssid) => format!("{}: in the Wi-Fi network {ssid}", radio.link),
            None => format!("{}: in no Wi-Fi network: {}", radio.link, report.note),
        };
        if line != self.told {
            tracing::info!("{line}");
            self.told = line;
        }
        self.shared.set_wifi(&radio.link, report);
    }
}

fn around(seen: Vec<Seen>) -> Vec<WifiNetwork> {
    let listed = choice::list(seen, WIFI_MAX).into_iter();
    let network =
        |seen: Seen| WifiNetwork { ssid: seen.ssid, dbm: seen.dbm, secured: seen.kind != Kind::Open };
    listed.map(network).collect()
}

/// Until the supervisor has heard it. It keeps iwd running from then on.
async fn start_iwd() {
    let started = || async {
        let supervisor = SupervisorProxy::new(&bus::connect("supervisor").await?).await?;
        Ok(supervisor.start(UNIT).await?)
    };
    bus::retry("starting iwd", started).await;
}

/// Everything is for iwd's group to read, and what was there before is gone.
fn lay_down(folder: &Path, network: &Network) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    for folder in [folder.to_owned(), folder.join(HOTSPOTS)] {
        fs::create_dir_all(&folder)?;
        for_iwd(&folder, 0o750)?;
    }
    let files =
        [known::settings(network.country.as_deref())].into_iter().chain(known::networks(&network.wifi));
    for file in files {
        let path: PathBuf = folder.join(&file.name);
        ensure!(path.parent() == Some(folder), "{:?} is no name of a file", file.name);
        fs::write(&path, file.text)?;
        for_iwd(&path, 0o640)?;
    }
    Ok(())
}

fn for_iwd(path: &Path, mode: u32) -> Result<()> {
    // On a host this process may not be in iwd's group.
    if let Err(e) = chown(path, None, Some(uid::WIFI)) {
        tracing::debug!("{}: {e}", path.display());
    }
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iwds_files_are_made_anew_and_are_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("iwd");
        let config =
            |wifi: &str| Config::parse(&format!("[network]\ncountry = \"DE\"\nwifi = [{wifi}]")).unwrap();
        lay_down(&folder, &config("{ ssid = 'old', passphrase = 'hunter2 hunter2' }").network).unwrap();
        lay_down(&folder, &config("{ ssid = '../new', passphrase = 'hunter3 hunter3' }").network).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["=2e2e2f6e6577.psk", "hotspot", "main.conf"]);
        for name in &names {
            let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o027, 0, "{name}");
        }
    }
}
