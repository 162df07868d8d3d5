//! D-Bus, peer to peer: no broker, one connection per client, the peer's uid checked on each.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::{UnixListener, UnixStream};
use zbus::connection::Builder;
use zbus::{Connection, Guid};

/// Where sockets live on a node. `MACULA_RUN_DIR` moves them, for tests on a host.
pub fn run_dir() -> PathBuf {
    std::env::var_os("MACULA_RUN_DIR").map_or_else(|| PathBuf::from("/run/macula"), PathBuf::from)
}

/// The fixed uids of the services (unit files name the same).
pub mod uid {
    pub const ROOT: u32 = 0;
    pub const IDENTITY: u32 = 101;
    pub const MESH: u32 = 102;
    pub const DHT: u32 = 103;
    pub const CONTENT: u32 = 104;
    pub const RECONCILER: u32 = 105;
    pub const UPDATE: u32 = 106;
    pub const NETWORK: u32 = 107;
    pub const CONSOLE: u32 = 108;
    /// The owner's checks of a trial; no service.
    pub const CHECK: u32 = 109;
    /// Apps: each has its own (`init_plan::unit::APP_UIDS`).
    pub const APPS: std::ops::RangeInclusive<u32> = 10_000..=19_999;
    pub const PAIRING: u32 = 110;
    /// iwd, which speaks to `network` alone.
    pub const WIFI: u32 = 111;
}

/// For methods that change something: whoever stands at the console may look, and is not thereby the owner.
pub fn not_for_the_console(uid: u32) -> zbus::fdo::Result<()> {
    if uid == uid::CONSOLE {
        return Err(zbus::fdo::Error::AccessDenied("the console only looks".into()));
    }
    Ok(())
}

