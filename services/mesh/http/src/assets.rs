//! The console's files: which there are, and how a browser is to treat them.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// What the console consists of, by the name in its path and its type. Nothing else is ever read from its folder.
pub const ASSETS: &[(&str, &str)] = &[
    ("index.html", HTML),
    ("pair.html", HTML),
    ("console.css", "text/css; charset=utf-8"),
    ("icon.svg", "image/svg+xml"),
    ("macula.wasm", "application/wasm"),
    ("access.js", SCRIPT),
    ("api.js", SCRIPT),
    ("app.js", SCRIPT),
    ("apps.js", SCRIPT),
    ("audit.js", SCRIPT),
    ("content.js", SCRIPT),
    ("dom.js", SCRIPT),
    ("keys.js", SCRIPT),
    ("live.js", SCRIPT),
    ("logs.js", SCRIPT),
    ("map.js", SCRIPT),
    ("node.js", SCRIPT),
    ("pair.js", SCRIPT),
    ("releases.js", SCRIPT),
    ("wasm.js", SCRIPT),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Everything from this origin, nothing from elsewhere, no inline script or style; forms go nowhere, and nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
     trusted-types 'none'";

/// The file behind a path.
pub fn asset(path: &str) -> Option<&'static str> {
    let name = match path {
        "/" => "index.html",
        // QR codes hold upper case in less space.
        "/pair" | "/PAIR" => "pair.html",
        "/favicon.ico" => "icon.svg",
        _ => path.strip_prefix("/console/")?,
    };
    ASSETS.iter().map(|(known, _)| *known).find(|known| *known == name)
}

/// `gzip`: the bytes are compressed (RFC 1952), as they are in the image; each browser reads that.
pub fn asset_headers(headers: &mut HeaderMap, name: &str, tag: &str, gzip: bool) {
    let media =
        ASSETS.iter().find(|(known, _)| *known == name).map_or("application/octet-stream", |(_, t)| t);
    let mut add =
        |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    add(header::CONTENT_TYPE, media);
    add(header::CONTENT_SECURITY_POLICY, POLICY);
    // A new release brings new files under the same names: each use asks whether they are still the same.
    add(header::CACHE_CONTROL, "no-cache");
    add(header::REFERRER_POLICY, "no-referrer");
    add(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    add(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    add(HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()");
    if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_there() {
        assert_eq!(asset("/"), Some("index.html"));
        assert_eq!(asset("/pair"), Some("pair.html"));
        assert_eq!(asset("/console/app.js"), Some("app.js"));
        for other in
            ["", "/console", "/console/", "/console/../app.js", "/console//app.js", "/app.js", "/console/x"]
        {
            assert_eq!(asset(other), None, "{other}");
        }
        let mut headers = HeaderMap::new();
        asset_headers(&mut headers, "macula.wasm", "\"a\"", true);
        assert_eq!(headers["content-encoding"], "gzip");
        assert_eq!(headers["content-type"], "application/wasm");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe-inline"), "{policy}");
    }
}
