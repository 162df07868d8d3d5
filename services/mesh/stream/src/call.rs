//! One end of a call over a byte stream.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mesh_proto::rpc::{Call, CallError, Code, Event, Mode, Role, SendError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

const BUFFER: usize = 16 * 1024;

/// The receiving end, and with [`Self::sender`] the sending one. Dropped before the call is over, it tells the peer so by
/// closing the stream.
pub struct Exchange<R, W> {
    reader: R,
    buffer: Vec<u8>,
    sender: Sender<W>,
    failed: Option<CallError>,
}

/// Sends a call's messages, also while its other half waits for the peer's. The stream's own back-pressure holds it up.
pub struct Sender<W>(Arc<Shared<W>>);

struct Shared<W> {
    call: Mutex<Call>,
    /// Held for a whole frame.
    writer: tokio::sync::Mutex<W>,
    began: Instant,
}

/// Begins a call on a stream whose header has been sent.
pub fn call<R, W>(reader: R, writer: W, mode: Mode, deadline: Option<Duration>) -> Exchange<R, W> {
    Exchange::new(reader, writer, Role::Caller, mode, deadline)
}

/// Takes a call on a stream whose header has been read; `deadline` is what it said.
pub fn accept<R, W>(reader: R, writer: W, mode: Mode, deadline: Option<Duration>) -> Exchange<R, W> {
    Exchange::new(reader, writer, Role::Callee, mode, deadline)
}

/// One message there, one back.
pub async fn unary<R, W>(
    reader: R,
    writer: W,
    message: &[u8],
    deadline: Option<Duration>,
) -> Result<Vec<u8>, CallError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut call = call(reader, writer, Mode::Unary, deadline);
    let sent = call.sender().send_last(message).await;
    let answer = match (call.next().await, sent) {
        // A refusal may be there before the message is all sent: its words are worth more than that nobody read on.
        (Err(said), Err(unsent)) => {
            return Err(if said.code == Code::UNAVAILABLE { unsent } else { said });
        }
        (answer, sent) => sent.and(answer)?,
    };
    call.next().await?;
    answer.ok_or_else(|| CallError::new(Code::PROTOCOL, "no answer"))
}

impl<R, W> Exchange<R, W> {
    fn new(reader: R, writer: W, role: Role, mode: Mode, deadline: Option<Duration>) -> Self {
        let deadline_ms = deadline.map(|d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX));
        let shared = Shared {
            call: Mutex::new(Call::new(role, mode, deadline_ms, 0)),
            writer: tokio::sync::Mutex::new(writer),
            began: Instant::now(),
        };
        Self { reader, buffer: Vec::with_capacity(BUFFER), sender: Sender(Arc::new(shared)), failed: None }
    }

    pub fn sender(&self) -> Sender<W> {
        Sender(self.sender.0.clone())
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Exchange<R, W> {
    /// The peer's next message; `None` when it has sent its last one. A callee that goes on asking after that learns when the caller
    /// cancels, goes away or has waited long enough. Must not be dropped half-way.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        loop {
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let event = self.sender.0.call().poll();
            let event = match event {
                Some(event) => event,
                None if self.sender.0.call().is_over() => return Ok(None),
                None => match self.more().await {
                    Some(event) => event,
                    None => continue,
                },
            };
            match event {
                Event::Message(payload) => return Ok(Some(payload)),
                Event::PeerEnded => return Ok(None),
                Event::Failed { error, tell } => {
                    if let Some(frame) = tell {
                        // The call has failed; a peer that cannot be told finds out by itself.
                        let _ = self.sender.0.write(&frame).await;
                    }
                    self.failed = Some(error);
                }
            }
        }
    }

    /// Waits for bytes, the stream's end or the deadline.
    async fn more(&mut self) -> Option<Event> {
        let deadline = self.sender.0.call().deadline();
        self.buffer.clear();
        let read = self.reader.read_buf(&mut self.buffer);
        let read = match deadline {
            None => read.await,
            Some(ms) => {
                let until = self.sender.0.began + Duration::from_millis(ms);
                match tokio::time::timeout_at(until, read).await {
                    Ok(read) => read,
                    Err(_) => return self.sender.0.call().timer(ms),
                }
            }
        };
        let mut call = self.sender.0.call();
        match read {
            Ok(n) if n > 0 => {
                call.received(&self.buffer);
                None
            }
            _ => Some(call.closed().unwrap_or(Event::PeerEnded)),
        }
    }
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    pub async fn send(&self, message: &[u8]) -> Result<(), CallError> {
        let frame = self.0.call().message(message).map_err(refused)?;
        self.0.write(&frame).await
    }

    /// Says that there is no further message.
    pub async fn end(&self) -> Result<(), CallError> {
        let frame = self.0.call().end().map_err(refused)?;
        self.0.write(&frame).await
    }

    /// The last message and the end, in one write.
    pub async fn send_last(&self, message: &[u8]) -> Result<(), CallError> {
        let frames = {
            let mut call = self.0.call();
            let mut frames = call.message(message).map_err(refused)?;
            frames.extend(call.end().map_err(refused)?);
            frames
        };
        self.0.write(&frames).await
    }

    /// Ends the call with an error that the peer is told.
    pub async fn fail(&self, error: &CallError) -> Result<(), CallError> {
        let frame = self.0.call().fail(error).map_err(refused)?;
        self.0.write(&frame).await
    }
}

