//! One UDP port, several application protocols, each with TLS of its own.
//!
//! QUIC servers have one TLS configuration, and rustls lets it differ by certificate only, not by whether the client is asked for
//! one. Nodes must show a certificate; a browser that is asked for one puts a dialogue before its user. So the
//! session begins without a configuration: it collects the ClientHello, looks at the protocols in it (ALPN, RFC 7301), and
//! replays it to a session of the configuration that speaks one of them.

use std::any::Any;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session, UnsupportedVersion,
};
use quinn::{Connection, ConnectionId, Endpoint, ServerConfig, Side, TransportErrorCode};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;
use rustls::server::Acceptor;

use crate::transport_config;

/// Longest ClientHello, in bytes. With post-quantum key shares it is about 1800.
const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// What an endpoint speaks. Each TLS configuration names its protocols (`alpn_protocols`); of several that a client offers the first
/// in this list is taken.
pub fn server_config_by_alpn(spoken: &[rustls::ServerConfig]) -> Result<ServerConfig> {
    ensure!(!spoken.is_empty(), "an endpoint that takes connections speaks something");
    let choices = spoken.iter().map(Choice::new).collect::<Result<_>>()?;
    let mut config = ServerConfig::with_crypto(Arc::new(ByAlpn { choices }));
    config.transport_config(transport_config());
    Ok(config)
}

/// The protocol that a connection's two ends agreed on; empty before the handshake is over.
pub fn alpn_of(connection: &Connection) -> Vec<u8> {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.and_then(|data| data.protocol).unwrap_or_default()
}

/// An endpoint's protocols, which may be added, renewed and taken away while it runs. Connections that are up stay as they are.
pub struct AlpnPort {
    endpoint: Endpoint,
    spoken: Mutex<Vec<rustls::ServerConfig>>,
}

impl AlpnPort {
    /// Speaks nothing to whoever connects until [`Self::speak`] says otherwise.
    pub fn new(endpoint: Endpoint) -> Self {
        endpoint.set_server_config(None);
        Self { endpoint, spoken: Mutex::default() }
    }

    /// Takes connections with this configuration from now on, instead of an earlier one for the same protocols.
    pub fn speak(&self, tls: rustls::ServerConfig) -> Result<()> {
        self.change(|spoken| {
            match spoken.iter_mut().find(|other| other.alpn_protocols == tls.alpn_protocols) {
                Some(other) => *other = tls,
                None => spoken.push(tls),
            }
        })
    }

    /// Takes no further connections with this protocol.
    pub fn fall_silent(&self, alpn: &[u8]) -> Result<()> {
        self.change(|spoken| spoken.retain(|tls| !tls.alpn_protocols.iter().any(|p| p == alpn)))
    }

    /// All protocols, the preferred first.
    pub fn spoken(&self) -> Vec<Vec<u8>> {
        let spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        spoken.iter().flat_map(|tls| tls.alpn_protocols.clone()).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<rustls::ServerConfig>)) -> Result<()> {
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = spoken.clone();
        change(&mut new);
        let config = if new.is_empty() { None } else { Some(server_config_by_alpn(&new)?) };
        self.endpoint.set_server_config(config);
        *spoken = new;
        Ok(())
    }
}

struct Choice {
    alpn: Vec<Vec<u8>>,
    tls: Arc<QuicServerConfig>,
}

impl Choice {
    fn new(tls: &rustls::ServerConfig) -> Result<Self> {
        ensure!(!tls.alpn_protocols.is_empty(), "a TLS configuration without ALPN would never be chosen");
        let alpn = tls.alpn_protocols.clone();
        Ok(Self { alpn, tls: Arc::new(QuicServerConfig::try_from(tls.clone())?) })
    }
}

/// Never empty. Where the choice does not matter the first speaks.
struct ByAlpn {
    choices: Vec<Choice>,
}

impl ByAlpn {
    fn first(&self) -> &Arc<QuicServerConfig> {
        &self.choices[0].tls
    }

    /// Whoever offers nothing that is spoken here gets the first, which refuses it in TLS' own words.
    fn choose(&self, offered: &[Vec<u8>]) -> &Arc<QuicServerConfig> {
        let speaks = |choice: &&Choice| choice.alpn.iter().any(|p| offered.contains(p));
        self.choices.iter().find(speaks).map_or(self.first(), |choice| &choice.tls)
    }
}

impl crypto::ServerConfig for ByAlpn {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.first().initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.first().retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        Box::new(Undecided {
            config: self,
            version,
            params: *params,
            hello: Vec::new(),
            acceptor: Acceptor::default(),
            session: None,
        })
    }
}

/// A session that is told apart by its ClientHello, and from then on is another's.
struct Undecided {
    config: Arc<ByAlpn>,
    version: u32,
    params: TransportParameters,
    hello: Vec<u8>,
    acceptor: Acceptor,
    session: Option<Box<dyn Session>>,
}

impl Undecided {
    /// The protocols that the client offers, as soon as its hello is there as a whole; none if there is no sense in it.
    fn offered(&mut self, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        if feed(&mut self.acceptor, bytes).is_err() {
            return Some(Vec::new());
        }
        match self.acceptor.accept() {
            Ok(None) => None,
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                Some(hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect())
            }
            Err(_) => Some(Vec::new()),
        }
    }
}

