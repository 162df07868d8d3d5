//! Where claimants come: each message is put to `pairing-proto`, and what that asks for is done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use os_identity::NodeId;
use pairing_proto::node::Shown;
use pairing_proto::setup::Role;
use pairing_proto::{
    Answer, HandOver, Introduction, NodeSide, Outcome, Request, Secret, Session, Slot, Standing,
};
use services_api::pairing::{Adoption, InviteParams, OwnerReport};
use tokio::sync::{Notify, watch};

use crate::hand_over;
use crate::node::Node;

/// How often this node's addresses are looked at while a code shows them.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
const MAX_MINUTES: u32 = 60;
/// A list of Wi-Fi networks that is older is no answer to the first question, and to further ones, in seconds.
const NETWORKS_AGE_S: u32 = 60;
const NETWORKS_AGE_AGAIN_S: u32 = 5;
/// Within so much mesh has started again under a new owner; how often it is asked for, if it has not.
const MESH_FOLLOWS: Duration = Duration::from_secs(20);
const ASKS: u32 = 5;

pub struct Desk {
    pub node: Mutex<Node>,
    pub links: Arc<crate::node::Links>,
    me: NodeId,
    side: Mutex<NodeSide>,
    pub addresses: Mutex<Vec<String>>,
    /// The chain that an invited delegate gets.
    invitation: Mutex<Vec<u8>>,
    /// One hand-over at a time: the first one wins.
    turn: tokio::sync::Mutex<()>,
    told: Mutex<Option<Shown>>,
    /// Counts changes of what is shown.
    serial: watch::Sender<u64>,
    wake: Notify,
    /// How often mesh has come up.
    mesh_starts: Arc<AtomicU64>,
    started: Instant,
}

impl Desk {
    pub fn new(node: Node) -> Self {
        Self {
            me: node.id,
            side: Mutex::new(NodeSide::new(node.id, node.standing())),
            links: node.links.clone(),
            node: Mutex::new(node),
            addresses: Mutex::default(),
            invitation: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            told: Mutex::default(),
            serial: watch::Sender::new(1),
            wake: Notify::new(),
            mesh_starts: Arc::default(),
            started: Instant::now(),
        }
    }

    pub fn me(&self) -> NodeId {
        self.me
    }

    pub fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub fn serial(&self) -> watch::Receiver<u64> {
        self.serial.subscribe()
    }

    pub fn standing(&self) -> Standing {
        self.side().standing()
    }

    /// What is to be read in a slot, and for how many milliseconds yet.
    pub fn code(&self, slot: Slot) -> Option<(Secret, Option<u64>)> {
        let now = self.now();
        let side = self.side();
        let (secret, until) = side.code(slot)?;
        Some((secret.clone(), until.map(|until| until.saturating_sub(now))))
    }

    pub fn keep_file_code(&self, secret: Secret) {
        self.side().keep_file_code(secret);
    }

    /// One message of a claimant, and the answer. What was begun is finished even if nobody waits for the answer any more.
    pub async fn step(self: &Arc<Self>, from: String, session: Session, message: Vec<u8>) -> Vec<u8> {
        let desk = self.clone();
        let work = tokio::spawn(async move {
            let answer = desk.take(&from, session, &message).await;
            desk.refresh();
            answer
        });
        work.await.unwrap_or_else(|_| self.side().fail(&session))
    }

    async fn take(&self, from: &str, session: Session, message: &[u8]) -> Vec<u8> {
        let random = match random() {
            Ok(random) => random,
            Err(e) => return self.failed(&session, &e),
        };
        let outcome = self.side().step(self.now(), from, session, message, &random);
        match outcome {
            Outcome::Say(bytes) => bytes,
            Outcome::Prove { transcript, role } => match self.prove(&transcript).await {
                Ok(signature) => {
                    tracing::info!("a claimant from {from} knows the code");
                    let introduction = self.introduction(role, NETWORKS_AGE_S).await;
                    self.side().prove(&session, &signature, introduction)
                }
                Err(e) => self.failed(&session, &e),
            },
            Outcome::Asked { role, request: Request::Look, .. } => {
                let answer = Answer::Introduction(self.introduction(role, NETWORKS_AGE_AGAIN_S).await);
                self.side().answer(&session, &answer)
            }
            Outcome::Asked { claimant, role, request: Request::HandOver(hand_over) } => {
                self.hand_over(&session, claimant, role, &hand_over).await
            }
        }
    }

    async fn prove(&self, transcript: &[u8]) -> Result<Vec<u8>> {
        self.links.identity().await?.prove_pairing(transcript).await.context("identity does not sign")
    }

    async fn hand_over(&self, session: &Session, claimant: NodeId, role: Role, wishes: &HandOver) -> Vec<u8> {
        let _turn = self.turn.lock().await;
        // Meanwhile somebody else may have become the owner; then this run is over.
        let invitation = self.invitation.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = match self.standing() {
            Standing::Owned => return self.side().too_late(session),
            _ => hand_over::carry_out(self, claimant, (role, &invitation), wishes).await,
        };
        self.side().answer(session, &answer)
    }

