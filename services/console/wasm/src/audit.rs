//! The audit log: verified here rather than on the node that wrote it.

use os_audit::Record;
use serde_json::{Value, json};

/// Also of a log that does not verify, what can be read of it.
pub fn read(segments: &[Vec<u8>]) -> Value {
    let verified = os_audit::verify(segments);
    let readable = segments.iter().filter_map(|bytes| os_audit::parse(bytes));
    let records: Vec<Record> = readable.flat_map(|segment| segment.records).collect();
    match verified {
        Ok(verified) => json!({
            "whole": true,
            "head": format!("{}:{}", verified.head.number, verified.head.text()),
            "records": shown(&records),
        }),
        Err(e) => json!({ "whole": false, "why": e.to_string(), "records": shown(&records) }),
    }
}

fn shown(records: &[Record]) -> Vec<Value> {
    let one =
        |r: &Record| json!({ "number": r.number, "at_unix": r.at_unix, "kind": r.kind, "text": r.text });
    records.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use os_audit::{Head, encode, header};

    use super::*;

    #[test]
    fn a_changed_log_is_told_from_a_whole_one() {
        let (record, ..) = encode(Head::START, 1, "installed", "0.2.0");
        let mut log = [[header(Head::START), record].concat()];
        let seen = read(&log);
        assert_eq!((seen["whole"].as_bool(), seen["records"].as_array().unwrap().len()), (Some(true), 1));
        let last = log[0].len() - 40;
        log[0][last] ^= 1;
        log[0].extend([1; 9000]);
        assert_eq!(read(&log)["whole"], false);
    }
}
