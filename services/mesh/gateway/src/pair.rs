//! `POST /pair/<run>`: a claimant's message to the pairing service, and its answer. Who may own the node is decided there; here
//! nothing of it is understood.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Response, header, request};
use mesh_http::{Problem, check_origin};

use crate::Node;
use crate::body::{Body, RequestBody};
use crate::gateway::Gateway;

/// As the pairing protocol has it.
const MAX_MESSAGE: usize = 32 * 1024;

pub async fn post<N: Node, B: RequestBody>(
    gateway: &Arc<Gateway<N>>,
    from: IpAddr,
    session: [u8; 16],
    head: &request::Parts,
    body: &mut B,
) -> Result<Response<Body>, Problem> {
    check_origin(&head.headers, head.uri.authority().map(http::uri::Authority::as_str))?;
    let _slot = gateway.turn(&gateway.calls, from).await?;
    let message = body.whole(MAX_MESSAGE).await?;
    let answer = gateway.node.pair(from, session, message).await?;
    let mut response = Response::new(Body::from(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/cbor"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
