//! Whether a request may have what it asks for.

use http::HeaderMap;
use mesh_http::{Asked, Bearer, Problem, Route};
use os_identity::NodeId;

use crate::Node;

/// By what right.
#[derive(Debug, Clone)]
pub enum Right {
    Public,
    Token { asked: Asked, bearer: Bearer },
}

impl Right {
    pub fn is_public(&self) -> bool {
        matches!(self, Right::Public)
    }

    /// Whether it still holds.
    pub async fn holds<N: Node>(&self, node: &N) -> bool {
        match self {
            Right::Public => true,
            Right::Token { asked, bearer } => node.authorise(asked, bearer).await.is_ok(),
        }
    }
}

/// The right to a route at `at`, or why there is none. A token that is no good spoils nothing that is public.
pub async fn right<N: Node>(
    node: &N,
    route: &Route,
    at: &NodeId,
    headers: &HeaderMap,
) -> Result<Right, Problem> {
    let Some(asked) = route.asks(&node.id(), at)? else { return Ok(Right::Public) };
    if node.is_public(&asked) {
        return Ok(Right::Public);
    }
    let wanted = format!("{} on {}", asked.ability, asked.resource);
    let Some(bearer) = Bearer::of(headers)? else {
        return Err(Problem::no_access(false, "this is not public, and no token was shown", &wanted));
    };
    match node.authorise(&asked, &bearer).await {
        Ok(_) => Ok(Right::Token { asked, bearer }),
        Err(why) => Err(Problem::no_access(true, why, &wanted)),
    }
}
