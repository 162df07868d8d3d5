//! Clients: hyper for HTTP/1.1 and 2, h3 for HTTP/3, and bare TLS for what no honest client sends.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Request};
use http_body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Served;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http11,
    Http2,
    Http3,
}

pub const ALL: [Version; 3] = [Version::Http11, Version::Http2, Version::Http3];

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The answer broke off.
    pub broken: bool,
}

/// One request on a connection of its own.
pub async fn ask(
    served: &Served,
    version: Version,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer, String> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap());
    request = match version {
        Version::Http11 => request.uri(path).header("host", "test.local"),
        _ => request.uri(format!("https://test.local{path}")),
    };
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Bytes::copy_from_slice(body);
    match version {
        Version::Http11 => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(
                tls(served, &[b"http/1.1"]).await.unwrap(),
            ))
            .await
            .unwrap();
            tokio::spawn(connection);
            collect(sender.send_request(request.body(Whole(Some(body))).unwrap()).await).await
        }
        Version::Http2 => {
            let io = TokioIo::new(tls(served, &[b"h2"]).await.unwrap());
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            collect(sender.send_request(request.body(Whole(Some(body))).unwrap()).await).await
        }
        Version::Http3 => {
            let (_endpoint, connection) = quic(served.quic).await;
            let answer = ask_h3(connection.clone(), request.body(()).unwrap(), body).await;
            connection.close(0u32.into(), b"");
            answer
        }
    }
}

async fn collect(response: hyper::Result<http::Response<hyper::body::Incoming>>) -> Result<Answer, String> {
    let (head, mut incoming) = response.map_err(|e| e.to_string())?.into_parts();
    let mut answer =
        Answer { status: head.status.as_u16(), headers: head.headers, body: Vec::new(), broken: false };
    loop {
        let frame = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut incoming), cx)).await;
        match frame.map(|frame| frame.map(Frame::into_data)) {
            None => return Ok(answer),
            Some(Ok(Ok(bytes))) => answer.body.extend_from_slice(&bytes),
            Some(Ok(Err(_))) => {}
            Some(Err(_)) => {
                answer.broken = true;
                return Ok(answer);
            }
        }
    }
}

pub async fn ask_h3(
    connection: quinn::Connection,
    request: Request<()>,
    body: Bytes,
) -> Result<Answer, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (mut driver, mut sender) =
        h3::client::new(h3_quinn::Connection::new(connection)).await.map_err(|e| text(&e))?;
    let drive = tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    let mut stream = sender.send_request(request).await.map_err(|e| text(&e))?;
    // A refusal may come before all is sent.
    if !body.is_empty() {
        let _ = stream.send_data(body).await;
    }
    let _ = stream.finish().await;
    let response = stream.recv_response().await.map_err(|e| text(&e))?;
    let (head, ()) = response.into_parts();
    let mut answer =
        Answer { status: head.status.as_u16(), headers: head.headers, body: Vec::new(), broken: false };
    loop {
        match stream.recv_data().await {
            Ok(Some(mut data)) => answer.body.extend_from_slice(&data.copy_to_bytes(data.remaining())),
            Ok(None) => break,
            Err(_) => {
                answer.broken = true;
                break;
            }
        }
    }
    drive.abort();
    Ok(answer)
}

pub async fn quic(to: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    let crypto = QuicClientConfig::try_from(client_tls(&[b"h3"])).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).unwrap();
    let connection = endpoint.connect_with(config, to, "test.local").unwrap().await.unwrap();
    (endpoint, connection)
}

pub async fn tls(served: &Served, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(served.tcp).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_tls(alpn)));
    connector.connect("test.local".try_into().unwrap(), stream).await
}

fn client_tls(alpn: &[&[u8]]) -> rustls::ClientConfig {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAny))
        .with_no_client_auth();
    tls.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    tls
}

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.take().filter(|b| !b.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |b| b.len() as u64))
    }
}

#[derive(Debug)]
struct TakesAny;

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
