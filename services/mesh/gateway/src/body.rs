//! Bodies, of requests and of answers.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use mesh_http::Problem;
use tokio::sync::mpsc;

/// How long a request's body may take.
pub const BODY_WAIT: Duration = Duration::from_secs(30);

const DRAIN_WAIT: Duration = Duration::from_secs(1);
const MAX_DRAINED: usize = 256 * 1024;

/// An answer's.
pub enum Body {
    /// `None`: it has been sent.
    Full(Option<Bytes>),
    /// Pieces as they are made; an error breaks the answer off, so that nobody takes half of something for the whole.
    Pieces { pieces: mpsc::Receiver<io::Result<Bytes>>, size: Option<u64> },
}

impl Body {
    pub fn empty() -> Self {
        Self::Full(None)
    }

    /// For HTTP/3, which has no body type.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self {
            Body::Full(bytes) => bytes.take().map(Ok),
            Body::Pieces { pieces, .. } => pieces.recv().await,
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Full((!bytes.is_empty()).then(|| bytes.into()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Pieces { pieces, .. } => {
                pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Pieces { size: Some(size), .. } => SizeHint::with_exact(*size),
            Body::Pieces { size: None, .. } => SizeHint::default(),
        }
    }
}

/// A request's, which is read only once it is known that it is wanted.
pub trait RequestBody: Send {
    /// The next piece; `None` at the end.
    fn piece(&mut self) -> impl Future<Output = Option<Result<Bytes, String>>> + Send;

    /// Reads on for a moment what nobody wants: clients that are still sending when the answer comes take it for a broken connection.
    fn drain(&mut self) -> impl Future<Output = ()> + Send {
        async {
            let read = async {
                let mut left = MAX_DRAINED;
                while let Some(Ok(piece)) = self.piece().await {
                    match left.checked_sub(piece.len()) {
                        Some(less) => left = less,
                        None => return,
                    }
                }
            };
            let _ = tokio::time::timeout(DRAIN_WAIT, read).await;
        }
    }

    fn whole(&mut self, limit: usize) -> impl Future<Output = Result<Vec<u8>, Problem>> + Send {
        async move {
            let read = async {
                let mut whole = Vec::new();
                while let Some(piece) = self.piece().await {
                    let piece = piece.map_err(|e| Problem::bad_request(e, "send the body again"))?;
                    if whole.len() + piece.len() > limit {
                        return Err(Problem::too_large(limit));
                    }
                    whole.extend_from_slice(&piece);
                }
                Ok(whole)
            };
            let late = |_| {
                let detail = format!("the body did not come within {} s", BODY_WAIT.as_secs());
                Problem::new(http::StatusCode::REQUEST_TIMEOUT, detail, "send it faster, or as content")
            };
            tokio::time::timeout(BODY_WAIT, read).await.map_err(late)?
        }
    }
}

impl RequestBody for hyper::body::Incoming {
    async fn piece(&mut self) -> Option<Result<Bytes, String>> {
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await?;
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => return Some(Ok(bytes)),
                // Trailers mean nothing here.
                Ok(Err(_)) => {}
                Err(e) => return Some(Err(e.to_string())),
            }
        }
    }
}
