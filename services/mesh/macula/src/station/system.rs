//! The station's own procedures: the node's DHT and content as `_dht.*` and `_content.*`, and pings.
//!
//! All are in the realm of 32 zero bytes. A payload that is not what a procedure takes is answered with ERROR
//! `unknown_error` and the detail `bad_request`, a record whose signature does not hold with `bad_signature`, as the SDK's stations
//! do; what is not there is a RESULT `not_found`, a block that is not its MCID's `hash_mismatch`.
//!
//! | procedure | payload | result |
//! |---|---|---|
//! | `_dht.put_record` | a record in long names | `ok` |
//! | `_dht.find_record` | {key} | a record, or `not_found` |
//! | `_dht.find_records` | {key} | list of records |
//! | `_dht.find_records_by_type` | {type} | list of records |
//! | `_content.put_block` | {mcid, payload} | `ok` or `hash_mismatch` |
//! | `_content.get_block` | {mcid} | bytes, or `not_found` |
//! | `_content.put_manifest` | {manifest} | `ok` |
//! | `_content.get_manifest` | {mcid} | a manifest, or `not_found` |
//! | `_relay.ping`, `_macula.ping` | anything | {ts: Unix time in microseconds} |

use super::calls::{Asker, Refusal};
use super::{Action, ConnId, Now, Output, Station, Stream, Timer, Token};
use crate::ErrorCode;
use crate::cbor::{Value, text, uint};
use crate::frame::{Call, CallId, CallResult, Fields, Frame, FrameError};
use crate::manifest;
use crate::record::{Record, RecordError};
use os_content_id::{ChunkList, Codec, Mcid};

/// Where the station's own procedures are.
pub const SYSTEM_REALM: [u8; 32] = [0; 32];
/// What a client is told right after HELLO that the station serves.
pub const SYSTEM_PROCEDURES: [&str; 10] = [
    "_dht.put_record",
    "_dht.find_record",
    "_dht.find_records",
    "_dht.find_records_by_type",
    "_content.put_block",
    "_content.get_block",
    "_content.put_manifest",
    "_content.get_manifest",
    "_relay.ping",
    "_macula.ping",
];
/// Records of one answer, in bytes.
const ANSWER_MAX: usize = 4 << 20;

/// What a client wants of the node. Records and content have been checked: signatures, hashes, what adds up.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Answer: [`Answer::Done`].
    PutRecord { key: [u8; 32], record: Record },
    /// Answer: [`Answer::Records`], of which the first counts.
    FindRecord { key: [u8; 32] },
    /// Answer: [`Answer::Records`].
    FindRecords { key: [u8; 32] },
    /// Those that this node happens to hold. Answer: [`Answer::Records`].
    FindRecordsByType { record_type: u8 },
    /// Answer: [`Answer::Done`].
    PutBlock { mcid: Mcid, bytes: Vec<u8> },
    /// Answer: [`Answer::Block`].
    GetBlock(Mcid),
    /// Its blocks came before, or come after. Answer: [`Answer::Done`].
    PutManifest(ChunkList),
    /// Answer: [`Answer::Manifest`].
    GetManifest(Mcid),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Done,
    Records(Vec<Record>),
    Block(Option<Vec<u8>>),
    Manifest(Option<ChunkList>),
    /// It cannot be done, and why.
    Failed(String),
}

/// A CALL whose answer the node is looking for.
pub(super) struct Asked {
    conn: ConnId,
    stream: Stream,
    call_id: CallId,
    one_record: bool,
    deadline_ms: u64,
}

/// What to do for a call.
enum Task {
    Now(Value),
    Later(Work),
}

pub(super) fn is_system(procedure: &str) -> bool {
    SYSTEM_PROCEDURES.contains(&procedure)
}