    fn failed(&self, session: &Session, error: &anyhow::Error) -> Vec<u8> {
        tracing::error!("a claimant is sent away: {error:#}");
        self.side().fail(session)
    }

    async fn introduction(&self, role: Role, networks_age_s: u32) -> Introduction {
        let networks = self.links.networks(networks_age_s).await;
        let introduction = self.node().introduction(self.addresses().clone(), networks);
        Introduction { role, ..introduction }
    }

    /// Ends what is over, makes codes anew, and tells those who show them.
    pub fn refresh(&self) {
        let random = match (random(), random()) {
            (Ok(screen), Ok(file)) => [screen, file],
            (Err(e), _) | (_, Err(e)) => return tracing::error!("no code can be made: {e:#}"),
        };
        let mut side = self.side();
        side.refresh(self.now(), [&random[0], &random[1]]);
        let shown = side.shown();
        drop(side);
        // What was told last, rather than what was before: a step may have changed it already.
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).replace(shown);
        if told != Some(shown) {
            self.news();
        }
        self.wake.notify_one();
    }

    fn news(&self) {
        self.serial.send_modify(|serial| *serial += 1);
    }

    /// For ever.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            let left = self.side().deadline().map(|at| Duration::from_millis(at.saturating_sub(self.now())));
            let sleep =
                left.map_or(LONGEST_SLEEP, |left| left.clamp(Duration::from_millis(50), LONGEST_SLEEP));
            tokio::select! {
                () = tokio::time::sleep(sleep) => self.refresh(),
                () = self.wake.notified() => {}
            }
        }
    }

    /// Asks mesh where this node is, for ever.
    pub async fn follow_addresses(self: Arc<Self>) {
        loop {
            if let Ok(mesh) = self.links.mesh.mesh().await
                && let Ok(found) = mesh.local_addresses().await
            {
                let found = crate::shown::in_order(&found);
                let changed = *self.addresses() != found;
                *self.addresses() = found;
                if changed {
                    self.news();
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Opens a code for one claimant. With a chain it becomes a delegate, without the owner.
    pub fn invite(&self, params: &InviteParams) -> Result<()> {
        anyhow::ensure!(
            self.node().config.as_ref().is_some_and(|c| c.owner.is_some()),
            "this node has no owner"
        );
        let minutes = params.minutes.clamp(1, MAX_MINUTES);
        let role = if params.chain.is_empty() { Role::NewOwner } else { Role::Delegate };
        *self.invitation.lock().unwrap_or_else(PoisonError::into_inner) = params.chain.clone();
        self.side().invite(self.now(), u64::from(minutes) * 60_000, role, &random()?);
        self.news();
        self.wake.notify_one();
        Ok(())
    }

    /// Makes somebody the owner who need not be there.
    pub async fn transfer(&self, owner: NodeId, who: &str) -> Result<()> {
        let _turn = self.turn.lock().await;
        hand_over::transfer(self, owner, who).await?;
        self.side().set_standing(Standing::Owned);
        self.news();
        Ok(())
    }

    pub fn mesh_is_up(&self) {
        self.mesh_starts.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the change. `update` has mesh start again under the new owner; if that was cut off, it is asked again, for until then mesh
    /// lets nobody in, or the wrong one.
    pub async fn adopt(&self, adoption: Adoption) -> Result<()> {
        self.links.adopt(&adoption).await?;
        if adoption.changes.is_empty() {
            return Ok(());
        }
        let starts = self.mesh_starts.clone();
        let links = self.links.clone();
        tokio::spawn(async move {
            let before = starts.load(Ordering::Relaxed);
            for _ in 0..ASKS {
                tokio::time::sleep(MESH_FOLLOWS).await;
                if starts.load(Ordering::Relaxed) != before {
                    return;
                }
                tracing::warn!("mesh has not started again under the new owner; asking for it once more");
                if let Err(e) = links.adopt(&adoption).await {
                    tracing::warn!("update does not: {e:#}");
                }
            }
        });
        Ok(())
    }

    pub fn owner(&self) -> OwnerReport {
        let node = self.node();
        let config = node.config.clone().unwrap_or_default();
        let left = self.code(Slot::Screen).and_then(|(_, left)| left).unwrap_or_default();
        OwnerReport {
            owner: config.owner.map(|owner| owner.to_string()).unwrap_or_default(),
            node: node.id.to_string(),
            name: config.name,
            realm: config.realm,
            state: crate::shown::word(self.standing()).into(),
            expires_in_s: left / 1000,
        }
    }

    pub fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn addresses(&self) -> MutexGuard<'_, Vec<String>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn side(&self) -> MutexGuard<'_, NodeSide> {
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::from).context("no random numbers")?;
    Ok(bytes)
}
