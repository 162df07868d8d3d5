//! Two ends of a stream with a wire between them that delays, and cuts what it carries into pieces, in virtual time.

use std::collections::VecDeque;

use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};

/// One direction of a stream.
#[derive(Default)]
struct Pipe {
    /// When it arrives, and what.
    pieces: VecDeque<(u64, Vec<u8>)>,
    closed: bool,
}

/// What arrives at an end.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    Bytes(Vec<u8>),
    /// The connection is lost.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    A,
    B,
}

pub struct Pair {
    pub now: u64,
    to_a: Pipe,
    to_b: Pipe,
    rng: ChaCha12Rng,
}

impl Pair {
    pub fn new(seed: u64) -> Self {
        Self { now: 0, to_a: Pipe::default(), to_b: Pipe::default(), rng: ChaCha12Rng::seed_from_u64(seed) }
    }

    pub fn send(&mut self, from: End, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.rng.random_range(1..=bytes.len().min(4096)));
            let delay = self.rng.random_range(1..=50);
            let pipe = match from {
                End::A => &mut self.to_b,
                End::B => &mut self.to_a,
            };
            let after = pipe.pieces.back().map_or(self.now, |(at, _)| *at);
            pipe.pieces.push_back((after.max(self.now + delay), piece.to_vec()));
            bytes = rest;
        }
    }

    /// The connection is lost: what is on the wire is, too.
    pub fn cut(&mut self) {
        for pipe in [&mut self.to_a, &mut self.to_b] {
            pipe.pieces.clear();
            pipe.closed = true;
        }
    }

    /// When something next arrives.
    pub fn next_arrival(&self) -> Option<u64> {
        let next = |pipe: &Pipe| pipe.pieces.front().map(|(at, _)| *at).or(pipe.closed.then_some(self.now));
        [next(&self.to_a), next(&self.to_b)].into_iter().flatten().min()
    }

    /// What has arrived by now; a closed end is told once.
    pub fn arrived(&mut self) -> Option<(End, Arrival)> {
        for (end, pipe) in [(End::A, &mut self.to_a), (End::B, &mut self.to_b)] {
            if pipe.pieces.front().is_some_and(|(at, _)| *at <= self.now) {
                return pipe.pieces.pop_front().map(|(_, bytes)| (end, Arrival::Bytes(bytes)));
            }
            if pipe.pieces.is_empty() && std::mem::take(&mut pipe.closed) {
                return Some((end, Arrival::Closed));
            }
        }
        None
    }
}
