//! iwd's side of the conversation. iwd wants a message bus; there is none on a node, so this service plays one that has two members,
//! iwd and itself, on a socket that only iwd may connect to (`docs/decisions/0026`).

use std::collections::HashMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use services_api::bus::uid;
use tokio::net::UnixListener;
use zbus::connection::Builder;
use zbus::{Connection, Guid};
use zbus::{OwnedObjectPath, OwnedVariant};

use super::choice::{Kind, Seen, State, Why};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longer than joining takes.
const ANSWER: Duration = Duration::from_secs(90);
/// More networks than this are not looked at.
const SEEN_MAX: usize = 256;
/// iwd's name on the bus.
const IWD: &str = ":1.1";

const NOTHING_YET: &str = "org.freedesktop.DBus.Error.NotFound";
const DEVICE: &str = "net.connman.iwd.Device";
const STATION: &str = "net.connman.iwd.Station";
const NETWORK: &str = "net.connman.iwd.Network";

/// Objects by path, their interfaces by name, their properties by name.
pub type Objects = HashMap<OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>>;

#[zbus::proxy(
    interface = "org.freedesktop.DBus.ObjectManager",
    default_service = "net.connman.iwd",
    default_path = "/"
)]
trait ObjectManager {
    fn get_managed_objects(&self) -> zbus::Result<Objects>;
}

#[zbus::proxy(interface = "net.connman.iwd.Device", default_service = "net.connman.iwd")]
trait Device {
    #[zbus(property(emits_changed_signal = "false"))]
    fn set_powered(&self, powered: bool) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "net.connman.iwd.Station", default_service = "net.connman.iwd")]
trait Station {
    /// Returns when looking has begun.
    fn scan(&self) -> zbus::Result<()>;
    /// Hundredths of a dBm.
    fn get_ordered_networks(&self) -> zbus::Result<Vec<(OwnedObjectPath, i16)>>;
}

#[zbus::proxy(interface = "net.connman.iwd.Network", default_service = "net.connman.iwd")]
trait Network {
    fn connect(&self) -> zbus::Result<()>;
}

/// The bus itself, as far as iwd uses it.
struct Bus;

#[zbus::interface(name = "org.freedesktop.DBus")]
impl Bus {
    fn hello(&self) -> &str {
        IWD
    }

    /// 1: it is the name's owner now.
    fn request_name(&self, _name: &str, _flags: u32) -> u32 {
        1
    }

    fn add_match(&self, _rule: &str) {}

    fn remove_match(&self, _rule: &str) {}

    fn get_name_owner(&self, name: &str) -> zbus::fdo::Result<String> {
        Err(zbus::fdo::Error::NameHasNoOwner(format!("nobody is called {name}")))
    }
}

/// Binds the socket that iwd looks for.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let bind = || {
        let listener = UnixListener::bind(path)?;
        // On a host this process may not be in the group; then it plays iwd's part itself.
        let _ = chown(path, None, Some(uid::WIFI));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok::<_, std::io::Error>(listener)
    };
    bind().with_context(|| format!("cannot listen on {}", path.display()))
}

/// Waits for iwd.
pub async fn accept(listener: &UnixListener) -> Result<Connection> {
    loop {
        let (stream, _) = listener.accept().await.context("cannot wait for iwd")?;
        let peer = stream.peer_cred()?.uid();
        if peer != uid::WIFI && peer != nix::unistd::getuid().as_raw() {
            tracing::warn!("uid {peer} is not iwd and may not speak as it");
            continue;
        }
        let builder = Builder::unix_stream(stream.into_std()?)
            .server(Guid::generate())
            .p2p()
            .method_timeout(ANSWER)
            .serve_at("/org/freedesktop/DBus", Bus);
        match tokio::time::timeout(HANDSHAKE, builder.build()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(e)) => tracing::warn!("iwd was cut off: {e}"),
            Err(_) => tracing::warn!("iwd did not finish its handshake"),
        }
    }
}

/// The radio, as iwd has it.
#[derive(Debug, PartialEq, Eq)]
pub struct Radio {
    path: OwnedObjectPath,
    /// Name of its link.
    pub link: String,
    powered: bool,
    /// `None`: switched off.
    pub station: Option<StationState>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct StationState {
    pub state: State,
    pub looking: bool,
    pub joined: Option<String>,
    names: HashMap<OwnedObjectPath, (String, Kind)>,
}

/// Who is asked.
pub struct Iwd(Connection);

impl Iwd {
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }

