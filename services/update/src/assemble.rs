//! Puts content together, chunk by chunk, on a partition or in a file: what is in place stays, what this node holds
//! elsewhere is copied, the rest is fetched. Every chunk is hashed before it is written.
//!
//! Memory: one chunk, and 32 bytes per chunk of the sources. A crash leaves a mix of old and new chunks, which the next
//! run sorts out by their hashes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use os_content_id::{ChunkList, Hash, Mcid, hash};

/// Chunks written between two flushes: bounds what a power cut costs and the page cache that is dirty.
const FLUSH_EVERY: usize = 32;
/// Tries in a row that bring not one chunk before the install is given up.
const TRIES_MAX: u32 = 6;

/// Where chunks come from that this node does not have.
pub trait Source {
    fn manifest(&self, mcid: &Mcid) -> Result<ChunkList>;

    /// The chunks with these indices in this order; ends early when one cannot be had.
    fn fetch(&self, mcid: &Mcid, chunks: &[u32]) -> Result<Box<dyn Read>>;

    /// Why the last fetch ended early, as far as known.
    fn complaint(&self, mcid: &Mcid) -> String;

    /// Waits before try number `tries` (1 is the first after a failure).
    fn pause(&self, tries: u32) {
        std::thread::sleep(Duration::from_secs(2u64.saturating_pow(tries).min(20)));
    }
}

/// Told of progress, in bytes.
pub trait Progress {
    fn reused(&mut self, bytes: u64);
    fn fetched(&mut self, bytes: u64);
}

/// A file or device with content that is being put together at its start.
pub struct Target<'a> {
    pub file: &'a File,
    pub list: &'a ChunkList,
}

/// A file or device whose chunks may serve: only its first `len` bytes are looked at.
pub struct Local<'a> {
    pub file: &'a File,
    pub len: u64,
}

/// Where a chunk can be copied from.
#[derive(Clone, Copy)]
enum Copy {
    /// Byte offset in the local source.
    Local(u64),
    /// Byte offset in the target itself, where it is until that place is written.
    Moved(u64),
}

impl Target<'_> {
    /// Makes the target's first bytes the content. `local` is a source that nobody writes.
    pub fn assemble(
        &self,
        local: Option<Local<'_>>,
        source: &dyn Source,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut done = self.in_place()?;
        progress.reused(self.bytes_of(&done));
        let mut copies = self.find_copies(&done, local.as_ref())?;
        let mut tries = 0;
        while done.iter().any(|d| !d) {
            let before = done.iter().filter(|d| **d).count();
            let mut round = Round { target: self, local: local.as_ref(), source, progress };
            round.run(&mut done, &mut copies)?;
            self.file.sync_data().context("flushing what was written")?;
            let after = done.iter().filter(|d| **d).count();
            tries = if after > before { 1 } else { tries + 1 };
            if after < done.len() {
                self.wait_or_give_up(tries, done.len() - after, source)?;
            }
        }
        Ok(())
    }

    fn wait_or_give_up(&self, tries: u32, missing: usize, source: &dyn Source) -> Result<()> {
        let mcid = self.list.mcid();
        let why = source.complaint(&mcid);
        if tries >= TRIES_MAX {
            bail!("{missing} chunks of {} cannot be had: {why}", self.list.manifest().name);
        }
        tracing::info!("{missing} chunks of {} are missing ({why}); trying again", self.list.manifest().name);
        source.pause(tries);
        Ok(())
    }

    /// Which chunks are where they belong already.
    fn in_place(&self) -> Result<Vec<bool>> {
        let mut buf = Vec::new();
        let check = |(index, wanted): (usize, &Hash)| {
            let (offset, len) = self.place(index);
            buf.resize(len, 0);
            match self.file.read_exact_at(&mut buf, offset) {
                Ok(()) => Ok(hash(&buf) == *wanted),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                Err(e) => Err(e).with_context(|| format!("reading chunk {index} of the target")),
            }
        };
        self.list.hashes().iter().enumerate().map(check).collect()
    }

    /// Where the chunks that are not in place can be copied from.
    fn find_copies(&self, done: &[bool], local: Option<&Local>) -> Result<HashMap<Hash, Copy>> {
        let missing = self.list.hashes().iter().zip(done).filter(|(_, done)| !**done).map(|(h, _)| *h);
        let wanted: std::collections::HashSet<Hash> = missing.collect();
        let mut copies = HashMap::new();
        let chunk = self.list.manifest().chunk_size as usize;
        scan(self.file, self.list.manifest().size, chunk, |offset, found| {
            if wanted.contains(&found) {
                copies.insert(found, Copy::Moved(offset));
            }
        })?;
        if let Some(local) = local {
            scan(local.file, local.len, chunk, |offset, found| {
                if wanted.contains(&found) {
                    copies.insert(found, Copy::Local(offset));
                }
            })?;
        }
        Ok(copies)
    }

    /// Offset and length of a chunk.
    fn place(&self, index: usize) -> (u64, usize) {
        let manifest = self.list.manifest();
        let len = manifest.chunk_len(index as u32).unwrap_or(0);
        (index as u64 * u64::from(manifest.chunk_size), len as usize)
    }

    fn bytes_of(&self, done: &[bool]) -> u64 {
        done.iter().enumerate().filter(|(_, d)| **d).map(|(i, _)| self.place(i).1 as u64).sum()
    }
}

