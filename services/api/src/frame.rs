//! Length-prefixed frames on a byte stream: u32 big-endian length, then that many bytes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one frame of at most `max` bytes. `None` at a clean end of stream.
pub async fn read<R: AsyncRead + Unpin>(r: &mut R, max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    match r.read(&mut head[..1]).await? {
        0 => return Ok(None),
        _ => r.read_exact(&mut head[1..]).await?,
    };
    let len = u32::from_be_bytes(head) as usize;
    if len > max {
        let text = format!("peer announced a frame of {len} bytes, at most {max} are allowed here");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    // A length is a claim: memory grows with the bytes that really come.
    let mut bytes = Vec::with_capacity(len.min(64 * 1024));
    r.take(len as u64).read_to_end(&mut bytes).await?;
    if bytes.len() == len { Ok(Some(bytes)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads a frame that must be there.
pub async fn expect<R: AsyncRead + Unpin>(r: &mut R, max: usize) -> io::Result<Vec<u8>> {
    read(r, max).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

pub async fn write<W: AsyncWrite + Unpin>(w: &mut W, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    w.write_all(&len.to_be_bytes()).await?;
    w.write_all(bytes).await?;
    w.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn frames_round_trip_and_limits_hold() {
        let (mut a, mut b) = tokio::io::duplex(1024);
        write(&mut a, b"hello").await.unwrap();
        write(&mut a, b"").await.unwrap();
        write(&mut a, &[0; 100]).await.unwrap();
        assert_eq!(read(&mut b, 5).await.unwrap().unwrap(), b"hello");
        assert_eq!(read(&mut b, 5).await.unwrap().unwrap(), b"");
        assert_eq!(read(&mut b, 99).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_cut_frame_is_an_error_and_an_empty_stream_is_none() {
        assert!(read(&mut &b""[..], 9).await.unwrap().is_none());
        for cut in 1..7 {
            let bytes = [0, 0, 0, 3, 1, 2, 3];
            assert_eq!(
                read(&mut &bytes[..cut], 9).await.unwrap_err().kind(),
                io::ErrorKind::UnexpectedEof,
                "{cut}"
            );
        }
    }
}
