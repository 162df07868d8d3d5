//! Answers that say no, as `application/problem+json` (RFC 9457), with what to do about it.

use http::{HeaderValue, Response, StatusCode, header};
use mesh_proto::rpc::{CallError, Code};
use serde_json::json;

/// Longest explanation, in bytes.
const MAX_DETAIL: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    /// What is wrong, in this case.
    pub detail: String,
    /// What whoever reads it can do.
    pub next: String,
    /// The procedure's own number, if it was a call that failed.
    pub code: Option<u16>,
    /// For 405.
    pub allow: Option<&'static str>,
    /// For 416: the size that there is.
    pub size: Option<u64>,
    /// For requests that have to be signed: what the signed order must say.
    pub challenge: Option<Challenge>,
}

/// The node's time, in seconds since 1970, and its epoch, in hexadecimal (see [`crate::Signed`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    pub epoch: String,
    pub time: u64,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>, next: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        Self { status, detail, next: next.into(), code: None, allow: None, size: None, challenge: None }
    }

    pub fn bad_request(detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail, next)
    }

    pub fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail, "try again after the seconds in Retry-After")
    }

    pub fn too_large(limit: usize) -> Self {
        let next = "put what is larger as content, and send its MCID";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"), next)
    }

    /// For a route that needs a token: 401 without one, 403 with one that does not do.
    pub fn no_access(shown: bool, why: impl Into<String>, asked: &str) -> Self {
        let status = if shown { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        let next = format!(
            "ask the node's owner for a token that grants {asked}, and send it as `Authorization: Bearer <token>`"
        );
        Self::new(status, why, next)
    }

    pub fn of_call(error: &CallError) -> Self {
        let (status, next) = match error.code {
            Code::UNKNOWN_PROCEDURE => (StatusCode::NOT_FOUND, "check the name, and that its service runs"),
            Code::BAD_ARGUMENT => (StatusCode::BAD_REQUEST, "correct the message"),
            Code::DEADLINE => (StatusCode::GATEWAY_TIMEOUT, "allow more time with ?timeout_ms="),
            Code::FORBIDDEN => {
                (StatusCode::FORBIDDEN, "ask the called node's owner to let this node call it")
            }
            Code::BUSY => (StatusCode::SERVICE_UNAVAILABLE, "try again after the seconds in Retry-After"),
            Code::UNAVAILABLE | Code::CANCELLED | Code::PROTOCOL => {
                (StatusCode::BAD_GATEWAY, "see whether the node and its service are up")
            }
            Code(Code::FIRST_OF_PROCEDURE..) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "the procedure's documentation explains the code")
            }
            Code(_) => (StatusCode::INTERNAL_SERVER_ERROR, "look into the logs of the service"),
        };
        Self { code: Some(error.code.0), ..Self::new(status, &*error.text, next) }
    }

    pub fn to_response(&self) -> Response<Vec<u8>> {
        let mut body = json!({
            "status": self.status.as_u16(),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "detail": self.detail,
            "next": self.next,
        });
        if let Some(code) = self.code {
            body["code"] = code.into();
        }
        if let Some(challenge) = &self.challenge {
            body["epoch"] = challenge.epoch.as_str().into();
            body["time"] = challenge.time.into();
        }
        let mut response = Response::new(body.to_string().into_bytes());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.status {
            StatusCode::UNAUTHORIZED => {
                let scheme = if self.challenge.is_some() { "Macula" } else { "Bearer" };
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            _ => {}
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(Ok(range)) = self.size.map(|size| HeaderValue::from_str(&format!("bytes */{size}"))) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_and_what_next() {
        let mut error = CallError::new(Code(300), "no such flat");
        let response = Problem::of_call(&error).to_response();
        assert_eq!(response.status(), 422);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!((body["code"].as_u64(), body["detail"].as_str()), (Some(300), Some("no such flat")));
        assert!(body["next"].as_str().unwrap().contains("documentation"));
        for (code, status) in [(1, 502), (2, 404), (3, 400), (4, 504), (5, 403), (6, 503), (7, 502), (8, 500)]
        {
            error.code = Code(code);
            assert_eq!(Problem::of_call(&error).status, status, "{code}");
        }
    }

    #[test]
    fn headers_that_belong_to_a_status_are_there() {
        let of = |problem: Problem, name: &str| problem.to_response().headers().get(name).cloned();
        let denied = |shown| Problem::no_access(shown, "no", "macula/http/call");
        assert_eq!(of(denied(false), "www-authenticate").unwrap(), "Bearer");
        assert_eq!(of(denied(true), "www-authenticate"), None);
        assert_eq!(of(Problem::busy("full"), "retry-after").unwrap(), "2");
        assert_eq!(Problem::bad_request("\u{e4}".repeat(2000), "").detail.len(), MAX_DETAIL);
    }
}