/// One pass over the chunks in ascending order.
struct Round<'a, 'b> {
    target: &'a Target<'a>,
    local: Option<&'a Local<'a>>,
    source: &'a dyn Source,
    progress: &'b mut dyn Progress,
}

impl Round<'_, '_> {
    fn run(&mut self, done: &mut [bool], copies: &mut HashMap<Hash, Copy>) -> Result<()> {
        let list = self.target.list;
        let to_do: Vec<u32> = (0..done.len()).filter(|i| !done[*i]).map(|i| i as u32).collect();
        let to_fetch: Vec<u32> =
            to_do.iter().copied().filter(|i| !copies.contains_key(&list.hashes()[*i as usize])).collect();
        let mcid = list.mcid();
        let mut stream = match to_fetch.is_empty() {
            true => None,
            false => self.source.fetch(&mcid, &to_fetch).map_err(|e| tracing::info!("{e:#}")).ok(),
        };
        let mut buf = Vec::new();
        let mut next_to_fetch = to_fetch.iter().copied().peekable();
        for (written, index) in to_do.into_iter().enumerate() {
            let wanted = list.hashes()[index as usize];
            let (offset, len) = self.target.place(index as usize);
            buf.resize(len, 0);
            let good = if next_to_fetch.next_if_eq(&index).is_some() {
                self.read_stream(&mut stream, &mut buf, &wanted)
            } else {
                let good = self.read_copy(copies, &mut buf, &wanted, offset);
                if !good {
                    // Gone or damaged: fetched in the next round.
                    copies.remove(&wanted);
                }
                good
            };
            if good {
                let write = self.target.file.write_all_at(&buf, offset);
                write.with_context(|| format!("writing chunk {index} of {}", list.manifest().name))?;
                done[index as usize] = true;
                match copies.contains_key(&wanted) {
                    true => self.progress.reused(len as u64),
                    false => self.progress.fetched(len as u64),
                }
            }
            if written % FLUSH_EVERY == FLUSH_EVERY - 1 {
                self.target.file.sync_data().context("flushing what was written")?;
            }
        }
        Ok(())
    }

    fn read_stream(&self, stream: &mut Option<Box<dyn Read>>, buf: &mut [u8], wanted: &Hash) -> bool {
        let Some(reader) = stream else { return false };
        let read = reader.read_exact(buf);
        if read.is_err() || hash(buf) != *wanted {
            *stream = None;
            return false;
        }
        true
    }

    fn read_copy(&self, copies: &HashMap<Hash, Copy>, buf: &mut [u8], wanted: &Hash, here: u64) -> bool {
        let read = match (copies.get(wanted), self.local) {
            (Some(Copy::Local(from)), Some(local)) => local.file.read_exact_at(buf, *from),
            // What is before us has been overwritten.
            (Some(Copy::Moved(from)), _) if *from > here => self.target.file.read_exact_at(buf, *from),
            _ => return false,
        };
        read.is_ok() && hash(buf) == *wanted
    }
}

