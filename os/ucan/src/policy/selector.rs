//! Selectors: a path into the arguments, in a small part of jq's language ("Selectors").

use std::borrow::Cow;

use ipld_core::ipld::Ipld;

use super::{MAX_TEXT, PolicyError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector {
    text: String,
    steps: Vec<(Step, Optional)>,
}

/// Whether a step that fails gives null (`?`).
type Optional = bool;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Values,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
}

impl Selector {
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_TEXT {
            return Err(PolicyError::TooLong);
        }
        let steps = steps(text).ok_or_else(|| PolicyError::Selector(text.chars().take(80).collect()))?;
        Ok(Self { text: text.to_owned(), steps })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value at this path; None when there is no such path.
    pub fn select<'a>(&self, args: &'a Ipld) -> Option<Cow<'a, Ipld>> {
        let mut at = Cow::Borrowed(args);
        for (step, optional) in &self.steps {
            at = match (step.take(at), optional) {
                (Some(value), _) => value,
                (None, true) => Cow::Owned(Ipld::Null),
                (None, false) => return None,
            };
        }
        Some(at)
    }
}

impl Step {
    fn take<'a>(&self, from: Cow<'a, Ipld>) -> Option<Cow<'a, Ipld>> {
        match from {
            Cow::Borrowed(value) => self.look(value),
            Cow::Owned(value) => self.look(&value).map(|found| Cow::Owned(found.into_owned())),
        }
    }

    fn look<'a>(&self, value: &'a Ipld) -> Option<Cow<'a, Ipld>> {
        match (self, value) {
            // A key that is missing is null ("Validation").
            (Step::Field(key), Ipld::Map(map)) => {
                Some(map.get(key).map_or(Cow::Owned(Ipld::Null), Cow::Borrowed))
            }
            (Step::Values, Ipld::List(_)) => Some(Cow::Borrowed(value)),
            (Step::Values, Ipld::Map(map)) => Some(Cow::Owned(Ipld::List(map.values().cloned().collect()))),
            (Step::Index(i), Ipld::List(list)) => list.get(position(*i, list.len())?).map(Cow::Borrowed),
            (Step::Index(i), Ipld::Bytes(bytes)) => {
                let byte = bytes.get(position(*i, bytes.len())?)?;
                Some(Cow::Owned(Ipld::Integer((*byte).into())))
            }
            (Step::Slice(from, to), Ipld::List(list)) => {
                Some(Cow::Owned(Ipld::List(list[range(*from, *to, list.len())].to_vec())))
            }
            (Step::Slice(from, to), Ipld::Bytes(bytes)) => {
                Some(Cow::Owned(Ipld::Bytes(bytes[range(*from, *to, bytes.len())].to_vec())))
            }
            _ => None,
        }
    }
}

/// Negative ones count from the end.
fn position(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(i64::try_from(len).ok()?)? } else { index };
    usize::try_from(index).ok()
}

/// Both ends are held within the list, as jq does.
fn range(from: Option<i64>, to: Option<i64>, len: usize) -> std::ops::Range<usize> {
    let clamp = |index: i64| match position(index, len) {
        Some(at) => at.min(len),
        None => 0,
    };
    let (from, to) = (from.map_or(0, clamp), to.map_or(len, clamp));
    from.min(to)..to
}

fn steps(text: &str) -> Option<Vec<(Step, Optional)>> {
    let mut rest = text.strip_prefix('.')?;
    let mut steps = Vec::new();
    // The leading dot may be the whole path, or belong to the first field or bracket.
    let mut after_dot = true;
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[') {
            Some(inner) => bracket(inner)?,
            None if after_dot => field(rest)?,
            None => return None,
        };
        let unmarked = after.trim_start_matches('?');
        steps.push((step, unmarked.len() < after.len()));
        rest = match unmarked.strip_prefix('.') {
            Some("") => return None,
            Some(next) => {
                after_dot = true;
                next
            }
            None => {
                after_dot = false;
                unmarked
            }
        };
    }
    Some(steps)
}

