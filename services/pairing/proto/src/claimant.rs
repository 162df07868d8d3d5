//! The claimant: whoever has read the code and wants the node.
//!
//! Each step takes the node's answer and gives what to send next. It is a value of another type each time, so that nothing can be asked
//! out of turn: [`Claimant`] has said hello, [`Proving`] waits for a signature (a browser's keys sign elsewhere), [`Confirming`] for
//! the node's proof, [`Opened`] is the channel. Whatever fails ends the run: the next one begins with a new hello.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use os_identity::{NodeId, SIGNATURE_LEN, domain, verify};
use os_ucan::{Ability, Resource, chain};

use crate::channel::Half;
use crate::code::{Fingerprint, Secret, Slot};
use crate::confirm;
use crate::message::Message;
use crate::refusal::PairError;
use crate::schedule::{self, Keys, Pake};
use crate::setup::{Answer, HandOver, Introduction, Paired, Request};
use crate::{OLDEST_VERSION, Session, VERSION};

/// Has said hello.
pub struct Claimant {
    me: NodeId,
    fingerprint: Option<Fingerprint>,
    pake: Pake,
    hello: Vec<u8>,
}

/// Knows who answers; the owner's key is to sign.
pub struct Proving {
    me: NodeId,
    node: NodeId,
    keys: Keys,
}

/// Has sent its proofs.
pub struct Confirming {
    me: NodeId,
    node: NodeId,
    keys: Keys,
    sender: Half,
    confirm: Vec<u8>,
}

/// Both have proved that they know the code, and their keys.
pub struct Opened {
    me: NodeId,
    node: NodeId,
    sender: Half,
    receiver: Half,
}

/// Sealed in the claimant's confirmation.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(crate) struct ClaimantProof {
    #[n(0)]
    pub signature: ByteVec,
}

/// Sealed in the node's.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(crate) struct NodeProof {
    #[n(0)]
    pub signature: ByteVec,
    #[n(1)]
    pub introduction: Introduction,
}

impl Claimant {
    /// Begins, and gives what to send. `fingerprint` is absent where only the secret was typed: then the node is whoever knows it.
    /// `session` and `random` are 48 bytes that nobody can guess.
    pub fn new(
        me: NodeId,
        (fingerprint, secret, slot): (Option<Fingerprint>, &Secret, Slot),
        session: Session,
        random: &[u8; 32],
    ) -> (Self, Vec<u8>) {
        let (pake, message) = schedule::claimant_pake(secret, random);
        let hello = Message::hello(session, me, message, slot).encode();
        (Self { me, fingerprint, pake, hello: hello.clone() }, hello)
    }

    /// The answer to the hello.
    pub fn welcome(self, bytes: &[u8]) -> Result<Proving, PairError> {
        let Message::Welcome { version, node, pake } = read(bytes)? else {
            return Err(PairError::Malformed("another message than a welcome"));
        };
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(PairError::Version);
        }
        if self.fingerprint.is_some_and(|expected| expected != Fingerprint::of(&node)) {
            return Err(PairError::NotThisNode("its key has another fingerprint"));
        }
        let shared = self.pake.finish(&pake).map_err(|_| PairError::NotThisNode("its proof is none"))?;
        Ok(Proving { me: self.me, node, keys: Keys::new(&self.hello, bytes, &shared) })
    }
}

impl Proving {
    /// The bytes that the owner's key is to sign (Ed25519, exactly these).
    pub fn to_sign(&self) -> Vec<u8> {
        self.keys.for_claimant()
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Gives what to send.
    pub fn signed(self, signature: &[u8]) -> (Confirming, Vec<u8>) {
        let Self { me, node, keys } = self;
        let mut sender = Half::new(keys.from_claimant.clone(), keys.transcript);
        let sealed = sender.seal(&ClaimantProof { signature: signature.to_vec().into() });
        let confirm = Message::Confirm { tag: confirm::by_claimant(&keys), sealed }.encode();
        (Confirming { me, node, keys, sender, confirm: confirm.clone() }, confirm)
    }
}

impl Confirming {
    /// The answer to the confirmation.
    pub fn confirmed(self, bytes: &[u8]) -> Result<(Opened, Introduction), PairError> {
        let Message::Confirmed { tag, sealed } = read(bytes)? else {
            return Err(PairError::Malformed("another message than a confirmation"));
        };
        if !confirm::is_nodes(&self.keys, &self.confirm, &tag) {
            return Err(PairError::NotThisNode("it does not know the code"));
        }
        let mut receiver = Half::new(self.keys.from_node.clone(), self.keys.transcript);
        let proof: NodeProof =
            receiver.open(&sealed).map_err(|_| PairError::NotThisNode("its proof was changed on the way"))?;
        let signature: &[u8] = &proof.signature;
        if signature.len() != SIGNATURE_LEN
            || verify(&self.node, domain::PAIR_NODE, &self.keys.transcript, signature).is_err()
        {
            return Err(PairError::NotThisNode("it does not hold the key that the code names"));
        }
        proof.introduction.check().map_err(|_| PairError::Malformed("an introduction too long"))?;
        let opened = Opened { me: self.me, node: self.node, sender: self.sender, receiver };
        Ok((opened, proof.introduction))
    }
}

impl Opened {
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What to send. The owner in it is this claimant, whatever it says.
    pub fn ask(&mut self, request: Request) -> Vec<u8> {
        let request = match request {
            Request::HandOver(hand_over) => {
                Request::HandOver(Box::new(HandOver { owner: self.me.to_string(), ..*hand_over }))
            }
            Request::Look => Request::Look,
        };
        Message::Sealed(self.sender.seal(&request)).encode()
    }

    /// The answer to what was asked last.
    pub fn answer(&mut self, bytes: &[u8]) -> Result<Answer, PairError> {
        let Message::Sealed(sealed) = read(bytes)? else {
            return Err(PairError::Malformed("another message than an answer"));
        };
        let answer: Answer = self
            .receiver
            .open(&sealed)
            .map_err(|_| PairError::NotThisNode("its answer was changed on the way"))?;
        let checked = match &answer {
            Answer::Introduction(introduction) => introduction.check(),
            Answer::Paired(paired) => paired.check(),
            Answer::Declined(_) => Ok(()),
        };
        checked.map_err(|_| PairError::Malformed("an answer too long"))?;
        Ok(answer)
    }

    /// Whether the delegation gives this claimant what an owner may: here for orders of any kind. `now`: seconds since 1970.
    pub fn check_delegation(&self, paired: &Paired, now: u64) -> Result<(), PairError> {
        let broken = |_| PairError::Malformed("a delegation that does not hold");
        let ability = Ability::parse("macula/os/status").map_err(|_| PairError::Malformed("no ability"))?;
        let resource = Resource::node(&self.node);
        chain::decode(&paired.delegation).map_err(|_| PairError::Malformed("a delegation that is none"))?;
        let asked = os_ucan::Request {
            invoker: self.me,
            root: self.node,
            ability: &ability,
            resource: &resource,
            now,
        };
        os_ucan::authorize(&asked, &paired.delegation, |_, _| false).map(drop).map_err(broken)
    }
}

fn read(bytes: &[u8]) -> Result<Message, PairError> {
    match Message::decode(bytes) {
        Ok(Message::Refused(refused)) => Err(refused.into()),
        Ok(message) => Ok(message),
        Err(_) => Err(PairError::Malformed("no message of pairing")),
    }
}
