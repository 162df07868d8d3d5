//! The connection to mesh, made anew when mesh was restarted; what was shown and served is shown and served again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use os_identity::NodeId;
use services_api::app::AppProxy;
use services_api::bus;
use services_api::mesh::{MeshProxy, STREAM_HANDLER_PATH};
use tokio::sync::watch;
use zbus::Connection;

use crate::serve::{Handler, Served};
use crate::{Error, Result};

/// How long a call waits for a mesh that is being restarted.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Who {
    pub node: NodeId,
    pub app: NodeId,
    pub name: String,
}

pub struct Connected {
    pub who: Who,
    pub served: Arc<Served>,
    chains: Arc<Mutex<Vec<Vec<u8>>>>,
    now: watch::Receiver<Option<Connection>>,
    keeper: tokio::task::AbortHandle,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Connected {
    /// `grants`: the file that the node wrote for this app.
    pub async fn start(run_dir: PathBuf, grants: Option<&Path>) -> Result<Arc<Self>> {
        let chains = match grants.map(std::fs::read).transpose()? {
            Some(chain) if !chain.is_empty() => vec![chain],
            _ => Vec::new(),
        };
        let (served, chains) = (Arc::new(Served::default()), Arc::new(Mutex::new(chains)));
        let connection =
            connect(&run_dir, &served, &chains).await.map_err(|e| Error::NoNode(e.to_string()))?;
        let (node, app, name) = AppProxy::new(&connection).await?.who_am_i().await?;
        let id = |bytes: Vec<u8>| NodeId::try_from(&bytes[..]).map_err(Error::other);
        let who = Who { node: id(node)?, app: id(app)?, name };
        let (current, now) = watch::channel(Some(connection));
        let keeper = tokio::spawn(keep(run_dir, current, served.clone(), chains.clone())).abort_handle();
        Ok(Arc::new(Self { who, served, chains, now, keeper }))
    }

    pub async fn introduce(&self, chain: Vec<u8>) -> Result<()> {
        AppProxy::new(&self.connection().await?).await?.introduce(&chain).await?;
        lock(&self.chains).push(chain);
        Ok(())
    }

    pub async fn mesh(&self) -> Result<MeshProxy<'static>> {
        Ok(MeshProxy::new(&self.connection().await?).await?)
    }

    pub async fn app(&self) -> Result<AppProxy<'static>> {
        Ok(AppProxy::new(&self.connection().await?).await?)
    }

    async fn connection(&self) -> Result<Connection> {
        let mut now = self.now.clone();
        let live = |c: &Option<Connection>| c.as_ref().is_some_and(|c| !c.is_closed());
        match tokio::time::timeout(PATIENCE, now.wait_for(live)).await {
            Ok(Ok(connection)) => connection.clone().ok_or_else(|| Error::other("mesh is not there")),
            _ => Err(Error::other("mesh is not there")),
        }
    }
}

/// Until the app is dropped.
async fn keep(
    run_dir: PathBuf,
    current: watch::Sender<Option<Connection>>,
    served: Arc<Served>,
    chains: Arc<Mutex<Vec<Vec<u8>>>>,
) {
    loop {
        let connection = current.borrow().clone();
        if let Some(connection) = connection {
            connection.closed().await;
        }
        current.send_replace(None);
        tracing::info!("mesh went away, connecting again");
        let connection = bus::retry("mesh", || async {
            let connection = connect(&run_dir, &served, &chains).await?;
            let mesh = MeshProxy::new(&connection).await?;
            // What is refused now was not refused before: the right to it has ended. The rest goes on.
            for (what, again) in served.again(&mesh).await {
                if let Err(e) = again {
                    tracing::warn!("{what} is not served any more: {e}");
                }
            }
            Ok(connection)
        })
        .await;
        current.send_replace(Some(connection));
    }
}

async fn connect(
    run_dir: &Path,
    served: &Arc<Served>,
    chains: &Mutex<Vec<Vec<u8>>>,
) -> std::result::Result<Connection, zbus::Error> {
    let handler = Handler(served.clone());
    let connection = bus::connect_in(run_dir, "mesh", |b| b.serve_at(STREAM_HANDLER_PATH, handler))
        .await
        .map_err(|e| zbus::Error::Failure(format!("{e:#}")))?;
    let app = AppProxy::new(&connection).await?;
    let shown = lock(chains).clone();
    for chain in shown {
        app.introduce(&chain).await?;
    }
    Ok(connection)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
