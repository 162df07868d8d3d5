//! SUBSCRIBE, PUBLISH and the EVENTs made of it.

use os_identity::NodeId;

use super::{Action, ConnId, Name, Now, Station};
use crate::frame::{Event, Frame, Message, Publish, PublisherSignature, Received, Subscribe};
use crate::signing::verify_message;

/// How an event reached the subscriber: from the publisher's own station.
const DIRECT: &str = "direct";

impl Station {
    pub(super) fn subscribe(
        &mut self,
        conn: ConnId,
        node: NodeId,
        subscribe: &Subscribe,
        received: &Received,
        now: Now,
    ) {
        let (realm, topic) = (&subscribe.realm, subscribe.topic.as_str());
        if !self.genuine(received, &node, subscribe.subscriber == node)
            || !self.permitted(&node, Action::Subscribe { realm, topic }, now)
        {
            return;
        }
        let max = self.config.subscribed_max;
        let name = Name { realm: *realm, name: topic.to_string() };
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.subscribed.insert(name.clone());
        if c.subscribed.len() > max {
            return self.expel(conn, "limit_exceeded", &format!("more than {max} subscriptions"), now);
        }
        self.subscribers.entry(name).or_default().insert(conn);
    }

    pub(super) fn unsubscribe(
        &mut self,
        conn: ConnId,
        node: NodeId,
        subscribe: &Subscribe,
        received: &Received,
    ) {
        if !self.genuine(received, &node, subscribe.subscriber == node) {
            return;
        }
        let name = Name { realm: subscribe.realm, name: subscribe.topic.clone() };
        if self.conns.get_mut(&conn).is_some_and(|c| c.subscribed.remove(&name)) {
            self.remove_subscriber(&name, conn);
        }
    }

    pub(super) fn remove_subscriber(&mut self, name: &Name, conn: ConnId) {
        if let Some(conns) = self.subscribers.get_mut(name) {
            conns.remove(&conn);
            if conns.is_empty() {
                self.subscribers.remove(name);
            }
        }
    }

    pub(super) fn publish(
        &mut self,
        conn: ConnId,
        node: NodeId,
        publish: &Publish,
        received: &Received,
        now: Now,
    ) {
        let (message, max) = (&publish.message, self.config.publish_bytes_max);
        if received.len() > max {
            let detail = format!("PUBLISH of {} bytes, at most {max} are taken", received.len());
            return self.expel(conn, "limit_exceeded", &detail, now);
        }
        let action = Action::Publish { realm: &message.realm, topic: &message.topic };
        let own_word = publish.publisher_sig.is_none_or(|s| verify_message(message, &s).is_ok());
        if self.genuine(received, &node, message.publisher == node && own_word)
            && self.permitted(&node, action, now)
        {
            self.deliver(message, publish.publisher_sig, now);
        }
    }

    /// An event of another publisher: its own signature says that it is its word.
    pub(super) fn relay(&mut self, conn: ConnId, node: NodeId, event: &Event, now: Now) {
        let message = &event.message;
        let own_word = event.publisher_sig.is_some_and(|s| verify_message(message, &s).is_ok());
        self.counters.frames_forged += u64::from(!own_word);
        let action = Action::Relay { realm: &message.realm, topic: &message.topic };
        if own_word && self.conns.contains_key(&conn) && self.permitted(&node, action, now) {
            self.deliver(message, event.publisher_sig, now);
        }
    }

    fn deliver(&mut self, message: &Message, publisher_sig: Option<PublisherSignature>, now: Now) {
        if !self.seen.is_new(&message.publisher, message.seq, now.steady_ms) {
            self.counters.events_repeated += 1;
            return;
        }
        self.counters.events += 1;
        let name = Name { realm: message.realm, name: message.topic.clone() };
        let Some(subscribers) = self.subscribers.get(&name).cloned() else { return };
        let event = Event { message: message.clone(), delivered_via: DIRECT.to_string(), publisher_sig };
        let bytes = self.sign(&Frame::Event(event), now);
        subscribers.into_iter().for_each(|conn| self.queue_event(conn, &bytes));
    }
}
