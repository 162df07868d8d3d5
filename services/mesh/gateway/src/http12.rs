//! HTTP/1.1 and 2 over TLS.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use crate::gateway::{Gateway, Settings};
use crate::watched::Watched;
use crate::{Body, H2, Node};
use tokio::io::{AsyncRead, AsyncWrite};

/// Tokens are the largest thing in a head.
pub const MAX_HEAD: usize = 40 * 1024;
const MAX_HEADERS: usize = 64;
/// Requests at once on one connection.
pub const REQUESTS: u32 = 16;
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;

/// Serves one connection to its end. `alpn`: what its two ends agreed on; `port`: where the same is to be had over HTTP/3.
pub async fn serve_tls<N: Node>(
    gateway: Arc<Gateway<N>>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    alpn: Option<&[u8]>,
    from: IpAddr,
    port: u16,
) {
    let is_h2 = alpn == Some(H2);
    let stream = Watched::new(stream);
    let Settings { head, silence, .. } = gateway.settings;
    let pulse = stream.pulse();
    let elsewhere = HeaderValue::from_str(&format!("h3=\":{port}\"; ma=86400")).ok();
    let service = service_fn(move |request: Request<Incoming>| {
        let (gateway, elsewhere) = (gateway.clone(), elsewhere.clone());
        async move {
            let mut response: Response<Body> = gateway.answer(from, request).await;
            elsewhere.and_then(|value| response.headers_mut().insert(header::ALT_SVC, value));
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(stream);
    let ended = if is_h2 {
        let connection = http2().serve_connection(io, service);
        until_silent(pin!(connection), pulse.stopped(silence)).await
    } else {
        let connection = http1(head).serve_connection(io, service);
        until_silent(pin!(connection), pulse.stopped(silence)).await
    };
    if let Err(e) = ended {
        tracing::debug!("HTTP connection from {from}: {e}");
    }
}

async fn until_silent(
    connection: impl Future<Output = hyper::Result<()>>,
    silence: impl Future<Output = ()>,
) -> hyper::Result<()> {
    tokio::select! {
        ended = connection => ended,
        () = silence => Ok(()),
    }
}

fn http1(head: Duration) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new());
    builder.header_read_timeout(head).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    builder
}

fn http2() -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    builder.max_concurrent_streams(REQUESTS).max_header_list_size(MAX_HEAD as u32);
    builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    builder.max_send_buf_size(STREAM_WINDOW as usize);
    builder
}
