//! How many streams may be open at once: in all, and to one peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use os_identity::NodeId;

#[derive(Clone)]
pub struct Gate {
    inside: Arc<Mutex<HashMap<NodeId, usize>>>,
    total: usize,
    per_peer: usize,
}

/// Leaves the gate when dropped.
pub struct Pass {
    gate: Gate,
    peer: NodeId,
}

impl Gate {
    pub fn new((total, per_peer): (usize, usize)) -> Self {
        Self { inside: Arc::default(), total, per_peer }
    }

    pub fn enter(&self, peer: NodeId) -> Option<Pass> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = inside.values().sum();
        let own = inside.get(&peer).copied().unwrap_or(0);
        if all >= self.total || own >= self.per_peer {
            return None;
        }
        inside.insert(peer, own + 1);
        Some(Pass { gate: self.clone(), peer })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.gate.inside.lock().unwrap_or_else(PoisonError::into_inner);
        match inside.get_mut(&self.peer) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(inside.remove(&self.peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_leaving_makes_room() {
        let gate = Gate::new((3, 2));
        let peer = |n| NodeId::from_bytes([n; 32]);
        let a = gate.enter(peer(1)).unwrap();
        let _b = gate.enter(peer(1)).unwrap();
        assert!(gate.enter(peer(1)).is_none());
        let _c = gate.enter(peer(2)).unwrap();
        assert!(gate.enter(peer(3)).is_none());
        drop(a);
        assert!(gate.enter(peer(3)).is_some());
    }
}
