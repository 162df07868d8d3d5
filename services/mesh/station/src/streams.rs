//! The tasks of one stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mesh_macula::{ConnId, MAX_FRAME, Stream, TooLarge};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::driver::Event;

/// Bytes of a connection's frames that are being read or wait for the station: at least one frame of the largest size.
pub const ROOM: usize = MAX_FRAME;
/// Frames of a connection that may wait for the station: so many are in front of another client's, however many it sends.
pub const TURNS: usize = 16;
/// How long a connection that ends may take to write what there is.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a writer is to do.
pub enum Write {
    Bytes(Arc<[u8]>),
    Finish,
    /// Finish, then end the connection.
    Close(String),
}

/// What all tasks of a connection share.
#[derive(Clone)]
pub struct Line {
    pub conn: ConnId,
    pub connection: Connection,
    pub events: mpsc::Sender<Event>,
    pub room: Arc<Semaphore>,
    pub turns: Arc<Semaphore>,
    /// Largest frame to take: it grows with the handshake.
    pub frame_max: Arc<AtomicUsize>,
}

impl Line {
    /// Reads frames until the stream ends, and says so. `paused` stops it for a while.
    pub async fn read(self, stream: Stream, mut recv: RecvStream, mut paused: watch::Receiver<bool>) {
        while paused.wait_for(|paused| !paused).await.is_ok() {
            let (conn, max) = (self.conn, self.frame_max.load(Ordering::Relaxed));
            let event = match self.read_frame(&mut recv, max).await {
                Ok(Some((bytes, room))) => {
                    let Ok(turn) = self.turns.clone().acquire_owned().await else { break };
                    Event::Frame { conn, stream, bytes, held: [room, turn] }
                }
                Ok(None) => break,
                Err(e) => {
                    let _ = self.events.send(Event::Broken { conn, why: e.to_string() }).await;
                    return;
                }
            };
            if self.events.send(event).await.is_err() {
                return;
            }
        }
        let _ = self.events.send(Event::StreamClosed { conn: self.conn, stream }).await;
    }

    /// The next frame, or `None` at the stream's end. Room is taken for all of it before any of it is read, so streams of one
    /// connection never wait for each other half-way, and a client that sends slowly is in nobody's way but its own.
    async fn read_frame(
        &self,
        recv: &mut RecvStream,
        max: usize,
    ) -> Result<Option<(Vec<u8>, OwnedSemaphorePermit)>, TooLarge> {
        let mut head = [0; 4];
        if recv.read_exact(&mut head).await.is_err() {
            return Ok(None);
        }
        let claimed = u32::from_be_bytes(head);
        let len = claimed as usize;
        if len > max {
            return Err(TooLarge { len, max });
        }
        let Ok(room) = self.room.clone().acquire_many_owned(claimed).await else { return Ok(None) };
        let mut bytes = vec![0; len];
        let whole = recv.read_exact(&mut bytes).await.is_ok();
        Ok(whole.then_some((bytes, room)))
    }

    /// Writes what it is told to, in order.
    pub async fn write(self, stream: Stream, mut send: SendStream, mut todo: mpsc::UnboundedReceiver<Write>) {
        while let Some(write) = todo.recv().await {
            let bytes = match write {
                Write::Bytes(bytes) => bytes,
                Write::Finish => {
                    let _ = send.finish();
                    continue;
                }
                Write::Close(reason) => {
                    let _ = send.finish();
                    let _ = tokio::time::timeout(LAST_WORDS, send.stopped()).await;
                    return self.close(&reason);
                }
            };
            // A failed write counts as done: the stream's or connection's end is told elsewhere.
            let _ = send.write_all(&bytes).await;
            let written = Event::Written { conn: self.conn, stream, bytes: bytes.len() };
            if self.events.send(written).await.is_err() {
                return;
            }
        }
    }

    pub fn close(&self, reason: &str) {
        self.connection.close(VarInt::from_u32(0), reason.as_bytes());
    }
}
