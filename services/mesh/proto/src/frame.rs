//! Frames on a byte stream: u32 big-endian length, then that many bytes.

const HEAD: usize = 4;

/// Cuts a stream that arrives in pieces of any size into frames.
#[derive(Debug)]
pub struct Frames {
    max: usize,
    buffer: Vec<u8>,
    /// Bytes at the buffer's start that were handed out already.
    taken: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer announced a frame of {len} bytes, at most {max} are allowed here")]
pub struct FrameTooLarge {
    pub len: usize,
    pub max: usize,
}

impl Frames {
    /// For frames of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { max, buffer: Vec::new(), taken: 0 }
    }

    /// Bytes as they come. Whoever pushes takes all whole frames before pushing again, so that no more than one frame and
    /// one piece are ever held.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameTooLarge> {
        let rest = &self.buffer[self.taken..];
        let Some((head, body)) = rest.split_first_chunk::<HEAD>() else { return Ok(None) };
        let len = u32::from_be_bytes(*head) as usize;
        if len > self.max {
            return Err(FrameTooLarge { len, max: self.max });
        }
        if body.len() < len {
            return Ok(None);
        }
        let start = self.taken + HEAD;
        self.taken = start + len;
        Ok(Some(&self.buffer[start..self.taken]))
    }
}

/// A message in its frame.
pub(crate) fn framed(message: &impl minicbor::Encode<()>) -> Vec<u8> {
    let mut out = vec![0; HEAD];
    // Writing into memory cannot fail, and no message of ours refuses to be encoded.
    let _: Result<(), minicbor::encode::Error<std::convert::Infallible>> =
        minicbor::encode(message, &mut out);
    // Whoever makes a message keeps to a limit far below 4 GiB.
    let len = (out.len() - HEAD) as u32;
    out[..HEAD].copy_from_slice(&len.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let bytes: Vec<u8> = [&b"\0\0\0\x03one"[..], b"\0\0\0\0", b"\0\0\0\x05three"].concat();
        for piece in 1..=bytes.len() {
            let mut frames = Frames::new(5);
            let mut found = Vec::new();
            for part in bytes.chunks(piece) {
                frames.push(part);
                while let Some(frame) = frames.next_frame().unwrap() {
                    found.push(frame.to_vec());
                }
            }
            assert_eq!(found, [&b"one"[..], b"", b"three"], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_claim_above_the_limit_is_refused_before_anything_is_kept() {
        let mut frames = Frames::new(5);
        frames.push(&[0, 0, 0, 6]);
        assert_eq!(frames.next_frame(), Err(FrameTooLarge { len: 6, max: 5 }));
    }
}
