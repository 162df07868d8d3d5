//! Pairing: the claimant's side (`pairing_proto::claimant`) for one run at a time. The page carries the messages.

use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;
use pairing_proto::claimant::{Confirming, Proving};
use pairing_proto::{
    Answer, Claimant, HandOver, Introduction, Opened, PairCode, PairError, Paired, Request, Secret, Slot,
    setup,
};
use serde_json::{Value, json};

use crate::request::Question;
use crate::sign::{bytes, node_id};

/// Where the run stands. Any failure ends it.
enum Run {
    Hello(Claimant),
    Proving(Proving),
    Confirming(Confirming),
    Opened(Opened),
}

static RUN: Mutex<Option<Run>> = Mutex::new(None);

/// Words for people, and one for the page.
pub struct Failed(pub String, pub Option<&'static str>);

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Self(text, None)
    }
}

impl From<PairError> for Failed {
    fn from(error: PairError) -> Self {
        Self(error.to_string(), Some(error.word()))
    }
}

pub fn step(step: &str, question: &Question) -> Result<Value, Failed> {
    let mut slot = RUN.lock().unwrap_or_else(PoisonError::into_inner);
    if step == "begin" {
        let (run, answer) = begin(question)?;
        *slot = Some(run);
        return Ok(answer);
    }
    let (run, answer) = go_on(slot.take(), step, question)?;
    *slot = Some(run);
    Ok(answer)
}

/// `code` (the page's own address, or `macula:pair?...`) or a typed `secret`; `public`; `random`, 48 bytes.
fn begin(question: &Question) -> Result<(Run, Value), Failed> {
    let me = node_id(question.text("public")?)?;
    let random: [u8; 48] = bytes(question.text("random")?, "random bytes")?;
    let (mut session, mut secret_bytes) = ([0; 16], [0; 32]);
    session.copy_from_slice(&random[..16]);
    secret_bytes.copy_from_slice(&random[16..]);
    let (fingerprint, secret, place) = match question.optional("code") {
        Some(code) => {
            let code: PairCode = code.parse().map_err(|e| format!("{e}"))?;
            (Some(code.fingerprint), code.secret.clone(), code.slot)
        }
        None => (None, question.text("secret")?.parse::<Secret>().map_err(|e| format!("{e}"))?, Slot::Screen),
    };
    let (claimant, hello) = Claimant::new(me, (fingerprint, &secret, place), session, &secret_bytes);
    Ok((
        Run::Hello(claimant),
        json!({ "send": HEXLOWER.encode(&hello), "session": HEXLOWER.encode(&session) }),
    ))
}

fn go_on(run: Option<Run>, step: &str, question: &Question) -> Result<(Run, Value), Failed> {
    let heard = || -> Result<Vec<u8>, Failed> {
        let hex = question.text("answer")?;
        Ok(HEXLOWER.decode(hex.as_bytes()).map_err(|e| format!("the answer: {e}"))?)
    };
    let send = |message: Vec<u8>| json!({ "send": HEXLOWER.encode(&message) });
    Ok(match (run, step) {
        (Some(Run::Hello(claimant)), "welcome") => {
            let proving = claimant.welcome(&heard()?)?;
            let told =
                json!({ "sign": HEXLOWER.encode(&proving.to_sign()), "node": proving.node().to_string() });
            (Run::Proving(proving), told)
        }
        (Some(Run::Proving(proving)), "signed") => {
            let signature: [u8; 64] = bytes(question.text("signature")?, "signature")?;
            let (confirming, message) = proving.signed(&signature);
            (Run::Confirming(confirming), send(message))
        }
        (Some(Run::Confirming(confirming)), "confirmed") => {
            let (opened, found) = confirming.confirmed(&heard()?)?;
            (Run::Opened(opened), introduction(&found))
        }
        (Some(Run::Opened(mut opened)), "look") => {
            let message = opened.ask(Request::Look);
            (Run::Opened(opened), send(message))
        }
        (Some(Run::Opened(mut opened)), "hand-over") => {
            let wanted = hand_over(question);
            wanted.check().map_err(|e| e.to_string())?;
            let message = opened.ask(Request::HandOver(Box::new(wanted)));
            (Run::Opened(opened), send(message))
        }
        (Some(Run::Opened(mut opened)), "answer") => {
            let told = match opened.answer(&heard()?)? {
                Answer::Introduction(found) => introduction(&found),
                Answer::Declined(declined) => json!({ "declined": declined.why }),
                Answer::Paired(found) => {
                    opened.check_delegation(&found, question.number("now")?)?;
                    paired(&found)
                }
            };
            (Run::Opened(opened), told)
        }
        (_, step) => return Err(format!("`{step}` is out of turn: begin again").into()),
    })
}

fn hand_over(question: &Question) -> HandOver {
    let text = |name| question.optional(name).map(str::to_owned).filter(|text| !text.is_empty());
    let wifi = text("ssid").map(|ssid| setup::Wifi { ssid, passphrase: text("passphrase") });
    HandOver {
        name: text("name"),
        realm: text("realm"),
        wifi: wifi.into_iter().collect(),
        country: text("country"),
        time_zone: text("time_zone"),
        channel: text("channel"),
        // Whoever publishes them signs them, unless somebody says otherwise with `maculactl`.
        release_keys: text("channel").and(text("publisher")).into_iter().collect(),
        publisher: text("channel").and(text("publisher")),
        ..HandOver::default()
    }
}

fn introduction(found: &Introduction) -> Value {
    let network = |n: &setup::Network| json!({ "ssid": n.ssid, "dbm": n.dbm, "secured": n.secured });
    let networks = found.networks.as_ref().map(|all| all.iter().map(network).collect::<Vec<_>>());
    json!({ "introduction": {
        "name": found.name,
        "board": found.board,
        "version": found.version,
        "networks": networks,
        "can": found.can,
        "role": role(found.role),
    }})
}

fn paired(found: &Paired) -> Value {
    let tokens = os_ucan::chain::decode(&found.delegation).unwrap_or_default();
    json!({ "paired": {
        "name": found.name,
        "realm": found.realm,
        "notes": found.notes,
        "role": role(found.role),
        "delegation": os_ucan::chain::to_text(&tokens),
    }})
}

fn role(role: setup::Role) -> &'static str {
    match role {
        setup::Role::Owner => "owner",
        setup::Role::NewOwner => "new-owner",
        setup::Role::Delegate => "delegate",
    }
}
