//! What the gateway says over HTTP: routes, tokens, signed orders, ranges, conditions, events, problems.
//!
//! Pure: headers and paths in, decisions and bytes out; no clock, no socket. `services/mesh/gateway` moves the bytes, over HTTP/1.1, 2
//! and 3 alike. All input is from strangers: what is not understood is refused or, where RFC 9110 says so, ignored.

mod assets;
mod bearer;
mod conditions;
mod control;
mod document;
mod live;
mod origin;
mod problem;
mod range;
mod route;
mod signed;
mod sse;

pub use assets::{ASSETS, asset_headers};
pub use bearer::{Bearer, check_leaf};
pub use conditions::{Verdict, entity_tag, judge};
pub use control::{Family, MAX_CONTROL_BODY, Method, check_origin, other_node};
pub use document::Document;
pub use live::{Told, WATCHED, Watched, watched};
pub use origin::{allow_any_origin, preflight};
pub use problem::{Challenge, Problem};
pub use range::{Part, part};
pub use route::{Asked, Place, Route, allowed_methods, route};
pub use signed::{Epoch, Expected, MAX_LIFETIME_S, NotNew, Ordered, Seen, Signed, tokens};
pub use sse::{KEEP_ALIVE, event_id, place_of, sse_event, sse_missed};

/// What a token must grant for each route. A family of its own: a delegation that was meant for the node, and that others have seen,
/// is no bearer token, and a bearer token is nothing to a node.
pub mod ability {
    pub const FAMILY: &str = "macula/http/*";
    pub const CONTENT: &str = "macula/http/content";
    pub const CALL: &str = "macula/http/call";
    pub const SUBSCRIBE: &str = "macula/http/subscribe";
    /// What an order for `/control/live` says it is. Each thing watched needs its own right besides, so nobody is granted this.
    pub const LIVE: &str = "macula/live";
}
