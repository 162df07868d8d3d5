//! Real mesh processes and apps on them: what an app may do is what its node, or its node's owner, gave it, and nothing else.

use std::time::Duration;

use crate::support::apps::{as_app, can_change_users, grant, install, key, open_doors};
use crate::support::{Machine, Procedure};
use macula_app::{Access, App, Error, Event, Mode, NodeId};
use os_identity::NodeKey;
use os_ucan::revocation::Revocation;
use os_ucan::{TokenId, chain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

const HELLO: u32 = 10_001;
const GUEST: u32 = 10_002;
const PATIENCE: Duration = Duration::from_secs(30);

/// What `hello` gets on its node.
fn of_hello(node: &Machine) -> Vec<(&'static str, String)> {
    let me = node.key.node_id();
    vec![
        ("macula/mesh/serve", format!("macula:{me}/rpc/hello/*")),
        ("macula/mesh/serve", format!("macula:{me}/stream/copy/2")),
        ("macula/mesh/publish", format!("macula:{me}/topic/hello/greeted")),
    ]
}

/// What those get that use it, wherever it is.
fn of_guests() -> Vec<(&'static str, String)> {
    vec![
        ("macula/mesh/call", "macula:*/rpc/hello/*".into()),
        ("macula/mesh/subscribe", "macula:*/topic/hello/*".into()),
        ("macula/mesh/open", "macula:*/stream/copy/*".into()),
    ]
}

/// Serves all that it may, until the test ends.
async fn hello(app: App) -> Result<(), Error> {
    let greeted = app.topic("hello/greeted", Access::AnyNode).await?;
    app.serve("hello/greet_v1", Access::AnyNode, move |call| {
        let greeted = greeted.clone();
        async move {
            greeted.publish(&call.message).await.unwrap();
            Ok([b"Hello, ", &call.message[..], b" from ", call.caller.to_string().as_bytes()].concat())
        }
    })
    .await?;
    app.serve("hello/known_v1", Access::Delegated, async |_| Ok(b"I know you".to_vec())).await?;
    app.serve_streaming("hello/count_v1", Access::AnyNode, Mode::Server, async |_, mut exchange| {
        let _ = exchange.next().await;
        for n in 0..3u8 {
            exchange.sender().send(&[n]).await.unwrap();
        }
        exchange.sender().end().await.unwrap();
    })
    .await?;
    app.serve_protocol("copy/2", "", Access::AnyNode, async |_, mut stream| {
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await
}

/// Starts `hello`; it ends when what is returned is dropped.
async fn start_hello(node: &Machine) -> oneshot::Sender<()> {
    install(node, HELLO, "hello", &of_hello(node));
    let (up, is_up) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let running = as_app(node, HELLO, async move |app| {
        let served = hello(app.clone()).await;
        up.send(served.map_err(|e| e.to_string())).unwrap();
        let _ = ended.await;
    });
    tokio::spawn(running);
    is_up.await.unwrap().unwrap();
    end
}

/// After a restart, and at the start, a peer has to be found first.
async fn greet(app: &App, node: NodeId) -> String {
    for _ in 0..100 {
        match app.call(node, "hello/greet_v1", b"Ann").await {
            Ok(answer) => return String::from_utf8(answer).unwrap(),
            Err(e @ Error::Refused(_)) => panic!("{e}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    panic!("nobody greets");
}

fn refused<T>(what: Result<T, Error>) -> String {
    match what {
        Err(Error::Refused(why)) => why,
        Err(other) => panic!("not refused but failed: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn apps_on_two_nodes_use_each_other() {
    if !can_change_users() {
        return;
    }
    let mut a = Machine::start(81, &[]).await;
    let b = Machine::start(82, &[&a]).await;
    let _hello = start_hello(&a).await;
    install(&b, GUEST, "guest", &of_guests());
    install(&a, GUEST, "guest", &of_guests());
    let (at_a, at_b) = (a.key.node_id(), b.key.node_id());

    let (again, go_on) = oneshot::channel();
    let (waiting, is_waiting) = oneshot::channel();
    let far = as_app(&b, GUEST, async move |app| {
        assert_eq!((app.name(), app.node()), ("guest", at_b));
        // From another node it is that node that calls.
        assert_eq!(greet(&app, at_a).await, format!("Hello, Ann from {at_b}"));
        let mut events = app.subscribe(at_a, "hello/greeted").await.unwrap();
        greet(&app, at_a).await;
        assert_eq!(events.next().await.unwrap(), Event::Published { number: 2, bytes: b"Ann".to_vec() });

        let mut count = app.begin_call(at_a, "hello/count_v1", Mode::Server, Some(PATIENCE)).await.unwrap();
        count.sender().send_last(b"go").await.unwrap();
        let mut counted = Vec::new();
        while let Some(message) = count.next().await.unwrap() {
            counted.extend(message);
        }
        assert_eq!(counted, [0, 1, 2]);

        let mut stream = app.open(at_a, "copy/2", "").await.unwrap();
        stream.write_all(&[7; 300_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut copied = Vec::new();
        stream.read_to_end(&mut copied).await.unwrap();
        assert_eq!(copied.len(), 300_000);

        // The far node decides for itself.
        let error = app.call(at_a, "hello/known_v1", b"").await.unwrap_err();
        assert!(matches!(&error, Error::Call(e) if e.text.contains("no token was shown")), "{error}");

        waiting.send(()).unwrap();
        go_on.await.unwrap();
        // A restarted node has forgotten its events, and numbers them anew.
        greet(&app, at_a).await;
        loop {
            match events.next().await.unwrap() {
                Event::Missed(None) => {}
                Event::Published { bytes, .. } => return assert_eq!(bytes, b"Ann"),
                other => panic!("{other:?}"),
            }
        }
    });
    let far = tokio::spawn(far);
    is_waiting.await.unwrap();

    // On the same node an app calls as itself.
    let guest = key(&a.key, "guest").node_id();
    as_app(&a, GUEST, async move |app| {
        assert_eq!(app.id(), guest);
        assert_eq!(greet(&app, at_a).await, format!("Hello, Ann from {guest}"));
        let mut events = app.subscribe(at_a, "hello/greeted").await.unwrap();
        greet(&app, at_a).await;
        assert!(matches!(events.next().await.unwrap(), Event::Published { .. }));
        let error = app.call(at_a, "hello/known_v1", b"").await.unwrap();
        assert_eq!(error, b"I know you", "what it may call anywhere it may call here");
    })
    .await;

    a.kill_and_restart().await;
    open_doors(&a);
    again.send(()).unwrap();
    tokio::time::timeout(PATIENCE * 2, far).await.expect("hello is served again").unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn an_app_gets_nothing_that_it_was_not_given() {
    if !can_change_users() {
        return;
    }
    let owner = NodeKey::from_seed(&[60; 32]);
    let a = Machine::owned(83, &[], Some(&owner)).await;
    let _os = a.serve_protocol("control/1", "", "macula/os", Procedure::Control).await;
    let _lamp = a.serve("home/lamp_v1", "peer", Procedure::Double).await;
    let _private = a.serve("hello/private_v1", "owner", Procedure::Double).await;
    let _hello = start_hello(&a).await;
    let rights = [
        &of_guests()[..],
        // Whoever writes such a unit file still gets no key to the system.
        &[("macula/mesh/open", "macula:*/stream/*".into()), ("macula/mesh/serve", "macula:*/*".into())],
    ]
    .concat();
    install(&a, GUEST, "guest", &rights);
    install(&a, 10_003, "nobody", &[("macula/mesh/publish", "macula:*/topic/other".into())]);
    let at_a = a.key.node_id();
    as_app(&a, GUEST, async move |app| {
        let why = refused(app.call(at_a, "home/lamp_v1", b"").await);
        assert!(why.contains("macula/mesh/call") && why.contains("rpc/home/lamp_v1"), "{why}");
        refused(app.subscribe(at_a, "weather").await.map(drop));
        refused(app.topic("hello/greeted", Access::AnyNode).await);
        refused(app.put_bytes("", b"x").await);
        refused(app.get(&macula_app::Mcid::of_raw(b"x")).await);
        for system in ["control/1", "control-content/1", "dht/1", "content/1", "ping/1", "relay/1", "time/1"]
        {
            assert!(refused(app.open(at_a, system, "status").await).contains("not for apps"), "{system}");
            let served = app.serve_protocol(system, "x", Access::AnyNode, async |_, _| {}).await;
            assert!(refused(served).contains("not for apps"), "{system}");
        }
        // Served already, by another.
        let taken = app.serve("hello/greet_v1", Access::AnyNode, async |call| Ok(call.message)).await;
        assert!(matches!(&taken, Err(Error::Mesh(why)) if why.contains("somebody else")), "{taken:?}");
        // For the owner: an app of the node is not the node.
        let error = app.call(at_a, "hello/private_v1", b"").await.unwrap_err();
        assert!(error.to_string().contains("owner alone"), "{error}");
        for n in 0.. {
            let served = app.serve(&format!("n{n}"), Access::AnyNode, async |call| Ok(call.message)).await;
            if let Err(e) = served {
                assert!(n == 32 && e.to_string().contains("at most 32"), "{n}: {e}");
                break;
            }
        }
        let mut held = Vec::new();
        let full = loop {
            match app.open(at_a, "copy/2", "").await {
                Ok(stream) => held.push(stream),
                Err(e) => break e,
            }
        };
        assert!(held.len() <= 256, "{} streams, then {full}", held.len());
    })
    .await;
    as_app(&a, 10_003, async move |app| {
        refused(app.topic("hello/greeted", Access::AnyNode).await);
        app.topic("other", Access::AnyNode).await.unwrap();
    })
    .await;
    // The supervisor has started nothing under this uid.
    let dir = a.dir().to_path_buf();
    let stranger = std::thread::spawn(move || {
        // SAFETY: as in `as_app`.
        unsafe { libc::syscall(libc::SYS_setresuid, -1, 10_009, -1) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(App::connect_in(dir, None)).map(drop).unwrap_err().to_string()
    });
    let error = tokio::task::spawn_blocking(|| stranger.join().unwrap()).await.unwrap();
    assert!(error.contains("is no app"), "{error}");
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_owner_adds_is_good_until_it_is_taken_back() {
    if !can_change_users() {
        return;
    }
    let owner = NodeKey::from_seed(&[61; 32]);
    let a = Machine::owned(84, &[], Some(&owner)).await;
    let _hello = start_hello(&a).await;
    install(&a, GUEST, "guest", &[("macula/mesh/call", "macula:*/rpc/other".into())]);
    let (at_a, guest) = (a.key.node_id(), key(&a.key, "guest").node_id());
    let rights = [
        ("macula/mesh/open", "macula:*/stream/copy/2".to_owned()),
        ("macula/mesh/serve", format!("macula:{at_a}/rpc/guest/*")),
    ];
    let chain_of_owner = grant(&owner, guest, &rights);
    let for_another = grant(&owner, at_a, &rights);
    let token = TokenId::of(chain::decode(&chain_of_owner).unwrap()[0]);
    let (open, is_open) = oneshot::channel();
    let app = as_app(&a, GUEST, async move |app| {
        app.introduce(for_another).await.unwrap();
        refused(app.open(at_a, "copy/2", "").await);
        app.introduce(chain_of_owner).await.unwrap();
        app.serve("guest/x_v1", Access::AnyNode, async |call| Ok(call.message)).await.unwrap();
        let mut stream = app.open(at_a, "copy/2", "").await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).await.unwrap();
        open.send(()).unwrap();
        let ended = tokio::time::timeout(PATIENCE, stream.read(&mut back)).await;
        assert!(!matches!(ended.expect("the stream ends with the right to it"), Ok(1..)));
        assert!(refused(app.open(at_a, "copy/2", "").await).contains("revoked"));
    });
    let app = tokio::spawn(app);
    is_open.await.unwrap();
    assert_eq!(a.call(&a, "guest/x_v1", b"x", PATIENCE).await, Ok(b"x".to_vec()));
    a.mesh().await.revoked(&Revocation::issue(token, 1, &owner).to_bytes()).await.unwrap();
    app.await.unwrap();
    let gone = a.mesh().await.open_stream(at_a.as_bytes(), "rpc/1", "guest/x_v1", &[], 1000).await;
    assert!(
        gone.unwrap_err().to_string().contains("nobody serves"),
        "the procedure went with the right to serve it"
    );
}
