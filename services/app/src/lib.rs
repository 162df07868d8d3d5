//! For programs that run on a Macula OS node.
//!
//! An app talks to other nodes and their apps by identity, through its own node: it [calls](App::call) and [serves](App::serve)
//! procedures, [publishes](App::topic) and [subscribes](App::subscribe) to topics, [opens](App::open) streams of its own protocols, and
//! [puts](App::put) and [gets](App::get) content by its id. Encryption, NATs, reconnecting and who may do what are the node's business.
//!
//! What an app may do is what its unit file lists under `[app]`; the node hands it a delegation of that when it starts, and refuses
//! everything else ([`Error::Refused`]). When the node's mesh is restarted, [`App`] connects again and serves again what it served.
//!
//! `docs/guides/apps.md` has a whole program and the D-Bus interface behind this, for other languages.

mod connection;
mod content;
mod error;
mod serve;
mod subscription;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::rpc;
use services_api::bus;
use services_api::mesh::from_fd;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

pub use content::Content;
pub use error::Error;
pub use mesh_proto::rpc::{CallError, Code, Mode};
pub use os_content_id::Mcid;
pub use os_identity::NodeId;
pub use serve::{Call, Topic};
pub use subscription::{Event, Events};

use connection::Connected;

pub type Result<T> = std::result::Result<T, Error>;
/// One end of a streaming call.
pub type Exchange = mesh_stream::Exchange<OwnedReadHalf, OwnedWriteHalf>;

/// How long a call waits by default.
const CALL: Duration = Duration::from_secs(30);
/// How long opening a stream may take.
const OPEN: Duration = Duration::from_secs(20);

/// Who may use what an app offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every node that can reach this one.
    AnyNode,
    /// The node's owner.
    Owner,
    /// The owner, and whoever shows a delegation that comes from the owner: `macula/mesh/call`, or `macula/mesh/subscribe` for topics.
    Delegated,
}

/// This program as its node knows it. Clones are the same app.
#[derive(Clone)]
pub struct App(Arc<Connected>);

impl App {
    /// Connects to this machine's node and shows the delegations that the node made for this app. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::NoNode`] if there is none, or it does not know this program as an app.
    pub async fn connect() -> Result<Self> {
        let grants = std::env::var_os(services_api::app::GRANTS_VARIABLE).map(PathBuf::from);
        Self::connect_in(bus::run_dir(), grants.as_deref()).await
    }

    /// The same where the node's sockets and the file with the delegations are elsewhere, for tests.
    pub async fn connect_in(run_dir: PathBuf, grants: Option<&Path>) -> Result<Self> {
        Ok(Self(Connected::start(run_dir, grants).await?))
    }

    /// The node that this app runs on.
    pub fn node(&self) -> NodeId {
        self.0.who.node
    }

    /// By which this node's services and apps know this app: what a delegation to it is made out to.
    pub fn id(&self) -> NodeId {
        self.0.who.app
    }

    pub fn name(&self) -> &str {
        &self.0.who.name
    }

    /// Tells the supervisor that the app does its work now.
    pub fn ready(&self) {
        // Started by hand, nobody listens.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Shows one more chain of delegations (`os_ucan::chain`), made out to [`App::id`] by the owner, say.
    pub async fn introduce(&self, chain: Vec<u8>) -> Result<()> {
        self.0.introduce(chain).await
    }

    /// Calls a procedure of a node, with one message there and one back, and waits up to 30 seconds.
    pub async fn call(&self, node: NodeId, procedure: &str, message: &[u8]) -> Result<Vec<u8>> {
        self.call_within(CALL, node, procedure, message, &[]).await
    }

    /// The same with a time of its own, and a chain of delegations to this *node* for a far one that asks for one (empty: none).
    pub async fn call_within(
        &self,
        wait: Duration,
        node: NodeId,
        procedure: &str,
        message: &[u8],
        chain: &[u8],
    ) -> Result<Vec<u8>> {
        let called = async {
            let (reader, writer) =
                self.open_stream(node, rpc::PROTOCOL, procedure, chain, wait).await?.into_split();
            Ok(mesh_stream::unary(reader, writer, message, Some(wait)).await?)
        };
        let late = || CallError::new(Code::DEADLINE, format!("no answer within {} ms", wait.as_millis()));
        tokio::time::timeout(wait, called).await.unwrap_or_else(|_| Err(late().into()))
    }

    /// Begins a streaming call; both ends have to know its mode.
    pub async fn begin_call(
        &self,
        node: NodeId,
        procedure: &str,
        mode: Mode,
        wait: Option<Duration>,
    ) -> Result<Exchange> {
        let stream = self.open_stream(node, rpc::PROTOCOL, procedure, &[], wait.unwrap_or(OPEN)).await?;
        let (reader, writer) = stream.into_split();
        Ok(mesh_stream::call(reader, writer, mode, wait))
    }

    /// Opens a stream of a protocol of one's own, such as `copy/2`; `resource` may be empty.
    pub async fn open(&self, node: NodeId, protocol: &str, resource: &str) -> Result<UnixStream> {
        self.open_stream(node, protocol, resource, &[], OPEN).await
    }

    async fn open_stream(
        &self,
        node: NodeId,
        protocol: &str,
        resource: &str,
        chain: &[u8],
        wait: Duration,
    ) -> Result<UnixStream> {
        let millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let mesh = self.0.mesh().await?;
        let fd = mesh.open_stream(node.as_bytes(), protocol, resource, chain, millis).await?;
        from_fd(fd).map_err(Error::other)
    }

    /// Listens to a topic of a node from now on; goes on by itself after the node, or the way to it, was away.
    pub async fn subscribe(&self, node: NodeId, topic: &str) -> Result<Events> {
        Events::begin(self.clone(), node, topic).await
    }
}
