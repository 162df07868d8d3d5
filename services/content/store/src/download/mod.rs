//! Which chunk to ask of whom: several providers at once, in-order delivery, bounded memory.
//!
//! Events and the time (milliseconds, any origin) go in, [`Action`]s come out of [`Download::poll`]. At most a window of
//! about 4 MiB ahead of the consumer is asked for or held. Each chunk goes to the provider that, by its learnt rate, would
//! have it here first. A provider that is late gets its chunk asked elsewhere; one whose stream fails is tried again
//! later; one that lacks a chunk is not asked for that one for a while; one that lies is dropped for good.

mod provider;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Display;
use std::sync::Arc;

use os_content_id::{ChunkList, Hash};

use crate::exchange::{Checked, MAX_BLOCK, MAX_WANT};
use provider::{Ask, Link, Provider};

/// Bytes asked for or held ahead of the consumer.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// The window in chunks, when chunks are larger or smaller than usual.
const WINDOW_CHUNKS: std::ops::RangeInclusive<usize> = 16..=512;
/// Providers known to one download; later ones are ignored while these last.
pub const MAX_PROVIDERS: usize = 64;
/// Providers with an open stream at once.
const MAX_CONNECTED: usize = 8;

/// One chunk that the consumer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its index in the content, for people.
    pub index: u32,
    pub hash: Hash,
    pub len: u32,
}

/// Why a download cannot even start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("chunk {index} was asked for, the content has {count}")]
    Index { index: u32, count: u32 },
    #[error("chunks of {0} bytes cannot be moved, at most {MAX_BLOCK} can")]
    ChunkSize(u32),
}

/// The chunks with these indices, as a download wants them.
pub fn wanted(list: &ChunkList, indices: &[u32]) -> Result<Vec<Wanted>, PlanError> {
    let m = list.manifest();
    if m.chunk_size as usize > MAX_BLOCK {
        return Err(PlanError::ChunkSize(m.chunk_size));
    }
    let one = |&index: &u32| {
        let out = PlanError::Index { index, count: m.chunk_count };
        let len = m.chunk_len(index).ok_or(out)?;
        Ok(Wanted { index, hash: list.hashes()[index as usize], len })
    };
    indices.iter().map(one).collect()
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<P> {
    /// Look for this block here, then call [`Download::local`].
    Local(Hash),
    /// Open a stream, then call [`Download::connected`] or [`Download::failed`].
    Connect(P),
    /// Ask for these, in this order.
    Want(P, Vec<Hash>),
    /// Close the provider's stream; whatever still comes from it is ignored.
    Close(P),
}

/// What a provider sent.
#[derive(Debug, Clone)]
pub enum Reply {
    Block(Checked),
    Missing(Hash),
}

/// Where a chunk came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source<P> {
    Local,
    Peer(P),
}

#[derive(Debug)]
enum State<P> {
    /// Not looked for yet.
    New,
    /// Being looked for in the local store.
    Looking,
    /// To be had from a peer.
    Wanted,
    Have(Arc<Vec<u8>>, Source<P>),
}

pub struct Download<P> {
    wanted: Vec<Wanted>,
    /// Chunks given to the consumer: `slots[0]` is `wanted[done]`.
    done: usize,
    window: usize,
    slots: VecDeque<State<P>>,
    providers: BTreeMap<P, Provider>,
    closing: Vec<P>,
    local_bytes: u64,
    last_progress: u64,
}

impl<P: Ord + Clone + Display> Download<P> {
    pub fn new(wanted: Vec<Wanted>, now: u64) -> Self {
        let largest = wanted.iter().map(|w| w.len as usize).max().unwrap_or(1).max(1);
        Self {
            wanted,
            done: 0,
            window: (WINDOW_BYTES / largest).clamp(*WINDOW_CHUNKS.start(), *WINDOW_CHUNKS.end()),
            slots: VecDeque::new(),
            providers: BTreeMap::new(),
            closing: Vec::new(),
            local_bytes: 0,
            last_progress: now,
        }
    }

    /// Someone who is said to have the content. Known ones are left as they are.
    pub fn add_provider(&mut self, p: P, now: u64) {
        if self.providers.len() < MAX_PROVIDERS {
            self.providers.entry(p).or_insert_with(|| Provider::new(now));
        }
    }

