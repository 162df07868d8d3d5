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
    /// Not frames but D-Bus: the owner's RAUC clients (`maculactl rauc-bus`) and a bus that has one name.
    pub const RAUC: &str = "control-rauc/1";
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
    send(stream, method, params).await?;
    answer(stream).await
}

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
    let bytes =
        frame::expect(stream, MAX_FRAME).await.context("the node closed the stream without an answer")?;
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

/// Reads the request, runs the handler, writes the answer.
pub async fn serve_one<S, F, Fut>(stream: S, handler: F) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnOnce(Call, S) -> Fut,
    Fut: Future<Output = (Result<Answer>, S)>,
{
    let mut stream = stream;
    let call = read_call(&mut stream).await?;
    let (answer, mut stream) = handler(call, stream).await;
    reply(&mut stream, answer).await
}

/// The two halves of [`serve_one`], for methods whose raw bytes follow the answer (`get`).
pub async fn read_call<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Call> {
    let request: Request = decode(&frame::expect(stream, MAX_FRAME).await?)?;
    Ok(Call { method: request.method, params: request.params })
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
            serve_one(there, |call, s| async move {
                let n: u32 = call.params().unwrap();
                (if n == 7 { ok(&format!("{} {n}", call.method)) } else { Err(anyhow!("not seven")) }, s)
            })
            .await
        };
        let (served, answered) = tokio::join!(server, call::<_, _, String>(&mut here, "count", &7u32));
        served.unwrap();
        assert_eq!(answered.unwrap(), "count 7");

        let (mut here, there) = tokio::io::duplex(4096);
        let server = serve_one(there, |call, s| async move { (Err(call.unknown()), s) });
        let (_, answered) = tokio::join!(server, call::<_, _, String>(&mut here, "fly", &()));
        assert!(answered.unwrap_err().to_string().contains("does not know the method `fly`"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn garbage_is_an_error_not_a_panic() {
        for bytes in [&[0u8, 0, 0, 1, 0xff][..], &[0, 0, 0, 2, 0xa0, 0], &[0xff; 8], &[]] {
            let (mut here, there) = tokio::io::duplex(4096);
            tokio::io::AsyncWriteExt::write_all(&mut here, bytes).await.unwrap();
            drop(here);
            assert!(serve_one(there, |call, s| async move { (Err(call.unknown()), s) }).await.is_err());
        }
    }
}
