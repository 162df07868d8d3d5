//! Existing Macula clients' station over QUIC: the sockets and tasks around [`mesh_macula::Station`].
//!
//! One task owns the station. Each connection has a task that accepts its streams, each stream one that reads frames and
//! one that writes. Readers take room for a frame before they read it, so what is on its way to the station is
//! bounded for each connection; what it hands out is bounded by the station itself. Nothing is stored.

mod driver;
mod endpoint;
mod streams;

use std::future::Future;

use mesh_macula::{Answer, Work};

pub use driver::serve;
pub use endpoint::{connections, endpoint, server_config, server_tls};

/// The node's DHT and content, as a station needs them.
pub trait Backing: Send + Sync + 'static {
    /// Does what a client asked for. It may take as long as it needs: the station answers in time.
    fn work(&self, work: Work) -> impl Future<Output = Answer> + Send;
}
