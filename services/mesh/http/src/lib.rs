//! What the gateway says over HTTP: routes, tokens, ranges, conditions, events, problems.
//!
//! Pure: headers and paths in, decisions and bytes out; no clock, no socket. `services/mesh/gateway` moves the bytes, over HTTP/1.1, 2
//! and 3 alike. All input is from strangers: what is not understood is refused or, where RFC 9110 says so, ignored.

mod bearer;
mod conditions;
mod document;
mod origin;
mod problem;
mod range;
mod route;
mod sse;

pub use bearer::{Bearer, check_leaf};
pub use conditions::{Verdict, entity_tag, judge};
pub use document::Document;
pub use origin::{allow_any_origin, preflight};
pub use problem::Problem;
pub use range::{Part, part};
pub use route::{Asked, Place, Route, allowed_methods, route};
pub use sse::{KEEP_ALIVE, event_id, place_of, sse_event, sse_missed};

/// What a token must grant for each route. A family of its own: a delegation that was meant for the node, and that others have seen,
/// is no bearer token, and a bearer token is nothing to a node.
pub mod ability {
    pub const FAMILY: &str = "macula/http/*";
    pub const CONTENT: &str = "macula/http/content";
    pub const CALL: &str = "macula/http/call";
    pub const SUBSCRIBE: &str = "macula/http/subscribe";
}