impl Station {
    pub(super) fn system_call(
        &mut self,
        asker: Asker<'_>,
        call: &Call,
        deadline_ms: u64,
        now: Now,
    ) -> Result<(), Refusal> {
        let Asker { conn, stream, node } = asker;
        match task(&call.procedure, call.payload.clone(), now)? {
            Task::Now(value) => self.reply(conn, stream, call.call_id, value, now),
            Task::Later(work) => {
                self.allowed(node, &call.ucan_token, action(&work), now)?;
                let one_record = matches!(work, Work::FindRecord { .. });
                let asked = Asked { conn, stream, call_id: call.call_id, one_record, deadline_ms };
                self.ask(asked, work);
            }
        }
        Ok(())
    }

    fn ask(&mut self, asked: Asked, work: Work) {
        let token = self.new_token();
        self.count_calls(asked.conn, asked.stream, 1);
        self.set_timer(asked.deadline_ms, Timer::Work(token));
        self.works.insert(token, asked);
        self.out.push_back(Output::Work { token, work });
    }

    /// What came of [`Output::Work`]. Too late is fine.
    pub fn answer(&mut self, token: Token, answer: Answer, now: Now) {
        let Some(asked) = self.take_work(token) else {
            self.counters.answers_late += 1;
            return;
        };
        match value_of(answer, asked.one_record) {
            Ok(value) => self.reply(asked.conn, asked.stream, asked.call_id, value, now),
            Err((code, why)) => {
                self.reply_error(asked.conn, asked.stream, asked.call_id, code, &why, now);
            }
        }
        self.release(asked.conn, asked.stream);
    }

    pub(super) fn work_over(&mut self, token: Token, now: Now) {
        if let Some(asked) = self.take_work(token) {
            let (code, why) = (ErrorCode::TemporaryRelayFailure, "no answer before the deadline");
            self.reply_error(asked.conn, asked.stream, asked.call_id, code, why, now);
            self.release(asked.conn, asked.stream);
        }
    }

    pub(super) fn forget_works(&mut self, conn: ConnId) {
        let own: Vec<_> =
            self.works.iter().filter(|(_, a)| a.conn == conn).map(|(token, _)| *token).collect();
        for token in own {
            self.take_work(token);
        }
    }

    fn take_work(&mut self, token: Token) -> Option<Asked> {
        let asked = self.works.remove(&token)?;
        self.clear_timer(asked.deadline_ms, Timer::Work(token));
        self.count_calls(asked.conn, asked.stream, -1);
        Some(asked)
    }

    fn reply(&mut self, conn: ConnId, stream: Stream, call_id: CallId, payload: Value, now: Now) {
        let responded_by = self.me;
        let result = CallResult { call_id, payload, responded_by, source_route_reverse: Vec::new() };
        self.send_frame(conn, stream, &Frame::Result(result), now);
    }
}

fn action(work: &Work) -> Action<'_> {
    match work {
        Work::PutRecord { key, record } => Action::PutRecord { record_type: record.record_type, key },
        Work::FindRecord { .. } | Work::FindRecords { .. } | Work::FindRecordsByType { .. } => {
            Action::FindRecords
        }
        Work::PutBlock { mcid, .. } => Action::PutContent(*mcid),
        Work::PutManifest(list) => Action::PutContent(list.mcid()),
        Work::GetBlock(mcid) | Work::GetManifest(mcid) => Action::GetContent(*mcid),
    }
}

fn task(procedure: &str, payload: Value, now: Now) -> Result<Task, Refusal> {
    let later = |work: Result<Work, Refusal>| work.map(Task::Later);
    match procedure {
        "_relay.ping" | "_macula.ping" => Ok(Task::Now(Value::map([("ts", uint(now.unix_ms * 1000))]))),
        "_dht.put_record" => later(put_record(payload, now)),
        "_dht.find_record" => later(key_of(payload).map(|key| Work::FindRecord { key })),
        "_dht.find_records" => later(key_of(payload).map(|key| Work::FindRecords { key })),
        "_dht.find_records_by_type" => {
            let record_type = Fields::of(payload).and_then(|mut f| f.byte("type")).map_err(bad_request)?;
            Ok(Task::Later(Work::FindRecordsByType { record_type }))
        }
        "_content.put_block" => put_block(payload),
        "_content.get_block" => later(mcid_of(payload, Codec::Raw).map(Work::GetBlock)),
        "_content.get_manifest" => later(mcid_of(payload, Codec::Manifest).map(Work::GetManifest)),
        _ => later(put_manifest(payload)),
    }
}