impl<W> Shared<W> {
    fn call(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<W: AsyncWrite + Unpin> Shared<W> {
    async fn write(&self, bytes: &[u8]) -> Result<(), CallError> {
        let gone =
            |error: std::io::Error| CallError::new(Code::UNAVAILABLE, format!("the stream broke: {error}"));
        let mut writer = self.writer.lock().await;
        writer.write_all(bytes).await.map_err(gone)?;
        writer.flush().await.map_err(gone)
    }
}

fn refused(error: SendError) -> CallError {
    CallError::new(Code::BAD_ARGUMENT, error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};

    use super::*;

    type End = Exchange<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

    fn pair(mode: Mode, deadline: Option<Duration>) -> (End, End) {
        let (a, b) = duplex(1000);
        let ((ar, aw), (br, bw)) = (split(a), split(b));
        (call(ar, aw, mode, deadline), accept(br, bw, mode, deadline))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_unary_call_is_answered() {
        let (a, b) = duplex(100);
        let ((ar, aw), (br, bw)) = (split(a), split(b));
        let callee = async {
            let mut call = accept(br, bw, Mode::Unary, None);
            let asked = call.next().await.unwrap().unwrap();
            call.sender().send_last(&asked.repeat(2)).await.unwrap();
        };
        let (answer, ()) = tokio::join!(unary(ar, aw, &[1; 5000], None), callee);
        assert_eq!(answer, Ok(vec![1; 10_000]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn both_ways_at_once_with_back_pressure() {
        let (mut caller, mut callee) = pair(Mode::Both, None);
        let (to_callee, to_caller) = (caller.sender(), callee.sender());
        let send = async |sender: Sender<WriteHalf<DuplexStream>>| {
            for n in 0..1000u32 {
                sender.send(&n.to_be_bytes().repeat(10)).await.unwrap();
            }
            sender.end().await.unwrap();
        };
        let read = async |end: &mut End| {
            let mut count = 0u32;
            while let Some(message) = end.next().await.unwrap() {
                assert_eq!(message[..4], count.to_be_bytes());
                count += 1;
            }
            count
        };
        let (.., a, b) = tokio::join!(send(to_callee), send(to_caller), read(&mut caller), read(&mut callee));
        assert_eq!((a, b), (1000, 1000));
        assert_eq!(caller.next().await, Ok(None), "asking on after the end does not wait");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_deadline_is_kept_at_both_ends() {
        let deadline = Duration::from_millis(100);
        let began = Instant::now();
        let (mut caller, mut callee) = pair(Mode::Unary, Some(deadline));
        caller.sender().send_last(b"?").await.unwrap();
        let code = |result: Result<Option<Vec<u8>>, CallError>| result.unwrap_err().code;
        assert_eq!(code(caller.next().await), Code::DEADLINE);
        assert!(began.elapsed() >= deadline, "{:?}", began.elapsed());
        assert_eq!(callee.next().await, Ok(Some(b"?".to_vec())));
        assert_eq!(callee.next().await, Ok(None));
        assert_eq!(code(callee.next().await), Code::DEADLINE, "the callee learns that nobody waits any more");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_caller_that_goes_away_cancels_and_a_callee_that_dies_is_noticed() {
        let (caller, mut callee) = pair(Mode::Client, None);
        caller.sender().send(b"one").await.unwrap();
        drop(caller);
        assert_eq!(callee.next().await, Ok(Some(b"one".to_vec())));
        assert_eq!(callee.next().await.unwrap_err().code, Code::CANCELLED);

        let (mut caller, callee) = pair(Mode::Server, None);
        caller.sender().send_last(b"go").await.unwrap();
        callee.sender().send(b"one").await.unwrap();
        drop(callee);
        assert_eq!(caller.next().await, Ok(Some(b"one".to_vec())));
        assert_eq!(caller.next().await.unwrap_err().code, Code::UNAVAILABLE);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_refusal_is_heard_although_nobody_reads_on() {
        let (a, b) = tokio::net::UnixStream::pair().unwrap();
        let refusal = CallError::new(Code::FORBIDDEN, "not for you");
        let (br, bw) = b.into_split();
        let callee = accept(br, bw, Mode::Unary, None);
        callee.sender().fail(&refusal).await.unwrap();
        drop(callee);
        let (ar, aw) = a.into_split();
        assert_eq!(unary(ar, aw, &[1; 1_000_000], None).await, Err(refusal));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn errors_cross_over() {
        let (mut caller, callee) = pair(Mode::Unary, None);
        let error = CallError::new(Code(300), "the lamp is broken");
        callee.sender().fail(&error).await.unwrap();
        assert_eq!(caller.next().await, Err(error.clone()));
        assert_eq!(caller.next().await, Err(error), "a failed call stays one");
    }
}
