//! Pages of other origins (CORS, WHATWG Fetch). They may read what anybody may read, and nothing else: what needs a token is for
//! programs, and for pages that the node serves itself.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

const EXPOSED: &str = "etag, content-range, accept-ranges";
const METHODS: &str = "GET, HEAD, POST";
const HEADERS: &str = "content-type, range, if-none-match, if-range, last-event-id";

/// Added to answers of public routes.
pub fn allow_any_origin(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.insert("timing-allow-origin", HeaderValue::from_static("*"));
}

/// The answer to `OPTIONS`: whether a page may go on and ask.
pub fn preflight(public: bool) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if public {
        let headers = response.headers_mut();
        allow_any_origin(headers);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_routes_are_open_to_other_pages() {
        assert!(preflight(false).headers().is_empty());
        let public = preflight(true);
        assert_eq!(public.headers()["access-control-allow-origin"], "*");
        let headers = public.headers()["access-control-allow-headers"].to_str().unwrap();
        assert!(!headers.contains("authorization"), "tokens are not for pages of others");
    }
}
