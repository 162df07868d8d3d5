//! A run of pairing with one node, over `pair/1`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mesh_proto::StreamHeader;
use mesh_transport::Credentials;
use os_identity::{NodeId, NodeKey};
use pairing_proto::limits::MAX_MESSAGE;
use pairing_proto::{
    Answer, Claimant, Fingerprint, HandOver, Introduction, Opened, PROTOCOL, PairError, Paired, Request,
    Secret, Session, Slot,
};
use quinn::{RecvStream, SendStream};
use services_api::frame;

use crate::connect::{self, Remote};

const ANSWER: Duration = Duration::from_secs(60);
/// An answer that got lost is asked for again, so often: the node's mesh starts again when it has an owner.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(2);

/// What was read of a code.
pub struct Wanted {
    pub fingerprint: Option<Fingerprint>,
    pub secret: Secret,
    pub slot: Slot,
}

/// The way to one address.
pub struct Line<'a> {
    address: SocketAddr,
    credentials: &'a Credentials,
    wait: Duration,
    me: NodeId,
    session: Session,
    open: Option<(Remote, SendStream, RecvStream)>,
    node: NodeId,
}

impl<'a> Line<'a> {
    /// Connects, and looks who is there; says nothing yet.
    pub async fn to(
        address: SocketAddr,
        credentials: &'a Credentials,
        me: NodeId,
        wanted: &Wanted,
        wait: Duration,
    ) -> Result<Self> {
        let mut session = Session::default();
        getrandom::fill(&mut session).map_err(std::io::Error::from)?;
        let remote = Remote::of(connect::dial(address, credentials, wait).await?, me);
        let node = remote.node;
        if wanted.fingerprint.is_some_and(|fingerprint| fingerprint != Fingerprint::of(&node)) {
            remote.close().await;
            return Err(PairError::NotThisNode("its key has another fingerprint").into());
        }
        let (send, recv) = open(&remote).await?;
        Ok(Self { address, credentials, wait, me, session, open: Some((remote, send, recv)), node })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Up to the open channel.
    pub async fn prove(&mut self, key: &NodeKey, wanted: &Wanted) -> Result<(Opened, Introduction)> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(std::io::Error::from)?;
        let code = (wanted.fingerprint, &wanted.secret, wanted.slot);
        let (claimant, hello) = Claimant::new(key.node_id(), code, self.session, &random);
        let proving = claimant.welcome(&self.ask(&hello).await?)?;
        // Two ways to learn who is there; whoever is in between shows another key on one of them.
        if proving.node() != self.node {
            return Err(PairError::NotThisNode("it is not the one that the connection leads to").into());
        }
        let signature = key.sign_raw(&proving.to_sign());
        let (confirming, confirm) = proving.signed(&signature);
        Ok(confirming.confirmed(&self.ask(&confirm).await?)?)
    }

    pub async fn hand_over(&mut self, opened: &mut Opened, wishes: HandOver, now: u64) -> Result<Paired> {
        let asked = opened.ask(Request::HandOver(Box::new(wishes)));
        match opened.answer(&self.ask(&asked).await?)? {
            Answer::Paired(paired) => Ok(paired).and_then(|paired| {
                opened.check_delegation(&paired, now)?;
                Ok(paired)
            }),
            Answer::Declined(declined) => Err(PairError::Declined(declined).into()),
            Answer::Introduction(_) => Err(PairError::Malformed("an introduction, unasked").into()),
        }
    }

    /// Says it, over a new connection if the one there was has broken.
    async fn ask(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        let mut last = anyhow!("the node does not answer");
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            match self.ask_once(message).await {
                Ok(answer) => return Ok(answer),
                Err(e) => last = e,
            }
            self.open = None;
        }
        Err(last.context("the connection broke off while pairing; try again"))
    }

    async fn ask_once(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        if self.open.is_none() {
            let remote = Remote::of(connect::dial(self.address, self.credentials, self.wait).await?, self.me);
            let (send, recv) = open(&remote).await?;
            self.open = Some((remote, send, recv));
        }
        let (_, send, recv) = self.open.as_mut().context("no connection")?;
        let framed = [&self.session, message].concat();
        let exchange = async {
            frame::write(send, &framed).await?;
            Ok(frame::expect(recv, MAX_MESSAGE).await?)
        };
        tokio::time::timeout(ANSWER, exchange).await.context("no answer")?
    }

    /// What is left of the connection.
    pub fn into_remote(self) -> Option<Remote> {
        self.open.map(|(remote, ..)| remote)
    }

    pub async fn close(self) {
        if let Some(remote) = self.into_remote() {
            remote.close().await;
        }
    }
}

async fn open(remote: &Remote) -> Result<(SendStream, RecvStream)> {
    remote.open_with(StreamHeader::new(PROTOCOL)).await.context(
        "the node takes no pairing: its release knows none, or it is just starting (try again in a moment)",
    )
}
