//! Somebody with a browser: the same run, message by message through `Step`, as the gateway carries it.

use anyhow::Result;
use os_identity::NodeKey;
use pairing_proto::{Answer, Claimant, HandOver, Opened, PairCode, PairError, Request, Session};

use crate::node::Node;

pub struct Phone {
    pub key: NodeKey,
    pub session: Session,
    /// As the gateway sees it.
    pub from: String,
    /// All that was said, in order.
    pub said: Vec<Vec<u8>>,
}

impl Phone {
    pub fn new(seed: u8) -> Self {
        Self {
            key: NodeKey::from_seed(&[seed; 32]),
            session: [seed; 16],
            from: format!("192.0.2.{seed}"),
            said: Vec::new(),
        }
    }

    pub async fn say(&mut self, node: &Node, message: &[u8]) -> Vec<u8> {
        self.said.push(message.to_vec());
        node.pairing().await.step(&self.from, &self.session, message).await.unwrap()
    }

    pub async fn open(&mut self, node: &Node, code: &PairCode) -> Result<Opened, PairError> {
        let read = (Some(code.fingerprint), &code.secret, code.slot);
        let (claimant, hello) = Claimant::new(self.key.node_id(), read, self.session, &[self.session[0]; 32]);
        let proving = claimant.welcome(&self.say(node, &hello).await)?;
        let signature = self.key.sign_raw(&proving.to_sign());
        let (confirming, confirm) = proving.signed(&signature);
        Ok(confirming.confirmed(&self.say(node, &confirm).await)?.0)
    }

    pub async fn hand_over(
        &mut self,
        node: &Node,
        opened: &mut Opened,
        wishes: HandOver,
    ) -> Result<Answer, PairError> {
        let asked = opened.ask(Request::HandOver(Box::new(wishes)));
        let answer = self.say(node, &asked).await;
        opened.answer(&answer)
    }
}
