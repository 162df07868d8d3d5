//! A station with fake clients and a clock that only moves when told to.

use std::collections::{BTreeMap, BTreeSet};

use mesh_macula::*;
use os_identity::{NodeId, NodeKey};

/// A client, by its place in [`World::clients`]; also its connection's id.
pub type Who = usize;

pub const REALM: [u8; 32] = [0x55; 32];
pub const UNIX_MS: u64 = 1_700_000_000_000;

pub struct World {
    pub station: Station,
    pub now: Now,
    pub clients: Vec<Client>,
    pub works: Vec<(Token, Work)>,
    /// Clients that do not read: what is sent to them counts as not written.
    pub stalled: BTreeSet<Who>,
    frame_ids: u8,
}

pub struct Client {
    pub key: NodeKey,
    pub inbox: Vec<(Stream, Frame)>,
    /// The bytes of the frames in the inbox, with their length.
    pub raw: Vec<Vec<u8>>,
    pub opened: Vec<Stream>,
    pub finished: Vec<Stream>,
    pub paused: BTreeSet<Stream>,
    pub closed: Option<String>,
    /// Bytes that were sent to it and not written.
    pub waiting: BTreeMap<Stream, usize>,
}

pub fn open_door(_: &Request<'_>) -> Result<(), String> {
    Ok(())
}

pub fn text(text: &str) -> Value {
    Value::Text(text.into())
}

pub fn uint(n: u64) -> Value {
    Value::Int(Int::from(n))
}

/// A value as it comes out of a decoder: maps in canonical order.
pub fn canonical(value: &Value) -> Value {
    decode(&value.encode()).unwrap()
}

impl World {
    pub fn new() -> Self {
        Self::with(Config::default(), open_door)
    }

    pub fn with(config: Config, access: impl Access + 'static) -> Self {
        let station = Station::new(NodeKey::from_seed(&[0xaa; 32]), config, access, 1);
        let now = Now { steady_ms: 1000, unix_ms: UNIX_MS };
        Self { station, now, clients: vec![], works: vec![], stalled: BTreeSet::new(), frame_ids: 0 }
    }

    /// A connection that has not said anything.
    pub fn connection(&mut self, seed: u8) -> Who {
        let key = NodeKey::from_seed(&[seed; 32]);
        self.clients.push(Client {
            key,
            inbox: vec![],
            raw: vec![],
            opened: vec![],
            finished: vec![],
            paused: BTreeSet::new(),
            closed: None,
            waiting: BTreeMap::new(),
        });
        let who = self.clients.len() - 1;
        self.station.connected(who as ConnId, self.now);
        self.settle();
        who
    }

    /// A client that has been welcomed, and has read what the station said about itself.
    pub fn join(&mut self, seed: u8) -> Who {
        let who = self.connection(seed);
        self.send(who, self.connect(who));
        let inbox = self.take(who);
        let welcome =
            matches!(&inbox[..], [Frame::Hello(hello), Frame::Advertise(_), ..] if hello.verdict.is_ok());
        assert!(welcome, "{inbox:?}");
        who
    }

    pub fn id(&self, who: Who) -> NodeId {
        self.clients[who].key.node_id()
    }

    pub fn connect(&self, who: Who) -> Frame {
        let node_id = self.id(who);
        Frame::Connect(Connect {
            node_id,
            station_id: node_id,
            realms: vec![],
            addresses: vec![],
            site: None,
            puzzle_evidence: puzzle_evidence(&node_id),
            endorsements: vec![],
        })
    }

    pub fn send(&mut self, who: Who, frame: Frame) {
        self.send_on(who, Stream::Control, frame);
    }

    pub fn send_on(&mut self, who: Who, stream: Stream, frame: Frame) {
        let key = NodeKey::from_seed(&self.clients[who].key.seed());
        self.send_signed(who, stream, frame, &key);
    }

    /// Sends a frame that somebody else signed.
    pub fn send_signed(&mut self, who: Who, stream: Stream, frame: Frame, key: &NodeKey) {
        self.frame_ids = self.frame_ids.wrapping_add(1);
        let header = Header { frame_id: [self.frame_ids; 16], sent_at_ms: self.now.unix_ms, capabilities: 0 };
        let bytes = frame.sign(&header, key);
        self.send_bytes(who, stream, &bytes[4..]);
    }

