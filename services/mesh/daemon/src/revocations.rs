//! Which delegations were taken back: what `dht` keeps on this node, and what it finds when asked.
//!
//! Before a chain counts for the first time the mesh is asked about each of its links, and again every ten minutes while the chain is in use.
//! A mesh that does not answer within a second does not hold up a node that is alone: then what is known here counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use os_identity::NodeId;
use os_ucan::TokenId;
use os_ucan::revocation::Revocation;
use services_api::bus;
use services_api::dht::DhtProxy;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A token, and a key that may take it back.
pub type Pair = (TokenId, NodeId);

const FRESH: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(1);
const MAX_KNOWN: usize = 4096;
const MAX_ASKED: usize = 4096;

pub struct Revocations {
    state: Mutex<State>,
    changes: watch::Sender<()>,
    dht: std::sync::Arc<bus::Link>,
}

#[derive(Default)]
struct State {
    known: BTreeSet<Pair>,
    asked: BTreeMap<Pair, Instant>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changes: watch::Sender::new(()),
            dht: std::sync::Arc::new(bus::Link::new("dht")),
        }
    }
}

impl Revocations {
    pub fn is_revoked(&self, pair: &Pair) -> bool {
        self.state().known.contains(pair)
    }

    pub fn changed(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Takes a statement in, if its revoker signed it.
    pub fn learn(&self, statement: &[u8]) -> Result<()> {
        let revocation = Revocation::from_bytes(statement)?;
        let pair = (revocation.token, revocation.revoker);
        let mut state = self.state();
        if state.known.len() < MAX_KNOWN && state.known.insert(pair) {
            tracing::info!("delegation {} was taken back by {}", pair.0, pair.1);
            self.changes.send_replace(());
        }
        Ok(())
    }

    /// Asks the mesh about those that it was not asked about lately. True if one of them was taken back.
    pub async fn look_up(&self, pairs: &[Pair]) -> bool {
        let stale = self.take_stale(pairs, Instant::now());
        if stale.is_empty() {
            return false;
        }
        let mut searches = JoinSet::new();
        for pair in stale {
            searches.spawn(search(self.dht.clone(), pair));
        }
        let all = async {
            let mut found = false;
            while let Some(searched) = searches.join_next().await {
                if let Ok(Ok(Some(statement))) = searched {
                    found |= self.keep(statement);
                }
            }
            found
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| pairs.iter().any(|p| self.is_revoked(p)))
    }

    /// Those to ask about now; they count as asked from here on.
    fn take_stale(&self, pairs: &[Pair], now: Instant) -> Vec<Pair> {
        let mut state = self.state();
        let is_stale = |at: &Instant| now.saturating_duration_since(*at) >= FRESH;
        let stale: Vec<Pair> =
            pairs.iter().filter(|pair| state.asked.get(*pair).is_none_or(is_stale)).copied().collect();
        if state.asked.len() + stale.len() > MAX_ASKED {
            state.asked.retain(|_, at| !is_stale(at));
        }
        if state.asked.len() + stale.len() > MAX_ASKED {
            state.asked.clear();
        }
        state.asked.extend(stale.iter().map(|pair| (*pair, now)));
        stale
    }

    fn keep(&self, statement: Vec<u8>) -> bool {
        if self.learn(&statement).is_err() {
            return false;
        }
        let dht = self.dht.clone();
        tokio::spawn(async move {
            let kept =
                async { anyhow::Ok(DhtProxy::new(&dht.get().await?).await?.revoke(&statement).await?) };
            if let Err(e) = kept.await {
                tracing::warn!("a revocation is not kept over a restart: {e:#}");
            }
        });
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn search(dht: std::sync::Arc<bus::Link>, (token, revoker): Pair) -> Result<Option<Vec<u8>>> {
    let dht = DhtProxy::new(&dht.get().await?).await?;
    let statement = dht.find_revocation(token.as_bytes(), revoker.as_bytes()).await?;
    Ok((!statement.is_empty()).then_some(statement))
}

#[cfg(test)]
mod tests {
    use os_identity::NodeKey;

    use super::*;

    #[test]
    fn what_is_asked_about_is_asked_once_in_a_while() {
        let revocations = Revocations::default();
        let pair = |n: u8| (TokenId::of(&[n]), NodeId::from_bytes([n; 32]));
        let now = Instant::now();
        assert_eq!(revocations.take_stale(&[pair(1), pair(2)], now), [pair(1), pair(2)]);
        assert_eq!(revocations.take_stale(&[pair(2), pair(3)], now), [pair(3)]);
        assert_eq!(revocations.take_stale(&[pair(2)], now + FRESH), [pair(2)]);
        let many: Vec<Pair> = (0..MAX_ASKED as u32)
            .map(|n| (TokenId::of(&n.to_be_bytes()), NodeId::from_bytes([9; 32])))
            .collect();
        assert_eq!(revocations.take_stale(&many, now + FRESH).len(), MAX_ASKED);
        assert!(revocations.state().asked.len() <= MAX_ASKED);
    }

    #[test]
    fn only_signed_statements_count() {
        let revocations = Revocations::default();
        let key = NodeKey::from_seed(&[1; 32]);
        let statement = Revocation::issue(TokenId::of(b"t"), 1, &key).to_bytes();
        let mut forged = statement.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(revocations.learn(&forged).is_err());
        let pair = (TokenId::of(b"t"), key.node_id());
        assert!(!revocations.is_revoked(&pair));
        let changed = revocations.changed();
        revocations.learn(&statement).unwrap();
        assert!(revocations.is_revoked(&pair) && changed.has_changed().unwrap());
    }
}
