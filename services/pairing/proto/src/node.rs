//! The node's side: its codes, the runs that are going on, and who may still try.
//!
//! [`NodeSide::step`] takes one message of a claimant. What needs the node's key, its configuration or its disk comes out as an
//! [`Outcome`] and goes back in with [`NodeSide::prove`] or [`NodeSide::answer`]. Nothing here is kept over a restart: runs end with
//! the process, and a claimant begins again.

mod codes;
mod places;
mod run;

use std::collections::BTreeMap;

use os_identity::{NodeId, domain, verify};

use crate::channel::Half;
use crate::claimant::{ClaimantProof, NodeProof};
use crate::code::{Secret, Slot};
use crate::confirm;
use crate::limits::{MAX_OPEN_RUNS, MAX_OPENING_RUNS, MAX_OPENING_RUNS_EACH, SHOWN_MS};
use crate::message::{Message, TAG};
use crate::refusal::Refused;
use crate::schedule::{self, Keys};
use crate::setup::{Answer, Introduction, Request, Role};
use crate::{OLDEST_VERSION, Session, VERSION};

use codes::Codes;
use places::Places;
use run::{Run, Stage};

/// Whom the node takes as its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has none: whoever knows the code. There is always one on the screen, and one in the file.
    Unowned,
    /// It has one, who has invited nobody.
    Owned,
    /// It has one, who has opened the screen's code until then (in milliseconds), for one claimant. It is not renewed.
    Invited { until: u64, role: Role },
}

/// What the caller has to do with a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Say this.
    Say(Vec<u8>),
    /// The claimant has proved that it knows the code. Let the node's key sign this in the domain `pair-node`, then call
    /// [`NodeSide::prove`].
    Prove { transcript: [u8; 32], role: Role },
    /// Do this, then call [`NodeSide::answer`].
    Asked { claimant: NodeId, role: Role, request: Request },
}

/// See [`NodeSide::shown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    standing: Standing,
    codes: [Option<u64>; 2],
}

/// A node, to its claimants.
pub struct NodeSide {
    node: NodeId,
    standing: Standing,
    codes: Codes,
    runs: BTreeMap<Session, Run>,
    places: Places,
}

