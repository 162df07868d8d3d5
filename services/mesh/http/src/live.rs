//! `POST /control/live`: what is watched, and what has changed since it was last told.
//!
//! The body names what to watch. Each thing comes as a server-sent event of its name: first whole, then as a merge patch (RFC 7396)
//! whenever it is another. Lists of things with a name or a node are told as maps, so that one of them can change alone. Of `logs`
//! only new lines are told. A thing that may not be watched, or fails, is told once as `refused` or `failed` with its reason.

use serde_json::{Map, Value, json};

use crate::Problem;
use crate::control::{Family, Method};

/// Lines of `logs` asked for at a time.
const LOG_LINES: u32 = 400;
/// Changes by themselves, all the time: alone they are no news.
const CLOCKS: [&str; 2] = ["uptime_s", "since_s"];

/// Something to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    pub name: &'static str,
    family: Family,
    method: &'static str,
    /// Milliseconds between two looks.
    pub every_ms: u64,
}

pub const WATCHED: [Watched; 7] = [
    Watched { name: "status", family: Family::Os, method: "status", every_ms: 2_000 },
    Watched { name: "units", family: Family::Os, method: "units", every_ms: 2_000 },
    Watched { name: "peers", family: Family::Mesh, method: "peers", every_ms: 2_000 },
    Watched { name: "content", family: Family::Content, method: "report", every_ms: 1_000 },
    Watched { name: "logs", family: Family::Os, method: "logs", every_ms: 1_000 },
    Watched { name: "links", family: Family::Os, method: "links", every_ms: 10_000 },
    Watched { name: "plan", family: Family::Os, method: "plan", every_ms: 10_000 },
];

impl Watched {
    pub fn method(&self) -> Method {
        Method::new(self.family, self.method)
    }

    pub fn params(&self) -> Value {
        if self.name == "logs" { json!({ "unit": "", "max_lines": LOG_LINES }) } else { Value::Null }
    }
}

/// What the body asks for: `{"watch": ["status", ...]}`, each once.
pub fn watched(body: &Value) -> Result<Vec<Watched>, Problem> {
    let next = || {
        let names: Vec<_> = WATCHED.iter().map(|w| w.name).collect();
        format!("the body reads {{\"watch\": [...]}} with some of {}", names.join(", "))
    };
    let names = body["watch"].as_array().filter(|names| (1..=WATCHED.len()).contains(&names.len()));
    let names = names.ok_or_else(|| Problem::bad_request("it does not say what to watch", next()))?;
    let mut found: Vec<Watched> = Vec::new();
    for name in names {
        let known = WATCHED.iter().find(|w| name.as_str() == Some(w.name) && !found.contains(w));
        found.push(*known.ok_or_else(|| Problem::bad_request(format!("{name} cannot be watched"), next()))?);
    }
    Ok(found)
}

/// What was told of one thing.
#[derive(Debug, Default)]
pub struct Told {
    value: Option<Value>,
    trouble: Option<String>,
}

impl Told {
    /// The event to tell, if this is news. `name` is the thing's.
    pub fn news(&mut self, name: &str, seen: Value) -> Option<Vec<u8>> {
        self.trouble = None;
        if name == "logs" {
            return self.new_lines(seen).map(|lines| event(name, &lines));
        }
        let seen = keyed(seen);
        let told = match &self.value {
            None => Some(event(name, &seen)),
            Some(before) if without_clocks(before) == without_clocks(&seen) => return None,
            Some(before) => patch(before, &seen).map(|patch| event(&format!("{name}-patch"), &patch)),
        };
        self.value = Some(seen);
        told
    }

    /// Once for each reason. What comes after it is told whole.
    pub fn trouble(&mut self, name: &str, refused: bool, why: &str) -> Option<Vec<u8>> {
        if self.trouble.as_deref() == Some(why) {
            return None;
        }
        *self = Self { value: None, trouble: Some(why.to_owned()) };
        let kind = if refused { "refused" } else { "failed" };
        Some(event(kind, &json!({ "what": name, "why": why })))
    }

    /// `{"missed": bool, "lines": [...]}` with what is behind the lines told before.
    fn new_lines(&mut self, seen: Value) -> Option<Value> {
        let Value::Array(lines) = &seen else { return None };
        let fresh = match &self.value {
            Some(Value::Array(before)) => {
                let overlap = (0..=lines.len()).rev().find(|n| before.ends_with(&lines[..*n])).unwrap_or(0);
                (overlap == 0 && !before.is_empty(), &lines[overlap..])
            }
            _ => (false, &lines[..]),
        };
        let (missed, fresh) = (fresh.0, fresh.1.to_vec());
        let first = self.value.replace(seen).is_none();
        (first || !fresh.is_empty()).then(|| json!({ "missed": missed, "lines": fresh }))
    }
}

