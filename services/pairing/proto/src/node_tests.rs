//! A claimant and a node, in virtual time, and everything that may be between them.

use os_identity::NodeKey;
use os_ucan::{Ability, Capability, Delegation, Did, Resource, Subject, chain, jwt, policy::Policy};
use proptest::prelude::*;

use super::*;
use crate::claimant::{Claimant, Opened, Proving};
use crate::code::Fingerprint;
use crate::limits::{BAN_MS, IDLE_MS, OPENING_MS, TRIES};
use crate::refusal::PairError;
use crate::setup::{Declined, HandOver, Paired};

const LAN: &str = "192.0.2.9";

/// A node with its key and its clock; random numbers count up.
struct Pair {
    key: NodeKey,
    node: NodeSide,
    now: u64,
    random: u8,
}

impl Pair {
    fn new(standing: Standing) -> Self {
        let key = NodeKey::from_seed(&[1; 32]);
        let mut pair = Self { node: NodeSide::new(key.node_id(), standing), key, now: 1_000, random: 0 };
        pair.refresh();
        pair
    }

    fn random(&mut self) -> [u8; 32] {
        self.random += 1;
        [self.random; 32]
    }

    fn refresh(&mut self) -> bool {
        let random = [self.random(), self.random()];
        self.node.refresh(self.now, [&random[0], &random[1]])
    }