    pub fn connected(&mut self, p: &P, now: u64) {
        if let Some(provider) = self.providers.get_mut(p).filter(|p| p.link == Link::Connecting) {
            provider.link = Link::Up;
            provider.last_heard = now;
        }
    }

    /// The stream could not be opened, or it ended. What was asked there is asked elsewhere.
    pub fn failed(&mut self, p: &P, reason: &str, now: u64) {
        if let Some(provider) = self.providers.get_mut(p) {
            provider.fail(reason, now);
        }
    }

    /// The provider broke the rules and is not asked again, whatever happens.
    pub fn drop_provider(&mut self, p: &P, reason: String) {
        if let Some(provider) = self.providers.get_mut(p).filter(|p| !p.is_dropped()) {
            provider.outstanding.clear();
            provider.link = Link::Dropped(reason);
            self.closing.push(p.clone());
        }
    }

    /// What the local store has under this hash.
    pub fn local(&mut self, hash: &Hash, found: Option<Checked>, now: u64) {
        let bytes = found.filter(|c| c.hash() == hash).and_then(|c| c.bytes().cloned());
        for i in 0..self.slots.len() {
            let w = self.wanted[self.done + i];
            if w.hash != *hash || !matches!(self.slots[i], State::Looking) {
                continue;
            }
            match &bytes {
                Some(b) if b.len() == w.len as usize => {
                    self.local_bytes += b.len() as u64;
                    self.last_progress = now;
                    self.slots[i] = State::Have(b.clone(), Source::Local);
                }
                _ => self.slots[i] = State::Wanted,
            }
        }
    }

    /// An answer from a provider's stream. Answers come in the order of the asks; anything else is a lie.
    pub fn reply(&mut self, p: &P, reply: Reply, now: u64) {
        let hash = match &reply {
            Reply::Block(checked) => *checked.hash(),
            Reply::Missing(hash) => *hash,
        };
        let Some(provider) = self.providers.get_mut(p).filter(|p| p.link == Link::Up) else { return };
        let Some(ask) = provider.outstanding.pop_front().filter(|a| a.hash == hash) else {
            return self.drop_provider(p, "answered with a chunk that it was not asked for".to_string());
        };
        match reply {
            Reply::Missing(_) => provider.lacks(&ask, now),
            Reply::Block(checked) => match checked.bytes() {
                Some(b) if b.len() == ask.len as usize => {
                    provider.delivered(&ask, now);
                    let bytes = b.clone();
                    self.fill(p, &hash, &bytes, now);
                }
                Some(b) => {
                    let len = b.len();
                    let text = format!("chunk {} has {len} bytes, its manifest says {}", ask.index, ask.len);
                    self.drop_provider(p, text);
                }
                None => self.drop_provider(p, format!("chunk {} does not match its hash", ask.index)),
            },
        }
    }

    /// What to do now. Call after every event and when [`Self::next_deadline`] has come.
    pub fn poll(&mut self, now: u64) -> Vec<Action<P>> {
        let mut actions: Vec<_> = self.closing.drain(..).map(Action::Close).collect();
        self.open_window(&mut actions);
        self.give_up_on_the_late(now, &mut actions);
        self.connect(now, &mut actions);
        self.ask(now, &mut actions);
        actions
    }

    /// When [`Self::poll`] has something to do even though nothing happens.
    pub fn next_deadline(&self, now: u64) -> Option<u64> {
        if self.next_is_here() && self.slots.iter().all(|s| matches!(s, State::Have(..))) {
            return None;
        }
        let hedge = self.hedge_at(now).map(|(_, at)| at).filter(|at| *at > now);
        self.providers.values().filter_map(|p| p.deadline(now)).chain(hedge).min()
    }

    /// The next chunk in order, when it is here.
    pub fn next(&mut self, now: u64) -> Option<(Wanted, Arc<Vec<u8>>, Source<P>)> {
        if !self.next_is_here() {
            return None;
        }
        let wanted = self.wanted[self.done];
        let Some(State::Have(bytes, source)) = self.slots.pop_front() else { return None };
        self.done += 1;
        self.last_progress = now;
        Some((wanted, bytes, source))
    }

