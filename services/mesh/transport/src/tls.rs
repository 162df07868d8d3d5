//! TLS 1.3, both ways, with node certificates instead of a PKI.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mesh_proto::ALPN;
use os_certificate::node_id_of_chain;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::transport_config;

/// A session key with the chain that ties it to a node.
pub struct Credentials {
    /// Leaf first, then the node's CA certificate.
    pub chain: Vec<CertificateDer<'static>>,
    /// The session key, PKCS#8.
    pub session_key: Vec<u8>,
}

impl Credentials {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.session_key.clone()))
    }
}

/// A port that speaks to nodes alone. For more, [`crate::AlpnPort`].
pub fn server_config(credentials: &Credentials, certain: Certain) -> Result<quinn::ServerConfig> {
    crate::server_config_by_alpn(&[server_tls(credentials, certain)?])
}

pub fn client_config(credentials: &Credentials, certain: Certain) -> Result<quinn::ClientConfig> {
    let tls = client_tls(credentials, certain, ALPN)?;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport_config());
    Ok(config)
}

/// TLS with other nodes: both ends show a certificate.
pub fn server_tls(credentials: &Credentials, certain: Certain) -> Result<rustls::ServerConfig> {
    server_tls_as(credentials, certain, ALPN)
}

/// The same for another protocol between nodes.
pub(crate) fn server_tls_as(
    credentials: &Credentials,
    certain: Certain,
    alpn: &[u8],
) -> Result<rustls::ServerConfig> {
    let provider = provider();
    let verifier = Arc::new(NodeVerifier { provider: provider.clone(), certain });
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain.clone(), credentials.key())
        .context("session key and certificate do not fit")?;
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.max_early_data_size = 0;
    Ok(tls)
}

/// For the end that dials.
pub(crate) fn client_tls(
    credentials: &Credentials,
    certain: Certain,
    alpn: &[u8],
) -> Result<rustls::ClientConfig> {
    let provider = provider();
    let verifier = Arc::new(NodeVerifier { provider: provider.clone(), certain });
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(credentials.chain.clone(), credentials.key())
        .context("session key and certificate do not fit")?;
    tls.alpn_protocols = vec![alpn.to_vec()];
    Ok(tls)
}

/// Seconds since 1970 that have certainly passed: certificates that had ended by then are refused.
pub type Certain = fn() -> u64;

/// The system's clock, for whoever trusts it.
pub fn system_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Accepts every chain that proves some node id; whose it is, is for the caller to look at.
#[derive(Debug)]
struct NodeVerifier {
    provider: Arc<CryptoProvider>,
    certain: Certain,
}

impl NodeVerifier {
    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        match node_id_of_chain(&chain, (self.certain)()) {
            Ok(_) => Ok(()),
            Err(e) => {
                Err(Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(e)))))
            }
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
}

fn no_tls12() -> Error {
    Error::General("nodes speak TLS 1.3 only".into())
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, rest).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, rest).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