/// Hashes the chunks of a file's first `len` bytes. A chunk that cannot be read is passed over: the running slot may be
/// damaged, and then the update is the cure.
fn scan(file: &File, len: u64, chunk: usize, mut found: impl FnMut(u64, Hash)) -> Result<()> {
    let mut buf = vec![0; chunk];
    let mut offset = 0;
    while offset < len {
        let part = (len - offset).min(chunk as u64) as usize;
        match file.read_exact_at(&mut buf[..part], offset) {
            Ok(()) => found(offset, hash(&buf[..part])),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => tracing::warn!("cannot read {part} bytes at {offset} for comparison: {e}"),
        }
        offset += chunk as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{Cursor, Write};

    use os_content_id::ManifestBuilder;

    use super::*;

    const CHUNK: usize = 1024;

    /// A provider that ends each stream after so many chunks, or lies about one.
    struct Peer {
        content: Vec<u8>,
        chunks_per_stream: usize,
        lie_once_at: RefCell<Option<u32>>,
        asked: RefCell<Vec<Vec<u32>>>,
    }

    impl Source for Peer {
        fn manifest(&self, _: &Mcid) -> Result<ChunkList> {
            Ok(list(&self.content))
        }

        fn fetch(&self, _: &Mcid, chunks: &[u32]) -> Result<Box<dyn Read>> {
            self.asked.borrow_mut().push(chunks.to_vec());
            let mut bytes = Vec::new();
            for index in chunks.iter().take(self.chunks_per_stream) {
                let from = *index as usize * CHUNK;
                let start = bytes.len();
                bytes.extend_from_slice(&self.content[from..(from + CHUNK).min(self.content.len())]);
                if self.lie_once_at.borrow_mut().take_if(|at| at == index).is_some() {
                    bytes[start] ^= 1;
                }
            }
            Ok(Box::new(Cursor::new(bytes)))
        }

        fn complaint(&self, _: &Mcid) -> String {
            "nobody has it".into()
        }

        fn pause(&self, _: u32) {}
    }

    #[derive(Default)]
    struct Counts {
        reused: u64,
        fetched: u64,
    }

    impl Progress for Counts {
        fn reused(&mut self, bytes: u64) {
            self.reused += bytes;
        }

        fn fetched(&mut self, bytes: u64) {
            self.fetched += bytes;
        }
    }

    fn list(content: &[u8]) -> ChunkList {
        let mut builder = ManifestBuilder::with_chunk_size("root", CHUNK as u32);
        builder.update(content);
        builder.finish().unwrap()
    }

    fn content(chunks: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = chunks.iter().flat_map(|c| vec![*c; CHUNK]).collect();
        bytes.extend_from_slice(&[0xee; 100]);
        bytes
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn peer(content: &[u8]) -> Peer {
        Peer {
            content: content.to_vec(),
            chunks_per_stream: 100,
            lie_once_at: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    fn assemble(target: &File, local: Option<&[u8]>, peer: &Peer) -> Result<Counts> {
        let mut counts = Counts::default();
        let list = list(&peer.content);
        let local_file = local.map(file);
        let local = local_file.as_ref().map(|f| Local { file: f, len: 1 << 20 });
        Target { file: target, list: &list }.assemble(local, peer, &mut counts)?;
        let mut got = vec![0; peer.content.len()];
        target.read_exact_at(&mut got, 0).unwrap();
        assert!(got == peer.content);
        Ok(counts)
    }

    #[test]
    fn fetches_only_what_no_slot_holds() {
        let new = content(&[1, 2, 3, 4, 5]);
        let peer = peer(&new);
        // In the active slot: 3 and 5. In the inactive one: 1 in place, 4 further back than it belongs.
        let target = file(&content(&[1, 9, 9, 9, 4]));
        let counts = assemble(&target, Some(&content(&[5, 3])), &peer).unwrap();
        assert_eq!(*peer.asked.borrow(), [vec![1]]);
        assert_eq!((counts.fetched, counts.reused), (CHUNK as u64, new.len() as u64 - CHUNK as u64));
    }

    #[test]
    fn a_chunk_that_moves_backwards_is_not_read_from_where_it_was_overwritten() {
        let new = content(&[7, 1, 2, 3]);
        let target = file(&content(&[1, 2, 3, 7]));
        let counts = assemble(&target, None, &peer(&new)).unwrap();
        assert_eq!(counts.fetched + counts.reused, new.len() as u64);
        assert!(counts.reused >= CHUNK as u64, "chunk 7 was still there when its turn came");
    }

    #[test]
    fn a_second_run_fetches_nothing() {
        let new = content(&[1, 2, 3]);
        let target = file(b"");
        assert_eq!(assemble(&target, None, &peer(&new)).unwrap().fetched, new.len() as u64);
        let again = peer(&new);
        assert_eq!(assemble(&target, None, &again).unwrap().fetched, 0);
        assert!(again.asked.borrow().is_empty());
    }

    #[test]
    fn streams_that_end_early_or_lie_are_asked_again_for_the_rest() {
        let new = content(&[1, 2, 3, 4, 5]);
        let mut short = peer(&new);
        short.chunks_per_stream = 2;
        assemble(&file(b""), None, &short).unwrap();
        assert_eq!(short.asked.borrow()[1], [2, 3, 4, 5]);
        let liar = peer(&new);
        *liar.lie_once_at.borrow_mut() = Some(3);
        assemble(&file(b""), None, &liar).unwrap();
        assert_eq!(liar.asked.borrow()[1], [3, 4, 5]);
    }

    #[test]
    fn gives_up_with_the_reason_when_nobody_has_it() {
        let mut silent = peer(&content(&[1, 2]));
        silent.chunks_per_stream = 0;
        let error = assemble(&file(b""), None, &silent).err().unwrap().to_string();
        assert!(error.contains("3 chunks of root cannot be had: nobody has it"), "{error}");
        assert_eq!(silent.asked.borrow().len(), TRIES_MAX as usize);
    }

    #[test]
    fn a_copy_that_is_gone_when_its_turn_comes_is_fetched() {
        let new = content(&[1, 2]);
        // Each chunk is where the other belongs: when the second one's turn comes, its only copy is overwritten.
        let target = file(&content(&[2, 1]));
        let counts = assemble(&target, None, &peer(&new)).unwrap();
        assert_eq!(counts.fetched + counts.reused, new.len() as u64);
        assert!(counts.fetched >= CHUNK as u64);
    }
}
