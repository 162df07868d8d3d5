//! The same answers over HTTP/1.1, 2 and 3.

mod support;

use std::sync::atomic::Ordering;

use mesh_gateway::Settings;
use os_content_id::Mcid;
use support::clients::{ALL, Answer, Version, ask};
use support::{LARGE, SMALL, Served, TestNode, large, large_bytes, small};

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
            ("GET", "/", b"", 404, b"well-known"),
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
