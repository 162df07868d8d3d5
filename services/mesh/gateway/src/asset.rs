//! The console's files.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use mesh_http::{Problem, Verdict, asset_headers, judge};

use crate::Node;
use crate::body::Body;

/// A file, and the tag that changes with it.
#[derive(Debug, Clone)]
pub struct Asset {
    pub bytes: Arc<[u8]>,
    pub tag: String,
    /// They are compressed.
    pub gzip: bool,
}

pub fn get<N: Node>(node: &N, name: &'static str, headers: &HeaderMap) -> Result<Response<Body>, Problem> {
    let Some(asset) = node.asset(name) else {
        let next = "use `maculactl`, or GET /.well-known/macula for what there is";
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("this image has no console ({name})"), next));
    };
    let mut response = match judge(headers, &asset.tag) {
        Verdict::NotModified => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        Verdict::Failed => {
            let next = "ask without If-Match";
            return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "it is another file by now", next));
        }
        Verdict::Go { .. } => Response::new(Body::from(asset.bytes.to_vec())),
    };
    asset_headers(response.headers_mut(), name, &asset.tag, asset.gzip);
    Ok(response)
}