    pub fn send_bytes(&mut self, who: Who, stream: Stream, bytes: &[u8]) {
        self.station.frame(who as ConnId, stream, bytes, self.now);
        self.settle();
    }

    /// The client opens a stream.
    pub fn open(&mut self, who: Who, n: u64) -> Stream {
        self.station.stream_opened(who as ConnId, n, self.now);
        self.settle();
        Stream::Theirs(n)
    }

    pub fn close_stream(&mut self, who: Who, stream: Stream) {
        self.station.stream_closed(who as ConnId, stream, self.now);
        self.settle();
    }

    pub fn vanish(&mut self, who: Who) {
        self.station.disconnected(who as ConnId, self.now);
        self.settle();
    }

    pub fn answer(&mut self, token: Token, answer: Answer) {
        self.station.answer(token, answer, self.now);
        self.settle();
    }

    pub fn advance(&mut self, ms: u64) {
        self.now.steady_ms += ms;
        self.now.unix_ms += ms;
        self.station.handle_timeout(self.now);
        self.settle();
    }

    /// The client reads all that waits for it.
    pub fn read_on(&mut self, who: Who) {
        self.stalled.remove(&who);
        while let Some((stream, bytes)) = self.clients[who].waiting.pop_first() {
            self.station.written(who as ConnId, stream, bytes);
            self.settle();
        }
    }

    /// What came for a client since the last time.
    pub fn take(&mut self, who: Who) -> Vec<Frame> {
        self.take_on(who).into_iter().map(|(_, frame)| frame).collect()
    }

    pub fn take_on(&mut self, who: Who) -> Vec<(Stream, Frame)> {
        self.clients[who].raw.clear();
        std::mem::take(&mut self.clients[who].inbox)
    }

    /// The one frame that came.
    pub fn one(&mut self, who: Who) -> Frame {
        let mut inbox = self.take(who);
        assert_eq!(inbox.len(), 1, "{inbox:?}");
        inbox.remove(0)
    }

    /// The answer to a call, as `Ok(payload)` or `Err((code, detail))`.
    pub fn reply(&mut self, who: Who) -> Result<Value, (u8, String)> {
        match self.one(who) {
            Frame::Result(result) => Ok(result.payload),
            Frame::Error(error) => Err((error.code, error.detail.unwrap_or_default())),
            other => panic!("not an answer: {other:?}"),
        }
    }

    /// The work that the station asks for.
    pub fn work(&mut self) -> (Token, Work) {
        assert_eq!(self.works.len(), 1, "{:?}", self.works);
        self.works.remove(0)
    }

    fn settle(&mut self) {
        while let Some(output) = self.station.poll() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { conn, stream, bytes } => self.deliver(conn as Who, stream, &bytes),
            Output::OpenStream { conn, stream } => self.clients[conn as Who].opened.push(stream),
            Output::Finish { conn, stream } => {
                let finished = &mut self.clients[conn as Who].finished;
                assert!(!finished.contains(&stream), "finished twice");
                finished.push(stream);
            }
            Output::Pause { conn, stream } => {
                assert!(self.clients[conn as Who].paused.insert(stream), "paused twice");
            }
            Output::Resume { conn, stream } => {
                assert!(self.clients[conn as Who].paused.remove(&stream), "was not paused");
            }
            Output::Close { conn, reason } => {
                let earlier = self.clients[conn as Who].closed.replace(reason);
                assert_eq!(earlier, None, "closed twice");
            }
            Output::Work { token, work } => self.works.push((token, work)),
        }
    }

    fn deliver(&mut self, who: Who, stream: Stream, bytes: &[u8]) {
        assert_eq!(self.clients[who].closed, None, "nothing is sent after the end");
        assert!(!self.clients[who].finished.contains(&stream), "nothing is sent after the end");
        let len = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert_eq!(len, bytes.len() - 4);
        let received = Received::decode(&bytes[4..]).unwrap();
        let client = &mut self.clients[who];
        client.raw.push(bytes.to_vec());
        client.inbox.push((stream, received.frame));
        if self.stalled.contains(&who) {
            *client.waiting.entry(stream).or_default() += bytes.len();
        } else {
            self.station.written(who as ConnId, stream, bytes.len());
        }
    }
}
