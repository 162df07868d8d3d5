//! `POST /control/...`: signed orders, one by one or as a stream of what changes.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request};
use mesh_http::{
    Expected, KEEP_ALIVE, MAX_CONTROL_BODY, Method, NotNew, Ordered, Problem, Seen, Signed, Told, Watched,
    ability, check_origin, other_node, tokens, watched,
};
use os_identity::NodeId;
use os_ucan::{Ability, chain};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::body::{Body, RequestBody};
use crate::gate::Slot;
use crate::gateway::Gateway;
use crate::node::{Control, Node};

/// Delegations of the owner to this node, for what it is to ask of another.
const FORWARD: &str = "macula-forward";
const ALIVE: Duration = Duration::from_secs(15);
/// A client that has taken nothing for so long has gone.
const TAKE: Duration = Duration::from_secs(60);
/// Then the client signs a new order, so that a key that was taken away does not look on for ever.
const LIVE: Duration = Duration::from_secs(15 * 60);

/// Who orders, and what he shows for it.
struct Order {
    ordered: Ordered,
    at: Option<NodeId>,
    chain: Vec<u8>,
    forward: Vec<u8>,
    params: Value,
}

impl Order {
    fn control(&self, method: Method, params: Value) -> Control {
        let chain = if self.at.is_some() { self.forward.clone() } else { self.chain.clone() };
        Control { by: self.ordered.by, at: self.at, method, chain, params }
    }
}

pub async fn post<N: Node, B: RequestBody>(
    gateway: &Arc<Gateway<N>>,
    from: IpAddr,
    method: Method,
    head: &request::Parts,
    body: &mut B,
) -> Result<Response<Body>, Problem> {
    let _slot = gateway.turn(&gateway.calls, from).await?;
    let order = read(gateway, gateway.node.command(&method)?, head, body).await?;
    let admit = || take(gateway, &order.ordered);
    let answer = gateway.node.control(order.control(method, order.params.clone()), admit).await?;
    let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

pub async fn live<N: Node, B: RequestBody>(
    gateway: &Arc<Gateway<N>>,
    from: IpAddr,
    head: &request::Parts,
    body: &mut B,
) -> Result<Response<Body>, Problem> {
    let slot = gateway.turn(&gateway.live, from).await?;
    let command = Ability::parse(ability::LIVE).map_err(|e| Problem::bad_request(e.to_string(), ""))?;
    let order = read(gateway, command, head, body).await?;
    let things = watched(&order.params)?;
    let start = Instant::now();
    let mut feed = Feed {
        gateway: gateway.clone(),
        order,
        things: things.into_iter().map(|what| Thing { what, due: start, told: Told::default() }).collect(),
        _slot: slot,
    };
    let first = feed.look().await;
    // Whoever may watch nothing is told so, and is not worth remembering.
    if let Some(refused) = first.refused {
        return Err(refused);
    }
    take(gateway, &feed.order.ordered)?;
    let (sender, pieces) = mpsc::channel(1);
    tokio::spawn(feed.run(first.news, sender));
    let mut response = Response::new(Body::Pieces { pieces, size: None });
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The order of a request, if it is one for this request. Whether it may be given is still open.
async fn read<N: Node, B: RequestBody>(
    gateway: &Arc<Gateway<N>>,
    command: Ability,
    head: &request::Parts,
    body: &mut B,
) -> Result<Order, Problem> {
    check_origin(&head.headers, head.uri.authority().map(http::uri::Authority::as_str))?;
    let at = other_node(head.uri.query())?;
    let node = &gateway.node;
    let me = node.id();
    let at = at.filter(|node| *node != me);
    let mut expected = Expected {
        me: &me,
        about: at.as_ref().unwrap_or(&me),
        owner: node.owner(),
        command: &command,
        path: head.uri.path_and_query().map_or("", |path| path.as_str()),
        body: &[],
        epoch: node.epoch(),
        now: node.now_unix(),
    };
    let Some(signed) = Signed::of(&head.headers).map_err(|why| expected.refused(why))? else {
        return Err(
            expected.refused("this needs an order, signed by the owner or by whom the owner lets".to_owned())
        );
    };
    let body = body.whole(MAX_CONTROL_BODY).await?;
    (expected.body, expected.now) = (&body, node.now_unix());
    let ordered = expected.check(&signed)?;
    let params = match body.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&body).map_err(|e| {
            Problem::bad_request(format!("the body is not JSON: {e}"), "send JSON, or nothing")
        })?,
    };
    Ok(Order { ordered, at, chain: signed.chain(), forward: forward(&head.headers)?, params })
}

