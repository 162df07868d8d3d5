//! `check-http`: asks a web server for one page and looks at the status alone. Whoever starts it bounds the whole.
//!
//! One request and one line of the answer, so no HTTP library.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const LINE_MAX: u64 = 1024;
/// For each read; the gate gives less to the whole.
const SILENCE: Duration = Duration::from_secs(60);

pub fn check(url: &str) -> Result<()> {
    let (host, path) = split(url)?;
    let address = if has_port(host) { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(&address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(SILENCE))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: maculactl\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).context("cannot send the request")?;
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_MAX)).read_until(b'\n', &mut line).context("no answer")?;
    match status(&String::from_utf8_lossy(&line)) {
        Some(200..=299) => Ok(()),
        Some(status) => bail!("it answered {status}"),
        None => bail!("what answered does not speak HTTP"),
    }
}

fn split(url: &str) -> Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").context("only http:// is spoken here")?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    if host.is_empty() || !url.bytes().all(|b| b.is_ascii_graphic()) {
        bail!("{url:?} is not http://host[:port]/path");
    }
    Ok((host, path.split('#').next().unwrap_or("/")))
}

/// An IPv6 address stands in brackets.
fn has_port(host: &str) -> bool {
    host.rsplit(']').next().is_some_and(|after| after.contains(':'))
}

/// The number in `HTTP/1.1 200 OK`.
fn status(line: &str) -> Option<u16> {
    let mut words = line.split_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next().filter(|number| number.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that gives this answer to one request.
    fn answering(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /health?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        format!("http://{address}/health?x=1#top")
    }

    #[test]
    fn only_a_good_status_passes() {
        assert!(check(&answering("HTTP/1.1 204 No Content\r\n\r\n")).is_ok());
        for (answer, reason) in [
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "503"),
            ("HTTP/1.0 301 Moved\r\n\r\n", "301"),
            ("SSH-2.0-x\r\n", "does not speak HTTP"),
            ("HTTP/1.1 2000\r\n", "does not speak HTTP"),
            ("", "does not speak HTTP"),
        ] {
            let error = check(&answering(answer)).unwrap_err().to_string();
            assert!(error.contains(reason), "{answer:?}: {error}");
        }
        assert!(check("http://127.0.0.1:1/").unwrap_err().to_string().contains("127.0.0.1:1"));
    }

    #[test]
    fn addresses_come_apart() {
        assert_eq!(split("http://[::1]:8080").unwrap(), ("[::1]:8080", "/"));
        assert_eq!(split("http://a/b?c").unwrap(), ("a", "/b?c"));
        assert!(has_port("[::1]:8080") && !has_port("[::1]") && has_port("a:1") && !has_port("a"));
        for bad in ["https://a/", "http:///x", "a", "http://a/ b"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