/// JSON has no line ends of its own, so one line of data it is.
fn event(name: &str, data: &Value) -> Vec<u8> {
    format!("event: {name}\ndata: {data}\n\n").into_bytes()
}

/// A list of things with a name as a map of them; what cannot be told apart stays a list.
fn keyed(value: Value) -> Value {
    let Value::Array(items) = value else { return value };
    let name = |item: &Value| Some(item.get("name").or(item.get("node"))?.as_str()?.to_owned());
    let map: Option<Map<String, Value>> =
        items.iter().map(|item| name(item).map(|name| (name, item.clone()))).collect();
    match map {
        Some(map) if map.len() == items.len() => Value::Object(map),
        _ => Value::Array(items),
    }
}

fn without_clocks(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(name, _)| !CLOCKS.contains(&name.as_str()));
            Value::Object(kept.map(|(name, value)| (name.clone(), without_clocks(value))).collect())
        }
        other => other.clone(),
    }
}

/// RFC 7396. `None`: they are the same.
fn patch(before: &Value, after: &Value) -> Option<Value> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let gone = before.keys().filter(|name| !after.contains_key(*name));
            let mut changes: Map<String, Value> = gone.map(|name| (name.clone(), Value::Null)).collect();
            for (name, after) in after {
                let change = match before.get(name) {
                    Some(before) => patch(before, after),
                    None => Some(after.clone()),
                };
                changes.extend(change.map(|change| (name.clone(), change)));
            }
            (!changes.is_empty()).then_some(Value::Object(changes))
        }
        _ => (before != after).then(|| after.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(event: Option<Vec<u8>>) -> (String, Value) {
        let text = String::from_utf8(event.expect("news")).unwrap();
        let (name, data) = text.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        (name.to_owned(), serde_json::from_str(data).unwrap())
    }

    #[test]
    fn whole_first_then_what_changed() {
        let mut units = Told::default();
        let unit =
            |name: &str, state: &str, since: u32| json!({"name": name, "state": state, "since_s": since});
        let first = units.news("units", json!([unit("dht", "ready", 1), unit("mesh", "ready", 1)]));
        let (name, value) = told(first);
        assert_eq!((name.as_str(), &value["mesh"]["state"]), ("units", &json!("ready")));
        let later = json!([unit("dht", "ready", 3), unit("mesh", "ready", 3)]);
        assert_eq!(units.news("units", later), None, "time alone is no news");
        let failed = units.news("units", json!([unit("dht", "failed", 0), unit("mesh", "ready", 5)]));
        let expected = json!({"dht": {"state": "failed", "since_s": 0}, "mesh": {"since_s": 5}});
        assert_eq!(told(failed), ("units-patch".to_owned(), expected));
        let gone = units.news("units", json!([unit("dht", "failed", 0)]));
        assert_eq!(told(gone).1, json!({"mesh": null}));
    }

    #[test]
    fn lines_are_told_once() {
        let mut logs = Told::default();
        let lines = |range: std::ops::Range<u32>| {
            Value::Array(range.map(|n| json!({"at_ms": n, "text": "a"})).collect())
        };
        assert_eq!(told(logs.news("logs", lines(0..3))).1["lines"].as_array().unwrap().len(), 3);
        assert_eq!(logs.news("logs", lines(0..3)), None);
        let more = told(logs.news("logs", lines(1..5))).1;
        assert_eq!(more, json!({"missed": false, "lines": lines(3..5)}));
        assert_eq!(told(logs.news("logs", lines(9..10))).1, json!({"missed": true, "lines": lines(9..10)}));
        let mut none = Told::default();
        assert!(none.news("logs", json!([])).is_some(), "that there are none is news, once");
        assert_eq!(none.news("logs", json!([])), None);
    }

    #[test]
    fn trouble_is_told_once_and_then_all_anew() {
        let mut status = Told::default();
        status.news("status", json!({"name": "a"}));
        let refused = status.trouble("status", true, "no");
        assert_eq!(told(refused), ("refused".into(), json!({"what": "status", "why": "no"})));
        assert_eq!(status.trouble("status", true, "no"), None);
        assert_eq!(told(status.trouble("status", false, "gone")).0, "failed");
        assert_eq!(told(status.news("status", json!({"name": "a"}))).0, "status");
    }

    #[test]
    fn bodies() {
        assert_eq!(watched(&json!({"watch": ["logs", "status"]})).unwrap().len(), 2);
        for bad in [
            json!(null),
            json!({}),
            json!({"watch": []}),
            json!({"watch": ["x"]}),
            json!({"watch": ["logs", "logs"]}),
        ] {
            assert_eq!(watched(&bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