    fn secret(&self, slot: Slot) -> Secret {
        self.node.code(slot).expect("a code").0.clone()
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.key.node_id())
    }

    fn step(&mut self, from: &str, session: Session, bytes: &[u8]) -> Outcome {
        let random = self.random();
        let outcome = self.node.step(self.now, from, session, bytes, &random);
        self.refresh();
        outcome
    }

    fn say(&mut self, session: Session, bytes: &[u8]) -> Vec<u8> {
        match self.step(LAN, session, bytes) {
            Outcome::Say(bytes) => bytes,
            Outcome::Prove { transcript, role } => {
                let introduction = Introduction { name: "roof-3".into(), role, ..Introduction::default() };
                let signature = self.key.sign(domain::PAIR_NODE, &transcript);
                self.node.prove(&session, &signature, introduction)
            }
            Outcome::Asked { claimant, request: Request::HandOver(hand_over), role } => {
                assert_eq!(hand_over.owner_id(), Some(claimant));
                self.node.answer(&session, &Answer::Paired(paired(&self.key, &claimant, &hand_over, role)))
            }
            Outcome::Asked { request: Request::Look, .. } => {
                self.node.answer(&session, &Answer::Introduction(Introduction::default()))
            }
        }
    }

    /// Up to the open channel.
    fn open(&mut self, who: &Person, secret: &Secret, slot: Slot) -> Result<Opened, PairError> {
        let (claimant, hello) = who.hello(Some(self.fingerprint()), secret, slot);
        let proving = claimant.welcome(&self.say(who.session, &hello))?;
        let (confirming, confirm) = who.sign(proving);
        let (opened, introduction) = confirming.confirmed(&self.say(who.session, &confirm))?;
        assert_eq!(introduction.name, "roof-3");
        assert_eq!(opened.node(), self.key.node_id());
        Ok(opened)
    }

    fn pair(&mut self, who: &Person, secret: &Secret) -> Result<Paired, PairError> {
        let mut opened = self.open(who, secret, Slot::Screen)?;
        let asked = opened.ask(Request::HandOver(Box::default()));
        match opened.answer(&self.say(who.session, &asked))? {
            Answer::Paired(paired) => {
                opened.check_delegation(&paired, 1_000)?;
                Ok(paired)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn paired(node: &NodeKey, owner: &NodeId, hand_over: &HandOver, role: Role) -> Paired {
    let did = |id: &NodeId| Did::parse(&id.to_string()).unwrap();
    let capability = |resource: String| Capability {
        ability: Ability::parse("*").unwrap(),
        resource: Resource::parse(&resource).unwrap(),
    };
    let delegation = Delegation {
        issuer: did(&node.node_id()),
        audience: did(owner),
        subject: Subject::Implied,
        capabilities: vec![capability(format!("macula:{}/*", node.node_id()))],
        policy: Policy::default(),
        not_before: None,
        expires: None,
        nonce: vec![1; 12],
        meta: Default::default(),
        proofs: Vec::new(),
    };
    Paired {
        delegation: chain::encode(&[jwt::issue(&delegation, node).unwrap()]).unwrap().into(),
        name: hand_over.name.clone().unwrap_or_default(),
        realm: hand_over.realm.clone().unwrap_or_default(),
        addresses: Vec::new(),
        notes: Vec::new(),
        role,
    }
}

struct Person {
    key: NodeKey,
    session: Session,
}

fn person(n: u8) -> Person {
    Person { key: NodeKey::from_seed(&[n; 32]), session: [n; 16] }
}

impl Person {
    fn hello(&self, fingerprint: Option<Fingerprint>, secret: &Secret, slot: Slot) -> (Claimant, Vec<u8>) {
        Claimant::new(
            self.key.node_id(),
            (fingerprint, secret, slot),
            self.session,
            &[self.session[0] ^ 0x55; 32],
        )
    }

    fn sign(&self, proving: Proving) -> (crate::claimant::Confirming, Vec<u8>) {
        let signature = self.key.sign_raw(&proving.to_sign());
        proving.signed(&signature)
    }
}

fn wrong() -> Secret {
    "0000-0000-0000".parse().unwrap()
}

fn refused(bytes: &[u8]) -> Option<Refused> {
    match Message::decode(bytes) {
        Ok(Message::Refused(refused)) => Some(refused),
        _ => None,
    }
}

#[test]
fn whoever_knows_the_code_becomes_the_owner() {
    let mut pair = Pair::new(Standing::Unowned);
    let secret = pair.secret(Slot::Screen);
    let shown = pair.node.shown();
    let paired = pair.pair(&person(5), &secret).unwrap();
    assert_eq!(paired.role, Role::Owner);
    assert_ne!(pair.node.shown(), shown);
    assert_eq!(pair.node.standing(), Standing::Owned);
    assert_eq!(pair.node.code(Slot::Screen), None);
    assert_eq!(pair.node.code(Slot::File), None);
    assert_eq!(pair.pair(&person(6), &secret), Err(PairError::Owned));
}

#[test]
fn the_code_in_the_file_does_too_and_one_may_look_around_first() {
    let mut pair = Pair::new(Standing::Unowned);
    let kept: Secret = "7K3M-9QXT-2FAB".parse().unwrap();
    pair.node.keep_file_code(kept.clone());
    pair.now += 100 * 24 * 3600 * 1000;
    pair.refresh();
    let who = person(5);
    let mut opened = pair.open(&who, &kept, Slot::File).unwrap();
    assert_ne!(pair.secret(Slot::File), kept, "used");
    for _ in 0..3 {
        let look = opened.ask(Request::Look);
        let answer = opened.answer(&pair.say(who.session, &look)).unwrap();
        assert_eq!(answer, Answer::Introduction(Introduction::default()));
    }
    assert_eq!(
        pair.open(&person(6), &kept, Slot::Screen).err(),
        Some(PairError::WrongCode),
        "the other slot's"
    );
}

#[test]
fn only_the_secret_is_typed() {
    let mut pair = Pair::new(Standing::Unowned);
    let (who, secret) = (person(5), pair.secret(Slot::Screen));
    let (claimant, hello) = who.hello(None, &secret, Slot::Screen);
    let proving = claimant.welcome(&pair.say(who.session, &hello)).unwrap();
    assert_eq!(proving.node(), pair.key.node_id());
    let (confirming, confirm) = who.sign(proving);
    confirming.confirmed(&pair.say(who.session, &confirm)).unwrap();
}

#[test]
fn five_wrong_codes_kill_the_right_one_and_all_wrong_ones_sound_alike() {
    let mut pair = Pair::new(Standing::Unowned);
    let secret = pair.secret(Slot::Screen);
    let mut answers = Vec::new();
    for n in 0..TRIES as u8 {
        assert_eq!(pair.secret(Slot::Screen), secret, "{n} wrong guesses");
        let who = person(10 + n);
        let (claimant, hello) = who.hello(Some(pair.fingerprint()), &wrong(), Slot::Screen);
        let Outcome::Say(welcome) = pair.step(&format!("place {n}"), who.session, &hello) else { panic!() };
        let (_, confirm) = who.sign(claimant.welcome(&welcome).unwrap());
        let Outcome::Say(answer) = pair.step(&format!("place {n}"), who.session, &confirm) else { panic!() };
        answers.push(answer);
    }
    assert!(answers.iter().all(|answer| *answer == Message::Refused(Refused::WrongCode).encode()));
    let fresh = pair.secret(Slot::Screen);
    assert_ne!(fresh, secret);
    assert_eq!(pair.pair(&person(20), &secret), Err(PairError::WrongCode), "even the right one is dead");
    pair.pair(&person(21), &fresh).unwrap();
}

#[test]
fn one_place_that_guesses_wrong_is_not_heard_for_a_while() {
    let mut pair = Pair::new(Standing::Unowned);
    for n in 0..TRIES as u8 {
        assert_eq!(pair.pair(&person(10 + n), &wrong()), Err(PairError::WrongCode));
    }
    let secret = pair.secret(Slot::Screen);
    assert_eq!(pair.pair(&person(20), &secret), Err(PairError::Busy));
    pair.now += BAN_MS;
    pair.refresh();
    let secret = pair.secret(Slot::Screen);
    pair.pair(&person(21), &secret).unwrap();
}

#[test]
fn each_run_is_one_guess() {
    let mut pair = Pair::new(Standing::Unowned);
    let who = person(5);
    let (claimant, hello) = who.hello(None, &wrong(), Slot::Screen);
    let (_, confirm) = who.sign(claimant.welcome(&pair.say(who.session, &hello)).unwrap());
    assert_eq!(refused(&pair.say(who.session, &confirm)), Some(Refused::WrongCode));
    for _ in 0..9 {
        assert_eq!(refused(&pair.say(who.session, &confirm)), Some(Refused::WrongCode), "no second");
    }
    let secret = pair.secret(Slot::Screen);
    pair.pair(&person(6), &secret).unwrap();
}

#[test]
fn codes_expire_are_used_once_and_shown_anew() {
    let mut pair = Pair::new(Standing::Unowned);
    let (first, until) =
        pair.node.code(Slot::Screen).map(|(secret, until)| (secret.clone(), until.unwrap())).unwrap();
    assert_eq!(until, pair.now + SHOWN_MS);
    let file = pair.secret(Slot::File);
    let late = person(4);
    let (claimant, hello) = late.hello(None, &first, Slot::Screen);
    pair.now = until - 1;
    let welcome = pair.say(late.session, &hello);
    assert_eq!(pair.secret(Slot::Screen), first);
    pair.now = until;
    assert!(pair.refresh(), "shown anew");
    let second = pair.secret(Slot::Screen);
    assert_ne!(second, first);
    assert_eq!(pair.secret(Slot::File), file, "the file is not written for that");
    assert_eq!(pair.pair(&person(5), &first), Err(PairError::WrongCode));
    let (confirming, confirm) = late.sign(claimant.welcome(&welcome).unwrap());
    confirming.confirmed(&pair.say(late.session, &confirm)).expect("begun in time");
    assert!(pair.open(&person(6), &second, Slot::Screen).is_ok());
    assert_ne!(pair.secret(Slot::Screen), second, "used, though nobody owns it yet");
    assert_eq!(pair.open(&person(7), &second, Slot::Screen).err(), Some(PairError::WrongCode));
}

#[test]
fn of_two_claimants_with_good_codes_the_first_to_finish_wins() {
    let mut pair = Pair::new(Standing::Unowned);
    let (a, b) = (person(5), person(6));
    let secret = pair.secret(Slot::Screen);
    let mut first = pair.open(&a, &secret, Slot::Screen).unwrap();
    let secret = pair.secret(Slot::Screen);
    pair.pair(&b, &secret).unwrap();
    let asked = first.ask(Request::HandOver(Box::default()));
    assert_eq!(first.answer(&pair.say(a.session, &asked)), Err(PairError::WrongCode));
    assert_eq!(pair.node.standing(), Standing::Owned);
}

#[test]
fn an_answer_that_got_lost_is_said_again() {
    let mut pair = Pair::new(Standing::Unowned);
    let (who, secret) = (person(5), pair.secret(Slot::Screen));
    let (claimant, hello) = who.hello(None, &secret, Slot::Screen);
    let welcome = pair.say(who.session, &hello);
    assert_eq!(pair.say(who.session, &hello), welcome);
    let (confirming, confirm) = who.sign(claimant.welcome(&welcome).unwrap());
    let confirmed = pair.say(who.session, &confirm);
    assert_eq!(pair.say(who.session, &confirm), confirmed);
    let mut opened = confirming.confirmed(&confirmed).unwrap().0;
    let asked = opened.ask(Request::HandOver(Box::default()));
    let answer = pair.say(who.session, &asked);
    assert_eq!(pair.say(who.session, &asked), answer);
    assert!(matches!(opened.answer(&answer), Ok(Answer::Paired(_))));
    pair.now += crate::limits::AFTERWARDS_MS;
    assert_eq!(refused(&pair.say(who.session, &asked)), Some(Refused::WrongCode));
}

#[test]
fn a_node_that_declines_may_be_asked_again() {
    let mut pair = Pair::new(Standing::Unowned);
    let (who, secret) = (person(5), pair.secret(Slot::Screen));
    let mut opened = pair.open(&who, &secret, Slot::Screen).unwrap();
    let asked = opened.ask(Request::HandOver(Box::default()));
    assert!(matches!(pair.step(LAN, who.session, &asked), Outcome::Asked { .. }));
    assert_eq!(refused(&pair.say(who.session, b"again")), Some(Refused::Malformed), "while it works");
    let declined = Answer::Declined(Declined { why: "`name`: too long".into() });
    let answer = pair.node.answer(&who.session, &declined);
    assert_eq!(opened.answer(&answer), Ok(declined));
    let asked = opened.ask(Request::HandOver(Box::default()));
    assert!(matches!(opened.answer(&pair.say(who.session, &asked)), Ok(Answer::Paired(_))));
}

#[test]
fn runs_are_few_and_end_by_themselves() {
    let mut pair = Pair::new(Standing::Unowned);
    let secret = pair.secret(Slot::Screen);
    let hello = |n: u8| person(n).hello(None, &secret, Slot::Screen).1;
    for n in 0..MAX_OPENING_RUNS as u8 {
        let from = format!("place {}", n as usize / MAX_OPENING_RUNS_EACH);
        let Outcome::Say(answer) = pair.step(&from, [10 + n; 16], &hello(10 + n)) else { panic!() };
        assert_eq!(refused(&answer), None);
    }
    for from in ["place 0", "place 9"] {
        let Outcome::Say(answer) = pair.step(from, [90; 16], &hello(90)) else { panic!() };
        assert_eq!(refused(&answer), Some(Refused::Busy), "{from}");
    }
    pair.now += OPENING_MS;
    let who = person(91);
    let mut opened = pair.open(&who, &secret, Slot::Screen).unwrap();
    pair.now += IDLE_MS;
    let look = opened.ask(Request::Look);
    assert_eq!(refused(&pair.say(who.session, &look)), Some(Refused::WrongCode));
    for n in 0..2 * MAX_OPEN_RUNS as u8 {
        pair.now += 60_000;
        pair.refresh();
        let secret = pair.secret(Slot::Screen);
        pair.open(&person(100 + n), &secret, Slot::Screen).unwrap();
    }
    assert!(pair.node.runs.len() <= MAX_OPEN_RUNS);
}

#[test]
fn an_owner_invites_one_claimant() {
    let mut pair = Pair::new(Standing::Owned);
    assert_eq!(pair.node.code(Slot::Screen), None);
    pair.node.invite(pair.now, SHOWN_MS, Role::Delegate, &[77; 32]);
    let secret = pair.secret(Slot::Screen);
    assert_eq!(pair.node.code(Slot::File), None, "nothing in the file of a node that has an owner");
    assert_eq!(pair.pair(&person(5), &secret).unwrap().role, Role::Delegate);
    assert_eq!(pair.node.standing(), Standing::Owned);

    pair.node.invite(pair.now, SHOWN_MS, Role::NewOwner, &[78; 32]);
    let secret = pair.secret(Slot::Screen);
    pair.now += SHOWN_MS;
    assert_eq!(pair.pair(&person(6), &secret), Err(PairError::Owned), "expired");

    pair.now += BAN_MS;
    pair.node.invite(pair.now, SHOWN_MS, Role::NewOwner, &[79; 32]);
    for n in 0..TRIES as u8 {
        assert_eq!(pair.pair(&person(10 + n), &wrong()), Err(PairError::WrongCode));
    }
    pair.now += 1;
    pair.refresh();
    assert_eq!(pair.node.standing(), Standing::Owned, "guessed at too often");
}

/// What somebody between the two can do with each message.
#[test]
fn every_flipped_bit_is_found_and_nothing_was_told() {
    let secret = Pair::new(Standing::Unowned).secret(Slot::Screen);
    let who = person(5);
    let good = transcript_of(&who, &secret, |_, _| {}).unwrap();
    assert_eq!(good.len(), 6);
    for (index, message) in good.iter().enumerate() {
        for bit in 0..message.len() * 8 {
            let flipped = transcript_of(&who, &secret, |at, bytes| {
                if at == index {
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            });
            assert!(flipped.is_err(), "message {index}, bit {bit}");
        }
    }
}

/// The six messages of a whole pairing, each shown to `between` before it arrives.
fn transcript_of(
    who: &Person,
    secret: &Secret,
    mut between: impl FnMut(usize, &mut Vec<u8>),
) -> Result<Vec<Vec<u8>>, PairError> {
    let mut pair = Pair::new(Standing::Unowned);
    let mut seen = Vec::new();
    let mut pass = |mut bytes: Vec<u8>| {
        between(seen.len(), &mut bytes);
        seen.push(bytes.clone());
        bytes
    };
    let (claimant, hello) = who.hello(Some(pair.fingerprint()), secret, Slot::Screen);
    let welcome = pair.say(who.session, &pass(hello));
    let (confirming, confirm) = who.sign(claimant.welcome(&pass(welcome))?);
    let confirmed = pair.say(who.session, &pass(confirm));
    let (mut opened, _) = confirming.confirmed(&pass(confirmed))?;
    let asked = opened.ask(Request::HandOver(Box::default()));
    let answer = pair.say(who.session, &pass(asked));
    match opened.answer(&pass(answer))? {
        Answer::Paired(_) => Ok(seen),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_old_run_played_again_fails() {
    let mut pair = Pair::new(Standing::Unowned);
    let (who, secret) = (person(5), pair.secret(Slot::Screen));
    let (claimant, hello) = who.hello(None, &secret, Slot::Screen);
    let (_, confirm) = who.sign(claimant.welcome(&pair.say(who.session, &hello)).unwrap());
    // The same code, the same words; only the node has chosen anew.
    pair.now += OPENING_MS;
    let welcome = pair.say(who.session, &hello);
    assert_eq!(refused(&welcome), None);
    assert_eq!(refused(&pair.say(who.session, &confirm)), Some(Refused::WrongCode));
}

#[test]
fn what_the_node_said_comes_back_to_it() {
    let mut pair = Pair::new(Standing::Unowned);
    let (who, secret) = (person(5), pair.secret(Slot::Screen));
    let (claimant, hello) = who.hello(None, &secret, Slot::Screen);
    let welcome = pair.say(who.session, &hello);
    assert_eq!(refused(&pair.say(who.session, &welcome)), Some(Refused::Malformed));
    // And to the claimant what it said itself.
    assert!(matches!(claimant.welcome(&hello), Err(PairError::Malformed(_))));
    let mut opened = pair.open(&person(6), &secret, Slot::Screen).unwrap();
    let asked = opened.ask(Request::Look);
    assert!(matches!(opened.answer(&asked), Err(PairError::NotThisNode(_))));
}

/// Somebody who has not seen the code answers the claimant, or asks the node, or does both.
#[test]
fn a_man_in_the_middle_is_found_whether_he_relays_or_substitutes() {
    let mut pair = Pair::new(Standing::Unowned);
    let (who, secret) = (person(5), pair.secret(Slot::Screen));
    let print = Some(pair.fingerprint());
    let mallory = person(66);

    // He is a node himself, with a code that he makes up.
    let mut his = NodeSide::new(mallory.key.node_id(), Standing::Unowned);
    his.refresh(0, [&[9; 32], &[8; 32]]);
    let (claimant, hello) = who.hello(print, &secret, Slot::Screen);
    let Outcome::Say(welcome) = his.step(0, LAN, who.session, &hello, &[3; 32]) else { panic!() };
    assert!(matches!(claimant.welcome(&welcome), Err(PairError::NotThisNode(_))), "another key");

    // He says that he is the node, and echoes.
    let mut liar = NodeSide::new(pair.key.node_id(), Standing::Unowned);
    liar.refresh(0, [&[9; 32], &[8; 32]]);
    let (claimant, hello) = who.hello(print, &secret, Slot::Screen);
    let Outcome::Say(welcome) = liar.step(0, LAN, who.session, &hello, &[3; 32]) else { panic!() };
    let (confirming, confirm) = who.sign(claimant.welcome(&welcome).unwrap());
    let Outcome::Say(answer) = liar.step(1, LAN, who.session, &confirm, &[3; 32]) else { panic!() };
    assert_eq!(confirming.confirmed(&answer).err(), Some(PairError::WrongCode), "he cannot go on");
    let (claimant, hello) = who.hello(print, &secret, Slot::Screen);
    let Outcome::Say(welcome) = liar.step(99_999, LAN, who.session, &hello, &[4; 32]) else { panic!() };
    let (confirming, _) = who.sign(claimant.welcome(&welcome).unwrap());
    let made_up = Message::Confirmed { tag: [0; TAG], sealed: vec![0; 300] }.encode();
    assert!(
        matches!(confirming.confirmed(&made_up), Err(PairError::NotThisNode(_))),
        "he makes something up"
    );

    // He relays, with his own key in the hello: he would be the owner.
    let (claimant, hello) = who.hello(print, &secret, Slot::Screen);
    let Ok(Message::Hello { pake, slot, .. }) = Message::decode(&hello) else { panic!() };
    let forged = Message::hello(who.session, mallory.key.node_id(), pake, slot).encode();
    let welcome = pair.say(who.session, &forged);
    let (_, confirm) = who.sign(claimant.welcome(&welcome).unwrap());
    assert_eq!(refused(&pair.say(who.session, &confirm)), Some(Refused::WrongCode));

    // He relays faithfully up to the end, and has learnt nothing with which to go on.
    let mut opened = pair.open(&who, &secret, Slot::Screen).unwrap();
    let forged = Message::Sealed(vec![0; 272]).encode();
    let asked = opened.ask(Request::Look);
    assert_eq!(refused(&pair.say(who.session, &forged)), Some(Refused::Malformed));
    assert_eq!(refused(&pair.say(who.session, &asked)), Some(Refused::WrongCode), "and the run is over");
}

#[test]
fn whoever_knows_the_code_but_holds_no_key_owns_nothing() {
    let mut pair = Pair::new(Standing::Unowned);
    let (who, secret) = (person(5), pair.secret(Slot::Screen));
    let (claimant, hello) = who.hello(None, &secret, Slot::Screen);
    let proving = claimant.welcome(&pair.say(who.session, &hello)).unwrap();
    let (_, confirm) = proving.signed(&person(6).key.sign_raw(b"something else"));
    assert_eq!(refused(&pair.say(who.session, &confirm)), Some(Refused::WrongCode));

    // A node that has read the code from another one's screen.
    let secret = pair.secret(Slot::Screen);
    let (claimant, hello) = person(7).hello(Some(pair.fingerprint()), &secret, Slot::Screen);
    let welcome = pair.say([7; 16], &hello);
    let (confirming, confirm) = person(7).sign(claimant.welcome(&welcome).unwrap());
    let Outcome::Prove { transcript, .. } = pair.step(LAN, [7; 16], &confirm) else { panic!() };
    let signature = person(66).key.sign(domain::PAIR_NODE, &transcript);
    let said = pair.node.prove(&[7; 16], &signature, Introduction::default());
    assert!(matches!(confirming.confirmed(&said), Err(PairError::NotThisNode(_))));
}

#[test]
fn nobody_hands_over_for_another() {
    let mut pair = Pair::new(Standing::Unowned);
    let (who, secret) = (person(5), pair.secret(Slot::Screen));
    let mut opened = pair.open(&who, &secret, Slot::Screen).unwrap();
    let other = HandOver { owner: person(6).key.node_id().to_string(), ..HandOver::default() };
    let asked = opened.ask(Request::HandOver(Box::new(other)));
    let Outcome::Asked { request: Request::HandOver(got), .. } = pair.step(LAN, who.session, &asked) else {
        panic!()
    };
    assert_eq!(got.owner_id(), Some(who.key.node_id()));
}

#[test]
fn versions_are_agreed_or_it_ends() {
    let mut pair = Pair::new(Standing::Unowned);
    let hello = |oldest: u16, newest: u16| Message::Hello {
        newest,
        oldest,
        session: [9; 16],
        claimant: person(9).key.node_id(),
        pake: vec![0x41; 33],
        slot: Slot::Screen,
    };
    assert_eq!(refused(&pair.say([9; 16], &hello(2, 3).encode())), Some(Refused::Version));
    assert_eq!(refused(&pair.say([9; 16], &hello(0, 0).encode())), Some(Refused::Version));
    let welcome = pair.say([9; 16], &hello(1, 7).encode());
    assert!(matches!(Message::decode(&welcome), Ok(Message::Welcome { version: 1, .. })));
    assert_eq!(
        refused(&pair.say([8; 16], &hello(1, 1).encode())),
        Some(Refused::Malformed),
        "another's session"
    );
}

/// Byte for byte what a second implementation must make of the same secrets (`docs/protocol.md`).
#[test]
fn golden() {
    let secret: Secret = "7K3M-9QXT-2FAB".parse().unwrap();
    let claimant_key = NodeKey::from_seed(&[2; 32]);
    let (pake_a, a) = schedule::claimant_pake(&secret, &[3; 32]);
    let (pake_b, b) = schedule::node_pake(&secret, &[4; 32]);
    let hello = Message::hello([5; 16], claimant_key.node_id(), a, Slot::Screen).encode();
    let welcome =
        Message::Welcome { version: 1, node: NodeKey::from_seed(&[1; 32]).node_id(), pake: b.clone() }
            .encode();
    let shared = pake_a.finish(&b).unwrap();
    let Ok(Message::Hello { pake, .. }) = Message::decode(&hello) else { panic!() };
    assert_eq!(pake_b.finish(&pake).unwrap(), shared);
    let keys = Keys::new(&hello, &welcome, &shared);
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let mut sender = Half::new(keys.from_claimant.clone(), keys.transcript);
    let vectors = [
        ("hello", hex(&hello)),
        ("welcome", hex(&welcome)),
        ("shared", hex(&shared)),
        ("transcript", hex(&keys.transcript)),
        ("claimant confirms", hex(&confirm::by_claimant(&keys))),
        ("node confirms", hex(&confirm::by_node(&keys, b"confirm"))),
        ("from claimant", hex(keys.from_claimant.as_slice())),
        ("from node", hex(keys.from_node.as_slice())),
        ("look", hex(&sender.seal(&Request::Look)[..32])),
    ];
    let text: String = vectors.iter().map(|(name, hex)| format!("{name}: {hex}\n")).collect();
    assert_eq!(text, include_str!("../vectors.txt"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_that_is_sent_upsets_a_node(messages in prop::collection::vec((0u8..3, prop::collection::vec(any::<u8>(), 0..80)), 1..20)) {
        let mut pair = Pair::new(Standing::Unowned);
        for (n, bytes) in messages {
            let answer = pair.say([n; 16], &bytes);
            prop_assert!(Message::decode(&answer).is_ok());
        }
    }
}
