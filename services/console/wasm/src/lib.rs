//! What the console computes in the browser with the node's own code: keys, orders, delegations, chains, the audit log's chain.
//!
//! One question in, one answer out, both JSON ([`answer`]); bytes are lower-case hexadecimal. Nothing is kept between two questions but
//! where a pairing stands, and nothing is read but the question: the time, nonces and random bytes come from the page. A key may stay with the browser: whoever
//! asks for something signed without `seed` or `signature` is told which bytes to sign, and asks again with the signature.
//!
//! Built as a `cdylib` for wasm32 by `cargo xtask` (profile `wasm`); its exports are in [`abi`].

#[cfg(target_arch = "wasm32")]
mod abi;
mod audit;
mod inspect;
mod order;
mod pair;
mod request;
mod sign;

use pair::Failed;
use request::Question;
use serde_json::{Value, json};

/// `{"ok": ...}`, `{"sign": hex}` or `{"error": text}`.
///
/// | `do` | with | answer |
/// |---|---|---|
/// | `key` | `seed` (RFC 8032) | its public key |
/// | `did` | `public` | how it is written |
/// | `sign` | `seed`, `bytes` | the signature |
/// | `order` | signer, `node`, `about`?, `command`, `path` with query, `body`, `epoch`, `nonce`, `expires`, `proofs`? | an `Authorization` header (`docs/decisions/0025`) |
/// | `delegate` | signer, `to`, `can` (a list), `with`, `nonce`, `expires` | a token, in text |
/// | `inspect` | `tokens`, `now` | what a chain says, and what is wrong with it |
/// | `pair-begin`, `-welcome`, `-signed`, `-confirmed`, `-look`, `-hand-over`, `-answer` | see [`pair`] | what to send, to sign, or what the node said |
/// | `audit` | `segments`, as a node answers | its records, and whether their chain is whole |
///
/// A signer is `seed`, or `public` and in the end `signature`. Times are seconds since 1970, proofs and tokens text as
/// `maculactl ucan` writes it, the leaf first.
pub fn answer(question: &str) -> String {
    let answered = Question::parse(question).map_err(Failed::from).and_then(|question| {
        let asked = question.text("do")?;
        match asked.strip_prefix("pair-") {
            Some(step) => Ok(json!({ "ok": pair::step(step, &question)? })),
            None => Ok(ask(asked, &question)?),
        }
    });
    answered.unwrap_or_else(|Failed(error, word)| json!({ "error": error, "word": word })).to_string()
}

fn ask(asked: &str, question: &Question) -> Result<Value, String> {
    let ok = |value: Value| Ok(json!({ "ok": value }));
    match asked {
        "key" => ok(sign::public(question.text("seed")?)?.into()),
        "did" => ok(sign::node_id(question.text("public")?)?.to_string().into()),
        "sign" => ok(sign::sign(question.text("seed")?, question.text("bytes")?)?.into()),
        "order" => order::order(question),
        "delegate" => order::delegate(question),
        "inspect" => ok(inspect::inspect(question.text("tokens")?, question.number("now")?)?),
        "audit" => ok(audit::read(&question.byte_lists("segments")?)),
        other => Err(format!("nobody knows how to `{other}`")),
    }
}
