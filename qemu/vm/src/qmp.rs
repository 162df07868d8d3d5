//! A small client for the QEMU Machine Protocol: one JSON object per line, answers matched by id.
//! <https://www.qemu.org/docs/master/interop/qmp-spec.html>

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Error;

const ANSWER_BYTES_MAX: u64 = 4 << 20;
const EVENTS_MAX: usize = 1000;

/// The control connection of one running machine.
pub struct Qmp {
    name: String,
    writer: Mutex<(UnixStream, u64)>,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    answers: HashMap<u64, Value>,
    events: VecDeque<Value>,
    closed: bool,
}

impl Qmp {
    /// Takes over a fresh connection and leaves negotiation mode.
    pub(crate) fn connect(name: &str, stream: UnixStream, timeout: Duration) -> Result<Self, Error> {
        let io = |source| Error::Io { name: name.to_owned(), what: "use the QMP connection", source };
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let reader = BufReader::new(stream.try_clone().map_err(io)?);
        let for_reader = Arc::clone(&shared);
        std::thread::spawn(move || read_answers(reader, &for_reader));
        let qmp = Self { name: name.to_owned(), writer: Mutex::new((stream, 0)), shared };
        qmp.execute_within("qmp_capabilities", json!({}), timeout)?;
        Ok(qmp)
    }

    /// Runs `command` with `arguments` (an object) and returns what it returns; waits up to ten seconds.
    ///
    /// # Errors
    /// [`Error::Qmp`] with QEMU's own message, or when the machine is gone.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        self.execute_within(command, arguments, Duration::from_secs(10))
    }

    fn execute_within(&self, command: &str, arguments: Value, timeout: Duration) -> Result<Value, Error> {
        let id = self.send(command, arguments)?;
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(mut answer) = state.answers.remove(&id) {
                return match answer.get("error") {
                    Some(error) => Err(self.error(command, error["desc"].as_str().unwrap_or("refused"))),
                    None => Ok(answer["return"].take()),
                };
            }
            let now = Instant::now();
            if state.closed {
                return Err(self.error(command, "QEMU has closed the connection"));
            }
            if now >= deadline {
                return Err(self.error(command, "no answer in time"));
            }
            let wait = self.shared.changed.wait_timeout(state, deadline - now);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for an event (`RESET`, `SHUTDOWN`, `WATCHDOG`, ...) and takes it, with all that came before it.
    pub fn wait_event(&self, event: &str, timeout: Duration) -> Result<Value, Error> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            while let Some(next) = state.events.pop_front() {
                if next["event"] == event {
                    return Ok(next);
                }
            }
            let now = Instant::now();
            if state.closed || now >= deadline {
                return Err(self.error(event, "the event did not come"));
            }
            let wait = self.shared.changed.wait_timeout(state, deadline - now);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn send(&self, command: &str, arguments: Value) -> Result<u64, Error> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.1 += 1;
        let id = writer.1;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        writer.0.write_all(line.as_bytes()).map_err(|error| self.error(command, &error.to_string()))?;
        Ok(id)
    }

    fn error(&self, command: &str, what: &str) -> Error {
        Error::Qmp { name: self.name.clone(), command: command.to_owned(), what: what.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_answers(mut reader: BufReader<UnixStream>, shared: &Shared) {
    let mut line = Vec::new();
    while let Ok(1..) = (&mut reader).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line) {
        if let Ok(value) = serde_json::from_slice::<Value>(&line) {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(id) = value["id"].as_u64() {
                state.answers.insert(id, value);
            } else if value.get("event").is_some() {
                state.events.push_back(value);
                if state.events.len() > EVENTS_MAX {
                    state.events.pop_front();
                }
            }
        }
        shared.changed.notify_all();
        line.clear();
    }
    shared.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// A QEMU that answers every command with the next of `answers` (`ID` stands for the id).
    fn client(answers: &'static [&'static str]) -> Result<Qmp, Error> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(theirs.try_clone().unwrap()).lines();
            theirs.write_all(b"{\"QMP\": {\"version\": {}}}\n").unwrap();
            for answer in answers {
                let request: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
                let text = answer.replace("ID", &request["id"].to_string());
                theirs.write_all(text.as_bytes()).unwrap();
                theirs.write_all(b"\n").unwrap();
            }
        });
        Qmp::connect("vm", ours, SOON)
    }

    #[test]
    fn answers_events_and_refusals() {
        let qmp = client(&[
            r#"{"return": {}, "id": ID}"#,
            "not json\n{\"event\": \"RESET\"}\n{\"return\": {\"status\": \"running\"}, \"id\": ID}",
            r#"{"error": {"class": "CommandNotFound", "desc": "no such command"}, "id": ID}"#,
        ])
        .unwrap();
        assert_eq!(qmp.execute("query-status", json!({})).unwrap()["status"], "running");
        qmp.wait_event("RESET", SOON).unwrap();
        let error = qmp.execute("frobnicate", json!({})).unwrap_err().to_string();
        assert!(error.contains("no such command"), "{error}");
    }

    #[test]
    fn end_of_qemu_is_noticed() {
        let error = client(&[""]).err().unwrap().to_string();
        assert!(error.contains("closed"), "{error}");
    }
}
