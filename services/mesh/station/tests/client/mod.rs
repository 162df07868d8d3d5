//! A client made of the codec.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_macula::*;
use os_identity::{NodeId, NodeKey};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// A connection with its control stream.
pub struct Client {
    pub connection: Connection,
    pub station: NodeId,
    control: Channel,
    _endpoint: Endpoint,
}

/// A stream of a client's.
pub struct Channel {
    key: NodeKey,
    send: SendStream,
    recv: RecvStream,
    buffer: FrameBuffer,
    calls: u8,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

impl Client {
    /// Connects and says nothing.
    pub async fn dial(address: &SocketAddr, seed: u8) -> Self {
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let config = client_config();
        let connection = endpoint.connect_with(config, *address, "station").unwrap().await.unwrap();
        let (send, recv) = connection.open_bi().await.unwrap();
        let control = Channel::new(seed, send, recv);
        let station = NodeId::from_bytes([0; 32]);
        Self { connection, station, control, _endpoint: endpoint }
    }

    /// Connects and is welcomed.
    pub async fn join(address: &SocketAddr, seed: u8) -> Self {
        let mut client = Self::dial(address, seed).await;
        let node_id = client.id();
        let connect = Connect {
            node_id,
            station_id: node_id,
            realms: vec![],
            addresses: vec![],
            site: None,
            puzzle_evidence: puzzle_evidence(&node_id),
            endorsements: vec![],
        };
        client.send(&Frame::Connect(connect)).await;
        let Frame::Hello(hello) = client.next().await else { panic!("no HELLO") };
        assert_eq!(hello.verdict, Ok(()));
        client.station = hello.node_id;
        for _ in SYSTEM_PROCEDURES {
            assert!(matches!(client.next().await, Frame::Advertise(_)));
        }
        client
    }

    pub fn id(&self) -> NodeId {
        self.control.key.node_id()
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.control.send.write_all(bytes).await.unwrap();
    }

    pub async fn send(&mut self, frame: &Frame) {
        self.control.send(frame).await;
    }

    /// `false`: the station does not take it any more.
    pub async fn try_send(&mut self, frame: &Frame) -> bool {
        let bytes = self.control.sign(frame);
        self.control.send.write_all(&bytes).await.is_ok()
    }

    pub async fn next(&mut self) -> Frame {
        self.control.next().await
    }

    pub fn call(&mut self, realm: [u8; 32], procedure: &str, payload: Value) -> Call {
        self.control.call(realm, procedure, payload)
    }

    /// All that was sent before has been seen when this returns.
    pub async fn ping(&mut self) {
        self.send(&Frame::Ping(Nonce([5; 16]))).await;
        assert_eq!(self.next().await, Frame::Pong(Nonce([5; 16])));
    }

    pub async fn open(&self) -> Channel {
        let (send, recv) = self.connection.open_bi().await.unwrap();
        self.control.beside(send, recv)
    }

    pub async fn accept(&self) -> Channel {
        let (send, recv) = self.connection.accept_bi().await.unwrap();
        self.control.beside(send, recv)
    }
}

impl Channel {
    fn new(seed: u8, send: SendStream, recv: RecvStream) -> Self {
        Self { key: NodeKey::from_seed(&[seed; 32]), send, recv, buffer: FrameBuffer::default(), calls: 0 }
    }

    fn beside(&self, send: SendStream, recv: RecvStream) -> Self {
        let key = NodeKey::from_seed(&self.key.seed());
        Self { key, send, recv, buffer: FrameBuffer::default(), calls: 0 }
    }

    fn sign(&self, frame: &Frame) -> Vec<u8> {
        let header = Header { frame_id: [1; 16], sent_at_ms: unix_ms(), capabilities: 0 };
        frame.sign(&header, &self.key)
    }

    pub async fn send(&mut self, frame: &Frame) {
        self.send.write_all(&self.sign(frame)).await.unwrap();
    }

    pub async fn next(&mut self) -> Frame {
        loop {
            if let Some(bytes) = self.buffer.next(MAX_FRAME).unwrap() {
                return Received::decode(&bytes).unwrap().frame;
            }
            let chunk = self.recv.read_chunk(1 << 20, true).await.unwrap().expect("the stream goes on");
            self.buffer.push(&chunk.bytes);
        }
    }

    pub fn call(&mut self, realm: [u8; 32], procedure: &str, payload: Value) -> Call {
        self.calls += 1;
        Call {
            call_id: [self.calls; 16],
            procedure: procedure.into(),
            realm,
            payload,
            deadline_ms: unix_ms() + 30_000,
            caller: self.key.node_id(),
            source_route: vec![],
            retry_budget: 0,
            ucan_token: vec![],
        }
    }

    /// Calls one of the station's procedures.
    pub async fn ask(&mut self, procedure: &str, payload: Value) -> Result<Value, (u8, String)> {
        let call = self.call(SYSTEM_REALM, procedure, payload);
        self.send(&Frame::Call(call)).await;
        match self.next().await {
            Frame::Result(result) => Ok(result.payload),
            Frame::Error(error) => Err((error.code, error.detail.unwrap_or_default())),
            other => panic!("not an answer: {other:?}"),
        }
    }

    pub fn stream_open(&self, realm: [u8; 32], procedure: &str) -> StreamOpen {
        StreamOpen {
            stream_id: [3; 16],
            procedure: procedure.into(),
            realm,
            mode: Mode::ServerStream,
            args: Value::Null,
            deadline_ms: unix_ms() + 60_000,
            caller: self.key.node_id(),
            source_route: vec![],
            retry_budget: 0,
        }
    }
}

/// Small windows, so that a reader that stands still is felt soon.
fn client_config() -> quinn::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyStation))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window((1u32 << 20).into());
    config.transport_config(Arc::new(transport));
    config
}

/// As clients without a pin: whose certificate it is does not matter, HELLO's signature does.
#[derive(Debug)]
struct AnyStation;

impl ServerCertVerifier for AnyStation {
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
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
