//! Content by its id.

use os_content_id::Mcid;
use services_api::content::StoreAnswer;
use services_api::mesh::from_fd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::{App, Error, Result};

/// Content on its way: read [`Content::stream`] to its end, which must come after [`Content::size`] bytes.
pub struct Content {
    pub size: u64,
    /// Every chunk was verified before it came here.
    pub stream: UnixStream,
}

impl Content {
    /// All of it, if it is no more than `most` bytes.
    pub async fn bytes(self, most: u64) -> Result<Vec<u8>> {
        if self.size > most {
            return Err(Error::Content(format!("it is {} bytes, more than {most}", self.size)));
        }
        let mut bytes = Vec::with_capacity(self.size as usize);
        self.stream.take(self.size).read_to_end(&mut bytes).await?;
        if (bytes.len() as u64) < self.size {
            let had = bytes.len();
            return Err(Error::Content(format!("only {had} of {} bytes could be had", self.size)));
        }
        Ok(bytes)
    }
}

impl App {
    /// Finds content, here or at whoever has it.
    pub async fn get(&self, mcid: &Mcid) -> Result<Content> {
        let (size, stream) = self.0.app().await?.get_content(&mcid.to_bytes()).await?;
        Ok(Content { size, stream: from_fd(stream).map_err(Error::other)? })
    }

    /// Stores `size` bytes that come out of `from`, and tells the mesh that they are here. They are kept as long as the node has room.
    /// Above 256 KiB the name is a part of the content's identity.
    pub async fn put(&self, name: &str, size: u64, from: impl AsyncRead + Unpin) -> Result<Mcid> {
        let mut socket = from_fd(self.0.app().await?.put_content(name, size).await?).map_err(Error::other)?;
        // An answer may come before all is written: that it broke says less than why.
        let sent = tokio::io::copy(&mut from.take(size), &mut socket).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        (&mut socket).take(StoreAnswer::MAX as u64).read_to_end(&mut answer).await?;
        match StoreAnswer::parse(&answer) {
            Some(StoreAnswer::Stored(mcid)) => Ok(mcid),
            Some(StoreAnswer::Refused(why)) => Err(Error::Content(why)),
            None => {
                Err(sent.err().map_or_else(|| Error::Content("the node did not answer".into()), Error::Io))
            }
        }
    }

    /// The same for bytes in memory.
    pub async fn put_bytes(&self, name: &str, bytes: &[u8]) -> Result<Mcid> {
        self.put(name, bytes.len() as u64, bytes).await
    }
}
