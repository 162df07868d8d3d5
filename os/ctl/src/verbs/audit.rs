//! `audit`: the node's log of what changed its state, shown, and verified here rather than there.

use anyhow::{Context, Result, bail};
use os_audit::Record;
use services_api::report::EventReport;

use super::{Session, status};
use crate::cli;

pub async fn audit(s: &Session, verb: cli::Audit) -> Result<()> {
    let segments = s.ask(async |n| n.audit().await).await?;
    match verb {
        cli::Audit::Show => {
            let records = readable(&segments);
            s.out.show(&records, |palette| status::render_events(&events(&records), palette))
        }
        cli::Audit::Verify { since } => {
            let verdict = verify(&segments, since.as_deref())?;
            s.out.done(&verdict)
        }
    }
}

/// What can be read of a log, also of one that does not verify.
pub(super) fn readable(segments: &[Vec<u8>]) -> Vec<Record> {
    segments.iter().filter_map(|bytes| os_audit::parse(bytes)).flat_map(|segment| segment.records).collect()
}

fn events(records: &[Record]) -> Vec<EventReport> {
    let report = |r: &Record| EventReport {
        at_unix: r.at_unix,
        kind: r.kind.clone(),
        text: r.text.clone(),
        number: r.number,
        ..Default::default()
    };
    records.iter().map(report).collect()
}

fn verify(segments: &[Vec<u8>], since: Option<&str>) -> Result<String> {
    let verified = os_audit::verify(segments).context("the audit log was changed")?;
    if let Some(since) = since {
        contains(segments, since)?;
    }
    let first = verified.records.first().map_or(0, |r| r.number);
    let count = verified.records.len();
    let torn = match verified.torn {
        0 => String::new(),
        bytes => format!(", {bytes} bytes of an unfinished record at its end"),
    };
    let head = format!("{}:{}", verified.head.number, verified.head.text());
    Ok(format!("{count} records from number {first} on, the chain is whole{torn}; head {head}"))
}

/// Whether the log still holds the head that somebody noted: a log that was written anew does not.
fn contains(segments: &[Vec<u8>], since: &str) -> Result<()> {
    let (number, hash) =
        since.split_once(':').context("a head reads NUMBER:HASH, as `audit verify` prints it")?;
    let number: u64 = number.parse().context("a head begins with its number")?;
    let segments = segments.iter().filter_map(|bytes| os_audit::parse(bytes));
    let heads = segments.flat_map(|segment| segment.heads().collect::<Vec<_>>());
    match heads.into_iter().find(|head| head.number == number) {
        Some(head) if head.text() == hash => Ok(()),
        Some(_) => bail!("record {number} is not the one whose hash was noted: the log was written anew"),
        None => bail!("record {number} is no longer, or not yet, in the log"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use os_audit::{Head, encode, header};

    fn log(text: &str) -> Vec<Vec<u8>> {
        let (first, head, _) = encode(Head::START, 1, "node-key", text);
        let (second, _, _) = encode(head, 2, "installed", "0.2.0");
        vec![[header(Head::START), first, second].concat()]
    }

    #[test]
    fn a_changed_byte_is_found_and_the_rest_can_still_be_read() {
        let mut log = log("a");
        let verdict = verify(&log, None).unwrap();
        assert!(verdict.starts_with("2 records from number 1 on, the chain is whole; head 2:"), "{verdict}");
        let last = log[0].len() - 50;
        log[0][last] ^= 1;
        log[0].extend([0; 9000]);
        assert!(format!("{:#}", verify(&log, None).unwrap_err()).contains("after record 1"));
        assert_eq!(readable(&log).len(), 1);
    }

    #[test]
    fn a_noted_head_tells_a_log_that_was_written_anew() {
        let head = |log: &[Vec<u8>]| verify(log, None).unwrap().rsplit(' ').next().unwrap().to_owned();
        let (old, new) = (log("a"), log("b"));
        verify(&old, Some(&head(&old))).unwrap();
        verify(&old, Some(&format!("0:{}", "00".repeat(32)))).unwrap();
        assert!(verify(&new, Some(&head(&old))).unwrap_err().to_string().contains("anew"));
        assert!(verify(&new, Some("7:00")).is_err() && verify(&new, Some("x")).is_err());
    }
}