fn forward(headers: &HeaderMap) -> Result<Vec<u8>, Problem> {
    let Some(value) = headers.get(FORWARD) else { return Ok(Vec::new()) };
    let wrong =
        |why: String| Problem::bad_request(format!("{FORWARD}: {why}"), "send tokens with commas between");
    let text = value.to_str().map_err(|e| wrong(e.to_string()))?;
    chain::encode(&tokens(text).map_err(wrong)?).map_err(|e| wrong(e.to_string()))
}

/// Once it is known that it may be given: that it is given for the first time.
fn take<N: Node>(gateway: &Gateway<N>, order: &Ordered) -> Result<(), Problem> {
    let mut seen = gateway.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.take(order, gateway.node.now_unix()).map_err(|why| match why {
        NotNew::Again => {
            gateway.node.refused(order.by, &why);
            Problem::new(StatusCode::CONFLICT, why.to_string(), "sign a new order")
        }
        NotNew::Full => Problem::busy(why.to_string()),
    })
}

struct Thing {
    what: Watched,
    due: Instant,
    told: Told,
}

/// What one client watches.
struct Feed<N> {
    gateway: Arc<Gateway<N>>,
    order: Order,
    things: Vec<Thing>,
    _slot: Slot,
}

struct Looked {
    news: Vec<u8>,
    /// All that was looked at was refused.
    refused: Option<Problem>,
}

impl<N: Node> Feed<N> {
    /// Until the client goes, or nothing is left that it may watch.
    async fn run(mut self, first: Vec<u8>, sender: mpsc::Sender<std::io::Result<Bytes>>) {
        let end = Instant::now() + LIVE;
        let mut alive = Instant::now() + ALIVE;
        let mut news = first;
        loop {
            if !news.is_empty() {
                alive = Instant::now() + ALIVE;
                let sent = timeout(TAKE, sender.send(Ok(std::mem::take(&mut news).into()))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            let due = self.things.iter().map(|thing| thing.due).min().unwrap_or(end).min(alive).min(end);
            tokio::select! {
                () = sleep_until(due) => {}
                () = sender.closed() => return,
            }
            let now = Instant::now();
            if now >= end || self.things.is_empty() {
                return;
            }
            news = self.look().await.news;
            if news.is_empty() && now >= alive {
                news = KEEP_ALIVE.to_vec();
            }
        }
    }

    /// Looks at what is due, in the name and by the right of whoever watches. What is refused is not looked at again.
    async fn look(&mut self) -> Looked {
        let now = Instant::now();
        let mut news = Vec::new();
        let (mut refusal, mut looked, mut refused) = (None, 0, 0);
        let mut kept = Vec::new();
        for mut thing in std::mem::take(&mut self.things) {
            if thing.due > now {
                kept.push(thing);
                continue;
            }
            looked += 1;
            let name = thing.what.name;
            let every = Duration::from_millis(thing.what.every_ms);
            let order = self.order.control(thing.what.method(), thing.what.params());
            let answer = timeout_at(Instant::now() + TAKE, self.gateway.node.control(order, || Ok(()))).await;
            thing.due = Instant::now() + every;
            match answer {
                Ok(Ok(seen)) => news.extend(thing.told.news(name, seen).unwrap_or_default()),
                Ok(Err(problem)) if problem.status == StatusCode::FORBIDDEN => {
                    refused += 1;
                    news.extend(thing.told.trouble(name, true, &problem.detail).unwrap_or_default());
                    refusal = Some(problem);
                    continue;
                }
                Ok(Err(problem)) => {
                    news.extend(thing.told.trouble(name, false, &problem.detail).unwrap_or_default())
                }
                Err(_) => {
                    news.extend(thing.told.trouble(name, false, "it does not answer").unwrap_or_default())
                }
            }
            kept.push(thing);
        }
        self.things = kept;
        Looked { news, refused: refusal.filter(|_| refused == looked) }
    }
}

pub type Remembered = Mutex<Seen>;
