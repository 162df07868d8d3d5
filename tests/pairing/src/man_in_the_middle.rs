//! Somebody on the LAN who has not seen the code: ends QUIC towards the claimant and towards the node, and carries what they say.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use mesh_transport::{Credentials, system_clock};
use os_identity::NodeKey;
use quinn::{Connection, Endpoint};

pub struct ManInTheMiddle {
    pub address: SocketAddr,
    /// Streams that he carried.
    pub carried: Arc<AtomicUsize>,
    _endpoint: Endpoint,
}

impl ManInTheMiddle {
    pub fn before(node: SocketAddr) -> Self {
        let credentials = credentials(&NodeKey::from_seed(&[0xee; 32]));
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = mesh_transport::endpoint(any, &credentials, system_clock, None).unwrap();
        let address = endpoint.local_addr().unwrap();
        let carried = Arc::new(AtomicUsize::new(0));
        tokio::spawn(listen(endpoint.clone(), node, carried.clone()));
        Self { address, carried, _endpoint: endpoint }
    }
}

async fn listen(endpoint: Endpoint, node: SocketAddr, carried: Arc<AtomicUsize>) {
    while let Some(incoming) = endpoint.accept().await {
        let (endpoint, carried) = (endpoint.clone(), carried.clone());
        tokio::spawn(async move {
            let near = incoming.await?;
            let (far, _) = mesh_transport::connect(&endpoint, node, None).await?;
            carry(near, far, carried).await
        });
    }
}

async fn carry(near: Connection, far: Connection, carried: Arc<AtomicUsize>) -> Result<()> {
    loop {
        let (mut to_near, mut from_near) = near.accept_bi().await?;
        let header = mesh_transport::read_header(&mut from_near).await?;
        let (mut to_far, mut from_far) = mesh_transport::open(&far, &header).await?;
        carried.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
        tokio::spawn(async move { tokio::io::copy(&mut from_far, &mut to_near).await });
    }
}

pub fn credentials(key: &NodeKey) -> Credentials {
    let session = NodeKey::generate().unwrap();
    let (now, lifetime) = (system_clock(), os_certificate::LIFETIME_S);
    let (leaf, ca) = os_certificate::certify(key, session.node_id().as_bytes(), now, lifetime).unwrap();
    Credentials { chain: vec![leaf, ca], session_key: session.to_pkcs8_der().unwrap().to_vec() }
}
