//! Two real mesh processes, and curl, which knows nothing of them, over HTTP/1.1 and 2.

use std::time::Duration;

use crate::support::curl::{ask, curl};
use crate::support::owned::{machine, token};
use crate::support::{Machine, Procedure, content};
use os_identity::NodeId;
use tokio::io::{AsyncBufReadExt, BufReader};

const WAIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "current_thread")]
async fn content_and_the_node_document() {
    let a = machine(61, &[], "").await;
    let large: Vec<u8> = (0..2_500_000usize).map(|i| (i % 251) as u8).collect();
    let (raw, mcid) = content::serve(&a, b"hello", &large);
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let (status, spoken, body) = ask(&a, "/.well-known/macula", &[option]).await;
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, spoken.as_str()), (200, version));
        assert_eq!(document["node"].as_str(), Some(a.key.node_id().to_string().as_str()));

        let path = format!("/content/{mcid}");
        let (status, _, body) = ask(&a, &path, &[option]).await;
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 401, "{problem}");
        assert!(problem["next"].as_str().unwrap().contains("macula/http/content"));

        let granted = format!("macula:{}/content/*", a.key.node_id());
        let bearer =
            format!("authorization: Bearer {}", token(a.key.node_id(), "macula/http/content", &granted));
        let header = ["--header", bearer.as_str(), option];
        let (status, spoken, body) = ask(&a, &path, &header).await;
        assert_eq!((status, spoken.as_str(), body == large), (200, version, true));
        for (range, expected) in [
            ("0-0", &large[..1]),
            ("262143-262144", &large[262_143..262_145]),
            ("1048570-2100000", &large[1_048_570..=2_100_000]),
            ("-5", &large[2_499_995..]),
        ] {
            let (status, _, body) = ask(&a, &path, &[&header[..], &["--range", range]].concat()).await;
            assert_eq!((status, body == expected), (206, true), "{range}");
        }
        let (status, _, head) = ask(&a, &path, &[&header[..], &["--head", "--range", "0-1"]].concat()).await;
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(
            status == 200 && head.contains("content-length: 2500000\r"),
            "a range means nothing to HEAD: {head}"
        );
        assert!(head.contains(&format!("alt-svc: h3=\":{}\"", a.port)), "{head}");
        let (status, ..) = ask(&a, &path, &[&header[..], &["--range", "2500000-"]].concat()).await;
        assert_eq!(status, 416);
        let known = format!("if-none-match: \"{mcid}\"");
        let (status, _, body) = ask(&a, &path, &[&header[..], &["--header", &known]].concat()).await;
        assert_eq!((status, body.len()), (304, 0));
        assert_eq!(ask(&a, &format!("/content/{raw}"), &header).await.2, b"hello");
        let nowhere = format!("/content/{}", os_content_id::Mcid::of_raw(b"nowhere"));
        assert_eq!(ask(&a, &nowhere, &header).await.0, 404);
        let (status, ..) =
            ask(&a, &format!("/rpc/{}/x", a.key.node_id()), &[&header[..], &["--data", "x"]].concat()).await;
        assert_eq!(status, 403, "content is no call");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn calls_here_and_at_another_node() {
    let a = machine(62, &[], "\"rpc/open/*\"").await;
    let b = Machine::start(63, &[]).await;
    let b_seed = Machine::start(64, &[&b, &a]).await;
    let _open = a.serve("open/double_v1", "peer", Procedure::Double).await;
    let _mine = a.serve("test/double_v1", "peer", Procedure::Double).await;
    let _never = a.serve("open/never_v1", "peer", Procedure::Never).await;
    let _theirs = b_seed.serve("test/double_v1", "peer", Procedure::Double).await;

    let data = ["--data-binary", "ab"];
    assert_eq!(ask(&a, "/rpc/home/open/double_v1", &data).await, (200, "2".into(), b"abab".to_vec()));
    assert_eq!(ask(&a, "/rpc/home/open/nothing_v1", &data).await.0, 404);
    assert_eq!(ask(&a, "/rpc/other/open/double_v1", &data).await.0, 404);
    assert_eq!(ask(&a, "/rpc/home/open/never_v1?timeout_ms=200", &data).await.0, 504);
    assert_eq!(ask(&a, "/rpc/home/open/double_v1", &[]).await.0, 405);
    assert_eq!(ask(&a, "/rpc/home/test/double_v1", &data).await.0, 401);

    let me = a.key.node_id();
    let bearer = |node: NodeId, resource: String| {
        format!("authorization: Bearer {}", token(node, "macula/http/call", &resource))
    };
    let far = b_seed.key.node_id();
    let path = format!("/rpc/{far}/test/double_v1");
    let good = bearer(me, format!("macula:{far}/rpc/test/*"));
    let header = |text: &str| vec!["--data-binary".to_owned(), "cd".into(), "--header".into(), text.into()];
    let ask_with = async |path: &str, text: &str| {
        let arguments = header(text);
        ask(&a, path, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let mut answer = ask_with(&path, &good).await;
    for _ in 0..100 {
        if answer.0 != 502 {
            break;
        }
        // It has to dial in first.
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer = ask_with(&path, &good).await;
    }
    assert_eq!((answer.0, answer.2), (200, b"cdcd".to_vec()), "at the other node, in this one's name");
    assert_eq!(ask_with("/rpc/home/test/double_v1", &good).await.0, 403, "not the same procedure here");
    let to_other = bearer(far, format!("macula:{me}/rpc/test/*"));
    assert_eq!(ask_with("/rpc/home/test/double_v1", &to_other).await.0, 403, "made out to another node");
    let local = bearer(me, format!("macula:{me}/rpc/test/double_v1"));
    assert_eq!(ask_with("/rpc/home/test/double_v1", &local).await.2, b"cdcd");
}

#[tokio::test(flavor = "current_thread")]
async fn events_go_on_where_they_were() {
    let a = machine(65, &[], "\"topic/weather\"").await;
    a.open_topic("weather", "peer").await;
    let mut process = curl(&a, "/events/home/weather", &["--no-buffer"]).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut next = async || tokio::time::timeout(WAIT, lines.next_line()).await.unwrap().unwrap().unwrap();
    let begins = next().await;
    assert!(begins.starts_with("id: ") && begins.ends_with("-0"), "{begins}");
    assert_eq!(next().await, "");
    a.publish("weather", b"rain").await;
    let first = next().await;
    assert_eq!(next().await, "data: rain");
    process.kill().await.unwrap();

    a.publish("weather", b"snow").await;
    a.publish("weather", b"\xff").await;
    let last = format!("last-event-id: {}", first.strip_prefix("id: ").unwrap());
    let mut process = curl(&a, "/events/home/weather", &["--no-buffer", "--header", &last]).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut heard = Vec::new();
    while heard.iter().filter(|l: &&String| l.starts_with("data")).count() < 2 {
        heard.push(tokio::time::timeout(WAIT, lines.next_line()).await.unwrap().unwrap().unwrap());
    }
    heard.retain(|line| !line.starts_with("id") && !line.is_empty());
    assert_eq!(heard, ["data: snow", "event: base64", "data: /w=="]);
    process.kill().await.unwrap();

    assert_eq!(ask(&a, "/events/home/wind", &[]).await.0, 401);
    let me = a.key.node_id();
    let bearer = format!(
        "authorization: Bearer {}",
        token(me, "macula/http/subscribe", &format!("macula:{me}/topic/*"))
    );
    assert_eq!(ask(&a, "/events/home/wind", &["--header", &bearer]).await.0, 404);
}

#[tokio::test(flavor = "current_thread")]
async fn it_can_be_switched_off() {
    let a = Machine::start_with(66, &[], None, "[gateway]\nenabled = false").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(tokio::net::TcpStream::connect(("::1", a.port)).await.is_err());
}
