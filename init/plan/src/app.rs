//! `[app]` of a unit file: what a program that is no part of the system may do in the mesh.
//!
//! Written as names (`serve = ["shop/price_v1"]`), meant as [`Right`]s: an ability over a thing of this node, or of any node. The
//! supervisor has `identity` put them into a delegation for the app; without this section a program gets none.

use serde::Deserialize;

use crate::unit::UnitError;

/// Entries of one list.
const LIST_MAX: usize = 16;
/// All entries together: one token has no more capabilities (`os_ucan::MAX_CAPABILITIES`).
pub const RIGHTS_MAX: usize = 32;
/// A name, in bytes.
const NAME_MAX: usize = 120;

/// What is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AppSection {
    /// Procedures that it serves here.
    serve: Vec<String>,
    /// Procedures that it may call, at any node that lets this node.
    call: Vec<String>,
    /// Topics that it has here.
    publish: Vec<String>,
    /// Topics that it may listen to, at any node.
    subscribe: Vec<String>,
    /// Protocols of its own, here: `copy/2`, or with a resource `copy/2/photos`.
    serve_streams: Vec<String>,
    /// The same at any node.
    open_streams: Vec<String>,
    /// `get`, `put`.
    content: Vec<Content>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    Get,
    Put,
}

/// An ability over a thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Such as `macula/mesh/call`.
    pub ability: &'static str,
    /// Beneath the node, such as `rpc/home/lamp_v1`, or `rpc/home/*` for all beneath `rpc/home`.
    pub path: String,
    /// At any node, not only at this one.
    pub anywhere: bool,
}

impl AppSection {
    pub(crate) fn check(self) -> Result<Vec<Right>, UnitError> {
        let mut rights = Vec::new();
        for (field, names, ability, kind, anywhere) in [
            ("app.serve", self.serve, "macula/mesh/serve", "rpc", false),
            ("app.call", self.call, "macula/mesh/call", "rpc", true),
            ("app.publish", self.publish, "macula/mesh/publish", "topic", false),
            ("app.subscribe", self.subscribe, "macula/mesh/subscribe", "topic", true),
            ("app.serve_streams", self.serve_streams, "macula/mesh/serve", "stream", false),
            ("app.open_streams", self.open_streams, "macula/mesh/open", "stream", true),
        ] {
            check_count(field, names.len(), LIST_MAX)?;
            for name in names {
                check_name(field, &name)?;
                rights.push(Right { ability, path: format!("{kind}/{name}"), anywhere });
            }
        }
        check_count("app.content", self.content.len(), LIST_MAX)?;
        rights.extend(self.content.iter().map(|content| Right {
            ability: match content {
                Content::Get => "macula/content/get",
                Content::Put => "macula/content/put",
            },
            path: "content/*".into(),
            anywhere: false,
        }));
        rights.sort();
        rights.dedup();
        check_count("app", rights.len(), RIGHTS_MAX)?;
        Ok(rights)
    }
}

fn check_count(field: &'static str, count: usize, most: usize) -> Result<(), UnitError> {
    if count > most {
        return Err(refused(field, format!("has {count} entries, at most {most} are possible")));
    }
    Ok(())
}

/// The names that a delegation can name (`os_ucan::Resource`).
fn check_name(field: &'static str, name: &str) -> Result<(), UnitError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.~".contains(&b);
    let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(plain);
    let stem = name.strip_suffix("/*").unwrap_or(name);
    if name.len() <= NAME_MAX && stem.split('/').count() <= 10 && stem.split('/').all(segment) {
        return Ok(());
    }
    let name: String = name.chars().take(60).collect();
    Err(refused(
        field,
        format!(
            "{name:?} is not made of up to 10 parts of a-z, 0-9, `-`, `_`, `.`, `~`, with `/` between (`x/*`: all beneath x)"
        ),
    ))
}

fn refused(field: &'static str, problem: String) -> UnitError {
    UnitError::Field { field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(text: &str) -> Result<Vec<Right>, String> {
        let section: AppSection = toml::from_str(text).map_err(|e| e.to_string())?;
        section.check().map_err(|e| e.to_string())
    }

    #[test]
    fn names_become_rights() {
        let text = r#"
            serve = ["shop/price_v1", "shop/price_v1"]
            call = ["home/*"]
            publish = ["shop/sold"]
            subscribe = ["weather"]
            serve_streams = ["copy/2"]
            open_streams = ["copy/2/photos"]
            content = ["get", "put"]
        "#;
        let shown: Vec<String> = rights(text)
            .unwrap()
            .iter()
            .map(|r| format!("{} {}{}", r.ability, if r.anywhere { "*/" } else { "" }, r.path))
            .collect();
        assert_eq!(
            shown,
            [
                "macula/content/get content/*",
                "macula/content/put content/*",
                "macula/mesh/call */rpc/home/*",
                "macula/mesh/open */stream/copy/2/photos",
                "macula/mesh/publish topic/shop/sold",
                "macula/mesh/serve rpc/shop/price_v1",
                "macula/mesh/serve stream/copy/2",
                "macula/mesh/subscribe */topic/weather",
            ]
        );
        assert_eq!(rights(""), Ok(Vec::new()));
    }

    #[test]
    fn what_nobody_can_be_given_is_refused_by_name() {
        for name in ["", "*", "/*", "a//b", "a/../b", "Home", "a b", "/a", "a/", "a/*/b", &"a".repeat(200)] {
            let refused = rights(&format!("call = [{name:?}]")).unwrap_err();
            assert!(refused.starts_with("app.call: "), "{name}: {refused}");
        }
        assert!(rights("content = [\"delete\"]").unwrap_err().contains("delete"));
        assert!(rights("serv = []").unwrap_err().contains("serv"));
        let many: Vec<String> = (0..17).map(|n| format!("\"a{n}\"")).collect();
        assert!(rights(&format!("call = [{}]", many.join(","))).unwrap_err().contains("at most 16"));
        let lists = ["serve", "call", "publish"].map(|list| format!("{list} = [{}]", many[..16].join(",")));
        assert!(rights(&lists.join("\n")).unwrap_err().contains("at most 32"));
    }
}
