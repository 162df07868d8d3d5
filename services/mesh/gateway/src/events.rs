//! `GET /events/<node or realm>/<topic>`: server-sent events, from now on or from `Last-Event-ID`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request};
use mesh_http::{KEEP_ALIVE, Problem, event_id, place_of, sse_event, sse_missed};
use mesh_proto::pubsub::{Heard, TopicError};
use mesh_proto::rpc::{CallError, Code};
use mesh_stream::{Subscription, TopicStreamError};
use os_identity::NodeId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::access::Right;
use crate::body::Body;
use crate::gate::Slot;
use crate::gateway::Gateway;
use crate::{Duplex, Node};

/// How soon a publisher's node has to answer.
const START: Duration = Duration::from_secs(10);
/// Between two signs of life, and two looks at the token.
const ALIVE: Duration = Duration::from_secs(15);
/// A client that has taken nothing for so long has gone.
const TAKE: Duration = Duration::from_secs(60);

struct Feed<N> {
    gateway: Arc<Gateway<N>>,
    right: Right,
    stream: Duplex,
    subscription: Subscription,
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    _slot: Slot,
}

pub async fn get<N: Node>(
    gateway: &Arc<Gateway<N>>,
    from: IpAddr,
    at: NodeId,
    topic: String,
    head: &request::Parts,
    right: Right,
) -> Result<Response<Body>, Problem> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if head.method == Method::HEAD {
        return Ok(response);
    }
    let slot = gateway.turn(&gateway.events, from).await?;
    let last = head.headers.get("last-event-id").map(|id| id.to_str().ok().and_then(place_of));
    let mut subscription = last.flatten().map_or_else(Subscription::default, Subscription::after);
    let begun = timeout(START, begin(gateway, at, topic, &mut subscription)).await;
    let late = |_| CallError::new(Code::UNAVAILABLE, "the publisher's node does not answer");
    let stream = begun.map_err(late).flatten().map_err(|e| Problem::of_call(&e))?;
    let (sender, pieces) = mpsc::channel(16);
    // An id that is none of ours: what came after it nobody knows.
    if last == Some(None) {
        let _ = sender.try_send(Ok(sse_missed(None).into()));
    }
    let feed = Feed { gateway: gateway.clone(), right, stream, subscription, sender, _slot: slot };
    tokio::spawn(feed.run());
    *response.body_mut() = Body::Pieces { pieces, size: None };
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

async fn begin<N: Node>(
    gateway: &Gateway<N>,
    at: NodeId,
    topic: String,
    subscription: &mut Subscription,
) -> Result<Duplex, CallError> {
    let mut stream = gateway.node.subscribe(at, topic).await?;
    let failed = |e: TopicStreamError| match e {
        TopicStreamError::Topic(TopicError::Refused(refusal)) => refusal,
        other => CallError::new(Code::UNAVAILABLE, other.to_string()),
    };
    subscription.begin(&mut stream.writer).await.map_err(failed)?;
    subscription.started(&mut stream.reader).await.map_err(failed)?;
    Ok(stream)
}

impl<N: Node> Feed<N> {
    /// Until the client or the publisher goes, or the right ends; then the client comes back with the id it heard last.
    async fn run(mut self) {
        // The place that it begins at, so that a client that is cut off before the first event loses none.
        let mut told = tell(&self.sender, self.place()).await;
        let mut alive = Instant::now() + ALIVE;
        while told {
            tokio::select! {
                heard = self.subscription.next(&mut self.stream.reader) => {
                    let Ok(Some(heard)) = heard else { return };
                    told = tell(&self.sender, self.written(heard)).await;
                }
                () = sleep_until(alive) => {
                    alive = Instant::now() + ALIVE;
                    told = self.right.holds(&self.gateway.node).await && tell(&self.sender, KEEP_ALIVE.to_vec()).await;
                }
                () = self.sender.closed() => return,
            }
        }
    }

    fn place(&self) -> Vec<u8> {
        let id = self.subscription.place().map(|place| format!("id: {}\n\n", event_id(place)));
        id.unwrap_or_default().into_bytes()
    }

    fn written(&self, heard: Heard) -> Vec<u8> {
        match (heard, self.subscription.place()) {
            (Heard::Event { payload, .. }, Some(place)) => sse_event(place, &payload),
            (Heard::Event { .. }, None) => Vec::new(),
            (Heard::Missed(count), _) => sse_missed(count),
        }
    }
}

async fn tell(sender: &mpsc::Sender<std::io::Result<Bytes>>, text: Vec<u8>) -> bool {
    matches!(timeout(TAKE, sender.send(Ok(text.into()))).await, Ok(Ok(())))
}