/// QUIC carries TLS' messages bare (RFC 9001, section 4); here they are given back the record layer that the acceptor reads.
fn feed(acceptor: &mut Acceptor, bytes: &[u8]) -> std::io::Result<()> {
    const HANDSHAKE: u8 = 22;
    const MAX_RECORD: usize = 1 << 14;
    for piece in bytes.chunks(MAX_RECORD) {
        let [high, low] = (piece.len() as u16).to_be_bytes();
        let mut record = vec![HANDSHAKE, 3, 3, high, low];
        record.extend_from_slice(piece);
        let mut record = Cursor::new(record);
        while record.position() < record.get_ref().len() as u64 {
            acceptor.read_tls(&mut record)?;
        }
    }
    Ok(())
}

impl Session for Undecided {
    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        if let Some(session) = &mut self.session {
            return session.read_handshake(bytes);
        }
        if self.hello.len() + bytes.len() > MAX_CLIENT_HELLO {
            return Err(TransportError {
                code: TransportErrorCode::CRYPTO_BUFFER_EXCEEDED,
                frame: None,
                reason: format!("ClientHello of more than {MAX_CLIENT_HELLO} bytes"),
            });
        }
        self.hello.extend_from_slice(bytes);
        let Some(offered) = self.offered(bytes) else { return Ok(false) };
        let chosen = self.config.choose(&offered).clone();
        let session =
            self.session.insert(crypto::ServerConfig::start_session(chosen, self.version, &self.params));
        session.read_handshake(&std::mem::take(&mut self.hello))
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        self.session.as_mut()?.write_handshake(out)
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        if let Some(session) = &self.session {
            return session.initial_keys(dst_cid, side);
        }
        let keys = crypto::ServerConfig::initial_keys(&*self.config, self.version, dst_cid);
        keys.expect("no session begins with a version for which there are no keys")
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.as_ref()?.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.as_ref()?.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.session.as_ref()?.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.as_ref()?.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_handshaking())
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.as_ref().map_or(Ok(None), |session| session.transport_parameters())
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.session.as_mut()?.next_1rtt_keys()
    }

    /// Asked of clients only.
    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let session = self.session.as_ref().ok_or(ExportKeyingMaterialError)?;
        session.export_keying_material(output, label, context)
    }
}

#[cfg(test)]
mod tests {
    use rustls::quic::{ClientConnection, Version};

    use super::*;
    use crate::Credentials;

    const V1: u32 = 1;

    fn begin() -> Box<dyn Session> {
        let key = os_identity::NodeKey::from_seed(&[1; 32]);
        let (leaf, ca) =
            os_certificate::certify(&key, key.node_id().as_bytes(), 1_795_000_000, 1000).unwrap();
        let session_key = key.to_pkcs8_der().unwrap().to_vec();
        let tls = crate::server_tls(&Credentials { chain: vec![leaf, ca], session_key }, || 0).unwrap();
        let config = Arc::new(ByAlpn { choices: vec![Choice::new(&tls).unwrap()] });
        let params = TransportParameters::read(Side::Server, &mut &b""[..]).unwrap();
        crypto::ServerConfig::start_session(config, V1, &params)
    }

    fn client_hello(protocols: Vec<Vec<u8>>) -> Vec<u8> {
        let mut tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        tls.alpn_protocols = protocols;
        let name = "node".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(tls), Version::V1, name, Vec::new()).unwrap();
        let mut hello = Vec::new();
        client.write_hs(&mut hello);
        hello
    }

    #[test]
    fn a_hello_may_come_byte_by_byte() {
        let hello = client_hello(vec![mesh_proto::ALPN.to_vec()]);
        let mut session = begin();
        let mut out = Vec::new();
        for (i, byte) in hello.iter().enumerate() {
            assert!(session.is_handshaking() && out.is_empty(), "byte {i}");
            assert!(session.handshake_data().is_none() && session.transport_parameters().unwrap().is_none());
            session.read_handshake(&[*byte]).unwrap();
            session.write_handshake(&mut out);
        }
        assert!(!out.is_empty(), "it answers");
        let data = session.handshake_data().unwrap().downcast::<HandshakeData>().unwrap();
        assert_eq!(data.protocol.as_deref(), Some(mesh_proto::ALPN));
    }

    #[test]
    fn junk_and_endless_hellos_are_refused() {
        let hello = client_hello(vec![mesh_proto::ALPN.to_vec()]);
        let mut truncated = hello.clone();
        truncated[3] = truncated[3].wrapping_sub(9);
        for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[2, 0, 0, 2, 3, 3], &[1, 0, 0, 0], &truncated]
        {
            assert!(begin().read_handshake(junk).is_err(), "{junk:x?}");
        }
        // A hello that claims 16 MiB is not waited for.
        let mut session = begin();
        let mut taken = 0;
        session
            .read_handshake(&[1, 0xff, 0xff, 0xff])
            .and_then(|_| {
                loop {
                    session.read_handshake(&[0; 1000])?;
                    taken += 1000;
                    assert!(taken <= MAX_CLIENT_HELLO);
                }
            })
            .map(|(): ()| ())
            .unwrap_err();
    }
}