    pub fn is_gone(&self) -> bool {
        self.0.is_closed()
    }

    /// `None`: iwd has no radio (yet).
    pub async fn radio(&self) -> Result<Option<Radio>> {
        match ObjectManagerProxy::new(&self.0).await?.get_managed_objects().await {
            Ok(objects) => Ok(radio(&objects)),
            // It has its name for a moment already when it has nothing to show yet.
            Err(zbus::Error::MethodError(name, ..)) if name.as_str() == NOTHING_YET => Ok(None),
            Err(e) => Err(e).context("iwd does not say what it has"),
        }
    }

    pub async fn switch_on(&self, radio: &Radio) -> Result<()> {
        let device = DeviceProxy::builder(&self.0).path(radio.path.clone()).build().await?;
        device.set_powered(true).await.with_context(|| format!("cannot switch {} on", radio.link))
    }

    /// Begins to look around, unless that is going on.
    pub async fn look(&self, radio: &Radio) -> Result<()> {
        match self.station(radio).await?.scan().await {
            Err(e) if !is(&e, &["Busy", "InProgress"]) => Err(e).context("cannot look for Wi-Fi networks"),
            _ => Ok(()),
        }
    }

    /// The networks in reach, and where each is.
    pub async fn seen(&self, radio: &Radio) -> Result<Vec<(OwnedObjectPath, Seen)>> {
        let ordered = self.station(radio).await?.get_ordered_networks().await;
        let ordered = ordered.context("iwd does not say which networks are in reach")?;
        let names = radio.station.as_ref().map(|station| &station.names);
        let named = ordered.into_iter().take(SEEN_MAX).filter_map(|(path, dbm)| {
            let (ssid, kind) = names?.get(&path)?.clone();
            Some((path, Seen { ssid, dbm: dbm / 100, kind }))
        });
        Ok(named.collect())
    }

    /// Joins a network that iwd knows.
    pub async fn join(&self, path: &OwnedObjectPath, kind: Kind) -> Result<(), Why> {
        let Err(first) = self.connect(path).await else { return Ok(()) };
        tracing::debug!("not joined: {first}");
        if kind != Kind::Passphrase || !is(&first, &["Failed"]) {
            return Err(if is(&first, &["Failed", "Aborted"]) { Why::Refused } else { Why::Unreachable });
        }
        // After a handshake that failed iwd would ask somebody for another passphrase, and there is nobody to ask.
        match self.connect(path).await {
            Ok(()) => Ok(()),
            Err(e) if is(&e, &["NoAgent"]) => Err(Why::Passphrase),
            Err(_) => Err(Why::Refused),
        }
    }

    async fn connect(&self, path: &OwnedObjectPath) -> zbus::Result<()> {
        NetworkProxy::builder(&self.0).path(path.clone()).build().await?.connect().await
    }

    async fn station(&self, radio: &Radio) -> Result<StationProxy<'static>> {
        Ok(StationProxy::builder(&self.0).path(radio.path.clone()).build().await?)
    }
}

/// Whether iwd answered with one of its errors.
fn is(error: &zbus::Error, names: &[&str]) -> bool {
    let zbus::Error::MethodError(name, ..) = error else { return false };
    names.iter().any(|known| name.strip_prefix("net.connman.iwd.") == Some(known))
}

/// The first radio, if there are more.
fn radio(objects: &Objects) -> Option<Radio> {
    let devices =
        objects.iter().filter_map(|(path, interfaces)| Some((path, interfaces, interfaces.get(DEVICE)?)));
    let (path, interfaces, device) = devices.min_by_key(|(path, ..)| path.as_str())?;
    let station = interfaces.get(STATION).map(|station| StationState {
        state: match text(station, "State").as_str() {
            "connected" | "roaming" => State::Joined,
            "disconnected" => State::Apart,
            _ => State::Busy,
        },
        looking: flag(station, "Scanning"),
        joined: at(station, "ConnectedNetwork").and_then(|path| Some(network(objects.get(&path)?)?.0)),
        names: names(objects, path),
    });
    Some(Radio { path: path.clone(), link: text(device, "Name"), powered: flag(device, "Powered"), station })
}

impl Radio {
    /// Whether it only has to be switched on.
    pub fn is_off(&self) -> bool {
        !self.powered
    }
}

