//! What claimants say over HTTP, carried to the pairing service.

use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use mesh_http::Problem;
use services_api::bus::Link;
use services_api::pairing::PairingProxy;
use tokio::time::timeout;

/// The node may have to write its configuration.
const WAIT: Duration = Duration::from_secs(60);

pub struct Pairing(Link);

impl Pairing {
    pub fn new() -> Self {
        Self(Link::new("pairing"))
    }

    pub async fn step(&self, from: IpAddr, session: &[u8], message: &[u8]) -> Result<Vec<u8>, Problem> {
        let step = async {
            let proxy = PairingProxy::new(&self.0.get().await?).await?;
            anyhow::Ok(proxy.step(&from.to_canonical().to_string(), session, message).await?)
        };
        match timeout(WAIT, step).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => {
                tracing::warn!("pairing over HTTP: {e:#}");
                Err(Problem::busy("the pairing service does not answer"))
            }
            Err(_) => {
                let detail = format!("pairing gave no answer within {} s", WAIT.as_secs());
                Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail, "send the same message again"))
            }
        }
    }
}
