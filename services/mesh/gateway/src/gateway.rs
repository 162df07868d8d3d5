//! Requests in, answers out, whichever way they came.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use mesh_http::{Place, Problem, Route, allow_any_origin, preflight, route};
use os_identity::NodeId;

use crate::access::right;
use crate::body::{Body, RequestBody};
use crate::gate::{Gate, Slot};
use crate::{Node, asset, call, content, control, events, pair};

/// What there may be at once (in all, and of one client), and how long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub contents: (usize, usize),
    pub calls: (usize, usize),
    pub events: (usize, usize),
    pub live: (usize, usize),
    pub http3_connections: (usize, usize),
    /// How long a request waits for its turn.
    pub turn: Duration,
    /// How long a request's head may take.
    pub head: Duration,
    /// A connection on which nothing moves is closed after so long.
    pub silence: Duration,
}

impl Default for Settings {
    /// With these the gateway holds about 100 MB at the very worst: 2 MiB for each content and each call, 1 MiB for each HTTP/3
    /// connection that sends what nobody wants to read.
    fn default() -> Self {
        Self {
            contents: (16, 8),
            calls: (16, 8),
            events: (64, 16),
            live: (16, 4),
            http3_connections: (32, 8),
            turn: Duration::from_secs(10),
            head: Duration::from_secs(10),
            silence: Duration::from_secs(60),
        }
    }
}

pub struct Gateway<N> {
    pub node: N,
    pub(crate) contents: Gate,
    pub(crate) calls: Gate,
    pub(crate) events: Gate,
    pub(crate) live: Gate,
    pub(crate) seen: control::Remembered,
    pub(crate) http3_connections: Gate,
    pub(crate) settings: Settings,
}

impl<N: Node> Gateway<N> {
    pub fn new(node: N, settings: Settings) -> Arc<Self> {
        let gate = |(total, per_client)| Gate::new(total, per_client);
        Arc::new(Self {
            node,
            contents: gate(settings.contents),
            calls: gate(settings.calls),
            events: gate(settings.events),
            live: gate(settings.live),
            seen: control::Remembered::default(),
            http3_connections: gate(settings.http3_connections),
            settings,
        })
    }

    /// Answers one request of a client.
    pub(crate) async fn answer<B: RequestBody>(
        self: &Arc<Self>,
        from: IpAddr,
        request: Request<B>,
    ) -> Response<Body> {
        let is_head = request.method() == Method::HEAD;
        let (head, mut body) = request.into_parts();
        let mut response = match self.try_answer(from, &head, &mut body).await {
            Ok(response) => response,
            Err(problem) => problem.to_response().map(Body::from),
        };
        if response.status().is_client_error() {
            body.drain().await;
        }
        if is_head {
            *response.body_mut() = Body::empty();
        }
        let headers = response.headers_mut();
        // Content may be anything, and its origin is that of the node's own pages: a browser must not run it.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let policy = HeaderValue::from_static("default-src 'none'; sandbox");
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
        response
    }

    async fn try_answer<B: RequestBody>(
        self: &Arc<Self>,
        from: IpAddr,
        head: &request::Parts,
        body: &mut B,
    ) -> Result<Response<Body>, Problem> {
        let route = route(head.uri.path())?;
        let at = self.place(&route)?;
        if head.method == Method::OPTIONS {
            let asked = route.asks(&self.node.id(), &at)?;
            let public = route.is_for_other_pages() && asked.is_none_or(|asked| self.node.is_public(&asked));
            return Ok(preflight(public).map(|()| Body::empty()));
        }
        route.check_method(&head.method)?;
        let right = right(&self.node, &route, &at, &head.headers).await?;
        let public = right.is_public() && route.is_for_other_pages();
        let mut response = match route {
            Route::Document => Ok(self.document()),
            Route::Asset(name) => asset::get(&self.node, name, &head.headers),
            Route::Control(method) => control::post(self, from, method, head, body).await,
            Route::Live => control::live(self, from, head, body).await,
            Route::Pair(session) => pair::post(self, from, session, head, body).await,
            Route::Content(mcid) => content::get(self, from, mcid, head).await,
            Route::Call { procedure, .. } => call::post(self, from, at, procedure, head, body).await,
            Route::Events { topic, .. } => events::get(self, from, at, topic, head, right).await,
        };
        if public {
            // Also for what went wrong: a page may know why.
            response = Ok(response.unwrap_or_else(|problem| problem.to_response().map(Body::from)));
            response.iter_mut().for_each(|response| allow_any_origin(response.headers_mut()));
        }
        response
    }

    fn place(&self, route: &Route) -> Result<NodeId, Problem> {
        match route {
            Route::Document
            | Route::Content(_)
            | Route::Asset(_)
            | Route::Control(_)
            | Route::Live
            | Route::Pair(_) => Ok(self.node.id()),
            Route::Call { at: Place::Node(node), .. } | Route::Events { at: Place::Node(node), .. } => {
                Ok(*node)
            }
            Route::Call { at: Place::Realm(realm), .. } | Route::Events { at: Place::Realm(realm), .. } => {
                if realm == self.node.realm() {
                    return Ok(self.node.id());
                }
                let detail = format!("this node does not belong to realm `{realm}`");
                Err(Problem::new(StatusCode::NOT_FOUND, detail, "name a node by its did:key instead"))
            }
        }
    }

    /// A turn for something, or word that there is none.
    pub(crate) async fn turn(&self, gate: &Gate, from: IpAddr) -> Result<Slot, Problem> {
        let slot = gate.enter_within(from, self.settings.turn).await;
        slot.ok_or_else(|| Problem::busy("as many requests of this kind as there may be are under way"))
    }

    fn document(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.node.document()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}
