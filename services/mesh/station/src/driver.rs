//! The task that owns the station.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh_macula::{Answer, ConnId, MAX_FIRST_FRAME, Now, Output, Station, Stream, Token, Work};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::Backing;
use crate::streams::{LAST_WORDS, Line, ROOM, TURNS, Write};

const EVENTS_WAITING: usize = 1024;
const CONNECTIONS_MAX: usize = 2048;

/// The time: since the clock was made, and since 1970.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { steady_ms: self.0.elapsed().as_millis() as u64, unix_ms: unix.as_millis() as u64 }
    }

    async fn until(&self, steady_ms: Option<u64>) {
        match steady_ms {
            Some(at) => tokio::time::sleep_until((self.0 + Duration::from_millis(at)).into()).await,
            None => std::future::pending().await,
        }
    }
}

/// What happened.
pub(crate) enum Event {
    Connected { line: Line },
    Opened { conn: ConnId, stream: Stream, send: SendStream, recv: RecvStream },
    Frame { conn: ConnId, stream: Stream, bytes: Vec<u8>, held: [OwnedSemaphorePermit; 2] },
    Broken { conn: ConnId, why: String },
    StreamClosed { conn: ConnId, stream: Stream },
    Written { conn: ConnId, stream: Stream, bytes: usize },
    Disconnected { conn: ConnId },
    Answer { token: Token, answer: Answer },
}

/// Serves the clients whose connections come in, until `stop`: then says goodbye to those that are there. Or until no more can come.
pub async fn serve<B: Backing>(
    connections: mpsc::Receiver<Connection>,
    station: Station,
    backing: Arc<B>,
    stop: impl Future<Output = ()>,
) {
    let (events, mut coming) = mpsc::channel(EVENTS_WAITING);
    let mut accepting = tokio::spawn(accept(connections, events.clone()));
    let mut driver = Driver::new(station, backing, events);
    let (mut stop, mut stopping) = (std::pin::pin!(stop), false);
    while !stopping || !driver.lines.is_empty() {
        tokio::select! {
            Some(event) = coming.recv() => driver.on(event),
            () = driver.clock.until(driver.station.next_deadline()) => driver.wake(),
            () = &mut stop, if !stopping => {
                stopping = true;
                accepting.abort();
                driver.station.shutdown(driver.clock.now());
            }
            _ = &mut accepting, if !stopping => stopping = true,
        }
        driver.carry_out();
    }
}

/// Our ends of a stream.
struct Ends {
    writer: mpsc::UnboundedSender<Write>,
    /// Takes the writer's work until there is a stream to do it on.
    todo: Option<mpsc::UnboundedReceiver<Write>>,
    paused: watch::Sender<bool>,
    /// Nothing more is to be written.
    finished: bool,
    /// Nothing more will come.
    closed: bool,
}

struct Driver<B> {
    station: Station,
    backing: Arc<B>,
    events: mpsc::Sender<Event>,
    clock: Clock,
    lines: BTreeMap<ConnId, Line>,
    ends: BTreeMap<(ConnId, Stream), Ends>,
}

impl<B: Backing> Driver<B> {
    fn new(station: Station, backing: Arc<B>, events: mpsc::Sender<Event>) -> Self {
        let (lines, ends) = (BTreeMap::new(), BTreeMap::new());
        Self { station, backing, events, clock: Clock::start(), lines, ends }
    }

    fn wake(&mut self) {
        self.station.handle_timeout(self.clock.now());
    }

