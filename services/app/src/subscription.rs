//! A topic of some node, listened to until nobody wants it any more.

use std::time::Duration;

use mesh_proto::pubsub::{self, Heard, TopicError};
use mesh_proto::rpc::Code;
use mesh_stream::{Subscription, TopicStreamError};
use os_identity::NodeId;
use tokio::net::UnixStream;

use crate::{App, Error, OPEN, Result};

/// Between two attempts to reach a node that went away: doubled from the first to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What is heard of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Published {
        number: u64,
        bytes: Vec<u8>,
    },
    /// So many events were lost, because this app read too slowly or was away too long. `None`: nobody knows how many.
    Missed(Option<u64>),
}

pub struct Events {
    app: App,
    node: NodeId,
    topic: String,
    subscription: Subscription,
    stream: Option<UnixStream>,
    wait: Duration,
}

impl Events {
    pub(crate) async fn begin(app: App, node: NodeId, topic: &str) -> Result<Self> {
        let (subscription, topic) = (Subscription::default(), topic.to_owned());
        let mut events = Self { app, node, topic, subscription, stream: None, wait: AGAIN.0 };
        events.connect().await?;
        Ok(events)
    }

    /// What is heard next. A node that is away is waited for.
    ///
    /// # Errors
    /// When the node refuses: there is no such topic, or this app may not listen to it (any more).
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let Some(stream) = &mut self.stream else {
                tokio::time::sleep(self.wait).await;
                self.wait = (self.wait * 2).min(AGAIN.1);
                match self.connect().await {
                    Err(e @ (Error::Refused(_) | Error::Call(_))) => return Err(e),
                    Err(e) => tracing::debug!("{} of {}: {e}", self.topic, self.node),
                    Ok(()) => self.wait = AGAIN.0,
                }
                continue;
            };
            match self.subscription.next(stream).await {
                Ok(Some(Heard::Event { seq, payload })) => {
                    return Ok(Event::Published { number: seq, bytes: payload });
                }
                Ok(Some(Heard::Missed(count))) => return Ok(Event::Missed(count)),
                Ok(None) => self.stream = None,
                Err(e) => {
                    self.stream = None;
                    judge(e)?;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<()> {
        let mut stream = self.app.open_stream(self.node, pubsub::PROTOCOL, &self.topic, &[], OPEN).await?;
        self.subscription.begin(&mut stream).await.map_err(Error::other)?;
        match tokio::time::timeout(OPEN, self.subscription.started(&mut stream)).await {
            Ok(Ok(())) => self.stream = Some(stream),
            Ok(Err(e)) => {
                judge(e)?;
                return Err(Error::other("the stream broke"));
            }
            Err(_) => return Err(Error::other("the node does not answer")),
        }
        Ok(())
    }
}

/// A refusal is for the app to hear; a stream that broke, and a node that is too busy, are tried again.
fn judge(e: TopicStreamError) -> Result<()> {
    match e {
        TopicStreamError::Topic(TopicError::Refused(why))
            if ![Code::BUSY, Code::UNAVAILABLE].contains(&why.code) =>
        {
            Err(why.into())
        }
        TopicStreamError::Topic(TopicError::Refused(_)) | TopicStreamError::Io(_) => Ok(()),
        TopicStreamError::Topic(other) => Err(Error::other(other)),
    }
}
