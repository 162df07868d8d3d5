//! The same answers over HTTP/1.1, 2 and 3.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use ipld_core::ipld::Ipld;
use mesh_gateway::Settings;
use os_content_id::Mcid;
use os_identity::NodeKey;
use os_ucan::invocation::{Order, issue};
use sha2::{Digest, Sha256};
use support::clients::{ALL, Answer, Version, ask};
use support::{EPOCH, LARGE, SMALL, Served, TestNode, large, large_bytes, small};

async fn get(served: &Served, version: Version, path: &str, headers: &[(&str, &str)]) -> Answer {
    ask(served, version, "GET", path, headers, b"").await.unwrap()
}

#[tokio::test]
async fn content_whole_and_in_part() {
    let served = Served::start(TestNode::default(), Settings::default()).await;
    let (small, large) = (format!("/content/{}", small()), format!("/content/{}", large()));
    let empty = format!("/content/{}", Mcid::of_raw(b""));
    let tag = format!("\"{}\"", support::small());
    for version in ALL {
        for (path, headers, status, body, range) in [
            (&small, vec![], 200, SMALL.to_vec(), None),
            (&small, vec![("range", "bytes=2-4")], 206, SMALL[2..5].to_vec(), Some("bytes 2-4/10")),
            (&small, vec![("range", "bytes=8-")], 206, SMALL[8..].to_vec(), Some("bytes 8-9/10")),
            (&small, vec![("range", "bytes=-3")], 206, SMALL[7..].to_vec(), Some("bytes 7-9/10")),
            (&small, vec![("range", "bytes=0-0,2-3")], 200, SMALL.to_vec(), None),
            (&small, vec![("range", "bytes=x")], 200, SMALL.to_vec(), None),
            (&small, vec![("range", "bytes=1-2"), ("range", "bytes=3-4")], 200, SMALL.to_vec(), None),
            (
                &small,
                vec![("range", "bytes=1-2"), ("if-range", &tag)],
                206,
                SMALL[1..3].to_vec(),
                Some("bytes 1-2/10"),
            ),
            (&small, vec![("range", "bytes=1-2"), ("if-range", "\"x\"")], 200, SMALL.to_vec(), None),
            (&small, vec![("if-none-match", &tag)], 304, vec![], None),
            (&small, vec![("if-none-match", "\"x\"")], 200, SMALL.to_vec(), None),
            (&empty, vec![], 200, vec![], None),
            (&large, vec![], 200, large_bytes(0..LARGE), None),
            (
                &large,
                vec![("range", "bytes=262143-262144")],
                206,
                large_bytes(262_143..262_145),
                Some("bytes 262143-262144/3000000"),
            ),
            (
                &large,
                vec![("range", "bytes=1000000-2999999")],
                206,
                large_bytes(1_000_000..LARGE),
                Some("bytes 1000000-2999999/3000000"),
            ),
            (
                &large,
                vec![("range", "bytes=-1")],
                206,
                large_bytes(LARGE - 1..LARGE),
                Some("bytes 2999999-2999999/3000000"),
            ),
        ] {
            let answer = get(&served, version, path, &headers).await;
            let said = answer.headers.get("content-range").map(|v| v.to_str().unwrap());
            assert_eq!((answer.status, said), (status, range), "{version:?} {path} {headers:?}");
            assert!(answer.body == body && !answer.broken, "{version:?} {path} {headers:?}");
            assert!(
                answer.headers.contains_key("etag") && answer.headers["x-content-type-options"] == "nosniff"
            );
            if status != 304 {
                assert_eq!(answer.headers["content-length"], body.len().to_string().as_str());
            }
        }
        for (headers, status) in [
            (vec![("range", "bytes=10-")], 416),
            (vec![("range", "bytes=-0")], 416),
            (vec![("if-match", "\"x\"")], 412),
        ] {
            let answer = get(&served, version, &small, &headers).await;
            assert_eq!(answer.status, status, "{version:?} {headers:?}");
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            let size = answer.headers.get("content-range").map(|v| v.to_str().unwrap());
            assert_eq!(size, (status == 416).then_some("bytes */10"));
        }
        let head = ask(&served, version, "HEAD", &large, &[("range", "bytes=0-1")], b"").await.unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0), "{version:?}");
        assert_eq!(head.headers["content-length"], "3000000");
    }
}

