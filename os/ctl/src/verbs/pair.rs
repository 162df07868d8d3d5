//! `pair`: from a code to a node that is ours.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use mesh_transport::Credentials;
use os_identity::{NodeId, NodeKey};
use pairing_proto::setup::{MAX_PEERS, Network, Role, Wifi};
use pairing_proto::{HandOver, Introduction, PairCode, PairError, Paired, Secret, Slot};
use serde_json::{Value, json};
use services_api::control::protocol;
use services_api::report::OsReport;

use super::Session;
use crate::cli::pair::Pair;
use crate::known_nodes::KnownNodes;
use crate::output::{Color, clean};
use crate::pairing::talk::{Line, Wanted};
use crate::pairing::{ask, find, picture};
use crate::{connect, key_file, whole_file};

const MAX_TEXT: u64 = 4096;
const FOLDER: &str = "nodes";

pub async fn pair(s: &Session, options: &Pair) -> Result<()> {
    let done = run(s, options).await;
    if let Err(error) = &done
        && s.out.json
    {
        let refused = error.downcast_ref::<PairError>().map(PairError::word);
        s.out.show(&json!({ "paired": false, "refused": refused, "why": format!("{error:#}") }), |_| {
            String::new()
        })?;
    }
    done
}

async fn run(s: &Session, options: &Pair) -> Result<()> {
    let (wanted, mut addresses) = read_code(options)?;
    let mut known = KnownNodes::load()?;
    let (key, made) = key(s)?;
    // Not $MACULA_NODE: that is a node which is ours already.
    ensure!(s.global.node.len() < 2, "a code is one node's: name one --node, or none");
    if let Some(target) = s.global.node.first() {
        let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
        addresses = found.with_context(|| format!("cannot find the address of `{}`", target.host))?.collect();
    }
    if addresses.is_empty() {
        let spinner = s.out.spinner("looking for the node in the local network");
        addresses = find::in_the_network(wanted.fingerprint, s.wait()).await?;
        spinner.finish_and_clear();
    }
    let wishes = wishes(options, &known, key.node_id())?;
    let credentials = connect::credentials(&key)?;
    let claim = Claim { s, key: &key, wanted: &wanted, credentials: &credentials };
    let outcome = claim.at_any(&addresses, wishes).await?;
    let file = remember(&mut known, &outcome)?;
    show(s, &outcome, &file, made.as_deref())
}

/// What came of it.
struct Outcome {
    node: NodeId,
    address: SocketAddr,
    introduction: Introduction,
    /// `None`: the node was ours already.
    paired: Option<Paired>,
}

struct Claim<'a> {
    s: &'a Session,
    key: &'a NodeKey,
    wanted: &'a Wanted,
    credentials: &'a Credentials,
}

