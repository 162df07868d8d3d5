//! Server-sent events (WHATWG HTML, "Server-sent events"): a topic's events as a browser's `EventSource` reads them.
//!
//! An event's id is its publisher's epoch and its number, so that a reader that comes back with `Last-Event-ID` goes on where
//! it was. Text is the data; what is no text comes as event `base64`; what is lost as event `missed`.

use data_encoding::BASE64;
use mesh_proto::pubsub::Place;

/// A comment: it says that the stream is alive, and nothing else.
pub const KEEP_ALIVE: &[u8] = b":\n\n";

pub fn sse_event(place: Place, payload: &[u8]) -> Vec<u8> {
    let id = event_id(place);
    match std::str::from_utf8(payload) {
        // A lone CR would end a line, and come back as LF.
        Ok(text) if !text.contains('\r') => {
            let lines: String = text.split('\n').map(|line| format!("data: {line}\n")).collect();
            format!("id: {id}\n{lines}\n").into_bytes()
        }
        _ => format!("id: {id}\nevent: base64\ndata: {}\n\n", BASE64.encode(payload)).into_bytes(),
    }
}

/// So many events are lost; `None`: nobody knows how many.
pub fn sse_missed(count: Option<u64>) -> Vec<u8> {
    let count = count.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    format!("event: missed\ndata: {count}\n\n").into_bytes()
}

pub fn event_id(place: Place) -> String {
    format!("{:016x}-{}", place.epoch, place.seq)
}

/// The place that an id stands for; `None`: it is none of ours.
pub fn place_of(id: &str) -> Option<Place> {
    let (epoch, seq) = id.split_once('-')?;
    let hex = epoch.len() == 16 && epoch.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let decimal = !seq.is_empty() && seq.bytes().all(|b| b.is_ascii_digit());
    if !hex || !decimal {
        return None;
    }
    Some(Place { epoch: u64::from_str_radix(epoch, 16).ok()?, seq: seq.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { epoch: 0xabc, seq: 7 };

    #[test]
    fn text_stays_text_and_nothing_breaks_the_framing() {
        let event = |payload: &[u8]| String::from_utf8(sse_event(PLACE, payload)).unwrap();
        let id = "id: 0000000000000abc-7\n";
        assert_eq!(event(b"rain"), format!("{id}data: rain\n\n"));
        assert_eq!(event(b""), format!("{id}data: \n\n"));
        assert_eq!(event(b"a\n\nid: 9\n"), format!("{id}data: a\ndata: \ndata: id: 9\ndata: \n\n"));
        assert_eq!(event(b"\xff\x00"), format!("{id}event: base64\ndata: /wA=\n\n"));
        assert_eq!(event(b"a\rid: 9"), format!("{id}event: base64\ndata: YQ1pZDogOQ==\n\n"));
        assert_eq!(sse_missed(Some(3)), b"event: missed\ndata: 3\n\n");
        assert_eq!(sse_missed(None), b"event: missed\ndata: unknown\n\n");
    }

    #[test]
    fn ids_come_back() {
        for place in [PLACE, Place { epoch: u64::MAX, seq: u64::MAX }, Place { epoch: 0, seq: 0 }] {
            assert_eq!(place_of(&event_id(place)), Some(place));
        }
        for bad in ["", "7", "-7", "0000000000000abc-", "abc-7", "0000000000000abc-+7", "0000000000000ABC-7"]
        {
            assert_eq!(place_of(bad), None, "{bad}");
        }
        assert_eq!(place_of("0000000000000abc-99999999999999999999"), None);
    }
}
