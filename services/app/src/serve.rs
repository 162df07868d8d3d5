//! What an app offers: procedures, protocols of its own, topics.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_proto::rpc::{self, CallError, Code, Mode};
use os_identity::NodeId;
use services_api::bus;
use services_api::mesh::{MeshProxy, from_fd};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use zbus::OwnedFd;

use crate::{Access, App, Error, Exchange, Result};

/// Streams of one procedure or protocol at once; for more, callers are told that it is busy.
const MAX_AT_ONCE: usize = 64;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
type Take = Arc<dyn Fn(Incoming) -> Work + Send + Sync>;

/// A call to an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The node that calls, or the app of this node.
    pub caller: NodeId,
    pub message: Vec<u8>,
}

struct Incoming {
    peer: NodeId,
    deadline: Option<Duration>,
    stream: UnixStream,
}

/// By protocol and resource.
#[derive(Default)]
pub struct Served {
    streams: Mutex<BTreeMap<(String, String), Offer>>,
    topics: Mutex<BTreeMap<String, &'static str>>,
}

#[derive(Clone)]
struct Offer {
    access: &'static str,
    take: Take,
    places: Arc<Semaphore>,
}

impl Served {
    /// Serves all of it on a new connection; what each was called, and how it went.
    pub async fn again(&self, mesh: &MeshProxy<'_>) -> Vec<(String, zbus::Result<()>)> {
        let lock = |e: &Mutex<BTreeMap<(String, String), Offer>>| {
            let offers = e.lock().unwrap_or_else(PoisonError::into_inner);
            offers.iter().map(|(of, offer)| (of.clone(), offer.access)).collect::<Vec<_>>()
        };
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut went = Vec::new();
        for ((protocol, resource), access) in lock(&self.streams) {
            let result = mesh.serve(&protocol, &resource, access).await;
            went.push((format!("{protocol} {resource}"), result));
        }
        for (topic, access) in topics {
            went.push((topic.clone(), mesh.serve_topic(&topic, access).await));
        }
        went
    }

    fn find(&self, protocol: &str, resource: &str) -> Option<Offer> {
        let offers = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |resource: &str| offers.get(&(protocol.to_owned(), resource.to_owned())).cloned();
        of(resource).or_else(|| of(""))
    }
}

/// What mesh calls when a stream comes in.
pub struct Handler(pub Arc<Served>);

#[zbus::interface(name = "io.macula.StreamHandler1")]
impl Handler {
    fn accept(
        &self,
        peer: Vec<u8>,
        protocol: String,
        resource: String,
        deadline_ms: u32,
        stream: OwnedFd,
    ) -> zbus::fdo::Result<()> {
        let peer = bus::node_id(&peer)?;
        let offer = self.0.find(&protocol, &resource);
        let offer =
            offer.ok_or_else(|| zbus::fdo::Error::Failed(format!("{protocol} {resource} is not served")))?;
        let place = offer.places.clone().try_acquire_owned();
        let place = place.map_err(|_| zbus::fdo::Error::LimitsExceeded("busy".into()))?;
        let stream = from_fd(stream).map_err(bus::failed)?;
        let deadline = (deadline_ms > 0).then(|| Duration::from_millis(deadline_ms.into()));
        let work = (offer.take)(Incoming { peer, deadline, stream });
        tokio::spawn(async move {
            work.await;
            drop(place);
        });
        Ok(())
    }

    /// Only services are told.
    fn peer_changed(&self, _peer: Vec<u8>, _connected: bool) {}
}

impl App {
    /// Serves a procedure: each call is one message, and what `answer` makes of it goes back. Calls run at the same time.
    pub async fn serve<F, Fut>(&self, procedure: &str, access: Access, answer: F) -> Result<()>
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = std::result::Result<Vec<u8>, CallError>> + Send + 'static,
    {
        let answer = Arc::new(answer);
        self.serve_streaming(procedure, access, Mode::Unary, move |caller, mut exchange| {
            let answer = answer.clone();
            async move {
                let called = async {
                    let message = exchange.next().await?;
                    let message = message.ok_or(CallError::new(Code::BAD_ARGUMENT, "no message"))?;
                    answer(Call { caller, message }).await
                };
                let sent = match called.await {
                    Ok(answer) => exchange.sender().send_last(&answer).await,
                    Err(error) => exchange.sender().fail(&error).await,
                };
                if let Err(e) = sent {
                    tracing::debug!("an answer to {caller} was not sent: {e}");
                }
            }
        })
        .await
    }

    /// Serves a procedure of another mode: `work` has the whole exchange to itself.
    pub async fn serve_streaming<F, Fut>(
        &self,
        procedure: &str,
        access: Access,
        mode: Mode,
        work: F,
    ) -> Result<()>
    where
        F: Fn(NodeId, Exchange) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let take = move |incoming: Incoming| -> Work {
            let (reader, writer) = incoming.stream.into_split();
            let exchange = mesh_stream::accept(reader, writer, mode, incoming.deadline);
            Box::pin(work(incoming.peer, exchange))
        };
        self.offer(rpc::PROTOCOL, procedure, word(access, "macula/mesh/call"), Arc::new(take)).await
    }

    /// Serves a protocol of one's own, such as `copy/2`; an empty resource stands for all that nobody else serves.
    pub async fn serve_protocol<F, Fut>(
        &self,
        protocol: &str,
        resource: &str,
        access: Access,
        work: F,
    ) -> Result<()>
    where
        F: Fn(NodeId, UnixStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let take = move |incoming: Incoming| -> Work { Box::pin(work(incoming.peer, incoming.stream)) };
        self.offer(protocol, resource, word(access, "macula/mesh/open"), Arc::new(take)).await
    }

    async fn offer(&self, protocol: &str, resource: &str, access: &'static str, take: Take) -> Result<()> {
        let of = (protocol.to_owned(), resource.to_owned());
        let offer = Offer { access, take, places: Arc::new(Semaphore::new(MAX_AT_ONCE)) };
        let streams = &self.0.served.streams;
        // First: a stream may come in before mesh has answered.
        streams.lock().unwrap_or_else(PoisonError::into_inner).insert(of.clone(), offer);
        let served = self.0.mesh().await?.serve(protocol, resource, access).await;
        served.map_err(|e| {
            streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&of);
            Error::from(e)
        })
    }

    /// Opens a topic of this node to publish to. Subscribers that were away get what is kept (1024 events, 256 KiB).
    pub async fn topic(&self, name: &str, access: Access) -> Result<Topic> {
        let access = word(access, "macula/mesh/subscribe");
        self.0.mesh().await?.serve_topic(name, access).await?;
        let topics = &self.0.served.topics;
        topics.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), access);
        Ok(Topic { app: self.clone(), name: name.to_owned() })
    }
}

/// A topic of this app.
#[derive(Clone)]
pub struct Topic {
    app: App,
    name: String,
}

impl Topic {
    /// Publishes an event of at most 64 KiB. Returns its number.
    pub async fn publish(&self, event: &[u8]) -> Result<u64> {
        Ok(self.app.0.mesh().await?.publish(&self.name, event).await?)
    }
}

fn word(access: Access, ability: &'static str) -> &'static str {
    match access {
        Access::AnyNode => "peer",
        Access::Owner => "owner",
        Access::Delegated => ability,
    }
}