fn field(text: &str) -> Option<(Step, &str)> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let begins = name.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
    begins.then(|| (Step::Field(name.to_owned()), rest))
}

/// What follows a `[`.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if text.starts_with('"') {
        let end = quoted_len(text)?;
        let name: String = serde_json::from_str(&text[..end]).ok()?;
        return Some((Step::Field(name), text[end..].strip_prefix(']')?));
    }
    let (inner, rest) = text.split_once(']')?;
    let step = match inner.split_once(':') {
        None if inner.is_empty() => Step::Values,
        None => Step::Index(number(inner)?),
        Some(("", "")) => return None,
        Some((from, to)) => Step::Slice(end(from)?, end(to)?),
    };
    Some((step, rest))
}

/// Bytes of the JSON string that `text` begins with.
fn quoted_len(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn end(text: &str) -> Option<Option<i64>> {
    if text.is_empty() { Some(None) } else { number(text).map(Some) }
}

fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipld::{from_json, to_json};

    /// The specification's own mail, and then some.
    const ARGS: &str = r#"{"from":"alice@example.com","to":["bob","carol","dan"],"cc":["fraud"],
        "a.b":1,"":2,"m":{"x":{"y":7},"z":null},"\u00e4":3}"#;

    fn select(selector: &str) -> Option<String> {
        let args = from_json(ARGS.as_bytes()).unwrap();
        Some(to_json(&*Selector::parse(selector).unwrap().select(&args)?).to_string())
    }

    #[test]
    fn finds_what_the_specification_says() {
        for (selector, expected) in [
            (".from", r#""alice@example.com""#),
            (".cc", r#"["fraud"]"#),
            (".to[1]", r#""carol""#),
            (".to[-1]", r#""dan""#),
            (".to[99]?", "null"),
            (".to[99]???", "null"),
            (".to[]", r#"["bob","carol","dan"]"#),
            (".m[]", r#"[{"y":7},null]"#),
            (".m[][0].y", "7"),
            (".to[1:]", r#"["carol","dan"]"#),
            (".to[:-1]", r#"["bob","carol"]"#),
            (".to[-9:9]", r#"["bob","carol","dan"]"#),
            (".to[2:1]", "[]"),
            (".m.x.y", "7"),
            (r#".["a.b"]"#, "1"),
            (r#".[""]"#, "2"),
            (r#".m["x"].y"#, "7"),
            (r#".m["\u0078"]"#, r#"{"y":7}"#),
            (".\u{e4}", "3"),
            (".nope", "null"),
            (".nope.more?", "null"),
            (".m.x.y.z?", "null"),
        ] {
            assert_eq!(select(selector).as_deref(), Some(expected), "{selector}");
        }
        for nothing in [
            ".to[99]",
            ".to[-4]",
            ".nope.more",
            ".nope.more.and?",
            ".from[0]",
            ".from[]",
            ".m[0]",
            ".to.x",
            ".from[1:]",
        ] {
            assert_eq!(select(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn bytes_are_lists_of_numbers() {
        let bytes = Ipld::Bytes(vec![0xd6, 0xa9, 0xc1, 0x8c, 0xf8, 0xc4]);
        let select = |text: &str| Selector::parse(text).unwrap().select(&bytes).map(Cow::into_owned);
        assert_eq!(select(".[3]"), Some(Ipld::Integer(140)));
        assert_eq!(select(".[-1:]"), Some(Ipld::Bytes(vec![0xc4])));
        assert_eq!(select("."), Some(bytes.clone()));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for bad in [
            "",
            "a",
            "..",
            ".a.",
            ".a..b",
            "...",
            ".[",
            ".]",
            ".[a]",
            ".[1",
            ".[1:2:3]",
            ".[:]",
            ".[+1]",
            ".[ 1]",
            ".[1.5]",
            ".[-]",
            r#".["a]"#,
            r#".["a""#,
            ".['a']",
            ".a b",
            ".a|b",
            ".0a",
            ".$a",
            ".a-b",
            ".a*",
            ".?a",
            ".[0]a",
            ".[99999999999999999999]",
        ] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }
}