impl NodeSide {
    /// Shows nothing until [`NodeSide::refresh`].
    pub fn new(node: NodeId, standing: Standing) -> Self {
        let (codes, places) = (Codes::default(), Places::default());
        Self { node, standing, codes, runs: BTreeMap::new(), places }
    }

    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The node got an owner, lost it, or its owner invites. Codes of before are dead; runs of before end, unless they are done.
    pub fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
        self.codes.clear();
        self.runs.retain(|_, run| matches!(run.stage, Stage::Done));
    }

    /// A code for the file that was there before this process.
    pub fn keep_file_code(&mut self, secret: Secret) {
        if self.standing == Standing::Unowned {
            self.codes.show(Slot::File, secret, codes::until(Slot::File, 0));
        }
    }

    /// What is to be read in a slot, and until when (milliseconds).
    pub fn code(&self, slot: Slot) -> Option<(&Secret, Option<u64>)> {
        self.codes.shown(slot).map(|code| (&code.secret, code.until))
    }

    /// Ends what is over and makes the codes that are missing. To be called after every step and at [`NodeSide::deadline`]. `random`: 32
    /// bytes for each slot. Whether what is shown has changed.
    pub fn refresh(&mut self, now: u64, random: [&[u8; 32]; 2]) -> bool {
        self.expire(now);
        let before = self.codes_made();
        for (slot, random) in Slot::ALL.into_iter().zip(random) {
            let missing = self.codes.shown(slot).is_none();
            if missing && self.standing == Standing::Unowned {
                self.codes.show(slot, Secret::from_random(random), codes::until(slot, now));
            }
        }
        before != self.codes_made()
    }

    /// Opens a code for one claimant, whom the owner invites.
    pub fn invite(&mut self, now: u64, lasts_ms: u64, role: Role, random: &[u8; 32]) {
        let until = now + lasts_ms.min(6 * SHOWN_MS);
        self.set_standing(Standing::Invited { until, role });
        self.codes.show(Slot::Screen, Secret::from_random(random), Some(until));
    }

    /// When [`NodeSide::refresh`] has something to do, in milliseconds.
    pub fn deadline(&self) -> Option<u64> {
        let runs = self.runs.values().map(Run::deadline);
        runs.chain(self.codes.deadline()).min()
    }

    /// One message. `from` is where it comes from, for limits; `session` the run that it belongs to.
    pub fn step(
        &mut self,
        now: u64,
        from: &str,
        session: Session,
        bytes: &[u8],
        random: &[u8; 32],
    ) -> Outcome {
        self.expire(now);
        if let Some(run) = self.runs.get_mut(&session)
            && let Some(answer) = run.said_before(bytes)
        {
            run.touched = now;
            return Outcome::Say(answer);
        }
        let outcome = match Message::decode(bytes) {
            Err(_) => Err(Refused::Malformed),
            Ok(Message::Hello { newest, oldest, session: named, claimant, pake, slot }) => {
                let hello = Hello { versions: (oldest, newest), claimant, pake, slot, bytes };
                if named == session {
                    self.hello(now, from, session, hello, random)
                } else {
                    Err(Refused::Malformed)
                }
            }
            Ok(Message::Confirm { tag, sealed }) => self.confirm(now, from, session, (&tag, &sealed), bytes),
            Ok(Message::Sealed(sealed)) => self.sealed(now, session, &sealed, bytes),
            Ok(_) => Err(Refused::Malformed),
        };
        outcome.unwrap_or_else(|refused| Outcome::Say(Message::Refused(refused).encode()))
    }

    fn hello(
        &mut self,
        now: u64,
        from: &str,
        session: Session,
        hello: Hello<'_>,
        random: &[u8; 32],
    ) -> Result<Outcome, Refused> {
        if !self.places.hello(from, now) || self.runs.contains_key(&session) {
            return Err(Refused::Busy);
        }
        let version = VERSION.min(hello.versions.1);
        if version < OLDEST_VERSION || version < hello.versions.0 {
            return Err(Refused::Version);
        }
        if self.standing == Standing::Owned {
            return Err(Refused::Owned);
        }
        let opening = || self.runs.values().filter(|run| run.is_opening());
        if opening().count() >= MAX_OPENING_RUNS
            || opening().filter(|run| run.from == from).count() >= MAX_OPENING_RUNS_EACH
        {
            return Err(Refused::Busy);
        }
        let code = self.codes.shown(hello.slot).ok_or(Refused::WrongCode)?;
        let (pake, message) = schedule::node_pake(&code.secret, random);
        let welcome = Message::Welcome { version, node: self.node, pake: message }.encode();
        let shared = pake.finish(&hello.pake).ok();
        let keys = shared.map(|shared| Box::new(Keys::new(hello.bytes, &welcome, &shared)));
        let run = Run {
            claimant: hello.claimant,
            from: from.to_owned(),
            role: self.role(),
            stage: Stage::Welcomed { code: code.serial, keys },
            touched: now,
            last: Some((run::digest(hello.bytes), welcome.clone())),
        };
        self.runs.insert(session, run);
        Ok(Outcome::Say(welcome))
    }

    /// The one place where a guess is tested: once for each run, and whatever is wrong with it is answered the same.
    fn confirm(
        &mut self,
        now: u64,
        from: &str,
        session: Session,
        (tag, sealed): (&[u8; TAG], &[u8]),
        bytes: &[u8],
    ) -> Result<Outcome, Refused> {
        if self.places.is_banned(from, now) {
            return Err(Refused::Busy);
        }
        let mut run = self.runs.remove(&session).ok_or(Refused::WrongCode)?;
        let Stage::Welcomed { code, keys } = run.stage else {
            // Out of turn: this run is over.
            return Err(Refused::Malformed);
        };
        if !self.codes.is_alive(code) {
            return Err(Refused::WrongCode);
        }
        let Some((keys, receiver)) = keys.and_then(|keys| prove_claimant(keys, &run.claimant, tag, sealed))
        else {
            self.codes.wrong(code);
            self.places.wrong(from, now);
            return Err(Refused::WrongCode);
        };
        self.codes.used(code);
        self.make_room();
        let transcript = keys.transcript;
        run.stage = Stage::Proving { keys, receiver, confirm: bytes.to_vec() };
        (run.touched, run.last) = (now, None);
        let role = run.role;
        self.runs.insert(session, run);
        Ok(Outcome::Prove { transcript, role })
    }

    /// What to say to a confirmation that was right.
    pub fn prove(&mut self, session: &Session, signature: &[u8], introduction: Introduction) -> Vec<u8> {
        let Some(mut run) = self.runs.remove(session) else {
            return Message::Refused(Refused::WrongCode).encode();
        };
        let Stage::Proving { keys, receiver, confirm } = run.stage else {
            return Message::Refused(Refused::Malformed).encode();
        };
        let mut sender = Half::new(keys.from_node.clone(), keys.transcript);
        let sealed = sender.seal(&NodeProof { signature: signature.to_vec().into(), introduction });
        let said = Message::Confirmed { tag: confirm::by_node(&keys, &confirm), sealed }.encode();
        run.stage = Stage::Open { sender, receiver };
        run.last = Some((run::digest(&confirm), said.clone()));
        self.runs.insert(*session, run);
        said
    }

    fn sealed(
        &mut self,
        now: u64,
        session: Session,
        sealed: &[u8],
        bytes: &[u8],
    ) -> Result<Outcome, Refused> {
        let mut run = self.runs.remove(&session).ok_or(Refused::WrongCode)?;
        match run.stage {
            Stage::Open { sender, mut receiver } => {
                let request: Request = receiver.open(sealed).map_err(|_| Refused::Malformed)?;
                if let Request::HandOver(hand_over) = &request
                    && (hand_over.check().is_err() || hand_over.owner_id() != Some(run.claimant))
                {
                    return Err(Refused::Malformed);
                }
                run.stage = Stage::Working { sender, receiver };
                run.touched = now;
                run.last = Some((run::digest(bytes), Message::Refused(Refused::Busy).encode()));
                let (claimant, role) = (run.claimant, run.role);
                self.runs.insert(session, run);
                Ok(Outcome::Asked { claimant, role, request })
            }
            // Done, working, proving: that goes on.
            Stage::Done | Stage::Working { .. } | Stage::Proving { .. } => {
                self.runs.insert(session, run);
                Err(Refused::Busy)
            }
            Stage::Welcomed { .. } => Err(Refused::Malformed),
        }
    }

    /// What to say to what was asked. With [`Answer::Paired`] codes and all other runs are over.
    pub fn answer(&mut self, session: &Session, answer: &Answer) -> Vec<u8> {
        let Some(mut run) = self.runs.remove(session) else {
            return Message::Refused(Refused::WrongCode).encode();
        };
        let Stage::Working { mut sender, receiver } = run.stage else {
            return Message::Refused(Refused::Malformed).encode();
        };
        let said = Message::Sealed(sender.seal(answer)).encode();
        let paired = matches!(answer, Answer::Paired(_));
        run.stage = if paired { Stage::Done } else { Stage::Open { sender, receiver } };
        run.last = run.last.map(|(asked, _)| (asked, said.clone()));
        if paired {
            self.set_standing(Standing::Owned);
        }
        self.runs.insert(*session, run);
        said
    }

    /// The caller could not do its part; the run is over.
    pub fn fail(&mut self, session: &Session) -> Vec<u8> {
        self.runs.remove(session);
        Message::Refused(Refused::Broken).encode()
    }

    /// Somebody else became the owner meanwhile; the run is over.
    pub fn too_late(&mut self, session: &Session) -> Vec<u8> {
        self.runs.remove(session);
        Message::Refused(Refused::Owned).encode()
    }

    fn expire(&mut self, now: u64) {
        self.codes.expire(now);
        self.runs.retain(|_, run| now < run.deadline());
        if let Standing::Invited { until, .. } = self.standing {
            let going_on = self.runs.values().any(|run| !matches!(run.stage, Stage::Done));
            if now >= until || (self.codes.shown(Slot::Screen).is_none() && !going_on) {
                self.set_standing(Standing::Owned);
            }
        }
    }

    /// One more is about to open.
    fn make_room(&mut self) {
        let open = |run: &Run| !run.is_opening() && !matches!(run.stage, Stage::Done | Stage::Working { .. });
        if self.runs.values().filter(|run| !run.is_opening()).count() >= MAX_OPEN_RUNS {
            let idle = self.runs.iter().filter(|(_, run)| open(run)).min_by_key(|(_, run)| run.touched);
            let idle = idle.map(|(session, _)| *session);
            idle.map(|session| self.runs.remove(&session));
        }
    }

    fn role(&self) -> Role {
        match self.standing {
            Standing::Invited { role, .. } => role,
            _ => Role::Owner,
        }
    }

    /// What there is to be seen: another whenever a code, or whether there is one, is another.
    pub fn shown(&self) -> Shown {
        Shown { standing: self.standing, codes: self.codes_made() }
    }

    fn codes_made(&self) -> [Option<u64>; 2] {
        Slot::ALL.map(|slot| self.codes.shown(slot).map(|code| code.serial))
    }
}

struct Hello<'a> {
    versions: (u16, u16),
    claimant: NodeId,
    pake: Vec<u8>,
    slot: Slot,
    bytes: &'a [u8],
}

/// The keys, and the channel from the claimant, if it knows the code and holds its key.
fn prove_claimant(
    keys: Box<Keys>,
    claimant: &NodeId,
    tag: &[u8; TAG],
    sealed: &[u8],
) -> Option<(Box<Keys>, Half)> {
    if !confirm::is_claimants(&keys, tag) {
        return None;
    }
    let mut receiver = Half::new(keys.from_claimant.clone(), keys.transcript);
    let proof: ClaimantProof = receiver.open(sealed).ok()?;
    verify(claimant, domain::PAIR_CLAIMANT, &keys.transcript, &proof.signature).ok()?;
    Some((keys, receiver))
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
