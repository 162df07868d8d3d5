//! The tasks of one stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mesh_macula::{ConnId, FrameBuffer, Stream};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::driver::Event;

const READ_AT_ONCE: usize = 64 * 1024;
/// Frames on their way to the station, in KiB; one frame takes at least one.
pub const ROOM_KIB: usize = 64 * 1024;
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
    /// Largest frame to take: it grows with the handshake.
    pub frame_max: Arc<AtomicUsize>,
}

impl Line {
    /// Reads frames until the stream ends, and says so. `paused` stops it for a while.
    pub async fn read(self, stream: Stream, mut recv: RecvStream, mut paused: watch::Receiver<bool>) {
        let mut buffer = FrameBuffer::default();
        loop {
            if paused.wait_for(|paused| !paused).await.is_err() {
                break;
            }
            let Ok(Some(chunk)) = recv.read_chunk(READ_AT_ONCE, true).await else { break };
            buffer.push(&chunk.bytes);
            if !self.hand_in(stream, &mut buffer).await {
                return;
            }
        }
        let _ = self.events.send(Event::StreamClosed { conn: self.conn, stream }).await;
    }

    /// Hands in all whole frames. `false`: this stream is no use any more.
    async fn hand_in(&self, stream: Stream, buffer: &mut FrameBuffer) -> bool {
        loop {
            let event = match buffer.next(self.frame_max.load(Ordering::Relaxed)) {
                Ok(None) => return true,
                Ok(Some(bytes)) => {
                    let room = self.room_for(bytes.len()).await;
                    Event::Frame { conn: self.conn, stream, bytes, room }
                }
                Err(e) => {
                    let _ = self.events.send(Event::Broken { conn: self.conn, why: e.to_string() }).await;
                    return false;
                }
            };
            if self.events.send(event).await.is_err() {
                return false;
            }
        }
    }

    async fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        self.room.clone().acquire_many_owned(kib).await.ok()
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
