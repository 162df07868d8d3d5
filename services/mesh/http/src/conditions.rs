//! Conditional requests (RFC 9110, section 13). Content never changes, so its entity tag is its MCID and there are no dates.

use http::{HeaderMap, HeaderName, header};
use os_content_id::Mcid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do it; `range`: whether a `Range` header counts.
    Go { range: bool },
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

pub fn entity_tag(mcid: &Mcid) -> String {
    format!("\"{mcid}\"")
}

/// What the conditions in a GET's or HEAD's headers come to, for something that exists and has this tag.
pub fn judge(headers: &HeaderMap, tag: &str) -> Verdict {
    if let Some(names) = all(headers, &header::IF_MATCH)
        && !tags(&names).any(|t| t == "*" || t == tag)
    {
        return Verdict::Failed;
    }
    if let Some(names) = all(headers, &header::IF_NONE_MATCH)
        && tags(&names).any(|t| t == "*" || t.strip_prefix("W/").unwrap_or(t) == tag)
    {
        return Verdict::NotModified;
    }
    // A date cannot match what has none.
    Verdict::Go { range: all(headers, &header::IF_RANGE).is_none_or(|t| t.trim() == tag) }
}

fn all(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    // What is not text names no tag of ours.
    Some(values.map(|v| v.to_str().unwrap_or("")).collect::<Vec<_>>().join(","))
}

/// No tag of ours has a comma, so those that do may fall apart.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_in_their_order() {
        let mcid = Mcid::of_raw(b"abc");
        let tag = entity_tag(&mcid);
        let go = |range| Verdict::Go { range };
        let weak = format!("W/{tag}");
        let listed = format!("\"a\", {tag} ,\"b,c\"");
        let listed_weak = format!("\"a\",W/{tag}");
        for (given, expected) in [
            (vec![], go(true)),
            (vec![("if-none-match", &*tag)], Verdict::NotModified),
            (vec![("if-none-match", &*weak)], Verdict::NotModified),
            (vec![("if-none-match", "*")], Verdict::NotModified),
            (vec![("if-none-match", &*listed)], Verdict::NotModified),
            (vec![("if-none-match", &*listed_weak)], Verdict::NotModified),
            (vec![("if-none-match", "\"a\""), ("if-none-match", &*tag)], Verdict::NotModified),
            (vec![("if-none-match", "\"a\"")], go(true)),
            (vec![("if-none-match", "")], go(true)),
            (vec![("if-none-match", &*mcid.to_string())], go(true)),
            (vec![("if-match", &*tag)], go(true)),
            (vec![("if-match", "*")], go(true)),
            (vec![("if-match", &*weak)], Verdict::Failed),
            (vec![("if-match", "\"a\"")], Verdict::Failed),
            (vec![("if-match", "\"a\""), ("if-none-match", &*tag)], Verdict::Failed),
            (vec![("if-match", &*tag), ("if-none-match", &*tag)], Verdict::NotModified),
            (vec![("if-range", &*tag)], go(true)),
            (vec![("if-range", &*weak)], go(false)),
            (vec![("if-range", "\"a\"")], go(false)),
            (vec![("if-range", "Tue, 24 Nov 2026 00:00:00 GMT")], go(false)),
            (vec![("if-modified-since", "Tue, 24 Nov 2026 00:00:00 GMT")], go(true)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &given {
                headers.append(HeaderName::from_static(name), value.parse().unwrap());
            }
            assert_eq!(judge(&headers, &tag), expected, "{given:?}");
        }
    }
}
