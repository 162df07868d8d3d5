//! This node's topics: what its services and apps publish, and who reads along.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Result, bail};
use mesh_proto::pubsub::{Keep, Log};
use mesh_proto::rpc::{CallError, Code};
use services_api::bus;
use tokio::sync::watch;

use crate::access::Access;

/// Together with [`KEEP`] this bounds what topics hold in memory: 32 MiB.
const MAX_TOPICS: usize = 128;
/// So that one app leaves some for others.
const MAX_TOPICS_OF_AN_APP: usize = 16;
const KEEP: Keep = Keep { events: 1024, bytes: 256 * 1024 };

#[derive(Default)]
pub struct Topics(Mutex<HashMap<String, Topic>>);

struct Topic {
    log: Arc<Mutex<Log>>,
    tick: watch::Sender<u64>,
    /// Whose topic it is.
    uid: u32,
    access: Access,
}

/// A topic as a subscription reads it.
pub struct Reading {
    /// What has to be checked before it is read.
    pub access: Access,
    pub log: Arc<Mutex<Log>>,
    pub published: watch::Receiver<u64>,
}

impl Topics {
    /// Opens a topic to subscribers, or changes who may subscribe from now on.
    pub fn open(&self, name: String, uid: u32, access: Access) -> Result<()> {
        let mut topics = self.lock();
        if let Some(topic) = topics.get_mut(&name) {
            check_uid(&name, topic, uid)?;
            topic.access = access;
            return Ok(());
        }
        if topics.len() >= MAX_TOPICS {
            bail!("{MAX_TOPICS} topics are open already");
        }
        let own = topics.values().filter(|topic| topic.uid == uid).count();
        if bus::uid::APPS.contains(&uid) && own >= MAX_TOPICS_OF_AN_APP {
            bail!("an app has at most {MAX_TOPICS_OF_AN_APP} topics");
        }
        let mut epoch = [0; 8];
        getrandom::fill(&mut epoch).map_err(std::io::Error::from)?;
        let log = Arc::new(Mutex::new(Log::new(u64::from_le_bytes(epoch), KEEP)));
        topics.insert(name, Topic { log, tick: watch::Sender::new(0), uid, access });
        Ok(())
    }

    pub fn publish(&self, name: &str, uid: u32, event: &[u8]) -> Result<u64> {
        let topics = self.lock();
        let Some(topic) = topics.get(name) else {
            bail!("topic `{name}` is not open: call ServeTopic first")
        };
        check_uid(name, topic, uid)?;
        let seq = topic.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).publish(event)?;
        topic.tick.send_replace(seq);
        Ok(seq)
    }

    pub fn read(&self, name: &str) -> Result<Reading, CallError> {
        let topics = self.lock();
        let none = || CallError::new(Code::UNKNOWN_PROCEDURE, format!("no topic `{name}` here"));
        let topic = topics.get(name).ok_or_else(none)?;
        let (access, log) = (topic.access.clone(), topic.log.clone());
        Ok(Reading { access, log, published: topic.tick.subscribe() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Topic>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn check_uid(name: &str, topic: &Topic, uid: u32) -> Result<()> {
    if topic.uid != uid {
        bail!("topic `{name}` belongs to uid {}", topic.uid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_its_openers_and_open_to_whom_it_says() {
        let topics = Topics::default();
        assert!(topics.publish("a/b", 7, b"x").unwrap_err().to_string().contains("not open"));
        topics.open("a/b".into(), 7, Access::Owner).unwrap();
        assert_eq!(topics.publish("a/b", 7, b"x").unwrap(), 1);
        assert!(topics.publish("a/b", 8, b"x").unwrap_err().to_string().contains("belongs to uid 7"));
        assert!(topics.open("a/b".into(), 8, Access::Peer).is_err());
        let access = |name| topics.read(name).map(|r| r.access).map_err(|e| e.code);
        assert_eq!(access("a/b"), Ok(Access::Owner));
        assert_eq!(access("a/c"), Err(Code::UNKNOWN_PROCEDURE));
        topics.open("a/b".into(), 7, Access::Peer).unwrap();
        assert_eq!(access("a/b"), Ok(Access::Peer));
        assert_eq!(topics.publish("a/b", 7, b"x").unwrap(), 2, "opened again, it goes on");
        (1..MAX_TOPICS).for_each(|n| topics.open(n.to_string(), 7, Access::Peer).unwrap());
        assert!(topics.open("one more".into(), 7, Access::Peer).is_err());

        let (topics, app) = (Topics::default(), 10_000);
        (0..16).for_each(|n| topics.open(n.to_string(), app, Access::Peer).unwrap());
        assert!(topics.open("one more".into(), app, Access::Peer).is_err());
        topics.open("one more".into(), app + 1, Access::Peer).unwrap();
    }
}
