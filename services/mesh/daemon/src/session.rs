//! This boot's session key and its certificate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_transport::tcp::TunnelTls;
use mesh_transport::{AlpnPort, Credentials, ResetKey, client_config, server_tls};
use os_identity::{NodeId, NodeKey};
use quinn::Endpoint;
use rustls_pki_types::CertificateDer;
use services_api::identity::IdentityProxy;
use services_api::{bus, clock};

/// Certificates live for two weeks; a new one every day leaves room for an identity service that is down for long.
const RENEW: Duration = Duration::from_secs(24 * 3600);

/// A session key that identity has certified.
pub struct Session {
    node: NodeId,
    key: NodeKey,
    reset_key: ResetKey,
    chain: Vec<CertificateDer<'static>>,
}

impl Session {
    pub async fn certified() -> Result<Self> {
        let key = NodeKey::generate().context("no random numbers for the session key")?;
        certify(key).await
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    pub fn reset_key(&self) -> &ResetKey {
        &self.reset_key
    }

    pub fn credentials(&self) -> Result<Credentials> {
        Ok(Credentials { chain: self.chain.clone(), session_key: self.key.to_pkcs8_der()?.to_vec() })
    }

    /// Gives the endpoint a new session key and certificate every day. Connections that are up keep theirs.
    pub async fn keep_fresh(self, endpoint: Endpoint, port: Arc<AlpnPort>, tunnels: Arc<TunnelTls>) {
        loop {
            tokio::time::sleep(RENEW).await;
            let fresh = bus::retry("session certificate", Session::certified).await;
            if let Err(e) = fresh.install(&endpoint, &port, &tunnels) {
                tracing::error!("new session certificate is not usable: {e:#}");
            }
        }
    }

    /// Speaks to nodes on this port, in tunnels and from this endpoint, with this session's key.
    pub fn install(&self, endpoint: &Endpoint, port: &AlpnPort, tunnels: &TunnelTls) -> Result<()> {
        let credentials = self.credentials()?;
        port.speak(server_tls(&credentials, clock::certain_unix)?)?;
        let client = client_config(&credentials, clock::certain_unix)?;
        endpoint.clone().set_default_client_config(client);
        tunnels.renew(&credentials)
    }
}

async fn certify(key: NodeKey) -> Result<Session> {
    let identity = IdentityProxy::new(&bus::connect_patiently("identity").await).await?;
    let node = NodeId::try_from(identity.node_id().await?.as_slice())?;
    let (leaf, ca) = identity.certify_session(key.node_id().as_bytes()).await?;
    let reset_key = identity.reset_key().await?;
    let reset_key = reset_key.try_into().ok().context("identity's reset key is not 32 bytes long")?;
    Ok(Session { node, key, reset_key, chain: vec![leaf.into(), ca.into()] })
}
