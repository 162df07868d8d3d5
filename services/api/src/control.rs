//! The owner's calls: one request frame `{method, params}`, one response frame `{ok}` or `{error}`, CBOR through serde.
//!
//! What follows the frames (the bytes of a `put`) belongs to the method.

use std::future::Future;

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::frame;

pub const MAX_FRAME: usize = 4 * 1024 * 1024;

/// Protocol words (see `docs/ARCHITECTURE.md`, Wire).
pub mod protocol {
    pub const OS: &str = "control/1";
    pub const CONTENT: &str = "control-content/1";
    pub const DHT: &str = "control-dht/1";
    pub const MESH: &str = "control-mesh/1";
    pub const PAIRING: &str = "control-pairing/1";
    /// Not frames but D-Bus: the owner's RAUC clients (`maculactl rauc-bus`) and a bus that has one name.
    pub const RAUC: &str = "control-rauc/1";

    /// Whether a protocol is the owner's: the resource of its streams, where they have one, names the method that will be called.
    pub fn is_control(protocol: &str) -> bool {
        protocol.starts_with("control")
    }

    /// The last word of the ability that a method needs.
    pub fn ability(method: &str) -> &str {
        match method {
            "install" | "rollback" | "refresh" => "update",
            "logs_since" => "logs",
            other => other,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Request {
    method: String,
    /// CBOR of the method's own parameter type.
    params: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
enum Response {
    #[serde(rename = "ok")]
    Ok(Vec<u8>),
    #[serde(rename = "error")]
    Error(String),
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    minicbor_serde::to_vec(value).map_err(|e| anyhow!("cannot encode a control message: {e}"))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    minicbor_serde::from_slice(bytes).map_err(|e| anyhow!("control message does not decode: {e}"))
}

/// Calls a method and waits for its answer. The stream stays open for what the method sends beside it.
pub async fn call<S, P, T>(stream: &mut S, method: &str, params: &P) -> Result<T>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Serialize,
    T: DeserializeOwned,
{
    let sent = send(stream, method, params).await;
    match (answer(stream).await, sent) {
        // A refusal may be there before the request is all sent: its words are worth more than that nobody read on.
        (Err(e), Err(unsent)) if e.is::<NoAnswer>() => Err(unsent),
        (answered, _) => answered,
    }
}

/// The stream ended, or failed, before there was an answer.
#[derive(Debug, thiserror::Error)]
#[error("the node closed the stream without an answer")]
pub struct NoAnswer(#[source] std::io::Error);

/// Sends a request; [`answer`] reads what comes back.
pub async fn send<S, P>(stream: &mut S, method: &str, params: &P) -> Result<()>
where
    S: AsyncWrite + Unpin,
    P: Serialize,
{
    let request = Request { method: method.to_string(), params: encode(params)? };
    frame::write(stream, &encode(&request)?).await.with_context(|| format!("sending `{method}` failed"))
}

pub async fn answer<S, T>(stream: &mut S) -> Result<T>
where
    S: AsyncRead + Unpin,
    T: DeserializeOwned,
{
    let bytes = frame::expect(stream, MAX_FRAME).await.map_err(NoAnswer)?;
    match decode(&bytes)? {
        Response::Ok(value) => decode(&value),
        Response::Error(text) => Err(anyhow!(text)),
    }
}

/// A request as its handler sees it.
pub struct Call {
    pub method: String,
    params: Vec<u8>,
}

impl Call {
    pub fn params<T: DeserializeOwned>(&self) -> Result<T> {
        decode(&self.params).with_context(|| format!("parameters of `{}`", self.method))
    }

    /// For a method that this node does not know.
    pub fn unknown(&self) -> anyhow::Error {
        anyhow!(
            "this node does not know the method `{}`; is its release older than your maculactl?",
            self.method
        )
    }
}

/// An encoded answer, so that one handler can answer with many types.
pub struct Answer(Vec<u8>);

pub fn ok<T: Serialize>(value: &T) -> Result<Answer> {
    encode(value).map(Answer)
}

/// Reads the request, runs the handler, writes the answer. `resource` is what the stream was opened for, see [`read_call`].
pub async fn serve_one<S, F, Fut>(stream: S, resource: &str, handler: F) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnOnce(Call, S) -> Fut,
    Fut: Future<Output = (Result<Answer>, S)>,
{
    let mut stream = stream;
    let call = match read_call(&mut stream, resource).await? {
        Ok(call) => call,
        Err(other) => return reply(&mut stream, Err(other)).await,
    };
    let (answer, mut stream) = handler(call, stream).await;
    reply(&mut stream, answer).await
}

/// The two halves of [`serve_one`], for methods whose raw bytes follow the answer (`get`). The inner error is for the caller to hear:
/// mesh let it open this stream for the method that `resource` names (the owner, with none: for any), and it calls another.
pub async fn read_call<S: AsyncRead + Unpin>(stream: &mut S, resource: &str) -> Result<Result<Call>> {
    let request: Request = decode(&frame::expect(stream, MAX_FRAME).await?)?;
    if !resource.is_empty() && request.method != resource {
        return Ok(Err(anyhow!("this stream was opened for `{resource}`, not for `{}`", request.method)));
    }
    Ok(Ok(Call { method: request.method, params: request.params }))
}

/// What a caller reads when it may not call at all, length and all.
pub fn refusal_frame(text: &str) -> Vec<u8> {
    let body = encode(&Response::Error(text.to_owned())).unwrap_or_default();
    [&(body.len() as u32).to_be_bytes(), body.as_slice()].concat()
}

pub async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, answer: Result<Answer>) -> Result<()> {
    let response = match answer {
        Ok(Answer(value)) => Response::Ok(value),
        Err(e) => Response::Error(format!("{e:#}")),
    };
    frame::write(stream, &encode(&response)?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn calls_are_answered_and_errors_cross_over() {
        let (mut here, there) = tokio::io::duplex(4096);
        let server = async {
            serve_one(there, "", |call, s| async move {
                let n: u32 = call.params().unwrap();
                (if n == 7 { ok(&format!("{} {n}", call.method)) } else { Err(anyhow!("not seven")) }, s)
            })
            .await
        };
        let (served, answered) = tokio::join!(server, call::<_, _, String>(&mut here, "count", &7u32));
        served.unwrap();
        assert_eq!(answered.unwrap(), "count 7");

        let (mut here, there) = tokio::io::duplex(4096);
        let server = serve_one(there, "", |call, s| async move { (Err(call.unknown()), s) });
        let (_, answered) = tokio::join!(server, call::<_, _, String>(&mut here, "fly", &()));
        assert!(answered.unwrap_err().to_string().contains("does not know the method `fly`"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stream_for_one_method_is_for_no_other() {
        for (resource, said) in [("status", None), ("reboot", Some("opened for `reboot`, not for `status`"))]
        {
            let (mut here, there) = tokio::io::duplex(4096);
            let server = serve_one(there, resource, |_, s| async move { (ok(&1), s) });
            let (served, answered) = tokio::join!(server, call::<_, _, u32>(&mut here, "status", &()));
            served.unwrap();
            match said {
                None => assert_eq!(answered.unwrap(), 1),
                Some(said) => assert!(answered.unwrap_err().to_string().contains(said)),
            }
        }
        let mut frame = &refusal_frame("no")[..];
        assert_eq!(answer::<_, ()>(&mut frame).await.unwrap_err().to_string(), "no");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn garbage_is_an_error_not_a_panic() {
        for bytes in [&[0u8, 0, 0, 1, 0xff][..], &[0, 0, 0, 2, 0xa0, 0], &[0xff; 8], &[]] {
            let (mut here, there) = tokio::io::duplex(4096);
            tokio::io::AsyncWriteExt::write_all(&mut here, bytes).await.unwrap();
            drop(here);
            assert!(serve_one(there, "", |call, s| async move { (Err(call.unknown()), s) }).await.is_err());
        }
    }
}
