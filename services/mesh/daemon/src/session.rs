//! This boot's session key and its certificate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_transport::tcp::TunnelTls;
use mesh_transport::{AlpnPort, Credentials, Dialer, ResetKey, server_tls};
use os_identity::{NodeId, NodeKey};
use rustls_pki_types::CertificateDer;
use services_api::identity::IdentityProxy;
use services_api::{bus, clock};

/// Certificates live for two weeks; a new one every day leaves room for an identity service that is down for long.
pub const RENEW: Duration = Duration::from_secs(24 * 3600);

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

    /// Speaks to nodes on this port, in tunnels and where it dials, with this session's key.
    pub fn install(&self, dialer: &Dialer, port: &AlpnPort, tunnels: &TunnelTls) -> Result<()> {
        let credentials = self.credentials()?;
        port.speak(server_tls(&credentials, clock::certain_unix)?)?;
        dialer.renew(&credentials)?;
        tunnels.renew(&credentials)
    }
}

/// Gives the endpoint a new session key and certificate every so often. Connections that are up keep theirs.
pub async fn keep_fresh<N: Future<Output = Session>>(
    every: Duration,
    next: impl Fn() -> N,
    (dialer, port, tunnels): (Arc<Dialer>, Arc<AlpnPort>, Arc<TunnelTls>),
) {
    loop {
        tokio::time::sleep(every).await;
        if let Err(e) = next().await.install(&dialer, &port, &tunnels) {
            tracing::error!("new session certificate is not usable: {e:#}");
        }
    }
}

/// The session after this one, as soon as identity answers.
pub async fn next() -> Session {
    bus::retry("session certificate", Session::certified).await
}

async fn certify(key: NodeKey) -> Result<Session> {
    let identity = IdentityProxy::new(&bus::connect_patiently("identity").await).await?;
    let node = NodeId::try_from(identity.node_id().await?.as_slice())?;
    let (leaf, ca) = identity.certify_session(key.node_id().as_bytes()).await?;
    let reset_key = identity.reset_key().await?;
    let reset_key = reset_key.try_into().ok().context("identity's reset key is not 32 bytes long")?;
    Ok(Session { node, key, reset_key, chain: vec![leaf.into(), ca.into()] })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr};
    use std::time::Instant;

    use mesh_transport::system_clock;
    use mesh_transport::tcp::peer_of;
    use os_certificate::LIFETIME_S;
    use quinn::{Connection, Endpoint};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(20);

    /// As identity certifies it, with a node key made from `seed`.
    fn session(seed: u8) -> Session {
        let (node, key) = (NodeKey::from_seed(&[seed; 32]), NodeKey::generate().unwrap());
        let (leaf, ca) =
            os_certificate::certify(&node, key.node_id().as_bytes(), system_clock(), LIFETIME_S).unwrap();
        Session { node: node.node_id(), key, reset_key: [0; 32], chain: vec![leaf, ca] }
    }

    fn endpoint(session: &Session) -> Endpoint {
        let any = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        mesh_transport::endpoint(any, &session.credentials().unwrap(), system_clock, None).unwrap()
    }

    fn shown(connection: &Connection) -> CertificateDer<'static> {
        let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
        chain[0].clone()
    }

    /// Takes connections, and gives back what comes on them.
    async fn echo(endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            tokio::spawn(async move {
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    let said = recv.read_to_end(100).await.unwrap();
                    send.write_all(&said).await.unwrap();
                    send.finish().unwrap();
                }
            });
        }
    }

    async fn says(connection: &Connection, word: &[u8]) {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(word).await.unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(100).await.unwrap(), word);
    }

    #[tokio::test]
    async fn a_new_session_key_is_shown_to_whoever_connects_and_open_connections_stay() {
        let first = session(1);
        let node = endpoint(&first);
        let port = Arc::new(AlpnPort::new(node.clone()));
        let tunnels = Arc::new(TunnelTls::new(&first.credentials().unwrap(), system_clock).unwrap());
        let dialer =
            Arc::new(Dialer::new(node.clone(), &first.credentials().unwrap(), system_clock).unwrap());
        first.install(&dialer, &port, &tunnels).unwrap();
        tokio::spawn(echo(node.clone()));
        let peer = endpoint(&session(2));
        let address = node.local_addr().unwrap();
        let (old, _) = mesh_transport::connect(&peer, address, Some(&first.node())).await.unwrap();
        assert_eq!(shown(&old), first.chain[0]);

        let all = (dialer.clone(), port, tunnels.clone());
        tokio::spawn(keep_fresh(SHORT, || async { session(1) }, all));
        let begun = Instant::now();
        let mut seen = vec![shown(&old)];
        while seen.len() < 4 {
            assert!(begun.elapsed() < PATIENCE, "{} session keys in {PATIENCE:?}", seen.len());
            tokio::time::sleep(SHORT / 5).await;
            // Another key of the same node: to whoever asks for that node, nothing has changed.
            let (new, node_id) = mesh_transport::connect(&peer, address, Some(&first.node())).await.unwrap();
            assert_eq!(node_id, first.node());
            says(&new, b"new").await;
            if seen.last() != Some(&shown(&new)) {
                seen.push(shown(&new));
            }
        }
        says(&old, b"old").await;
        assert_eq!(shown(&old), first.chain[0]);

        // The node's own calls, and tunnels, are with a new key too.
        let there = endpoint(&session(3));
        let to = there.local_addr().unwrap();
        let dial = dialer.connect(to, None);
        let (dialled, taken) = tokio::join!(dial, async { there.accept().await.unwrap().await });
        dialled.unwrap();
        assert_ne!(shown(&taken.unwrap()), first.chain[0]);
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tunnels.server()));
        let take = async { acceptor.accept(listener.accept().await.unwrap().0).await.unwrap() };
        let itself = first.node();
        let (there, here) = tokio::join!(tunnels.connect(to, &itself), take);
        let (there, here) = (there.unwrap(), here);
        let server = there.get_ref().1.peer_certificates();
        let client = here.get_ref().1.peer_certificates();
        assert_eq!((peer_of(server).unwrap(), peer_of(client).unwrap()), (first.node(), first.node()));
        assert!(server.unwrap()[0] != first.chain[0] && client.unwrap()[0] != first.chain[0]);
    }
}
