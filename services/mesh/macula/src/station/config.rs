//! What a station may be told, and its limits.

/// Must keys have solved the puzzle?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Puzzle {
    Off,
    /// CONNECT without it is refused with `crypto_puzzle_invalid`.
    Enforce,
}

/// Limits hold for each connection unless they say otherwise.
#[derive(Debug, Clone)]
pub struct Config {
    /// Realms that HELLO names.
    pub realms: Vec<[u8; 32]>,
    pub puzzle: Puzzle,
    /// From a new connection to its CONNECT.
    pub handshake_ms: u64,
    /// From a GOODBYE to the connection's end.
    pub drain_ms: u64,
    /// Connections of this station.
    pub connections_max: usize,
    /// Frames per second, for long and at once: whoever sends more is sent away.
    pub frames_per_second: u32,
    pub frames_burst: u32,
    pub advertised_max: usize,
    pub subscribed_max: usize,
    /// CALLs that wait for an answer: one more is answered with `upstream_congestion`. Those that a client has still to answer
    /// may be 16 times as many.
    pub calls_max: usize,
    /// Streaming calls, opened or served.
    pub sessions_max: usize,
    /// Longest that a CALL may wait, whatever its deadline.
    pub call_ms_max: u64,
    /// The same for a streaming call as a whole.
    pub session_ms_max: u64,
    /// Events that wait for a slow reader: then the oldest are dropped, and counted.
    pub events_max: usize,
    pub event_bytes_max: usize,
    /// Largest frame that is taken from a client; the protocol's own limit is 16 MiB.
    pub frame_bytes_max: usize,
    /// Largest PUBLISH.
    pub publish_bytes_max: usize,
    /// Bytes handed out for a connection and not yet written: a client that lets more pile up is sent away.
    pub unsent_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            realms: Vec::new(),
            puzzle: Puzzle::Off,
            handshake_ms: 30_000,
            drain_ms: 5_000,
            connections_max: 1024,
            frames_per_second: 1000,
            frames_burst: 4000,
            advertised_max: 256,
            subscribed_max: 256,
            calls_max: 64,
            sessions_max: 64,
            call_ms_max: 5 * 60 * 1000,
            session_ms_max: 24 * 3600 * 1000,
            events_max: 1024,
            event_bytes_max: 4 << 20,
            frame_bytes_max: 4 << 20,
            publish_bytes_max: 1 << 20,
            unsent_bytes_max: 16 << 20,
        }
    }
}
