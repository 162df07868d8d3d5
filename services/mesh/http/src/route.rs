//! Which path means what.

use data_encoding::HEXLOWER;
use http::{Method, StatusCode};
use mesh_proto::is_resource;
use os_content_id::Mcid;
use os_identity::NodeId;
use os_ucan::{Ability, Resource};

use crate::{Problem, ability, assets, control};

/// Longest path, in bytes: beyond what any route has.
const MAX_PATH: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Document,
    /// A file of the console.
    Asset(&'static str),
    Content(Mcid),
    Call {
        at: Place,
        procedure: String,
    },
    Events {
        at: Place,
        topic: String,
    },
    Control(control::Method),
    Live,
    /// A message of somebody who pairs; the run that it belongs to.
    Pair([u8; 16]),
}

/// Where a procedure or topic is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Node(NodeId),
    /// Whoever serves it in the realm. As yet that is this node or nobody.
    Realm(String),
}

/// What a token must grant for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub ability: Ability,
    pub resource: Resource,
}

/// What is there at a path, whatever is to be done with it. Paths are written plainly, without percent-encoding, so that one
/// thing has one name.
pub fn route(path: &str) -> Result<Route, Problem> {
    if path == "/.well-known/macula" {
        return Ok(Route::Document);
    }
    if path.len() > MAX_PATH {
        return Err(Problem::new(
            StatusCode::URI_TOO_LONG,
            "the path is too long",
            "see /.well-known/macula",
        ));
    }
    if let Some(name) = assets::asset(path) {
        return Ok(Route::Asset(name));
    }
    match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
        Some(("content", mcid)) => {
            let next = "an MCID reads mcid1-raw-blake3-<64 hex> or mcid1-manifest-blake3-<64 hex>";
            let mcid = mcid.parse().map_err(|e| Problem::bad_request(format!("{mcid}: {e}"), next))?;
            Ok(Route::Content(mcid))
        }
        Some(("rpc", rest)) => named(rest).map(|(at, procedure)| Route::Call { at, procedure }),
        Some(("pair", session)) => {
            let next = "the path reads /pair/<32 lower-case hexadecimal digits>";
            let bytes = HEXLOWER.decode(session.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
            bytes.map(Route::Pair).ok_or_else(|| Problem::bad_request("this names no run of pairing", next))
        }
        Some(("control", "live")) => Ok(Route::Live),
        Some(("control", rest)) => control::method(rest).map(Route::Control),
        Some(("events", rest)) => named(rest).map(|(at, topic)| Route::Events { at, topic }),
        _ => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "there is nothing at this path",
            "GET /.well-known/macula lists what there is",
        )),
    }
}

fn named(path: &str) -> Result<(Place, String), Problem> {
    let next =
        "the path reads /<rpc or events>/<did:key of a node, or realm>/<name>, without percent-encoding";
    let wrong = |detail: String| Problem::bad_request(detail, next);
    let (place, name) = path.split_once('/').ok_or_else(|| wrong("a name is missing".to_owned()))?;
    let at = match place.strip_prefix("did:") {
        Some(_) => Place::Node(place.parse().map_err(|e| wrong(format!("{place}: {e}")))?),
        None => Place::Realm(place.to_owned()),
    };
    // The grammar of what tokens are about, so that there is nothing that no token could name.
    Resource::parse(&format!("macula:*/{name}")).map_err(|e| wrong(e.to_string()))?;
    if !is_resource(name) || name.contains('*') {
        return Err(wrong(format!("`{name}` is no name of a procedure or topic")));
    }
    Ok((at, name.to_owned()))
}

/// For `Allow`.
pub fn allowed_methods(route: &Route) -> &'static str {
    match route {
        Route::Call { .. } | Route::Control(_) | Route::Live | Route::Pair(_) => "POST, OPTIONS",
        _ => "GET, HEAD, OPTIONS",
    }
}

impl Route {
    /// Whether pages of other origins may ask for it, where no token is needed.
    pub fn is_for_other_pages(&self) -> bool {
        !matches!(self, Route::Asset(_) | Route::Control(_) | Route::Live | Route::Pair(_))
    }

