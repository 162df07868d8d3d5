//! Content, as the content service gives it to mesh.

use std::io;
use std::ops::Range;
use std::time::Duration;

use http::StatusCode;
use mesh_gateway::Content;
use mesh_http::Problem;
use os_content_id::{CHUNK_SIZE, ChunkList, Codec, Mcid};
use services_api::bus::Link;
use services_api::content::ContentProxy;
use services_api::mesh::from_fd;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// How long content may be looked for.
const FIND: Duration = Duration::from_secs(20);
/// How long a few chunks may take.
const FETCH: Duration = Duration::from_secs(60);

pub struct Contents(Link);

impl Contents {
    pub fn new() -> Self {
        Self(Link::new("content"))
    }

    pub async fn find(&self, mcid: Mcid) -> Result<Content, Problem> {
        let found = timeout(FIND, self.ask(mcid)).await;
        match found {
            Ok(Ok(content)) => Ok(content),
            Ok(Err(problem)) => Err(problem),
            Err(_) => {
                let detail = format!("it was not found within {} s", FIND.as_secs());
                Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail, "try again later"))
            }
        }
    }

    async fn ask(&self, mcid: Mcid) -> Result<Content, Problem> {
        let proxy = self.proxy().await.map_err(|e| {
            tracing::warn!("gateway: {e:#}");
            Problem::busy("the content service does not run")
        })?;
        if mcid.codec == Codec::Raw {
            let whole = proxy.get(&mcid.to_bytes()).await.map_err(|e| missing(&mcid, &e))?;
            let size = whole.len() as u64;
            return Ok(Content { mcid, size, chunk_size: CHUNK_SIZE, whole: Some(whole) });
        }
        let wire = proxy.manifest(&mcid.to_bytes()).await.map_err(|e| missing(&mcid, &e))?;
        let list = ChunkList::decode(&wire, &mcid).map_err(|e| missing(&mcid, &e))?;
        let manifest = list.manifest();
        Ok(Content { mcid, size: manifest.size, chunk_size: manifest.chunk_size, whole: None })
    }

    pub async fn chunks(&self, content: &Content, chunks: Range<u32>) -> io::Result<Vec<u8>> {
        let from = u64::from(chunks.start) * u64::from(content.chunk_size);
        let end = u64::from(chunks.end) * u64::from(content.chunk_size);
        let length = end.min(content.size).saturating_sub(from);
        let fetch = async {
            let proxy = self.proxy().await?;
            let indices: Vec<u32> = chunks.collect();
            let stream = proxy.fetch(&content.mcid.to_bytes(), &indices).await?;
            let mut bytes = Vec::with_capacity(length as usize);
            from_fd(stream)?.take(length).read_to_end(&mut bytes).await?;
            anyhow::ensure!(bytes.len() as u64 == length, "some of it could not be had");
            Ok(bytes)
        };
        let fetched =
            timeout(FETCH, fetch).await.unwrap_or_else(|_| Err(anyhow::anyhow!("it takes too long")));
        fetched.map_err(|e| {
            tracing::debug!("gateway: {}: {e:#}", content.mcid);
            io::Error::other(e.to_string())
        })
    }

    async fn proxy(&self) -> anyhow::Result<ContentProxy<'static>> {
        Ok(ContentProxy::new(&self.0.get().await?).await?)
    }
}

/// Who was asked is nobody's business.
fn missing(mcid: &Mcid, why: &dyn std::fmt::Display) -> Problem {
    tracing::debug!("gateway: {mcid}: {why}");
    let detail = format!("{mcid} is not here, and nobody who was asked has it");
    Problem::new(StatusCode::NOT_FOUND, detail, "check the MCID, or try again when a node that has it is up")
}
