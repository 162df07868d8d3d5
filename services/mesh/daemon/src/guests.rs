//! Connections that speak something else than nodes do: each protocol (ALPN) has one who takes them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use mesh_transport::close_code;
use quinn::{Connection, VarInt};

#[derive(Default)]
pub struct Guests(Mutex<HashMap<Vec<u8>, Host>>);

type Host = Box<dyn Fn(Connection) + Send + Sync>;

impl Guests {
    /// From now on `host` gets the connections with this protocol. It must not wait, and it bounds how many it keeps. The port has to
    /// speak the protocol, too (`AlpnPort::speak`).
    pub fn welcome(&self, alpn: &[u8], host: impl Fn(Connection) + Send + Sync + 'static) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.insert(alpn.to_vec(), Box::new(host));
    }

    /// Gives a connection, whose handshake is over, to whoever takes its protocol.
    pub fn hand_over(&self, alpn: &[u8], connection: Connection) -> Result<()> {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(host) = hosts.get(alpn) else {
            connection.close(VarInt::from_u32(close_code::REFUSED), b"nobody here speaks this");
            bail!("nobody here speaks {}", String::from_utf8_lossy(alpn));
        };
        host(connection);
        Ok(())
    }
}