fn names(objects: &Objects, device: &OwnedObjectPath) -> HashMap<OwnedObjectPath, (String, Kind)> {
    let below = format!("{}/", device.as_str());
    let networks = objects.iter().filter(|(path, _)| path.as_str().starts_with(&below));
    networks.filter_map(|(path, interfaces)| Some((path.clone(), network(interfaces)?))).collect()
}

fn network(interfaces: &HashMap<String, HashMap<String, OwnedVariant>>) -> Option<(String, Kind)> {
    let network = interfaces.get(NETWORK)?;
    let kind = match text(network, "Type").as_str() {
        "open" => Kind::Open,
        "psk" => Kind::Passphrase,
        _ => Kind::Other,
    };
    Some((text(network, "Name"), kind)).filter(|(ssid, _)| (1..=32).contains(&ssid.len()))
}

fn text(properties: &HashMap<String, OwnedVariant>, key: &str) -> String {
    properties.get(key).and_then(|value| String::try_from(value.try_clone().ok()?).ok()).unwrap_or_default()
}

fn flag(properties: &HashMap<String, OwnedVariant>, key: &str) -> bool {
    properties.get(key).and_then(|value| bool::try_from(value).ok()).unwrap_or_default()
}

fn at(properties: &HashMap<String, OwnedVariant>, key: &str) -> Option<OwnedObjectPath> {
    properties.get(key).and_then(|value| OwnedObjectPath::try_from(value.try_clone().ok()?).ok())
}

#[cfg(test)]
mod tests {
    use zbus::{ObjectPath, Variant};

    use super::*;

    fn path(text: &str) -> OwnedObjectPath {
        ObjectPath::try_from(text).unwrap().to_owned().into()
    }

    fn interface(
        name: &str,
        properties: &[(&str, Variant<'_>)],
    ) -> HashMap<String, HashMap<String, OwnedVariant>> {
        let properties = properties
            .iter()
            .map(|(key, value)| (key.to_string(), value.try_to_owned().unwrap()))
            .collect::<HashMap<_, _>>();
        HashMap::from([(name.to_owned(), properties)])
    }

    #[test]
    fn a_radio_is_read_out_of_iwds_objects() {
        let attic = path("/net/connman/iwd/0/3/6174_psk");
        let mut device = interface(DEVICE, &[("Name", "wlan0".into()), ("Powered", true.into())]);
        device.extend(interface(
            STATION,
            &[
                ("State", "connected".into()),
                ("Scanning", true.into()),
                ("ConnectedNetwork", Variant::ObjectPath(attic.clone().into())),
            ],
        ));
        let named = |name: &str, kind: &str| {
            interface(
                NETWORK,
                &[("Name", Variant::from(name.to_owned())), ("Type", Variant::from(kind.to_owned()))],
            )
        };
        let objects: Objects = HashMap::from([
            (path("/net/connman/iwd/0"), interface("net.connman.iwd.Adapter", &[])),
            (path("/net/connman/iwd/0/3"), device),
            (attic, named("attic", "psk")),
            (path("/net/connman/iwd/0/3/6f_8021x"), named("office", "8021x")),
            (path("/net/connman/iwd/0/3/00_open"), named("", "open")),
            (path("/net/connman/iwd/0/4/61_open"), named("of another radio", "open")),
        ]);
        let radio = radio(&objects).unwrap();
        let station = radio.station.as_ref().unwrap();
        assert_eq!((radio.link.as_str(), radio.is_off(), station.looking), ("wlan0", false, true));
        assert_eq!((station.state, station.joined.as_deref()), (State::Joined, Some("attic")));
        let mut names: Vec<_> = station.names.values().cloned().collect();
        names.sort_by_key(|(name, _)| name.clone());
        assert_eq!(names, [("attic".to_owned(), Kind::Passphrase), ("office".to_owned(), Kind::Other)]);
    }

    #[test]
    fn no_radio_and_one_that_is_off_are_not_the_same() {
        assert_eq!(super::radio(&HashMap::new()), None);
        let off = interface(DEVICE, &[("Name", "wlan0".into()), ("Powered", false.into())]);
        let radio = super::radio(&HashMap::from([(path("/net/connman/iwd/0/3"), off)])).unwrap();
        assert!(radio.is_off() && radio.station.is_none());
    }
}
