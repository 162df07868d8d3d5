//! Both ends of a subscription over byte streams.

use std::sync::{Arc, Mutex};

use mesh_proto::pubsub::{Feed, Heard, Log, Place, Subscriber, TopicError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

const BUFFER: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum TopicStreamError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("the stream broke: {0}")]
    Io(#[from] std::io::Error),
}

/// Sends one subscriber what it asks for, until its stream ends. `published` changes whenever the log has grown.
pub async fn publish_to<R, W>(
    mut reader: R,
    mut writer: W,
    log: Arc<Mutex<Log>>,
    mut published: watch::Receiver<u64>,
) -> Result<(), TopicStreamError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let locked = || log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut feed = Feed::default();
    let mut buffer = Vec::with_capacity(1024);
    loop {
        published.mark_unchanged();
        loop {
            // The lock is not held while the stream makes us wait: that is the reader's own trouble.
            let Some(frame) = feed.next(&locked()) else { break };
            writer.write_all(&frame).await?;
        }
        writer.flush().await?;
        buffer.clear();
        tokio::select! {
            read = reader.read_buf(&mut buffer) => match read? {
                0 => return Ok(()),
                _ => feed.received(&buffer, &locked())?,
            },
            changed = published.changed() => if changed.is_err() {
                return Ok(());
            },
        }
    }
}

/// The subscriber's end, which is given a new stream when the old one broke.
#[derive(Default)]
pub struct Subscription {
    subscriber: Subscriber,
    buffer: Vec<u8>,
    /// Heard while waiting for something else.
    heard: Option<Heard>,
}

impl Subscription {
    /// One that goes on after this event.
    pub fn after(place: Place) -> Self {
        Self { subscriber: Subscriber::after(place), ..Self::default() }
    }

    /// The event that was heard last; `None` before the publisher has said where it begins.
    pub fn place(&self) -> Option<Place> {
        self.subscriber.place()
    }

    /// Subscribes on a stream whose header has been sent: from now on, or from where the last stream broke off.
    pub async fn begin<W: AsyncWrite + Unpin>(&mut self, writer: &mut W) -> Result<(), TopicStreamError> {
        let frame = self.subscriber.connected();
        writer.write_all(&frame).await?;
        Ok(writer.flush().await?)
    }

    /// Waits until the publisher has taken the subscription, for those who want to know before there is an event.
    pub async fn started<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> Result<(), TopicStreamError> {
        while !self.subscriber.has_started() {
            self.heard = self.subscriber.poll()?;
            if !self.subscriber.has_started() && !self.more(reader).await? {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(())
    }

    /// What is heard next; `None` when the stream has ended. May be dropped while it waits.
    pub async fn next<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
    ) -> Result<Option<Heard>, TopicStreamError> {
        loop {
            if let Some(heard) = self.heard.take() {
                return Ok(Some(heard));
            }
            self.heard = self.subscriber.poll()?;
            if self.heard.is_none() && !self.more(reader).await? {
                return Ok(None);
            }
        }
    }

    /// `false`: the stream has ended.
    async fn more<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> Result<bool, TopicStreamError> {
        self.buffer.clear();
        self.buffer.reserve(BUFFER);
        if reader.read_buf(&mut self.buffer).await? == 0 {
            return Ok(false);
        }
        self.subscriber.received(&self.buffer);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::pubsub::Keep;
    use mesh_proto::rpc::{CallError, Code};
    use tokio::io::{duplex, split};

    use super::*;

    const KEEP: Keep = Keep { events: 100, bytes: 100_000 };

    #[tokio::test(flavor = "current_thread")]
    async fn events_arrive_and_a_broken_stream_is_continued() {
        let log = Arc::new(Mutex::new(Log::new(1, KEEP)));
        let (tick, ticks) = watch::channel(0);
        let publish = |text: &str| {
            let seq = log.lock().unwrap().publish(text.as_bytes()).unwrap();
            tick.send_replace(seq);
        };
        let mut subscription = Subscription::default();
        let event = |seq, text: &str| Some(Heard::Event { seq, payload: text.into() });
        for round in 0..3 {
            let (here, there) = duplex(100);
            let (r, w) = split(there);
            let publisher = tokio::spawn(publish_to(r, w, log.clone(), ticks.clone()));
            let (mut reader, mut writer) = split(here);
            subscription.begin(&mut writer).await.unwrap();
            if round > 0 {
                assert_eq!(
                    subscription.next(&mut reader).await.unwrap(),
                    event(round * 2, "while it was away")
                );
            }
            // The first subscription begins when the publisher has seen it.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            publish("now");
            assert_eq!(subscription.next(&mut reader).await.unwrap(), event(round * 2 + 1, "now"));
            drop((reader, writer));
            publisher.await.unwrap().unwrap();
            publish("while it was away");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_refusal_is_known_before_there_is_an_event_and_a_place_can_be_kept() {
        let log = Arc::new(Mutex::new(Log::new(1, KEEP)));
        (0..3).for_each(|n| drop(log.lock().unwrap().publish(&[n])));
        let (_tick, ticks) = watch::channel(0);
        for (epoch, missed) in [(1, false), (2, true)] {
            let (here, there) = duplex(100);
            let (r, w) = split(there);
            tokio::spawn(publish_to(r, w, log.clone(), ticks.clone()));
            let (mut reader, mut writer) = split(here);
            let mut subscription = Subscription::after(Place { epoch, seq: 2 });
            subscription.begin(&mut writer).await.unwrap();
            subscription.started(&mut reader).await.unwrap();
            if missed {
                let heard = subscription.next(&mut reader).await.unwrap();
                assert_eq!(heard, Some(Heard::Missed(None)));
                continue;
            }
            let heard = subscription.next(&mut reader).await.unwrap();
            assert_eq!(heard, Some(Heard::Event { seq: 3, payload: vec![2] }));
            assert_eq!(subscription.place(), Some(Place { epoch, seq: 3 }));
        }
        let (here, mut there) = duplex(100);
        let refusal = CallError::new(Code::FORBIDDEN, "no");
        there.write_all(&mesh_proto::pubsub::refusal_frame(&refusal)).await.unwrap();
        let (mut reader, _writer) = split(here);
        let refused = Subscription::default().started(&mut reader).await.unwrap_err();
        assert!(matches!(refused, TopicStreamError::Topic(TopicError::Refused(e)) if e == refusal));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reader_that_does_not_read_costs_a_place_in_the_log() {
        let log = Arc::new(Mutex::new(Log::new(1, KEEP)));
        let (tick, ticks) = watch::channel(0);
        let (here, there) = duplex(1000);
        let (r, w) = split(there);
        tokio::spawn(publish_to(r, w, log.clone(), ticks));
        let (mut reader, mut writer) = split(here);
        let mut subscription = Subscription::default();
        subscription.begin(&mut writer).await.unwrap();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        for n in 0..10_000u32 {
            tick.send_replace(log.lock().unwrap().publish(&n.to_be_bytes()).unwrap());
            tokio::task::yield_now().await;
        }
        let (mut heard, mut missed) = (0, 0);
        while heard + missed < 10_000 {
            match subscription.next(&mut reader).await.unwrap().unwrap() {
                Heard::Event { .. } => heard += 1,
                Heard::Missed(n) => missed += n.unwrap(),
            }
        }
        assert!(heard >= KEEP.events as u64 && missed > 9000, "{heard} heard, {missed} missed");
    }
}