/// Clients beyond this many at once are turned away: there are a dozen services, each with one connection.
const MAX_CLIENTS: usize = 64;
/// The same for apps, all together and each: none can shut out the others, nor all of them a service.
const MAX_APP_CLIENTS: usize = 128;
const MAX_CLIENTS_OF_AN_APP: usize = 4;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The listening socket of this service: passed by the supervisor as fd 3 (`LISTEN_FDS`), else bound at
/// `<run dir>/<name>.sock`.
pub fn listen(name: &str) -> Result<UnixListener> {
    let std = if std::env::var("LISTEN_FDS").is_ok_and(|n| n == "1") {
        // SAFETY: the supervisor passed exactly one socket, and nothing else here owns fd 3.
        std::os::unix::net::UnixListener::from(unsafe { OwnedFd::from_raw_fd(3) })
    } else {
        let path = run_dir().join(format!("{name}.sock"));
        let _ = std::fs::remove_file(&path);
        std::os::unix::net::UnixListener::bind(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?
    };
    std.set_nonblocking(true)?;
    Ok(UnixListener::from_std(std)?)
}

/// Accepts clients for ever. Each whose uid is in `allowed` (root and our own uid always are) gets a connection with
/// the interfaces that `serve` adds to its builder.
pub async fn serve<F>(listener: UnixListener, allowed: &[u32], serve: F) -> Result<()>
where
    F: Fn(Builder<'static>, u32) -> Builder<'static>,
{
    serve_where(listener, |uid| allowed.contains(&uid), serve).await
}

/// The same for whoever `allowed` says.
pub async fn serve_where<F>(listener: UnixListener, allowed: impl Fn(u32) -> bool, serve: F) -> Result<()>
where
    F: Fn(Builder<'static>, u32) -> Builder<'static>,
{
    serve_each(listener, allowed, |builder, uid| {
        let build = serve(builder, uid).build();
        async move {
            match tokio::time::timeout(HANDSHAKE, build).await {
                Ok(connection) => connection?.closed().await,
                Err(_) => tracing::warn!(uid, "D-Bus client did not finish its handshake"),
            }
            Ok(())
        }
    })
    .await
}

/// The same for a service that looks after each connection by itself: `serve` ends when the client goes.
pub async fn serve_each<F, Fut>(listener: UnixListener, allowed: impl Fn(u32) -> bool, serve: F) -> Result<()>
where
    F: Fn(Builder<'static>, u32) -> Fut,
    Fut: Future<Output = zbus::Result<()>> + Send + 'static,
{
    let guid = Guid::generate();
    let clients = Clients::default();
    loop {
        let (stream, _) = listener.accept().await.context("accept on the service socket failed")?;
        let uid = stream.peer_cred()?.uid();
        if uid != 0 && uid != nix::unistd::getuid().as_raw() && !allowed(uid) {
            tracing::warn!(uid, "refused a D-Bus client: this uid may not use this service");
            continue;
        }
        let Some(permit) = clients.admit(uid) else {
            tracing::warn!(uid, "turned a D-Bus client away: too many are connected");
            continue;
        };
        let client = serve(Builder::unix_stream(stream.into_std()?).server(guid.clone()).p2p(), uid);
        tokio::spawn(async move {
            if let Err(e) = client.await {
                tracing::warn!(uid, "D-Bus client was cut off: {e}");
            }
            drop(permit);
        });
    }
}

/// Who is connected, by uid.
#[derive(Default, Clone)]
struct Clients(Arc<Mutex<BTreeMap<u32, usize>>>);

/// Held while a client is connected.
struct Permit(Clients, u32);

impl Clients {
    fn admit(&self, uid: u32) -> Option<Permit> {
        let is_app = |uid: &u32| uid::APPS.contains(uid);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = counts.iter().filter(|(u, _)| is_app(u) == is_app(&uid)).map(|(_, n)| n).sum();
        let own = counts.get(&uid).copied().unwrap_or_default();
        let full = if is_app(&uid) {
            all >= MAX_APP_CLIENTS || own >= MAX_CLIENTS_OF_AN_APP
        } else {
            all >= MAX_CLIENTS
        };
        if full {
            return None;
        }
        counts.insert(uid, own + 1);
        Some(Permit(self.clone(), uid))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = counts.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// Connects to another service by name.
pub async fn connect(name: &str) -> Result<Connection> {
    connect_with(name, |b| b).await
}

/// Connects, offering interfaces of our own to the service on the same connection.
pub async fn connect_with<F>(name: &str, offer: F) -> Result<Connection>
where
    F: FnOnce(Builder<'static>) -> Builder<'static>,
{
    connect_in(&run_dir(), name, offer).await
}

/// The same where the sockets are in another folder.
pub async fn connect_in<F>(run_dir: &Path, name: &str, offer: F) -> Result<Connection>
where
    F: FnOnce(Builder<'static>) -> Builder<'static>,
{
    let path = run_dir.join(format!("{name}.sock"));
    let stream =
        UnixStream::connect(&path).await.with_context(|| format!("cannot reach service `{name}`"))?;
    let std: StdUnixStream = stream.into_std()?;
    let builder = Builder::unix_stream(std).p2p().method_timeout(Duration::from_secs(60));
    match tokio::time::timeout(Duration::from_secs(20), offer(builder).build()).await {
        Ok(connection) => connection.with_context(|| format!("service `{name}` refused the connection")),
        Err(_) => bail!("service `{name}` did not answer the D-Bus handshake within 20 s"),
    }
}

/// Connects, trying again until the service is there. For start-up and after a service restarted.
pub async fn connect_patiently(name: &str) -> Connection {
    retry(name, || connect(name)).await
}

/// Runs `attempt` until it succeeds: at once, then after 0.1 s, doubling up to 5 s.
pub async fn retry<T, F, Fut>(what: &str, mut attempt: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let mut wait = Duration::from_millis(100);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(e) => tracing::debug!("{what}: {e:#}; again in {wait:?}"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

/// A client connection that is made anew when the service on the other side has restarted.
pub struct Link {
    name: &'static str,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

impl Link {
    pub fn new(name: &'static str) -> Self {
        Self { name, connection: tokio::sync::Mutex::new(None) }
    }

    /// The live connection; connects when there is none.
    pub async fn get(&self) -> Result<Connection> {
        let mut slot = self.connection.lock().await;
        if let Some(c) = slot.as_ref().filter(|c| !c.is_closed()) {
            return Ok(c.clone());
        }
        let fresh = connect(self.name).await?;
        *slot = Some(fresh.clone());
        Ok(fresh)
    }
}

/// An error for a D-Bus caller: the whole chain in one line.
pub fn failed(e: impl Into<anyhow::Error>) -> zbus::fdo::Error {
    zbus::fdo::Error::Failed(format!("{:#}", e.into()))
}

/// A 32-byte argument.
pub fn node_id(bytes: &[u8]) -> zbus::fdo::Result<os_identity::NodeId> {
    os_identity::NodeId::try_from(bytes).map_err(|e| zbus::fdo::Error::InvalidArgs(e.to_string()))
}

/// A 34-byte argument.
pub fn mcid(bytes: &[u8]) -> zbus::fdo::Result<os_content_id::Mcid> {
    os_content_id::Mcid::try_from(bytes).map_err(|e| zbus::fdo::Error::InvalidArgs(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_app_takes_the_others_places_and_all_of_them_none_of_a_services() {
        let clients = Clients::default();
        let mut held = Vec::new();
        for app in uid::APPS.take(100) {
            held.extend((0..10).map_while(|_| clients.admit(app)));
        }
        assert_eq!(held.len(), MAX_APP_CLIENTS);
        assert_eq!(held.iter().filter(|permit| permit.1 == 10_000).count(), MAX_CLIENTS_OF_AN_APP);
        held.extend((0..100).map_while(|_| clients.admit(uid::UPDATE)));
        assert_eq!(held.len(), MAX_APP_CLIENTS + MAX_CLIENTS);
        held.clear();
        drop(clients.admit(10_000).unwrap());
        assert!(clients.0.lock().unwrap().is_empty());
    }
}
