//! What must not be installed is refused with a message that says why, and no switch is written; a provider that serves
//! a flipped byte is dropped and the chunk comes from another.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use qemu_lab::{Node, wait_until};
use serde_json::{Value, json};
use tests_boot::{Bench, CHANNEL, UPDATE, events, say, with_console};

#[test]
fn bad_releases_are_refused_and_lying_providers_dropped() -> Result<()> {
    let bench = Bench::new()?;
    let (a, b) = (bench.node("holder")?, bench.follower("follower")?);
    with_console(&b, b.wait_peers(1))?;
    with_console(&b, refusals(&bench, &b))?;
    with_console(&b, liar(&bench, &a, &b))
}

fn refusals(bench: &Bench, node: &Node) -> Result<()> {
    let entries = node.status()?["entries"].clone();
    let dir = bench.lab.dir();
    let owner = |arguments: &[&str]| bench.lab.owner.run(arguments);
    let releases = text(&dir.join("releases"))?.to_string();

    let stranger = dir.join("stranger.key");
    std::fs::write(&stranger, format!("{}\n", "42".repeat(32)))?;
    std::fs::set_permissions(&stranger, std::fs::Permissions::from_mode(0o600))?;
    let strange = text(&dir.join("strange"))?.to_string();
    let second = text(&bench.releases.second.artifacts)?;
    for verb in [&["create", "--artifacts", second][..], &["sign"]] {
        bench.lab.owner.run_as(&stranger, &[&["release", "--repo", &strange], verb].concat())?;
    }
    let forged = pack(bench, &strange, "forged")?;

    // The owner's own releases, one after another, so that each is newer than the last.
    create(bench, "board", |a| a["board"] = json!("raspberrypi-4"))?;
    let board = pack(bench, &releases, "board")?;
    owner(&["release", "withdraw", &bench.releases.second.version, "--repo", &releases])?;
    create(bench, "older", |a| a["version"] = json!("0.0.9"))?;
    let older = pack(bench, &releases, "older")?;
    bench.releases.second.signed(&bench.lab.owner, dir)?;
    owner(&["release", "refresh", "--lifetime", "1s", "--repo", &releases])?;
    let frozen = pack(bench, &releases, "frozen")?;
    owner(&["release", "refresh", "--repo", &releases])?;
    let bytes = std::fs::read(pack(bench, &releases, "good")?)?;
    let truncated = dir.join("truncated.cbor");
    std::fs::write(&truncated, &bytes[..bytes.len() / 2])?;

    let cases = [
        (&forged, "not enough signatures"),
        (&board, "wrong board"),
        (&older, "older version"),
        (&frozen, "timestamp expired"),
        (&board, "rolled back"),
        (&truncated, "truncated"),
    ];
    for (file, words) in cases {
        let mcid = put(node, file)?;
        let refusal = match node.ctl(&["update", "--release", &mcid]) {
            Err(e) => format!("{e:#}"),
            Ok(answer) => anyhow::bail!("{} was taken: {answer}", file.display()),
        };
        ensure!(refusal.contains(words), "{}: {refusal}", file.display());
        say(&format!("refused: {}", refusal.lines().last().unwrap_or("").trim()));
    }
    let status = node.status()?;
    ensure!(status["entries"] == entries, "a refused release wrote a switch: {status}");
    ensure!(status["trial"].is_null(), "{status}");
    Ok(())
}

/// Both the honest holder and the liar announce the second release; the follower ends up with it all the same.
fn liar(bench: &Bench, a: &Node, b: &Node) -> Result<()> {
    let second = &bench.releases.second;
    let board = b.status()?["board"].as_str().context("no board")?.to_string();
    let content = |role: &str, file: &str| {
        let path = second.artifacts.join(file);
        format!("{board}-{}-{role}={}", second.version, path.display())
    };
    let contents = [content("root.img", "root.img"), content("uki.efi", "uki.efi")];
    let mut liar = Liar::start(&bench.releases.liar, &b.address, &contents)?;
    second.publish(&bench.lab.owner, bench.lab.dir(), &a.address, CHANNEL)?;
    let committed = |s: &Value| s["version"] == second.version.as_str() && s["trial"].is_null();
    let status = b.wait_status("to update in spite of the liar", UPDATE, committed)?;
    let served = liar.stop()?;
    ensure!(served > 0, "nobody asked the liar, so this proved nothing");
    let said = events(&status);
    ensure!(
        said.iter().any(|e| e.contains("does not match")),
        "the record names the dropped provider: {said:?}"
    );
    say(&format!("updated; the liar served {served} chunks before it was dropped"));
    Ok(())
}

/// `release create` and `sign` from changed `artifacts.json`.
fn create(bench: &Bench, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
    let second = &bench.releases.second;
    let dir = bench.lab.dir().join(name);
    std::fs::create_dir_all(&dir)?;
    let mut artifacts: Value =
        serde_json::from_slice(&std::fs::read(second.artifacts.join("artifacts.json"))?)?;
    change(&mut artifacts);
    std::fs::write(dir.join("artifacts.json"), serde_json::to_vec(&artifacts)?)?;
    for file in ["root.img", "uki.efi"] {
        std::os::unix::fs::symlink(second.artifacts.join(file), dir.join(file))?;
    }
    let folder = bench.lab.dir().join("releases");
    bench.lab.owner.run(&["release", "create", "--artifacts", text(&dir)?, "--repo", text(&folder)?])?;
    bench.lab.owner.run(&["release", "sign", "--repo", text(&folder)?])?;
    Ok(())
}

/// The metadata bundle as nodes get it.
fn pack(bench: &Bench, repository: &str, name: &str) -> Result<PathBuf> {
    let out = bench.lab.dir().join(format!("{name}.cbor"));
    bench.lab.owner.run(&["release", "pack", "--repo", repository, "--out", text(&out)?])?;
    Ok(out)
}

fn put(node: &Node, file: &Path) -> Result<String> {
    let answer = node.ctl(&["content", "put", text(file)?])?;
    Ok(answer["mcid"].as_str().context("no MCID")?.to_string())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

/// The lying peer: a process on the host, connected to one node.
struct Liar {
    child: Child,
    served: Arc<AtomicU64>,
}

impl Liar {
    fn start(program: &Path, node: &str, contents: &[String]) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(node).args(contents).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let (served, announced) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, heard) = (served.clone(), announced.clone());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                match line.split_once(' ') {
                    Some(("served", _)) => count.fetch_add(1, Ordering::Relaxed),
                    _ => heard.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
        let liar = Self { child, served };
        wait_until("the liar to announce itself", UPDATE, || {
            Ok((announced.load(Ordering::Relaxed) as usize >= contents.len()).then_some(()))
        })?;
        say("the liar has announced itself");
        Ok(liar)
    }

    fn stop(&mut self) -> Result<u64> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.served.load(Ordering::Relaxed))
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
