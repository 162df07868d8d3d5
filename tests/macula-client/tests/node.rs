//! The unmodified client `macula-rust` 0.3.0 and whole nodes: their real mesh, DHT, content and identity programs, two nodes of them.
//!
//! `cargo xtask test client` builds the programs and says in `MACULA_PROGRAMS` where they are.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use macula_rust::connection::{self, Session};
use macula_rust::identity::KeyPair;
use macula_rust::transport::Trust;
use macula_rust::{content, dht};

const REALM: [u8; 32] = [0x42; 32];
const WAIT: Duration = Duration::from_secs(30);
const LEN: usize = 1_000_000;

fn program(name: &str) -> PathBuf {
    let dir = std::env::var_os("MACULA_PROGRAMS").expect("run this with `cargo xtask test client`");
    Path::new(&dir).join(name)
}

/// The owner with `maculactl`.
struct Owner(PathBuf);

impl Owner {
    fn new(dir: &Path) -> Self {
        let owner = Self(dir.to_path_buf());
        owner.run(&["key", "new"]).expect("a key");
        owner
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program("maculactl"));
        command.arg("--key").arg(self.0.join("owner.key")).args(arguments).env("XDG_CONFIG_HOME", &self.0);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

struct Node {
    id: String,
    port: u16,
    services: Vec<Child>,
}

impl Node {
    fn start(dir: &Path, owner: &str, seed: Option<&Node>) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port();
        let seeds = seed.map(|n| format!("\"{}@127.0.0.1:{}\"", n.id, n.port)).unwrap_or_default();
        let config = format!(
            "version = 1\nname = \"n{port}\"\nowner = \"{owner}\"\n[mesh]\nport = {port}\nmdns = false\nseeds = [{seeds}]\n\
             [clients]\nmacula = \"anybody\"\n"
        );
        std::fs::write(dir.join("config.toml"), config).unwrap();
        let mut node = Self { id: String::new(), port, services: Vec::new() };
        let mut identity = node.service(dir, "identity").stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(identity.stderr.take().unwrap()).lines();
        let mut ids =
            lines.map_while(Result::ok).filter_map(|l| l.split_once("node ").map(|(_, id)| id.to_owned()));
        node.id = ids.find(|id| id.starts_with("did:key:")).expect("identity says which node this is");
        node.services.push(identity);
        for name in ["mesh", "dht", "content"] {
            let service = node.service(dir, name).spawn().unwrap();
            node.services.push(service);
        }
        node
    }

    fn service(&self, dir: &Path, name: &str) -> Command {
        let state = dir.join(name);
        std::fs::create_dir_all(&state).unwrap();
        let mut command = Command::new(program(name));
        command
            .env("MACULA_RUN_DIR", dir)
            .env("MACULA_CONFIG", dir.join("config.toml"))
            .env("STATE_DIRECTORY", state);
        command
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn join(&self, identity: &KeyPair) -> Session {
        let began = Instant::now();
        loop {
            match connection::connect("127.0.0.1", self.port, Trust::Insecure, identity).await {
                Ok(session) => return session,
                Err(e) if began.elapsed() > WAIT => panic!("{e:?}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for service in &mut self.services {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

/// Tries until it works: nodes take a moment to meet.
async fn patiently<T, E: std::fmt::Debug>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(e) if began.elapsed() > WAIT => panic!("{what}: {e:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed) % 251) as u8).collect()
}

fn text(mcid: &[u8; 34]) -> String {
    os_content_id::Mcid::try_from(mcid.as_slice()).unwrap().to_string()
}

#[tokio::test]
async fn clients_and_nodes_share_content_and_records() {
    let dir = std::env::temp_dir().join(format!("macula-client-nodes-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let owner = Owner::new(&dir);
    let did = owner.run(&["key", "show"]).unwrap();
    let did = did.split_whitespace().find(|word| word.starts_with("did:key:")).unwrap().to_owned();
    let a = Node::start(&dir.join("a"), &did, None);
    let b = Node::start(&dir.join("b"), &did, Some(&a));
    // Listed as the owner: it may bring things.
    let seed = std::fs::read_to_string(dir.join("owner.key")).unwrap();
    let trusted = KeyPair::from_seed_bytes(seed_of(&seed));
    let stranger = KeyPair::generate();
    let mut on_a = a.join(&trusted).await;
    let mut on_b = b.join(&stranger).await;

    // Content of a client, on the other node: natively, and by another client there.
    for len in [12, 262_145, LEN] {
        let data = pattern(len, len);
        let mcid =
            patiently("a client puts", async || content::put(&mut on_a, &data, "blob.bin", &trusted).await)
                .await;
        let out = dir.join("fetched");
        let (node, name, path) = (b.address(), text(&mcid), out.display().to_string());
        patiently("the other node fetches", async || {
            owner.run(&["--node", &node, "content", "get", &name, "--out", &path])
        })
        .await;
        assert_eq!(std::fs::read(&out).unwrap(), data, "{len} bytes");
        assert_eq!(content::get(&mut on_b, mcid, &stranger).await.unwrap(), data, "{len} bytes");
        std::fs::remove_file(&out).unwrap();
    }

    // And the other way round.
    let data = pattern(LEN, 7);
    let file = dir.join("native.bin");
    std::fs::write(&file, &data).unwrap();
    let put = owner.run(&["--node", &b.address(), "content", "put", &file.display().to_string()]).unwrap();
    let mcid = put.split_whitespace().find(|word| word.starts_with("mcid1-")).unwrap();
    let mcid = mcid.parse::<os_content_id::Mcid>().unwrap().to_bytes();
    let got = patiently("a client gets", async || content::get(&mut on_a, mcid, &trusted).await).await;
    assert_eq!(got, data);

    // Records cross over.
    let uri = dht::discovery_uri(REALM, "acme.echo");
    let station = on_a.station.node_id;
    let record = dht::new_procedure_advertisement(trusted.node_id(), uri.clone(), station, WAIT);
    dht::put_record(&mut on_a, &trusted, &dht::sign(record, &trusted)).await.unwrap();
    let key = dht::procedure_key(&uri);
    let found =
        patiently("a record is found", async || dht::find_record(&mut on_b, &stranger, key).await).await;
    assert!(dht::verify(&found).is_ok());
    assert_eq!(dht::read_procedure_advertisement(&found).unwrap().procedure_uri, uri);

    // Whom nobody listed brings nothing.
    let record = dht::new_procedure_advertisement(stranger.node_id(), uri, station, WAIT);
    assert!(dht::put_record(&mut on_b, &stranger, &dht::sign(record, &stranger)).await.is_err());
    assert!(content::put(&mut on_b, b"rubbish", "x", &stranger).await.is_err());
    drop((a, b));
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A key file is the seed in hexadecimal.
fn seed_of(text: &str) -> [u8; 32] {
    let digits = text.trim().as_bytes();
    assert_eq!(digits.len(), 64, "a key file");
    std::array::from_fn(|i| u8::from_str_radix(&text.trim()[2 * i..2 * i + 2], 16).unwrap())
}
