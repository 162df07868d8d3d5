//! `POST /control/<family>/<method>`: the owner's calls, as JSON, each signed (see [`crate::Signed`]).

use http::{HeaderMap, StatusCode, header};
use os_identity::NodeId;

use crate::Problem;

/// Largest body, in bytes: a whole `config.toml` and some.
pub const MAX_CONTROL_BODY: usize = 128 * 1024;
const MAX_METHOD: usize = 32;

/// Whose methods: `control/1` and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Os,
    Content,
    Dht,
    Mesh,
    Pairing,
}

impl Family {
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "os" => Self::Os,
            "content" => Self::Content,
            "dht" => Self::Dht,
            "mesh" => Self::Mesh,
            "pairing" => Self::Pairing,
            _ => return None,
        })
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Os => "os",
            Self::Content => "content",
            Self::Dht => "dht",
            Self::Mesh => "mesh",
            Self::Pairing => "pairing",
        }
    }
}

/// One method of a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    pub family: Family,
    pub name: String,
}

impl Method {
    pub fn new(family: Family, name: &str) -> Self {
        Self { family, name: name.to_owned() }
    }
}

/// What follows `/control/`, but for `live`.
pub fn method(rest: &str) -> Result<Method, Problem> {
    let next = "the path reads /control/<os, content, dht, mesh or pairing>/<method>";
    let wrong = || Problem::new(StatusCode::NOT_FOUND, "there is no such method", next);
    let (family, name) = rest.split_once('/').ok_or_else(wrong)?;
    let family = Family::parse(family).ok_or_else(wrong)?;
    let good = |b: u8| b.is_ascii_lowercase() || b == b'_';
    if name.is_empty() || name.len() > MAX_METHOD || !name.bytes().all(good) {
        return Err(wrong());
    }
    // Bytes follow their frames; content has a route of its own.
    if family == Family::Content && matches!(name, "put" | "get") {
        let next = "use GET /content/<mcid>, or `maculactl content`";
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("`{name}` is not to be had this way"), next));
    }
    Ok(Method { family, name: name.to_owned() })
}

/// `?node=did:key:...`: another node that this one is to ask in its own name.
pub fn other_node(query: Option<&str>) -> Result<Option<NodeId>, Problem> {
    let Some(query) = query else { return Ok(None) };
    let wrong = |why: String| Problem::bad_request(why, "the only query is ?node=<did:key of a node>");
    let node = query.strip_prefix("node=").ok_or_else(|| wrong(format!("`?{query}` is not known here")))?;
    node.parse().map(Some).map_err(|e| wrong(format!("{node}: {e}")))
}

/// Refuses what a page of another origin sent. Its browser would not show it the answer anyway, but by then it is done.
pub fn check_origin(headers: &HeaderMap, authority: Option<&str>) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = authority.or_else(|| headers.get(header::HOST)?.to_str().ok());
    let own = host.is_some_and(|host| origin.as_bytes() == format!("https://{host}").as_bytes());
    if own {
        return Ok(());
    }
    let next = "open the node's own console; pages of other origins cannot order anything";
    Err(Problem::new(StatusCode::FORBIDDEN, "this request comes from a page of another origin", next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries() {
        assert_eq!(method("os/status"), Ok(Method::new(Family::Os, "status")));
        assert_eq!(method("os/config_change"), Ok(Method::new(Family::Os, "config_change")));
        for bad in ["", "os", "os/", "os/Status", "os/a/b", "rauc/x", "os/../x", "content/put", "content/get"]
        {
            assert_eq!(method(bad).unwrap_err().status, StatusCode::NOT_FOUND, "{bad}");
        }
        assert!(method(&format!("os/{}", "a".repeat(33))).is_err());
        let node = os_identity::NodeKey::from_seed(&[1; 32]).node_id();
        assert_eq!(other_node(None), Ok(None));
        assert_eq!(other_node(Some(&format!("node={node}"))), Ok(Some(node)));
        for bad in ["", "node=", "node=x", "a=b", "node=did:web:a"] {
            assert_eq!(other_node(Some(bad)).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn only_the_nodes_own_pages() {
        let check = |origin: Option<&'static str>, host: Option<&'static str>, authority| {
            let mut headers = HeaderMap::new();
            origin.map(|o| headers.insert(header::ORIGIN, o.parse().unwrap()));
            host.map(|h| headers.insert(header::HOST, h.parse().unwrap()));
            check_origin(&headers, authority).is_ok()
        };
        assert!(check(None, Some("a:1"), None), "programs send none");
        assert!(check(Some("https://a:1"), Some("a:1"), None));
        assert!(check(Some("https://a:1"), None, Some("a:1")), "HTTP/2 and 3");
        assert!(!check(Some("https://b:1"), Some("a:1"), None));
        assert!(!check(Some("http://a:1"), Some("a:1"), None));
        assert!(!check(Some("null"), Some("a:1"), None));
        assert!(!check(Some("https://a:1"), None, None));
        assert!(!check(Some("https://b"), Some("b"), Some("a")));
    }
}
