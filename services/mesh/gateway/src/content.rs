//! `GET /content/<mcid>`: whole or in part.
//!
//! Chunks are fetched a few at a time and passed on as the client reads, so that a slow client holds up nobody at the
//! content service.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request};
use mesh_http::{Part, Problem, Verdict, entity_tag, judge, part};
use os_content_id::Mcid;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::body::Body;
use crate::gate::Slot;
use crate::gateway::Gateway;
use crate::{Content, Node};

/// Bytes fetched at a time, where chunks are not larger.
const WINDOW: u32 = 1 << 20;
/// A client that has taken nothing for so long has gone.
const TAKE: Duration = Duration::from_secs(60);

pub async fn get<N: Node>(
    gateway: &Arc<Gateway<N>>,
    from: IpAddr,
    mcid: Mcid,
    head: &request::Parts,
) -> Result<Response<Body>, Problem> {
    let tag = entity_tag(&mcid);
    let range = match judge(&head.headers, &tag) {
        Verdict::NotModified => return Ok(tagged(StatusCode::NOT_MODIFIED, &tag, Body::empty())),
        Verdict::Failed => {
            let next = "this content's only tag is its MCID, in quotes";
            return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "If-Match names another tag", next));
        }
        // RFC 9110, 14.2: a Range means nothing but to GET.
        Verdict::Go { range } => range && head.method == Method::GET,
    };
    let slot = gateway.turn(&gateway.contents, from).await?;
    let content = gateway.node.content(mcid).await?;
    let wanted = if range { wanted(&head.headers, content.size) } else { Part::Whole };
    let size = content.size;
    let (status, first, end) = match wanted {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Bytes { first, last } => (StatusCode::PARTIAL_CONTENT, first, last + 1),
        Part::Nothing => {
            let detail = format!("the range is outside of the {size} bytes that there are");
            let problem =
                Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, detail, "ask for bytes that there are");
            return Err(Problem { size: Some(size), ..problem });
        }
    };
    let body = match head.method {
        Method::HEAD => Body::empty(),
        _ => send(gateway.clone(), content, first, end, slot),
    };
    let mut response = tagged(status, &tag, body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - first));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(range) = HeaderValue::from_str(&format!("bytes {first}-{}/{size}", end - 1))
    {
        headers.insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

fn tagged(status: StatusCode, tag: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // It never changes, but who may have it can.
    let cache = HeaderValue::from_static("private, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, cache);
    response
}

fn wanted(headers: &HeaderMap, size: u64) -> Part {
    let mut ranges = headers.get_all(header::RANGE).iter();
    match (ranges.next().map(HeaderValue::to_str), ranges.next()) {
        (Some(Ok(range)), None) => part(range, size),
        _ => Part::Whole,
    }
}

/// A body with the bytes from `first` up to `end`.
fn send<N: Node>(gateway: Arc<Gateway<N>>, content: Content, first: u64, end: u64, slot: Slot) -> Body {
    if let Some(whole) = &content.whole {
        let bytes = whole.get(first as usize..end as usize).unwrap_or_default().to_vec();
        return Body::from(bytes);
    }
    let (sender, pieces) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut at = first;
        while at < end {
            let piece = window(&gateway.node, &content, at, end).await;
            let (taken, failed) = (piece.as_ref().map_or(0, Bytes::len), piece.is_err());
            match timeout(TAKE, sender.send(piece)).await {
                Ok(Ok(())) if !failed => at += taken as u64,
                _ => break,
            }
        }
        drop(slot);
    });
    Body::Pieces { pieces, size: Some(end - first) }
}

/// Some bytes from `at` on, at least one.
async fn window<N: Node>(node: &N, content: &Content, at: u64, end: u64) -> io::Result<Bytes> {
    let chunk_size = u64::from(content.chunk_size.max(1));
    let count = u64::from(WINDOW) / chunk_size;
    let first = at / chunk_size;
    let last = (first + count.max(1)).min(end.div_ceil(chunk_size));
    let index = |n: u64| u32::try_from(n).map_err(|_| io::Error::other("more chunks than there can be"));
    let bytes = node.chunks(content, index(first)?..index(last)?).await?;
    let begin = first * chunk_size;
    let wanted = (at - begin) as usize..(end.min(last * chunk_size) - begin) as usize;
    let bytes = Bytes::from(bytes);
    if bytes.len() < wanted.end || wanted.is_empty() {
        return Err(io::Error::other("a chunk could not be had"));
    }
    Ok(bytes.slice(wanted))
}
