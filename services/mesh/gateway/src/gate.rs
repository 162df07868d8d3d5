//! How much of something there may be at once: in all, and for one client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_proto::network_of;
use tokio::sync::Notify;

type Client = [u8; 16];

#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    inside: Mutex<HashMap<Client, usize>>,
    left: Notify,
    total: usize,
    per_client: usize,
}

/// Given back when dropped.
pub struct Slot {
    gate: Gate,
    client: Client,
}

impl Gate {
    pub fn new(total: usize, per_client: usize) -> Self {
        let inside = Mutex::default();
        Self(Arc::new(Inner { inside, left: Notify::new(), total, per_client }))
    }

    pub fn enter(&self, from: IpAddr) -> Option<Slot> {
        let client = network_of(from);
        let mut inside = self.0.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = inside.values().sum();
        let own = inside.get(&client).copied().unwrap_or(0);
        if all >= self.0.total || own >= self.0.per_client {
            return None;
        }
        inside.insert(client, own + 1);
        Some(Slot { gate: self.clone(), client })
    }

    /// Waits a while for others to leave.
    pub async fn enter_within(&self, from: IpAddr, wait: Duration) -> Option<Slot> {
        let attempt = async {
            loop {
                let mut left = std::pin::pin!(self.0.left.notified());
                left.as_mut().enable();
                if let Some(slot) = self.enter(from) {
                    return slot;
                }
                left.await;
            }
        };
        tokio::time::timeout(wait, attempt).await.ok()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inside = self.gate.0.inside.lock().unwrap_or_else(PoisonError::into_inner);
        match inside.get_mut(&self.client) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(inside.remove(&self.client)),
        }
        drop(inside);
        self.gate.0.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn both_limits_hold_and_leaving_makes_room() {
        let gate = Gate::new(3, 2);
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        let a = gate.enter(ip(1)).unwrap();
        let _b = gate.enter(ip(1)).unwrap();
        assert!(gate.enter(ip(1)).is_none());
        let _c = gate.enter(ip(2)).unwrap();
        assert!(gate.enter(ip(3)).is_none());
        assert!(gate.enter_within(ip(3), Duration::from_millis(20)).await.is_none());
        let patience = Duration::from_secs(20);
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter_within(ip(3), patience).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(a);
        assert!(waiting.await.unwrap());
    }
}
