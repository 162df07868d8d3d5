//! Cutting a stream of bytes into frames.

/// Largest frame, without its four bytes of length.
pub const MAX_FRAME: usize = 0xff_ffff;
/// Largest frame of a stranger: a CONNECT is a few hundred bytes.
pub const MAX_FIRST_FRAME: usize = 64 * 1024;

/// A peer announced a frame larger than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("frame of {len} bytes, at most {max} are taken here")]
pub struct TooLarge {
    pub len: usize,
    pub max: usize,
}

/// What came of a stream and is not yet a whole frame: at most one frame and what was pushed with its end.
#[derive(Debug, Default)]
pub struct FrameBuffer(Vec<u8>);

impl FrameBuffer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole frame without its length, or `None` until more has come. To be called until it says so after each push.
    pub fn next(&mut self, max: usize) -> Result<Option<Vec<u8>>, TooLarge> {
        let Some(head) = self.0.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*head) as usize;
        if len > max {
            return Err(TooLarge { len, max });
        }
        if self.0.len() < 4 + len {
            return Ok(None);
        }
        let frame = self.0[4..4 + len].to_vec();
        self.0.drain(..4 + len);
        Ok(Some(frame))
    }
}

/// A frame's CBOR with its length in front, as it goes on a stream.
pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&len.to_be_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_whatever_the_pieces() {
        let stream = [framed(b"one"), framed(b""), framed(&[7; 300])].concat();
        for size in [1, 2, 5, 1000] {
            let (mut buffer, mut frames) = (FrameBuffer::default(), Vec::new());
            for piece in stream.chunks(size) {
                buffer.push(piece);
                while let Some(frame) = buffer.next(MAX_FRAME).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [b"one".to_vec(), vec![], vec![7; 300]]);
        }
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_come() {
        let mut buffer = FrameBuffer::default();
        buffer.push(&[0, 1, 0, 1]);
        assert_eq!(buffer.next(MAX_FIRST_FRAME), Err(TooLarge { len: 65_537, max: MAX_FIRST_FRAME }));
        let mut buffer = FrameBuffer::default();
        buffer.push(&[1, 0, 0, 0]);
        assert!(buffer.next(MAX_FRAME).is_err());
    }
}
