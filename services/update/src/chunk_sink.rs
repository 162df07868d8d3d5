//! What streams by, chunk by chunk: copied where a list wants it, or held against the list.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Result, bail};
use os_content_id::{ChunkList, Hash, hash};

/// Cuts what is written to it into chunks.
struct Chunks<'a> {
    list: &'a ChunkList,
    buf: Vec<u8>,
    index: usize,
}

impl<'a> Chunks<'a> {
    fn new(list: &'a ChunkList) -> Self {
        Self { list, buf: Vec::with_capacity(list.manifest().chunk_size as usize), index: 0 }
    }

    fn push(
        &mut self,
        mut bytes: &[u8],
        mut whole: impl FnMut(usize, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let chunk = self.list.manifest().chunk_size as usize;
        while !bytes.is_empty() {
            let take = (chunk - self.buf.len()).min(bytes.len());
            self.buf.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.buf.len() == chunk {
                whole(self.index, &self.buf)?;
                self.index += 1;
                self.buf.clear();
            }
        }
        Ok(())
    }
}

/// Writes those chunks of another file that the list has too to where they belong.
pub struct ChunkSink<'a> {
    chunks: Chunks<'a>,
    places: std::collections::HashMap<Hash, Vec<usize>>,
    part: &'a File,
}

impl<'a> ChunkSink<'a> {
    pub fn new(list: &'a ChunkList, part: &'a File) -> Self {
        let mut places: std::collections::HashMap<Hash, Vec<usize>> = Default::default();
        for (index, hash) in list.hashes().iter().enumerate() {
            places.entry(*hash).or_default().push(index);
        }
        Self { chunks: Chunks::new(list), places, part }
    }

    /// The last chunk, which may be short.
    pub fn finish(self) -> io::Result<()> {
        self.place(&self.chunks.buf)
    }

    fn place(&self, chunk: &[u8]) -> io::Result<()> {
        let size = u64::from(self.chunks.list.manifest().chunk_size);
        let mut wanted = self.places.get(&hash(chunk)).into_iter().flatten();
        wanted.try_for_each(|index| self.part.write_all_at(chunk, *index as u64 * size))
    }
}

impl Write for ChunkSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (places, part) = (&self.places, self.part);
        let chunk = u64::from(self.chunks.list.manifest().chunk_size);
        self.chunks.push(bytes, |_, whole| {
            let mut wanted = places.get(&hash(whole)).into_iter().flatten();
            wanted.try_for_each(|index| part.write_all_at(whole, *index as u64 * chunk))
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compares what is written to it with a list.
pub struct CheckSink<'a> {
    chunks: Chunks<'a>,
}

impl<'a> CheckSink<'a> {
    pub fn new(list: &'a ChunkList) -> Self {
        Self { chunks: Chunks::new(list) }
    }

    pub fn finish(self) -> Result<()> {
        let Chunks { list, buf, index } = self.chunks;
        let rest = list.hashes().get(index..).unwrap_or_default();
        match rest {
            [] if buf.is_empty() => Ok(()),
            [last] if hash(&buf) == *last => Ok(()),
            _ => bail!("it ends after {index} chunks of {}", list.hashes().len()),
        }
    }
}

impl Write for CheckSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let hashes = self.chunks.list.hashes();
        self.chunks.push(bytes, |index, whole| match hashes.get(index) {
            Some(wanted) if hash(whole) == *wanted => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("chunk {index} differs"))),
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
