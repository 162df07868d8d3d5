//! `POST /rpc/<node or realm>/<procedure>`: the body is the message, the answer's body the answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, header, request};
use mesh_http::Problem;
use mesh_proto::rpc::MAX_MESSAGE;
use os_identity::NodeId;

use crate::Node;
use crate::body::{Body, RequestBody};
use crate::gateway::Gateway;

const WAIT_MS: u64 = 10_000;
const MAX_WAIT_MS: u64 = 60_000;

pub async fn post<N: Node, B: RequestBody>(
    gateway: &Arc<Gateway<N>>,
    from: IpAddr,
    at: NodeId,
    procedure: String,
    head: &request::Parts,
    body: &mut B,
) -> Result<Response<Body>, Problem> {
    let wait = wait(head.uri.query())?;
    let _slot = gateway.turn(&gateway.calls, from).await?;
    let message = body.whole(MAX_MESSAGE).await?;
    let called = gateway.node.call(at, procedure, message, wait).await;
    let mut response = Response::new(Body::from(called.map_err(|e| Problem::of_call(&e))?));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `?timeout_ms=`.
fn wait(query: Option<&str>) -> Result<Duration, Problem> {
    let mut pairs = query.unwrap_or("").split('&');
    let Some(ms) = pairs.find_map(|pair| pair.strip_prefix("timeout_ms=")) else {
        return Ok(Duration::from_millis(WAIT_MS));
    };
    match ms.parse() {
        Ok(ms) if (1..=MAX_WAIT_MS).contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => {
            let detail = format!("timeout_ms={ms} is not from 1 to {MAX_WAIT_MS}");
            Err(Problem::bad_request(detail, "give the milliseconds that the call may take"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let ms = |query| wait(query).map(|d| d.as_millis()).ok();
        assert_eq!(ms(None), Some(10_000));
        assert_eq!(ms(Some("a=b&timeout_ms=5")), Some(5));
        for bad in ["timeout_ms=0", "timeout_ms=60001", "timeout_ms=", "timeout_ms=-1", "timeout_ms=x"] {
            assert_eq!(ms(Some(bad)), None, "{bad}");
        }
    }
}