impl Claim<'_> {
    /// At the first address where the node is. Another machine's is no reason to give up; that the node itself says no is.
    async fn at_any(&self, addresses: &[SocketAddr], wishes: HandOver) -> Result<Outcome> {
        let mut last: Option<Error> = None;
        for address in addresses {
            let wait = self.s.wait();
            match Line::to(*address, self.credentials, self.key.node_id(), self.wanted, wait).await {
                Ok(line) => return self.over(line, wishes).await,
                // That somebody else answered says more than that nobody did.
                Err(e) if last.as_ref().is_some_and(|last| last.is::<PairError>()) => drop(e),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| anyhow!("no address to try")))
    }

    async fn over(&self, mut line: Line<'_>, wishes: HandOver) -> Result<Outcome> {
        let (mut opened, introduction) = match line.prove(self.key, self.wanted).await {
            Ok(proved) => proved,
            Err(e) if matches!(e.downcast_ref(), Some(PairError::Owned)) => {
                return self.ours_already(line, e).await;
            }
            Err(e) => {
                line.close().await;
                return Err(e);
            }
        };
        if !self.s.out.json {
            eprintln!("{}", met(&introduction));
        }
        let wishes = match self.may_ask(&wishes, &introduction) {
            true => {
                HandOver { wifi: ask::wifi(introduction.networks.as_deref().unwrap_or_default())?, ..wishes }
            }
            false => wishes,
        };
        let (node, address) = (opened.node(), line.address());
        let paired = line.hand_over(&mut opened, wishes, now()).await;
        line.close().await;
        Ok(Outcome { node, address, introduction, paired: Some(paired?) })
    }

    /// Whether to ask which Wi-Fi network it is to join: there is a person, who has not said, and a choice.
    fn may_ask(&self, wishes: &HandOver, introduction: &Introduction) -> bool {
        let choice = introduction.networks.as_ref().is_some_and(|networks| !networks.is_empty());
        choice
            && wishes.wifi.is_empty()
            && introduction.role != Role::Delegate
            && !self.s.out.json
            && ask::is_possible()
    }

    /// A run whose last answer got lost leaves a node that is ours: asked as its owner it answers.
    async fn ours_already(&self, line: Line<'_>, refused: Error) -> Result<Outcome> {
        let address = line.address();
        let Some(remote) = line.into_remote() else { return Err(refused) };
        let status: Result<OsReport> = remote.call(protocol::OS, "status", &()).await;
        let node = remote.node;
        remote.close().await;
        let Ok(status) = status else { return Err(refused) };
        let introduction = Introduction {
            name: status.name,
            board: status.board,
            version: status.version,
            ..Introduction::default()
        };
        Ok(Outcome { node, address, introduction, paired: None })
    }
}

fn read_code(options: &Pair) -> Result<(Wanted, Vec<SocketAddr>)> {
    let code = match (&options.code, &options.image) {
        (_, Some(file)) => picture::code(&read(file, picture::MAX_FILE)?)?,
        (Some(text), None) => {
            let text = match text.as_str() {
                "-" => String::from_utf8(read(Path::new("-"), MAX_TEXT)?).context("the code is no text")?,
                text => text.to_owned(),
            };
            if let Ok(secret) = text.parse::<Secret>() {
                return Ok((Wanted { fingerprint: None, secret, slot: Slot::Screen }, Vec::new()));
            }
            text.parse::<PairCode>()?
        }
        (None, None) => bail!("say the code, or --image with a picture of it"),
    };
    let PairCode { fingerprint, secret, slot, addresses, .. } = code;
    Ok((Wanted { fingerprint: Some(fingerprint), secret, slot }, addresses))
}

/// A whole file, or standard input.
fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let shown = path.display();
    let mut source: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(path).with_context(|| format!("cannot open {shown}"))?),
    };
    let mut bytes = Vec::new();
    source.by_ref().take(most + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > most {
        bail!("{shown} is larger than {most} bytes");
    }
    Ok(bytes)
}

/// The owner's key, made if there is none yet; then also where.
fn key(s: &Session) -> Result<(NodeKey, Option<PathBuf>)> {
    let path = s.key_path()?;
    if path.exists() {
        return Ok((key_file::load(&path)?, None));
    }
    Ok((key_file::create(&path)?, Some(path)))
}

fn wishes(options: &Pair, known: &KnownNodes, me: NodeId) -> Result<HandOver> {
    let passphrase = options.wifi_passphrase_file.as_deref().map(|file| read(file, MAX_TEXT)).transpose()?;
    let passphrase =
        passphrase.map(String::from_utf8).transpose().context("the Wi-Fi passphrase is no text")?;
    let wifi = options.wifi_ssid.clone().map(|ssid| Wifi {
        ssid,
        passphrase: passphrase.map(|text| text.trim_end_matches(['\r', '\n']).to_owned()),
    });
    let publisher = options.channel.as_ref().map(|_| options.publisher.unwrap_or(me));
    let release_keys = match (options.release_key.as_slice(), publisher) {
        ([], Some(publisher)) => vec![publisher],
        (keys, _) => keys.to_vec(),
    };
    let wishes = HandOver {
        owner: me.to_string(),
        name: options.name.clone(),
        realm: options.realm.clone(),
        wifi: wifi.into_iter().collect(),
        country: options.country.as_ref().map(|country| country.to_uppercase()),
        time_zone: options.time_zone.clone(),
        channel: options.channel.clone(),
        publisher: publisher.map(|key| key.to_string()),
        release_keys: release_keys.iter().map(NodeId::to_string).collect(),
        peers: peers(options, known),
    };
    wishes.check()?;
    Ok(wishes)
}

