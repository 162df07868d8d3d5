//! `rpc` and `pubsub`: the mesh as a service or an app uses it, by hand.

use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use data_encoding::BASE64;
use mesh_proto::pubsub::{Heard, TopicError};
use mesh_proto::rpc::{MAX_MESSAGE, Mode};
use mesh_proto::{pubsub, rpc};
use mesh_stream::{Subscription, TopicStreamError};
use serde_json::{Value, json};
use tokio::io::split;

use super::Session;
use crate::cli;
use crate::node::Node;
use crate::output::{clean, print};

/// Between two attempts to get back to a node.
const AGAIN: Duration = Duration::from_secs(2);

pub async fn rpc(s: &Session, verb: cli::Rpc) -> Result<()> {
    let cli::Rpc::Call { procedure, data, file, lines, many, wait } = verb;
    let input = match (data, file) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(path)) if path.as_os_str() == "-" => read(std::io::stdin())?,
        (None, Some(path)) => {
            let file =
                std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            read(file)?
        }
        (None, None) => Vec::new(),
    };
    let messages: Vec<&[u8]> = match lines {
        true => input.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect(),
        false => vec![&input],
    };
    let mode = match (lines, many) {
        (false, false) => Mode::Unary,
        (false, true) => Mode::Server,
        (true, false) => Mode::Client,
        (true, true) => Mode::Both,
    };
    let wait = Duration::from_secs(wait);
    s.ask(async |node| call(s, node, &procedure, mode, &messages, wait).await).await
}

async fn call(
    s: &Session,
    node: &Node,
    procedure: &str,
    mode: Mode,
    messages: &[&[u8]],
    wait: Duration,
) -> Result<()> {
    let (reader, writer) = split(node.open(rpc::PROTOCOL, procedure, wait).await?);
    let mut call = mesh_stream::call(reader, writer, mode, Some(wait));
    let sender = call.sender();
    let send = async {
        for message in messages {
            sender.send(message).await?;
        }
        sender.end().await
    };
    let receive = async {
        while let Some(answer) = call.next().await? {
            show(s, &answer)?;
        }
        anyhow::Ok(())
    };
    // A callee may answer, or refuse, before it has heard everything: its word is the one that counts.
    let (sent, received) = tokio::join!(send, receive);
    received.with_context(|| format!("`{procedure}` failed"))?;
    Ok(sent.or_else(|e| if mode == Mode::Both { Ok(()) } else { Err(e) })?)
}

/// As it is, for whoever pipes it on; with `--json` one line for each.
fn show(s: &Session, answer: &[u8]) -> Result<()> {
    if s.out.json {
        return s.out.show_line(&as_json(answer));
    }
    if std::io::stdout().is_terminal() {
        match std::str::from_utf8(answer) {
            Ok(text) => print(&(clean(text) + "\n")),
            Err(_) => print(&format!("({} bytes; pipe them somewhere, or say --json)\n", answer.len())),
        }
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    out.write_all(answer).and_then(|()| out.flush()).context("cannot write the answer")
}

fn as_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": BASE64.encode(bytes) }),
    }
}

fn read(from: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // What is given line by line may be more than one message.
    let most = 64 * MAX_MESSAGE as u64;
    if from.take(most + 1).read_to_end(&mut bytes)? as u64 > most {
        bail!("more than {most} bytes: such things travel as content (`maculactl content put`)");
    }
    Ok(bytes)
}

pub async fn pubsub(s: &Session, verb: cli::Pubsub) -> Result<()> {
    let cli::Pubsub::Listen { topic, count } = verb;
    let mut subscription = Subscription::default();
    let mut left = count.unwrap_or(u64::MAX);
    let mut met = false;
    while left > 0 {
        match listen(s, &topic, &mut subscription, &mut left, &mut met).await {
            Ok(()) => {}
            Err(e) if !met || is_refusal(&e) => return Err(e),
            Err(e) => eprintln!("maculactl: {e:#}; trying again"),
        }
        if left > 0 {
            tokio::time::sleep(AGAIN).await;
        }
    }
    Ok(())
}

/// On one connection, until it breaks or enough has been heard.
async fn listen(
    s: &Session,
    topic: &str,
    subscription: &mut Subscription,
    left: &mut u64,
    met: &mut bool,
) -> Result<()> {
    s.ask(async |node| {
        let stream = node.open(pubsub::PROTOCOL, topic, Duration::from_secs(60)).await?;
        let (mut reader, mut writer) = split(stream);
        subscription.begin(&mut writer).await?;
        while *left > 0 {
            let heard = subscription.next(&mut reader).await.context("not subscribed any more")?;
            let Some(heard) = heard else { break };
            *met = true;
            show_heard(s, heard)?;
            *left -= 1;
        }
        Ok(())
    })
    .await
}

fn show_heard(s: &Session, heard: Heard) -> Result<()> {
    match heard {
        Heard::Event { seq, payload } if s.out.json => {
            let mut line = as_json(&payload);
            line["seq"] = seq.into();
            s.out.show_line(&line)
        }
        Heard::Event { payload, .. } => {
            let text = String::from_utf8_lossy(&payload);
            print(&(clean(&text) + "\n"));
            Ok(())
        }
        Heard::Missed(missed) if s.out.json => s.out.show_line(&json!({ "missed": missed })),
        Heard::Missed(Some(n)) => {
            eprintln!("maculactl: {n} events are lost: they came faster than they were read");
            Ok(())
        }
        Heard::Missed(None) => {
            eprintln!("maculactl: events may be lost: the node has been restarted");
            Ok(())
        }
    }
}

fn is_refusal(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<TopicStreamError>())
        .any(|e| matches!(e, TopicStreamError::Topic(TopicError::Refused(_) | TopicError::Protocol(_))))
}