fn bad_request(why: impl std::fmt::Display) -> Refusal {
    (ErrorCode::UnknownError, format!("bad_request: {why}"))
}

fn put_record(payload: Value, now: Now) -> Result<Work, Refusal> {
    let record = Record::from_call(payload).map_err(bad_request)?;
    record.verify(now.unix_ms).map_err(|e| match e {
        RecordError::Signature(_) => (ErrorCode::UnknownError, "bad_signature".to_string()),
        other => (ErrorCode::UnknownError, format!("bad_signature: {other}")),
    })?;
    let key = record.dht_key().map_err(bad_request)?;
    Ok(Work::PutRecord { key, record })
}

fn key_of(payload: Value) -> Result<[u8; 32], Refusal> {
    Fields::of(payload).and_then(|mut f| f.array("key")).map_err(bad_request)
}

fn mcid_of(payload: Value, codec: Codec) -> Result<Mcid, Refusal> {
    let bytes = Fields::of(payload).and_then(|mut f| f.array::<34>("mcid")).map_err(bad_request)?;
    let mcid = Mcid::try_from(bytes.as_slice()).map_err(bad_request)?;
    if mcid.codec == codec {
        Ok(mcid)
    } else {
        Err(bad_request("this procedure takes the other kind of MCID"))
    }
}

fn put_block(payload: Value) -> Result<Task, Refusal> {
    let fields = |payload| -> Result<_, FrameError> {
        let mut f = Fields::of(payload)?;
        Ok((f.array::<34>("mcid")?, f.value("payload")?))
    };
    let (mcid, bytes) = fields(payload).map_err(bad_request)?;
    let Value::Bytes(bytes) = bytes else { return Err(bad_request(FrameError::Kind("payload"))) };
    if bytes.len() > os_content_id::CHUNK_SIZE as usize {
        return Err((ErrorCode::PayloadTooLarge, "a block is at most 256 KiB".into()));
    }
    let mcid = Mcid::try_from(mcid.as_slice()).map_err(bad_request)?;
    if Mcid::of_raw(&bytes) != mcid {
        return Ok(Task::Now(text("hash_mismatch")));
    }
    Ok(Task::Later(Work::PutBlock { mcid, bytes }))
}

fn put_manifest(payload: Value) -> Result<Work, Refusal> {
    let wire = Fields::of(payload).and_then(|mut f| f.value("manifest")).map_err(bad_request)?;
    manifest::from_wire(wire).map(Work::PutManifest).map_err(bad_request)
}

fn value_of(answer: Answer, one_record: bool) -> Result<Value, Refusal> {
    let found = |value: Option<Value>| value.unwrap_or_else(|| text("not_found"));
    Ok(match answer {
        Answer::Done => text("ok"),
        Answer::Records(records) if one_record => found(records.first().map(Record::to_call)),
        Answer::Records(records) => Value::List(as_many_as_fit(&records)),
        Answer::Block(bytes) => found(bytes.map(Value::Bytes)),
        Answer::Manifest(None) => found(None),
        Answer::Manifest(Some(list)) => {
            manifest::to_wire(&list).map_err(|e| (ErrorCode::PayloadTooLarge, e.to_string()))?
        }
        Answer::Failed(why) => return Err((ErrorCode::UnknownError, why)),
    })
}

fn as_many_as_fit(records: &[Record]) -> Vec<Value> {
    let mut room = ANSWER_MAX;
    let fits = |record: &&Record| {
        // Long names take up to 64 bytes more than short ones.
        let size = record.encode().len() + 64;
        room = room.saturating_sub(size);
        room > 0
    };
    records.iter().take_while(fits).map(Record::to_call).collect()
}
