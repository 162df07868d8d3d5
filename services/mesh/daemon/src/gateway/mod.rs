//! The gateway's place in this process: its certificate, its ports, and what the node gives it.

mod assets;
mod bearers;
mod contents;
mod control;
mod node;
mod pairing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mesh_gateway::{Gateway, H2, H3, HTTP_1_1, Settings, TcpPort, serve_quic, serve_tls};
use mesh_transport::AlpnPort;
use os_certificate::WebKey;
use os_config::Config;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::links::Links;
use assets::Assets;
use contents::Contents;
use node::GatewayNode;
use pairing::Pairing;

/// Well before a certificate ends.
const RENEW: Duration = Duration::from_secs(24 * 3600);
const RETRY: Duration = Duration::from_secs(10);

type Serving = Arc<Gateway<GatewayNode>>;

/// Serves HTTP on both ports, for ever. What goes wrong here leaves the rest of the mesh alone.
pub async fn run(links: Arc<Links>, config: Config, udp: Arc<AlpnPort>, tcp: Arc<TcpPort>) {
    while let Err(e) = serve(&links, &config, &udp, &tcp).await {
        tracing::error!("the gateway does not run: {e:#}; again in {} s", RETRY.as_secs());
        tokio::time::sleep(RETRY).await;
    }
}

async fn serve(links: &Arc<Links>, config: &Config, udp: &Arc<AlpnPort>, tcp: &Arc<TcpPort>) -> Result<()> {
    let key = WebKey::generate()?;
    let certificates = Arc::new(Mutex::new(Vec::new()));
    let mut epoch = [0; 16];
    getrandom::fill(&mut epoch).map_err(std::io::Error::from)?;
    let node = GatewayNode {
        contents: Contents::new(),
        assets: Assets::load(),
        pairing: Pairing::new(),
        epoch,
        public: node::public(links.me(), &config.gateway.public)?,
        written: config.gateway.public.clone(),
        realm: config.realm.clone(),
        certificates: certificates.clone(),
        port: udp.clone(),
        links: links.clone(),
    };
    let gateway = Gateway::new(node, Settings::default());
    let port = config.mesh.port;
    let quic = gateway.clone();
    links.guests.welcome(H3, move |connection| {
        tokio::spawn(serve_quic(quic.clone(), connection));
    });
    let macula = format!("macula-{}.local", links.me().short().to_lowercase());
    let hosts = [macula, format!("{}.local", config.name), config.name.clone()];
    loop {
        let certificate = key.certificate(&hosts, now_unix())?;
        let hash = os_certificate::fingerprint(&certificate);
        speak(&key, &certificate, &gateway, udp, tcp, port)?;
        tracing::info!("HTTP on UDP and TCP {port}; certificate {hash}");
        note(&certificates, hash);
        tokio::time::sleep(RENEW).await;
    }
}

/// The one before may still be in use.
fn note(certificates: &Mutex<Vec<String>>, newest: String) {
    let mut certificates = certificates.lock().unwrap_or_else(PoisonError::into_inner);
    certificates.insert(0, newest);
    certificates.truncate(2);
}

fn speak(
    key: &WebKey,
    certificate: &CertificateDer<'static>,
    gateway: &Serving,
    udp: &AlpnPort,
    tcp: &TcpPort,
    port: u16,
) -> Result<()> {
    udp.speak(tls(key, certificate, &[H3])?)?;
    let gateway = gateway.clone();
    tcp.speak(tls(key, certificate, &[H2, HTTP_1_1])?, move |stream, from, slot| {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            serve_tls(gateway, stream, alpn.as_deref(), from.ip(), port).await;
            drop(slot);
        });
    })
}

/// TLS 1.3 without a client's certificate.
fn tls(
    key: &WebKey,
    certificate: &CertificateDer<'static>,
    protocols: &[&[u8]],
) -> Result<rustls::ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .context("key and certificate do not fit")?;
    tls.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    tls.max_early_data_size = 0;
    Ok(tls)
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
