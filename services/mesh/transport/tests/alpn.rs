//! One port over loopback, with real clients of each protocol.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_transport::{AlpnPort, Credentials, alpn_of, endpoint, peer_of, server_tls, system_clock};
use os_certificate::{LIFETIME_S, certify, self_signed};
use os_identity::NodeKey;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, TransportErrorCode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

const NO_APPLICATION_PROTOCOL: u8 = 120;

fn credentials(seed: u8) -> Credentials {
    let (node, session) = (NodeKey::from_seed(&[seed; 32]), NodeKey::from_seed(&[seed + 100; 32]));
    let (leaf, ca) = certify(&node, session.node_id().as_bytes(), system_clock(), LIFETIME_S).unwrap();
    Credentials { chain: vec![leaf, ca], session_key: session.to_pkcs8_der().unwrap().to_vec() }
}

/// A protocol whose clients show no certificate.
fn open_tls(alpn: &str, seed: u8) -> rustls::ServerConfig {
    let key = NodeKey::from_seed(&[seed; 32]);
    let certificate = self_signed(&key, "test", system_clock(), LIFETIME_S).unwrap();
    let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8_der().unwrap().to_vec()));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], pkcs8)
        .unwrap();
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    tls
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn any() -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, 0))
}

/// A port that speaks to nodes, `h3` and `macula`; what it accepted comes out of the channel.
async fn port() -> (AlpnPort, SocketAddr, tokio::sync::mpsc::Receiver<Connection>) {
    let endpoint = endpoint(any(), &credentials(1), system_clock, None).unwrap();
    let address = endpoint.local_addr().unwrap();
    let port = AlpnPort::new(endpoint.clone());
    port.speak(server_tls(&credentials(1), system_clock).unwrap()).unwrap();
    port.speak(open_tls("h3", 7)).unwrap();
    port.speak(open_tls("macula", 8)).unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            if let Ok(connection) = incoming.await {
                sender.send(connection).await.unwrap();
            }
        }
    });
    (port, address, receiver)
}

/// A client that shows no certificate and takes any.
async fn connect(to: SocketAddr, offers: &[&str]) -> Result<(Endpoint, Connection), ConnectionError> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAny))
        .with_no_client_auth();
    tls.alpn_protocols = offers.iter().map(|p| p.as_bytes().to_vec()).collect();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = Endpoint::client(any()).unwrap();
    let connection = endpoint.connect_with(config, to, "node").unwrap().await?;
    Ok((endpoint, connection))
}

fn certificate(connection: &Connection) -> CertificateDer<'static> {
    let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    chain[0].clone()
}

fn refused_with(result: Result<(Endpoint, Connection), ConnectionError>) -> TransportErrorCode {
    match result.map(|_| ()).unwrap_err() {
        ConnectionError::ConnectionClosed(close) => close.error_code,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn each_protocol_has_its_own_tls() {
    let (_port, address, mut accepted) = port().await;
    let node = endpoint(any(), &credentials(2), system_clock, None).unwrap();
    let (connection, found) = mesh_transport::connect(&node, address, None).await.unwrap();
    assert_eq!(found, NodeKey::from_seed(&[1; 32]).node_id());
    let there = accepted.recv().await.unwrap();
    assert_eq!(peer_of(&there).unwrap(), NodeKey::from_seed(&[2; 32]).node_id());
    assert_eq!((alpn_of(&there), alpn_of(&connection)), (b"macula-os/1".to_vec(), b"macula-os/1".to_vec()));

    for (alpn, seed) in [("h3", 7), ("macula", 8)] {
        let (_endpoint, connection) = connect(address, &[alpn]).await.unwrap();
        let there = accepted.recv().await.unwrap();
        assert_eq!(alpn_of(&there), alpn.as_bytes());
        assert!(there.peer_identity().is_none(), "{alpn} asks for no certificate");
        let key = NodeKey::from_seed(&[seed; 32]).node_id();
        let shown = certificate(&connection);
        assert!(shown.windows(32).any(|w| w == key.as_bytes()), "{alpn} shows its own certificate");
        // The streams work, so the keys fit.
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        send.finish().unwrap();
        let (_, mut recv) = there.accept_bi().await.unwrap();
        assert_eq!(recv.read_to_end(10).await.unwrap(), b"hello");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_node_without_its_certificate_and_unknown_protocols_are_refused() {
    let (_port, address, mut accepted) = port().await;
    for offers in [&["h2"][..], &["h3-29", "http/1.1"], &[]] {
        let code = refused_with(connect(address, offers).await);
        assert_eq!(code, TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL), "{offers:?}");
    }
    // The client's own handshake ends before the node has seen that the certificate is missing.
    if let Ok((_endpoint, connection)) = connect(address, &["macula-os/1"]).await {
        assert!(matches!(connection.closed().await, ConnectionError::ConnectionClosed(_)));
    }
    assert!(accepted.try_recv().is_err(), "none of them was taken");
}

#[tokio::test(flavor = "current_thread")]
async fn the_ports_order_decides_among_several_and_large_hellos_come_in_pieces() {
    let (_port, address, mut accepted) = port().await;
    let (_endpoint, _connection) = connect(address, &["macula", "h3"]).await.unwrap();
    assert_eq!(alpn_of(&accepted.recv().await.unwrap()), b"h3");

    let many: Vec<String> = (0..100).map(|n| format!("protocol-nobody-speaks-{n:03}")).collect();
    let mut offers: Vec<&str> = many.iter().map(String::as_str).collect();
    offers.push("macula");
    let (_endpoint, _connection) = connect(address, &offers).await.unwrap();
    assert_eq!(alpn_of(&accepted.recv().await.unwrap()), b"macula");
}

#[tokio::test(flavor = "current_thread")]
async fn protocols_come_and_go_while_it_runs() {
    let (port, address, mut accepted) = port().await;
    let (_endpoint, old) = connect(address, &["h3"]).await.unwrap();
    let old_there = accepted.recv().await.unwrap();
    let before = certificate(&old);
    port.speak(open_tls("h3", 9)).unwrap();
    let (_endpoint2, new) = connect(address, &["h3"]).await.unwrap();
    assert_ne!(certificate(&new), before, "the new certificate");
    port.fall_silent(b"h3").unwrap();
    let code = refused_with(connect(address, &["h3"]).await);
    assert_eq!(code, TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL));
    let (_endpoint3, _) = connect(address, &["macula"]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(old_there.close_reason().is_none(), "who was there stays");
    assert!(port.speak(rustls_without_alpn()).is_err());
}

fn rustls_without_alpn() -> rustls::ServerConfig {
    let mut tls = open_tls("x", 1);
    tls.alpn_protocols.clear();
    tls
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
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