/// Those that were said, or those that are known by their addresses.
fn peers(options: &Pair, known: &KnownNodes) -> Vec<String> {
    if !options.peer.is_empty() {
        return options.peer.clone();
    }
    let reachable = |address: &SocketAddr| !address.ip().is_loopback() && !address.ip().is_unspecified();
    let by_address = known.iter().filter_map(|(address, node)| {
        let address: SocketAddr = address.parse().ok()?;
        reachable(&address).then(|| format!("{node}@{address}"))
    });
    by_address.take(MAX_PEERS).collect()
}

/// Where the node is, and what it lets us do. The delegation is a file that `--ucan` takes.
fn remember(known: &mut KnownNodes, outcome: &Outcome) -> Result<Option<PathBuf>> {
    known.check(&outcome.address.to_string(), outcome.node, true)?;
    let Some(paired) = &outcome.paired else { return Ok(None) };
    let folder = key_file::config_dir()?.join(FOLDER);
    key_file::private_dir(&folder)?;
    let id = outcome.node.to_string();
    let file = folder.join(format!("{}.ucan", id.trim_start_matches("did:key:")));
    let tokens = os_ucan::chain::decode(&paired.delegation).context("the node's delegation")?;
    whole_file::write(&file, os_ucan::chain::to_text(&tokens).as_bytes())?;
    Ok(Some(file))
}

fn show(s: &Session, outcome: &Outcome, file: &Option<PathBuf>, made: Option<&Path>) -> Result<()> {
    let paired = outcome.paired.as_ref();
    let name = clean(paired.map_or(&outcome.introduction.name, |paired| &paired.name));
    let notes: Vec<String> =
        paired.map(|p| p.notes.iter().map(|note| clean(note)).collect()).unwrap_or_default();
    let role = paired.map_or(Role::Owner, |paired| paired.role);
    let next = format!("maculactl --node {} status", outcome.address);
    let value = json!({
        "paired": true,
        "already": paired.is_none(),
        "node": outcome.node.to_string(),
        "name": name,
        "realm": paired.map(|paired| clean(&paired.realm)),
        "address": outcome.address.to_string(),
        "role": word(role),
        "delegation": file.as_ref().map(|file| file.display().to_string()),
        "new_key": made.map(|path| path.display().to_string()),
        "networks": outcome.introduction.networks.as_ref().map(|seen| seen.iter().map(network).collect::<Vec<_>>()),
        "notes": notes,
        "next": next,
    });
    s.out.show(&value, |palette| {
        let mut text = match (paired, role) {
            (None, _) => format!("{name} is yours already\n"),
            (_, Role::Delegate) => format!("{name} lets you do what its owner has said\n"),
            _ => format!("{} is yours\n", palette.paint(Color::Green, &name)),
        };
        text += &format!("  {}\n", outcome.node);
        if let Some(path) = made {
            text += &format!("  your new key is in {}: keep a copy in a safe place\n", path.display());
        }
        if let Some(file) = file {
            text += &format!("  what it lets you do is in {}\n", file.display());
        }
        notes.iter().for_each(|note| text += &format!("  {}\n", palette.paint(Color::Yellow, note)));
        text + &format!("next: {next}\n")
    })
}

/// A Wi-Fi network that the node sees.
fn network(seen: &Network) -> Value {
    json!({ "ssid": clean(&seen.ssid), "dbm": seen.dbm, "secured": seen.secured })
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::NewOwner => "new-owner",
        Role::Delegate => "delegate",
    }
}

fn met(introduction: &Introduction) -> String {
    let (name, board, version) = (&introduction.name, &introduction.board, &introduction.version);
    clean(&format!("{name} ({board}, {version}) knows the code; handing over"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