    pub fn next_is_here(&self) -> bool {
        matches!(self.slots.front(), Some(State::Have(..)))
    }

    pub fn finished(&self) -> bool {
        self.done == self.wanted.len()
    }

    /// For how long the consumer has waited in vain.
    pub fn stalled_ms(&self, now: u64) -> u64 {
        if self.finished() || self.next_is_here() { 0 } else { now.saturating_sub(self.last_progress) }
    }

    /// Whether more providers would help: there is something to ask and nobody to ask it of.
    pub fn lacks_providers(&self) -> bool {
        self.slots.iter().any(|s| matches!(s, State::Wanted))
            && !self.providers.values().any(|p| p.link == Link::Up && p.lacking.is_empty())
    }

    /// Verified bytes by provider; the local store's apart.
    pub fn bytes_from(&self) -> (u64, Vec<(P, u64)>) {
        let peers = self.providers.iter().filter(|(_, p)| p.bytes > 0);
        (self.local_bytes, peers.map(|(id, p)| (id.clone(), p.bytes)).collect())
    }

    /// Providers given up on, each with the reason: for good, or (unreachable ones) until their next try.
    pub fn dropped(&self) -> Vec<(P, String)> {
        self.providers.iter().filter_map(|(id, p)| Some((id.clone(), p.trouble()?))).collect()
    }

