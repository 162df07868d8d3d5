//! Pairing with the real programs: who gets in, and what those read who do not. `cargo xtask test pairing`.

use std::io::Cursor;
use std::sync::atomic::Ordering;
use std::time::Duration;

use image::{GrayImage, ImageFormat, Luma};
use pairing_proto::message::Message;
use pairing_proto::{Answer, HandOver, PairCode, PairError, Refused, Slot};
use qrcode::{Color, QrCode};
use tests_pairing::man_in_the_middle::ManInTheMiddle;
use tests_pairing::node::Node;
use tests_pairing::person::Person;
use tests_pairing::phone::Phone;

const WRONG: &str = "0000-0000-0000";

fn wrong(code: &PairCode) -> PairCode {
    PairCode { secret: WRONG.parse().unwrap(), ..code.clone() }
}

fn refused(bytes: &[u8]) -> Option<Refused> {
    match Message::decode(bytes) {
        Ok(Message::Refused(refused)) => Some(refused),
        _ => None,
    }
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "wants programs: cargo xtask test pairing"]
async fn maculactl_pairs_by_the_code_and_is_the_owner() {
    let node = Node::start().await;
    let (me, other) = (Person::default(), Person::default());
    let report = node.code().await;
    assert_eq!(report.state, "unowned");
    assert!(report.expires_in_s > 500 && report.secret.len() == 14, "{report:?}");
    assert!(node.update.file().contains("macula:pair?k="), "{}", node.update.file());

    let uri = node.pair_code().await.uri();
    let peer = "did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx@192.0.2.1:4433";
    let arguments = ["--json", "pair", &uri, "--name", "roof-3", "--realm", "acme", "--peer", peer];
    let seen = me.maculactl(&arguments).await;
    assert!(seen.ok, "{seen:?}");
    let done = seen.json();
    assert_eq!(
        (&done["name"], &done["realm"], &done["role"]),
        (&"roof-3".into(), &"acme".into(), &"owner".into())
    );
    let owner = me.maculactl(&["--json", "key", "show"]).await.json()["id"].as_str().unwrap().to_owned();
    let config = node.config();
    assert_eq!(config.owner.unwrap().to_string(), owner);
    assert_eq!((config.name.as_str(), config.realm.as_str(), config.mesh.seeds.len()), ("roof-3", "acme", 1));
    assert!(node.config_text().contains("# a comment that stays"));
    assert_eq!(node.update.adoptions().len(), 1);
    let delegation = std::fs::read(done["delegation"].as_str().unwrap()).unwrap();
    assert!(!delegation.is_empty());

    node.settled().await;
    let report = node.code().await;
    assert_eq!((report.state.as_str(), report.uri.as_str()), ("owned", ""));
    assert_eq!(node.update.file(), "", "nothing on the boot partition of a node with an owner");
    let at = node.address().to_string();
    let shown = me.maculactl(&["--node", &at, "--json", "owner", "show"]).await;
    assert_eq!(shown.json()["owner"].as_str(), Some(owner.as_str()), "{shown:?}");
    let refused = other.maculactl(&["--node", &at, "key", "new"]).await;
    assert!(refused.ok);
    let refused = other.maculactl(&["--node", &at, "owner", "show"]).await;
    assert!(!refused.ok && refused.stderr.contains("not its owner"), "{refused:?}");

    // The same code again, by somebody else and by the owner.
    let seen = other.maculactl(&["pair", &uri]).await;
    assert!(!seen.ok && seen.stderr.contains("has an owner already"), "{seen:?}");
    assert!(
        seen.stderr.contains("owner invite") && seen.stderr.contains("boot menu"),
        "what to do next: {seen:?}"
    );
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "wants programs: cargo xtask test pairing"]
async fn a_picture_of_the_screen_or_the_file_on_the_card_will_do() {
    let node = Node::start().await;
    let me = Person::default();
    let code = node.pair_code().await;
    let photo = me.file("screen.png");
    std::fs::write(&photo, picture(&code.qr())).unwrap();
    let seen = me.maculactl(&["pair", "--image", photo.to_str().unwrap()]).await;
    assert!(
        seen.ok && seen.stdout.contains("is yours") && seen.stdout.contains("next: maculactl"),
        "{seen:?}"
    );

    let mut node = Node::start().await;
    let text = node.update.file();
    let uri = text.split('\'').nth(1).unwrap();
    let kept: PairCode = uri.parse().unwrap();
    assert_eq!((kept.slot, kept.addresses.len()), (Slot::File, 0));
    node.restart_pairing().await;
    assert_eq!(node.update.file(), text, "the same after a restart");
    let at = node.address().to_string();
    let seen = me.maculactl_with(&["--node", &at, "pair", "-"], uri.as_bytes()).await;
    assert!(seen.ok, "{seen:?}");
}