    /// Whether the method is one of the route's; `OPTIONS` is for whoever asks first.
    pub fn check_method(&self, method: &Method) -> Result<(), Problem> {
        let fits = match self {
            Route::Call { .. } | Route::Control(_) | Route::Live | Route::Pair(_) => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        };
        if fits {
            return Ok(());
        }
        let allow = allowed_methods(self);
        let detail = format!("{method} is not for this path");
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail, format!("use one of {allow}"));
        Err(Problem { allow: Some(allow), ..problem })
    }

    /// What a token must grant. `me` is this node, `at` the one that the place stands for. `None`: no token opens it, either since it is
    /// for everybody or since it asks for a signed order.
    pub fn asks(&self, me: &NodeId, at: &NodeId) -> Result<Option<Asked>, Problem> {
        let (ability, resource) = match self {
            Route::Document | Route::Asset(_) | Route::Control(_) | Route::Live | Route::Pair(_) => {
                return Ok(None);
            }
            Route::Content(mcid) => (ability::CONTENT, format!("macula:{me}/content/{mcid}")),
            Route::Call { procedure, .. } => (ability::CALL, format!("macula:{at}/rpc/{procedure}")),
            Route::Events { topic, .. } => (ability::SUBSCRIBE, format!("macula:{at}/topic/{topic}")),
        };
        let wrong = |e: os_ucan::TokenError| Problem::bad_request(e.to_string(), "use a shorter name");
        let resource = Resource::parse(&resource).map_err(wrong)?;
        Ok(Some(Asked { ability: Ability::parse(ability).map_err(wrong)?, resource }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx";

    fn node() -> NodeId {
        NODE.parse().unwrap()
    }

    #[test]
    fn paths_have_one_meaning() {
        let mcid = Mcid::of_raw(b"a");
        assert_eq!(route("/.well-known/macula"), Ok(Route::Document));
        assert_eq!(route(&format!("/content/{mcid}")), Ok(Route::Content(mcid)));
        assert_eq!(route("/"), Ok(Route::Asset("index.html")));
        assert_eq!(route("/control/live"), Ok(Route::Live));
        assert_eq!(route("/PAIR"), Ok(Route::Asset("pair.html")), "as a QR code has it");
        assert_eq!(route(&format!("/pair/{}", "ab".repeat(16))), Ok(Route::Pair([0xab; 16])));
        assert!(matches!(route("/control/os/status"), Ok(Route::Control(_))));
        let call = Route::Call { at: Place::Node(node()), procedure: "shop/price_v1".into() };
        assert_eq!(route(&format!("/rpc/{NODE}/shop/price_v1")), Ok(call.clone()));
        let events = Route::Events { at: Place::Realm("home".into()), topic: "weather".into() };
        assert_eq!(route("/events/home/weather"), Ok(events));
        let asked = call.asks(&node(), &node()).unwrap().unwrap();
        assert_eq!(asked.ability.to_string(), "macula/http/call");
        assert_eq!(asked.resource.to_string(), format!("macula:{NODE}/rpc/shop/price_v1"));
    }

    #[test]
    fn other_paths_say_what_is_wrong() {
        let mcid = Mcid::of_raw(b"a").to_string();
        for (path, status) in [
            ("", 404),
            ("/console/x.js", 404),
            ("/pair/", 400),
            (&format!("/pair/{}", "AB".repeat(16)), 400),
            (&format!("/pair/{}", "ab".repeat(17)), 400),
            ("/control", 404),
            ("/control/os", 404),
            ("/control/live/", 404),
            ("/control/os/a/b", 404),
            ("/index.html", 404),
            ("/.well-known/macula/", 404),
            ("//content/x", 404),
            ("*", 404),
            ("/content/", 400),
            ("/content/x", 400),
            (&format!("/content/{mcid}/"), 400),
            (&format!("/content/{}", mcid.to_uppercase()), 400),
            ("/rpc/home", 400),
            ("/rpc/home/", 400),
            ("/rpc/home/a//b", 400),
            ("/rpc/home/a/../b", 400),
            ("/rpc/home/%61", 400),
            ("/rpc/home/A", 400),
            ("/rpc/home/a b", 400),
            ("/rpc/home/a/*", 400),
            ("/rpc/home/*", 400),
            ("/rpc/did:key:z6Mk/a", 400),
            ("/rpc/did:web:a/a", 400),
            ("/events/home/..", 400),
            (&format!("/rpc/home/{}", "a/".repeat(600)), 414),
        ] {
            assert_eq!(route(path).unwrap_err().status, status, "{path}");
        }
        let long = Route::Call { at: Place::Node(node()), procedure: format!("{0}/{0}", "b".repeat(100)) };
        assert_eq!(long.asks(&node(), &node()).unwrap_err().status, 400);
    }

    #[test]
    fn methods() {
        let mcid = Mcid::of_raw(b"a");
        let (content, call) = (Route::Content(mcid), route("/rpc/home/a").unwrap());
        assert!(content.check_method(&Method::HEAD).is_ok() && call.check_method(&Method::POST).is_ok());
        for (route, method) in [(&content, Method::POST), (&call, Method::GET), (&content, Method::TRACE)] {
            let problem = route.check_method(&method).unwrap_err();
            assert_eq!(
                (problem.status, problem.allow),
                (StatusCode::METHOD_NOT_ALLOWED, Some(allowed_methods(route)))
            );
        }
    }
}
