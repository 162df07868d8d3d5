//! The start of a D-Bus connection (specification, "Authentication Protocol") that came over the mesh.
//!
//! Who is at the other end is known by then: mesh lets only the owner open the stream. What the client says about itself is
//! a user id on another machine, so whatever it says is accepted, as long as it says it in the protocol's words.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

const LINE_MAX: usize = 512;
const LINES_MAX: usize = 16;

/// Reads up to and with `BEGIN`, not a byte more: messages follow.
pub async fn accept(stream: &mut UnixStream, guid: &str) -> Result<()> {
    ensure!(stream.read_u8().await? == 0, "a D-Bus client starts with a zero byte");
    let mut state = State::Asked;
    for _ in 0..LINES_MAX {
        let line = read_line(stream).await?;
        let (next, reply) = answer(state, &line, guid);
        if next == State::Begun {
            return Ok(());
        }
        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        state = next;
    }
    bail!("the client did not begin within {LINES_MAX} lines")
}

async fn read_line(stream: &mut UnixStream) -> Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        ensure!(line.len() < LINE_MAX, "a line of the handshake is longer than {LINE_MAX} bytes");
        line.push(stream.read_u8().await.context("the client left during the handshake")?);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).context("the handshake is not text")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    /// A mechanism was named, its data are still to come.
    Data,
    Accepted,
    Begun,
}

fn answer(state: State, line: &str, guid: &str) -> (State, String) {
    let words: Vec<&str> = line.split(' ').collect();
    match (state, words.as_slice()) {
        (State::Asked, ["AUTH", "EXTERNAL"]) => (State::Data, "DATA".into()),
        (State::Asked, ["AUTH", "EXTERNAL" | "ANONYMOUS", ..]) | (State::Data, ["DATA", ..]) => {
            (State::Accepted, format!("OK {guid}"))
        }
        (State::Accepted, ["BEGIN"]) => (State::Begun, String::new()),
        (State::Accepted, ["NEGOTIATE_UNIX_FD"]) => {
            (state, "ERROR file descriptors do not cross the mesh".into())
        }
        (_, ["AUTH", ..] | ["CANCEL"] | ["ERROR", ..]) => {
            (State::Asked, "REJECTED EXTERNAL ANONYMOUS".into())
        }
        _ => (state, "ERROR not understood".into()),
    }
}

/// A stream behind its handshake, for zbus.
#[derive(Debug)]
pub struct Authenticated(pub UnixStream);

impl Socket for Authenticated {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (reader, writer) = self.0.into_split();
        Split::new(Reader(reader), Writer(writer))
    }
}

#[derive(Debug)]
pub struct Reader(OwnedReadHalf);

#[derive(Debug)]
pub struct Writer(OwnedWriteHalf);

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((self.0.read(buffer).await?, Vec::new()))
    }
}

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(buffer).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shake(client: &[u8]) -> (Result<()>, String, Vec<u8>) {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(client).await.unwrap();
        let result = accept(&mut there, "0123").await;
        let mut rest = vec![0; 64];
        let n = there.try_read(&mut rest).unwrap_or(0);
        rest.truncate(n);
        drop(there);
        let mut said = String::new();
        // What was not read resets the stream.
        let _ = here.read_to_string(&mut said).await;
        (result, said, rest)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn clients_of_both_libraries_get_in_and_nothing_behind_begin_is_lost() {
        let gdbus = b"\0AUTH\r\nAUTH EXTERNAL 31303030\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\x01message";
        let (result, said, rest) = shake(gdbus).await;
        result.unwrap();
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[..2], ["REJECTED EXTERNAL ANONYMOUS", "OK 0123"]);
        assert!(lines[2].starts_with("ERROR"));
        assert_eq!(rest, b"l\x01message");

        let sd_bus = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
        let (result, said, _) = shake(sd_bus).await;
        result.unwrap();
        assert_eq!(said, "DATA\r\nOK 0123\r\n");
        shake(b"\0AUTH ANONYMOUS 6162\r\nBEGIN\r\n").await.0.unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_handshake_is_refused() {
        let endless = [b"\0".as_slice(), &[b'A'; 2 * LINE_MAX]].concat();
        let chatter = [b"\0".as_slice(), b"HELLO\r\n".repeat(LINES_MAX).as_slice()].concat();
        for bytes in [b"GET / HTTP/1.1\r\n".as_slice(), &endless, &chatter] {
            assert!(shake(bytes).await.0.is_err());
        }
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(b"\0BEGIN\r\nAUTH EXTERNAL 30\r\n").await.unwrap();
        drop(here);
        assert!(accept(&mut there, "0123").await.is_err(), "nobody begins before they were accepted");
    }
}
