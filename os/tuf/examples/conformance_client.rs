//! The client that the public tuf-conformance suite tests (its CLIENT-CLI.md): our rules with a shell that fetches over
//! plain HTTP and keeps files. `os/tuf/conformance.sh` runs the suite with it.
//!
//! The suite signs with ECDSA unless told otherwise, so this client brings a check for its kinds of keys. With
//! `TUF_ED25519_ONLY` set it knows the same kind as a node.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use os_tuf::{CheckSignature, Key, METADATA_MAX, Target, Trusted, check_ed25519};
use ring::signature::{self as algorithms, UnparsedPublicKey, VerificationAlgorithm};

type Result<T> = std::result::Result<T, String>;

/// More would be an attack or a mistake of the suite's.
const ROOTS_MAX: u32 = 256;
const ROLES_MAX: usize = 32;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("client: {why}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Arguments {
    metadata_dir: PathBuf,
    metadata_url: String,
    target_names: Vec<String>,
    target_dir: PathBuf,
    target_url: String,
    words: Vec<String>,
}

impl Arguments {
    fn parse() -> Self {
        let (mut parsed, mut given) = (Self::default(), std::env::args().skip(1));
        while let Some(word) = given.next() {
            let mut value = || given.next().unwrap_or_default();
            match word.as_str() {
                "--metadata-dir" => parsed.metadata_dir = value().into(),
                "--metadata-url" => parsed.metadata_url = value(),
                "--target-name" => parsed.target_names.push(value()),
                "--target-dir" => parsed.target_dir = value().into(),
                "--target-base-url" => parsed.target_url = value(),
                _ => parsed.words.push(word),
            }
        }
        parsed
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match arguments.words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["init", root] => fs::copy(root, arguments.metadata_dir.join("root.json")).map(drop).map_err(text),
        ["refresh"] => Client::refreshed(arguments).map(drop),
        ["download"] => {
            let mut client = Client::refreshed(arguments)?;
            arguments.target_names.iter().try_for_each(|name| client.download(name))
        }
        _ => Err("init ROOT, refresh or download".into()),
    }
}

struct Client<'a> {
    arguments: &'a Arguments,
    trusted: Trusted,
}

impl<'a> Client<'a> {
    /// The client workflow of the specification, section 5.
    fn refreshed(arguments: &'a Arguments) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(text)?.as_secs();
        let check: CheckSignature =
            if std::env::var_os("TUF_ED25519_ONLY").is_some() { check_ed25519 } else { check_any };
        let root = read(&arguments.metadata_dir.join("root.json")).ok_or("no trusted root")?;
        let mut client = Self { arguments, trusted: Trusted::new(&root, now, check).map_err(text)? };
        client.roots()?;
        client.restore();
        client.timestamp()?;
        client.snapshot()?;
        client.targets_role("targets", "root")?;
        Ok(client)
    }

    fn roots(&mut self) -> Result<()> {
        for _ in 0..ROOTS_MAX {
            let next = self.trusted.root().version + 1;
            let Some(bytes) = self.fetch(&format!("{next}.root.json"))? else { break };
            self.trusted.update_root(&bytes).map_err(text)?;
            self.keep("root", &bytes)?;
        }
        Ok(())
    }

    /// What was trusted before, unless its keys were replaced meanwhile.
    fn restore(&mut self) {
        let kept = |role: &str| read(&self.path(role));
        let (timestamp, snapshot) = (kept("timestamp"), kept("snapshot"));
        for (bytes, restore) in [
            (timestamp, Trusted::restore_timestamp as fn(&mut Trusted, &[u8]) -> os_tuf::Result<()>),
            (snapshot, Trusted::restore_snapshot),
        ] {
            if let Some(Err(why)) = bytes.map(|bytes| restore(&mut self.trusted, &bytes)) {
                eprintln!("client: forgotten: {why}");
            }
        }
    }

    fn timestamp(&mut self) -> Result<()> {
        let bytes = self.fetch("timestamp.json")?.ok_or("no timestamp")?;
        match self.trusted.update_timestamp(&bytes).map_err(text)? {
            os_tuf::Seen::Newer => self.keep("timestamp", &bytes),
            os_tuf::Seen::Same => Ok(()),
        }
    }

    fn snapshot(&mut self) -> Result<()> {
        if self.trusted.snapshot_is_current() {
            return Ok(());
        }
        let version = self.trusted.timestamp().map_or(0, |t| t.snapshot.version);
        let bytes = self.fetch(&format!("{version}.snapshot.json"))?.ok_or("no snapshot")?;
        self.trusted.update_snapshot(&bytes).map_err(text)?;
        self.keep("snapshot", &bytes)
    }