    /// Why the provider was dropped for good, if it was.
    pub fn lie_of(&self, p: &P) -> Option<&str> {
        match self.providers.get(p).map(|p| &p.link) {
            Some(Link::Dropped(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Everybody who was tried and how that went, in one line.
    pub fn tried(&self) -> String {
        if self.providers.is_empty() {
            return "nobody in the mesh is known to have it".to_string();
        }
        let one = |(id, p): (&P, &Provider)| format!("{id}: {}", p.summary());
        self.providers.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// The first chunk that is not here yet.
    pub fn waiting_for(&self) -> Option<u32> {
        let i = self.slots.iter().position(|s| !matches!(s, State::Have(..))).unwrap_or(self.slots.len());
        self.wanted.get(self.done + i).map(|w| w.index)
    }

    fn fill(&mut self, p: &P, hash: &Hash, bytes: &Arc<Vec<u8>>, now: u64) {
        for i in 0..self.slots.len() {
            if self.wanted[self.done + i].hash == *hash && !matches!(self.slots[i], State::Have(..)) {
                self.slots[i] = State::Have(bytes.clone(), Source::Peer(p.clone()));
                self.last_progress = now;
            }
        }
    }

    fn open_window(&mut self, actions: &mut Vec<Action<P>>) {
        while self.slots.len() < self.window && self.done + self.slots.len() < self.wanted.len() {
            self.slots.push_back(State::New);
        }
        let mut looking: HashSet<Hash> = HashSet::new();
        for i in 0..self.slots.len() {
            let hash = self.wanted[self.done + i].hash;
            match self.slots[i] {
                State::Looking => drop(looking.insert(hash)),
                State::New => {
                    self.slots[i] = State::Looking;
                    if looking.insert(hash) {
                        actions.push(Action::Local(hash));
                    }
                }
                _ => {}
            }
        }
    }

    fn give_up_on_the_late(&mut self, now: u64, actions: &mut Vec<Action<P>>) {
        let up = self.providers.values().filter(|p| p.link == Link::Up).count();
        for (id, provider) in &mut self.providers {
            if provider.is_silent(now) {
                provider.fail("sent nothing for too long", now);
                actions.push(Action::Close(id.clone()));
            } else if up > 1 {
                provider.give_up_late_asks(now);
            }
        }
    }

    fn connect(&mut self, now: u64, actions: &mut Vec<Action<P>>) {
        if !self.slots.iter().any(|s| matches!(s, State::Wanted)) {
            return;
        }
        let busy = |p: &&Provider| matches!(p.link, Link::Up | Link::Connecting);
        let mut room = MAX_CONNECTED.saturating_sub(self.providers.values().filter(busy).count());
        for (id, provider) in &mut self.providers {
            if room > 0 && matches!(provider.link, Link::Idle { retry_at } if retry_at <= now) {
                provider.link = Link::Connecting;
                actions.push(Action::Connect(id.clone()));
                room -= 1;
            }
        }
    }

    /// Hands out what nobody has been asked for yet.
    fn ask(&mut self, now: u64, actions: &mut Vec<Action<P>>) {
        let mut asked: HashSet<Hash> = self
            .providers
            .values()
            .flat_map(|p| p.outstanding.iter())
            .filter(|a| !a.late)
            .map(|a| a.hash)
            .collect();
        let mut open: Vec<Wanted> = Vec::new();
        for (i, slot) in self.slots.iter().enumerate() {
            let w = self.wanted[self.done + i];
            if matches!(slot, State::Wanted) && asked.insert(w.hash) {
                open.push(w);
            }
        }
        let mut wants: BTreeMap<P, Vec<Hash>> = BTreeMap::new();
        self.probe(&mut open, &mut wants, now);
        for w in open {
            let Some(best) = self.soonest(&w, now) else { continue };
            self.give(&best, &w, &mut wants, now);
        }
        if let Some((w, p)) = self.hedge(now) {
            self.give(&p, &w, &mut wants, now);
        }
        for (p, hashes) in wants {
            for part in hashes.chunks(MAX_WANT) {
                actions.push(Action::Want(p.clone(), part.to_vec()));
            }
        }
    }

    /// A provider whose rate nobody knows gets one chunk: the last one while others keep the consumer busy.
    fn probe(&mut self, open: &mut Vec<Wanted>, wants: &mut BTreeMap<P, Vec<Hash>>, now: u64) {
        let measured = self.providers.values().any(|p| p.link == Link::Up && !p.needs_probe(now));
        let unknown: Vec<P> = self
            .providers
            .iter()
            .filter(|(_, p)| p.link == Link::Up && p.outstanding.is_empty() && p.needs_probe(now))
            .map(|(id, _)| id.clone())
            .collect();
        for p in unknown {
            let may = |w: &Wanted| self.providers[&p].can_have(&w.hash, now);
            let place = if measured { open.iter().rposition(may) } else { open.iter().position(may) };
            if let Some(i) = place {
                let w = open.remove(i);
                self.give(&p, &w, wants, now);
            }
        }
    }

    /// The provider that would have the chunk here first; `None` while that one has enough to do.
    fn soonest(&self, w: &Wanted, now: u64) -> Option<P> {
        let up = self.providers.iter().filter(|(_, p)| p.link == Link::Up && p.can_have(&w.hash, now));
        let (id, best) = up.min_by(|a, b| a.1.eta_ms(w.len).total_cmp(&b.1.eta_ms(w.len)))?;
        best.has_room(w.len).then(|| id.clone())
    }

    fn give(&mut self, p: &P, w: &Wanted, wants: &mut BTreeMap<P, Vec<Hash>>, now: u64) {
        if let Some(provider) = self.providers.get_mut(p) {
            provider.ask(w, now);
            wants.entry(p.clone()).or_default().push(w.hash);
        }
    }

    /// The consumer waits for a chunk that somebody faster could have brought: ask that one too.
    fn hedge(&self, now: u64) -> Option<(Wanted, P)> {
        let (p, at) = self.hedge_at(now)?;
        (at <= now).then(|| (self.wanted[self.done], p))
    }

    fn hedge_at(&self, now: u64) -> Option<(P, u64)> {
        if !matches!(self.slots.front(), Some(State::Wanted)) {
            return None;
        }
        let w = self.wanted[self.done];
        let holds = |p: &&Provider| p.link == Link::Up && p.outstanding.iter().any(|a| a.hash == w.hash);
        let mut holders = self.providers.values().filter(holds);
        let sent_at = match (holders.next(), holders.next()) {
            (Some(one), None) => one.outstanding.iter().find(|a: &&Ask| a.hash == w.hash)?.sent_at,
            _ => return None,
        };
        let idle = |p: &Provider| p.link == Link::Up && p.outstanding.is_empty() && p.is_measured();
        let (id, fastest) = self
            .providers
            .iter()
            .filter(|(_, p)| idle(p) && p.can_have(&w.hash, now))
            .min_by(|a, b| a.1.eta_ms(w.len).total_cmp(&b.1.eta_ms(w.len)))?;
        Some((id.clone(), sent_at + 50 + 2 * fastest.eta_ms(w.len) as u64))
    }
}