#[tokio::test]
async fn a_range_fetches_what_it_covers_and_little_more() {
    let served = Served::start(TestNode::default(), Settings::default()).await;
    let path = format!("/content/{}", large());
    get(&served, Version::Http11, &path, &[("range", "bytes=262143-262144")]).await;
    assert_eq!(served.gateway.node.fetched.load(Ordering::Relaxed), 2);
    ask(&served, Version::Http11, "HEAD", &path, &[], b"").await.unwrap();
    assert_eq!(served.gateway.node.fetched.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn half_of_something_is_not_taken_for_the_whole() {
    let node = TestNode { broken_from: 5, ..TestNode::default() };
    let served = Served::start(node, Settings::default()).await;
    for version in ALL {
        let answer = get(&served, version, &format!("/content/{}", large()), &[]).await;
        assert!(answer.status == 200 && answer.broken && answer.body.len() < LARGE, "{version:?}");
    }
}

#[tokio::test]
async fn calls_and_what_is_refused() {
    let served = Served::start(TestNode::default(), Settings::default()).await;
    let too_large = vec![7; 1_048_577];
    for version in ALL {
        for (method, path, body, status, expected) in [
            ("POST", "/rpc/home/double", &b"ab"[..], 200, &b"abab"[..]),
            ("POST", "/rpc/home/double", b"", 200, b""),
            ("POST", "/rpc/home/double?timeout_ms=5000", b"x", 200, b"xx"),
            ("POST", "/rpc/home/double?timeout_ms=0", b"x", 400, b"timeout_ms"),
            ("POST", "/rpc/home/fails", b"x", 422, b"it always does"),
            ("POST", "/rpc/home/nothing", b"x", 404, b"nobody serves it"),
            ("POST", "/rpc/home/never?timeout_ms=50", b"x", 504, b"never"),
            ("POST", "/rpc/elsewhere/double", b"x", 404, b"elsewhere"),
            ("POST", "/rpc/home/secret", b"x", 401, b"macula/http/call"),
            ("POST", "/rpc/home/double", &too_large, 413, b"1048576"),
            ("GET", "/rpc/home/double", b"", 405, b"POST"),
            ("DELETE", "/.well-known/macula", b"", 405, b"GET"),
            ("GET", "/.well-known/macula", b"", 200, b"{}"),
            ("GET", "/", b"", 200, b"a page"),
            ("GET", "/console/app.js", b"", 404, b"no console"),
            ("GET", "/console/secret", b"", 404, b"well-known"),
            ("POST", "/", b"", 405, b"GET"),
            ("POST", "/control/os/status", b"", 401, b"signed by the owner"),
            ("GET", "/control/os/status", b"", 405, b"POST"),
            ("POST", "/pair/41414141414141414141414141414141", b"bc", 200, b"Abc"),
            ("GET", "/pair/41414141414141414141414141414141", b"", 405, b"POST"),
            ("POST", "/control/live", b"{}", 401, b"signed by the owner"),
            ("OPTIONS", "/control/live", b"", 204, b""),
            ("GET", "/events/home/nothing", b"", 404, b"no such topic"),
            ("OPTIONS", "/rpc/home/double", b"", 204, b""),
        ] {
            let answer = ask(&served, version, method, path, &[], body).await.unwrap();
            let text = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, status, "{version:?} {method} {path}: {text}");
            let expected = String::from_utf8_lossy(expected);
            match status {
                200 | 204 => assert_eq!(text, expected, "{version:?} {path}"),
                _ => assert!(text.contains(&*expected), "{version:?} {method} {path}: {text}"),
            }
        }
        let token = [("authorization", "Bearer abc")];
        let answer = ask(&served, version, "POST", "/rpc/home/secret", &token, b"").await.unwrap();
        assert_eq!(answer.status, 403, "{version:?}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
        let answer = ask(&served, version, "OPTIONS", "/rpc/home/secret", &[], b"").await.unwrap();
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
        let answer = get(&served, version, "/.well-known/macula", &[]).await;
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert_eq!(answer.headers.contains_key("alt-svc"), version != Version::Http3);
    }
}

/// A header for an order by the key of this seed.
fn order(seed: u8, command: &str, path: &str, body: &[u8]) -> String {
    let node = NodeKey::from_seed(&[1; 32]).node_id();
    let hash: [u8; 32] = Sha256::digest(body).into();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let order = Order {
        subject: node.into(),
        audience: None,
        command: command.into(),
        args: BTreeMap::from([
            ("epoch".to_owned(), Ipld::Bytes(EPOCH.to_vec())),
            ("uri".to_owned(), Ipld::String(format!("macula:{node}"))),
            ("path".to_owned(), Ipld::String(path.to_owned())),
            ("body".to_owned(), Ipld::Bytes(hash.to_vec())),
        ]),
        proofs: vec![],
        nonce: now.as_nanos().to_be_bytes().to_vec(),
        expires: Some(now.as_secs() + 60),
    };
    format!("Macula {}", BASE64URL_NOPAD.encode(&issue(&order, &NodeKey::from_seed(&[seed; 32])).unwrap()))
}

#[tokio::test]
async fn orders_whichever_way_they_come() {
    let served = Served::start(TestNode::default(), Settings::default()).await;
    let (path, body) = ("/control/os/restart", b"{\"unit\":\"dht\"}");
    for version in ALL {
        let signed = order(1, "/macula/os/restart", path, body);
        let ask = async |headers: &[(&str, &str)], body: &[u8]| {
            let answer = support::clients::ask(&served, version, "POST", path, headers, body).await.unwrap();
            (answer.status, String::from_utf8(answer.body).unwrap())
        };
        let (status, text) = ask(&[("authorization", &signed)], body).await;
        assert_eq!(
            (status, text.as_str()),
            (200, r#"{"method":"restart","params":{"unit":"dht"}}"#),
            "{version:?}"
        );
        assert_eq!(ask(&[("authorization", &signed)], body).await.0, 409, "{version:?}");
        let fresh = || order(1, "/macula/os/restart", path, body);
        assert_eq!(ask(&[("authorization", &fresh())], b"{}").await.0, 401, "{version:?}");
        let foreign = [("authorization", &*fresh()), ("origin", "https://example.org")];
        assert_eq!(ask(&foreign, body).await.0, 403, "{version:?}");
        let stranger = order(2, "/macula/os/restart", path, body);
        assert_eq!(ask(&[("authorization", &stranger)], body).await.0, 403, "{version:?}");
        let page = get(&served, version, "/", &[("if-none-match", "\"t\"")]).await;
        assert_eq!(page.status, 304, "{version:?}");
        assert!(page.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
        assert!(!page.headers.contains_key("access-control-allow-origin"));
    }
}