/// PNG of a QR code as a console draws it, light on dark.
fn picture(text: &str) -> Vec<u8> {
    let qr = QrCode::new(text).unwrap();
    let (side, scale) = (qr.width() as u32, 7);
    let colors = qr.to_colors();
    let image = GrayImage::from_fn((side + 8) * scale, (side + 8) * scale, |x, y| {
        let (x, y) = ((x / scale).wrapping_sub(4), (y / scale).wrapping_sub(4));
        let dark = x < side && y < side && colors[(y * side + x) as usize] == Color::Dark;
        Luma([if dark { 10 } else { 230 }])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "wants programs: cargo xtask test pairing"]
async fn a_phone_pairs_through_step_and_a_lost_answer_is_said_again() {
    let node = Node::start().await;
    let mut phone = Phone::new(1);
    let mut opened = phone.open(&node, &node.pair_code().await).await.unwrap();
    let wishes = HandOver { name: Some("Kitchen Pi".into()), ..HandOver::default() };
    let Ok(Answer::Declined(declined)) = phone.hand_over(&node, &mut opened, wishes).await else { panic!() };
    assert!(declined.why.contains("name"), "{declined}");
    assert_eq!(node.config().owner, None);

    node.update.breaks("the disk is full");
    let Ok(Answer::Declined(declined)) = phone.hand_over(&node, &mut opened, HandOver::default()).await
    else {
        panic!()
    };
    assert!(declined.why.contains("the disk is full"), "{declined}");
    assert_eq!((node.config().owner, node.code().await.state.as_str()), (None, "unowned"));

    let Ok(Answer::Paired(paired)) = phone.hand_over(&node, &mut opened, HandOver::default()).await else {
        panic!()
    };
    opened.check_delegation(&paired, 1_000).unwrap();
    assert_eq!(node.config().owner, Some(phone.key.node_id()));
    let asked = phone.said.last().unwrap().clone();
    let again = phone.say(&node, &asked).await;
    assert!(matches!(Message::decode(&again), Ok(Message::Sealed(_))));
    assert_eq!(node.update.adoptions().len(), 1, "said again, not done again");
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "wants programs: cargo xtask test pairing"]
async fn five_wrong_codes_and_the_right_one_is_dead() {
    let node = Node::start().await;
    let me = Person::default();
    let code = node.pair_code().await;
    for _ in 0..5 {
        assert_eq!(node.code().await.secret, code.secret.grouped());
        let seen = me.maculactl(&["--json", "pair", &wrong(&code).uri()]).await;
        assert!(!seen.ok && seen.stderr.contains("does not know this code"), "{seen:?}");
        assert!(seen.stderr.contains("read the one that the node shows now"), "what to do next: {seen:?}");
        assert_eq!(seen.json()["refused"], "wrong-code");
    }
    let fresh = node.pair_code().await;
    assert_ne!(fresh.secret, code.secret, "another is shown");
    let seen = me.maculactl(&["pair", &fresh.uri()]).await;
    assert!(!seen.ok && seen.stderr.contains("no more tries for now"), "guessed too often: {seen:?}");
    let other = Person::default();
    let seen = other.maculactl(&["pair", &code.uri()]).await;
    assert!(!seen.ok && seen.stderr.contains("does not know this code"), "{seen:?}");
    let seen = other.maculactl(&["pair", &fresh.uri()]).await;
    assert!(seen.ok, "{seen:?}");
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "wants programs: cargo xtask test pairing"]
async fn of_two_claimants_the_second_is_refused_and_old_words_are_worth_nothing() {
    let node = Node::start().await;
    let (mut first, mut second) = (Phone::new(1), Phone::new(2));
    let code = node.pair_code().await;
    let mut opened = first.open(&node, &code).await.unwrap();
    assert_eq!(second.open(&node, &code).await.err(), Some(PairError::WrongCode), "the code is used");
    let mut second = Phone::new(3);
    let mut also = second.open(&node, &node.pair_code().await).await.unwrap();
    let Ok(Answer::Paired(_)) = first.hand_over(&node, &mut opened, HandOver::default()).await else {
        panic!()
    };
    let late = second.hand_over(&node, &mut also, HandOver::default()).await;
    assert!(matches!(late, Err(PairError::WrongCode | PairError::Owned)), "{late:?}");
    assert_eq!(node.config().owner, Some(first.key.node_id()));

    // All that the first said, once more: to this node, and to another.
    let replayed = first.said.clone();
    let mut thief = Phone { session: first.session, ..Phone::new(9) };
    thief.session[0] ^= 1;
    for message in &replayed {
        assert!(refused(&thief.say(&node, message).await).is_some());
    }
    let another = Node::start().await;
    let mut thief = Phone { session: first.session, ..Phone::new(9) };
    for (n, message) in replayed.iter().enumerate() {
        let answer = thief.say(&another, message).await;
        assert_eq!(refused(&answer).is_some(), n > 0, "a hello may be anybody's");
    }
    assert_eq!(another.config().owner, None);
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "wants programs: cargo xtask test pairing"]
async fn a_man_in_the_middle_is_found_by_the_fingerprint_or_by_the_run() {
    let node = Node::start().await;
    let me = Person::default();
    let between = ManInTheMiddle::before(node.address());
    let code = PairCode { addresses: vec![between.address], ..node.pair_code().await };
    let seen = me.maculactl(&["--json", "--timeout", "20", "pair", &code.uri()]).await;
    assert!(!seen.ok && seen.stderr.contains("is not the node that shows this code"), "{seen:?}");
    assert!(seen.stderr.contains("Nothing was told to it"), "{seen:?}");
    assert_eq!(seen.json()["refused"], "not-this-node");
    assert_eq!(between.carried.load(Ordering::Relaxed), 0, "it ended before a word was said");

    // Without the fingerprint, the secret alone: he carries the run, and is not the one that it names.
    let at = between.address.to_string();
    let seen =
        me.maculactl(&["--json", "--node", &at, "--timeout", "20", "pair", &code.secret.grouped()]).await;
    assert!(!seen.ok && seen.stderr.contains("is not the node"), "{seen:?}");
    assert_eq!(seen.json()["refused"], "not-this-node");
    assert_eq!(between.carried.load(Ordering::Relaxed), 1);
    assert_eq!(node.config().owner, None);
    assert_eq!(node.code().await.secret, code.secret.grouped(), "and the code is still good");
    let seen = me.maculactl(&["--node", &node.address().to_string(), "pair", &code.secret.grouped()]).await;
    assert!(seen.ok, "{seen:?}");
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "wants programs: cargo xtask test pairing"]
async fn a_pairing_that_was_cut_after_the_commit_is_found_done() {
    let mut node = Node::start().await;
    let me = Person::default();
    let uri = node.pair_code().await.uri();
    assert!(me.maculactl(&["pair", &uri]).await.ok);
    node.settled().await;
    node.restart_pairing().await;
    assert_eq!(node.code().await.state, "owned");
    // Here `update` is played, so the owner asks what mesh itself answers.
    let at = node.address().to_string();
    let seen = me.maculactl(&["--node", &at, "nodes"]).await;
    assert!(seen.ok, "{seen:?}");
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "wants programs: cargo xtask test pairing"]
async fn an_owner_invites_and_hands_over() {
    let node = Node::start().await;
    let (first, second) = (Person::default(), Person::default());
    assert!(first.maculactl(&["pair", &node.pair_code().await.uri()]).await.ok);
    node.settled().await;
    let at = node.address().to_string();

    let seen = second.maculactl(&["--node", &at, "owner", "invite"]).await;
    assert!(!seen.ok, "only the owner invites: {seen:?}");
    let seen = first.maculactl(&["--node", &at, "--json", "owner", "invite", "--minutes", "5"]).await;
    assert!(seen.ok, "{seen:?}");
    let uri = seen.json()["uri"].as_str().unwrap().to_owned();
    assert_eq!(node.code().await.state, "invited");
    let seen = second.maculactl(&["--json", "--node", &at, "pair", &uri]).await;
    assert!(seen.ok, "{seen:?}");
    assert_eq!(seen.json()["role"], "new-owner");
    let id = |seen: tests_pairing::person::Seen| seen.json()["id"].as_str().unwrap().to_owned();
    let second_id = id(second.maculactl(&["--json", "key", "show"]).await);
    let first_id = id(first.maculactl(&["--json", "key", "show"]).await);
    assert_eq!(node.config().owner.unwrap().to_string(), second_id);

    node.settled().await;
    let seen = first.maculactl(&["--node", &at, "owner", "show"]).await;
    assert!(!seen.ok, "no owner any more, delegation or not: {seen:?}");
    let seen = second.maculactl(&["--node", &at, "owner", "transfer", &first_id]).await;
    assert!(!seen.ok && seen.stderr.contains("--yes"), "{seen:?}");
    let seen = second.maculactl(&["--node", &at, "owner", "transfer", &first_id, "--yes"]).await;
    assert!(seen.ok, "{seen:?}");
    node.settled().await;
    assert_eq!(node.config().owner.unwrap().to_string(), first_id);
    assert!(first.maculactl(&["--node", &at, "owner", "show"]).await.ok);
    let who: Vec<_> = node.update.adoptions().into_iter().map(|adoption| adoption.who).collect();
    assert!(who[1].contains("invited by the one before") && who[2].contains("by order of"), "{who:?}");
    tokio::time::sleep(Duration::from_millis(10)).await;
}