    fn targets_role(&mut self, name: &str, delegator: &str) -> Result<()> {
        if let Some(kept) = read(&self.path(name))
            && self.trusted.update_delegated(name, delegator, &kept).is_ok()
        {
            return Ok(());
        }
        let version = self.trusted.named(name).map_err(text)?.version;
        let file = format!("{version}.{}.json", quote(name));
        let bytes = self.fetch(&file)?.ok_or_else(|| format!("no {file}"))?;
        self.trusted.update_delegated(name, delegator, &bytes).map_err(text)?;
        self.keep(name, &bytes)
    }

    fn download(&mut self, path: &str) -> Result<()> {
        let target = self.find(path)?.ok_or_else(|| format!("no role knows {path}"))?;
        let file = self.arguments.target_dir.join(quote(path));
        if read(&file).is_some_and(|bytes| target.check(path, &bytes).is_ok()) {
            return Ok(());
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let hash = target.sha256.map(|h| h.to_vec()).or(target.sha512.clone()).ok_or("no hash")?;
        let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
        let slash = if folder.is_empty() { "" } else { "/" };
        let url = format!("{}{folder}{slash}{}.{name}", with_slash(&self.arguments.target_url), hex(&hash));
        let bytes = get(&url)?.ok_or_else(|| format!("no {url}"))?;
        target.check(path, &bytes).map_err(text)?;
        fs::write(file, bytes).map_err(text)
    }

    /// Depth first, in order of preference, each role once.
    fn find(&mut self, path: &str) -> Result<Option<Target>> {
        let mut visits = vec![("targets".to_string(), "root".to_string())];
        let mut visited = Vec::new();
        while let Some((role, delegator)) = visits.pop() {
            if visited.contains(&role) || visited.len() >= ROLES_MAX {
                continue;
            }
            self.targets_role(&role, &delegator)?;
            let meta = self.trusted.targets(&role).ok_or("a role is gone")?;
            visited.push(role.clone());
            if let Some(target) = meta.targets.get(path) {
                return Ok(Some(target.clone()));
            }
            let mut children = Vec::new();
            for delegation in meta.delegations.iter().flat_map(|d| &d.roles).filter(|d| d.covers(path)) {
                children.push((delegation.name.clone(), role.clone()));
                if delegation.terminating {
                    visits.clear();
                    break;
                }
            }
            visits.extend(children.into_iter().rev());
        }
        Ok(None)
    }

    fn fetch(&self, file: &str) -> Result<Option<Vec<u8>>> {
        get(&format!("{}{file}", with_slash(&self.arguments.metadata_url)))
    }

    fn path(&self, role: &str) -> PathBuf {
        self.arguments.metadata_dir.join(format!("{}.json", quote(role)))
    }

    fn keep(&self, role: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.path(role), bytes).map_err(text)
    }
}

/// Ed25519 as a node checks it, and the suite's other kinds.
fn check_any(key: &Key, message: &[u8], signature: &[u8]) -> bool {
    let algorithm: &'static dyn VerificationAlgorithm = match key.scheme.as_str() {
        "ed25519" => return check_ed25519(key, message, signature),
        "ecdsa-sha2-nistp256" => &algorithms::ECDSA_P256_SHA256_ASN1,
        "rsassa-pss-sha256" => &algorithms::RSA_PSS_2048_8192_SHA256,
        "rsa-pkcs1v15-sha256" => &algorithms::RSA_PKCS1_2048_8192_SHA256,
        _ => return false,
    };
    // The key itself lies after the algorithm's name in the DER of a SubjectPublicKeyInfo.
    let skip = if key.scheme.starts_with("ecdsa") { 26 } else { 24 };
    let der = pem(&key.public).unwrap_or_default();
    der.get(skip..).is_some_and(|k| UnparsedPublicKey::new(algorithm, k).verify(message, signature).is_ok())
}

fn pem(text: &str) -> Option<Vec<u8>> {
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    data_encoding::BASE64.decode(body.as_bytes()).ok()
}

/// One GET. `None`: not found.
fn get(url: &str) -> Result<Option<Vec<u8>>> {
    let rest = url.strip_prefix("http://").ok_or("only http://")?;
    let (host, path) = rest.split_once('/').ok_or("no path")?;
    let mut stream = TcpStream::connect(host).map_err(text)?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n").map_err(text)?;
    let mut answer = Vec::new();
    stream.take(2 * METADATA_MAX as u64).read_to_end(&mut answer).map_err(text)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no HTTP answer")?;
    let status = answer.split(|b| *b == b' ').nth(1).unwrap_or_default();
    match status {
        b"200" => Ok(Some(answer.split_off(end + 4))),
        b"404" | b"403" => Ok(None),
        _ => Err(format!("{url}: {}", String::from_utf8_lossy(status))),
    }
}

fn with_slash(url: &str) -> String {
    format!("{}/", url.trim_end_matches('/'))
}

/// As a file's name or a part of a URL.
fn quote(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-~".contains(&b);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