    fn on(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Connected { line } => {
                self.lines.insert(line.conn, line.clone());
                self.station.connected(line.conn, now);
            }
            Event::Opened { conn, stream, send, recv } => self.opened(conn, stream, send, recv, now),
            Event::Frame { conn, stream, bytes, held } => {
                self.station.frame(conn, stream, &bytes, now);
                drop(held);
                // Before HELLO is on its way: what answers it may be large.
                if let Some(line) = self.lines.get(&conn) {
                    line.frame_max.store(self.station.frame_max(conn), Ordering::Relaxed);
                }
            }
            Event::Broken { conn, why } => self.station.broken(conn, &why, now),
            Event::StreamClosed { conn, stream } => {
                self.station.stream_closed(conn, stream, now);
                self.over(conn, stream, |ends| ends.closed = true);
            }
            Event::Written { conn, stream, bytes } => self.station.written(conn, stream, bytes),
            Event::Disconnected { conn } => {
                self.station.disconnected(conn, now);
                self.forget(conn);
            }
            Event::Answer { token, answer } => self.station.answer(token, answer, now),
        }
    }

    fn opened(&mut self, conn: ConnId, stream: Stream, send: SendStream, recv: RecvStream, now: Now) {
        let Some(line) = self.lines.get(&conn).cloned() else { return };
        if let Stream::Theirs(n) = stream {
            self.station.stream_opened(conn, n, now);
        }
        let ends = self.ends.entry((conn, stream)).or_insert_with(Ends::new);
        if let Some(todo) = ends.todo.take() {
            tokio::spawn(line.clone().write(stream, send, todo));
            tokio::spawn(line.read(stream, recv, ends.paused.subscribe()));
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.station.poll() {
            match output {
                Output::Send { conn, stream, bytes } => self.write(conn, stream, Write::Bytes(bytes)),
                Output::OpenStream { conn, stream } => self.open(conn, stream),
                Output::Finish { conn, stream } => {
                    self.write(conn, stream, Write::Finish);
                    self.over(conn, stream, |ends| ends.finished = true);
                }
                Output::Pause { conn, stream } => self.pause(conn, stream, true),
                Output::Resume { conn, stream } => self.pause(conn, stream, false),
                Output::Close { conn, reason } => self.close(conn, reason),
                Output::Work { token, work } => self.work(token, work),
            }
        }
    }

    /// One direction of a stream is over; when both are, it is forgotten.
    fn over(&mut self, conn: ConnId, stream: Stream, mark: impl FnOnce(&mut Ends)) {
        if let Some(ends) = self.ends.get_mut(&(conn, stream)) {
            mark(ends);
            if ends.finished && ends.closed {
                self.ends.remove(&(conn, stream));
            }
        }
    }

    fn write(&mut self, conn: ConnId, stream: Stream, write: Write) {
        if let Some(ends) = self.ends.get(&(conn, stream)) {
            let _ = ends.writer.send(write);
        }
    }

    fn open(&mut self, conn: ConnId, stream: Stream) {
        let Some(line) = self.lines.get(&conn).cloned() else { return };
        self.ends.insert((conn, stream), Ends::new());
        tokio::spawn(async move {
            let event = match line.connection.open_bi().await {
                Ok((send, recv)) => Event::Opened { conn, stream, send, recv },
                Err(_) => Event::StreamClosed { conn, stream },
            };
            let _ = line.events.send(event).await;
        });
    }

    fn pause(&mut self, conn: ConnId, stream: Stream, paused: bool) {
        if let Some(ends) = self.ends.get(&(conn, stream)) {
            ends.paused.send_replace(paused);
        }
    }

    fn close(&mut self, conn: ConnId, reason: String) {
        let Some(line) = self.lines.get(&conn).cloned() else { return };
        match self.ends.remove(&(conn, Stream::Control)) {
            // Its writer ends the connection when the last words are written; if they never are, we do.
            Some(Ends { writer, todo: None, .. }) => {
                let _ = writer.send(Write::Close(reason.clone()));
                tokio::spawn(async move {
                    tokio::time::sleep(LAST_WORDS).await;
                    line.close(&reason);
                });
            }
            _ => line.close(&reason),
        }
        self.forget(conn);
    }

    fn forget(&mut self, conn: ConnId) {
        self.lines.remove(&conn);
        self.ends.retain(|(of, _), _| *of != conn);
    }

    fn work(&self, token: Token, work: Work) {
        let (backing, events) = (self.backing.clone(), self.events.clone());
        tokio::spawn(async move {
            let answer = backing.work(work).await;
            let _ = events.send(Event::Answer { token, answer }).await;
        });
    }
}

impl Ends {
    fn new() -> Self {
        let (writer, todo) = mpsc::unbounded_channel();
        let paused = watch::Sender::new(false);
        Self { writer, todo: Some(todo), paused, finished: false, closed: false }
    }
}

async fn accept(mut connections: mpsc::Receiver<Connection>, events: mpsc::Sender<Event>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut conn = 0;
    while let Some(connection) = connections.recv().await {
        let Ok(place) = places.clone().try_acquire_owned() else {
            connection.close(VarInt::from_u32(0), b"full");
            continue;
        };
        conn += 1;
        let events = events.clone();
        tokio::spawn(async move {
            attend(connection, conn, events).await;
            drop(place);
        });
    }
}

/// One connection, to its end.
async fn attend(connection: Connection, conn: ConnId, events: mpsc::Sender<Event>) {
    let line = Line {
        conn,
        connection: connection.clone(),
        events: events.clone(),
        room: Arc::new(Semaphore::new(ROOM)),
        turns: Arc::new(Semaphore::new(TURNS)),
        frame_max: Arc::new(AtomicUsize::new(MAX_FIRST_FRAME)),
    };
    if events.send(Event::Connected { line }).await.is_ok() {
        accept_streams(&connection, conn, &events).await;
        let _ = events.send(Event::Disconnected { conn }).await;
    }
}

async fn accept_streams(connection: &Connection, conn: ConnId, events: &mpsc::Sender<Event>) {
    for n in 0.. {
        let Ok((send, recv)) = connection.accept_bi().await else { return };
        let stream = if n == 0 { Stream::Control } else { Stream::Theirs(n) };
        if events.send(Event::Opened { conn, stream, send, recv }).await.is_err() {
            return;
        }
    }
}
