//! `release publish`: artifacts, then the metadata bundle, then the channel's head.
//!
//! In this order a channel never points at something that the node does not have. A crash in between leaves content that a second
//! run finds and does not send again.

use std::path::Path;

use anyhow::{Context, Result, bail};
use dht_proto::Record;
use os_content_id::Mcid;
use os_release::author::Repository;
use os_release::{Anchor, Bundle, Named, Release, Trust};
use os_tuf::Role;

use super::Session;
use super::release::now_unix;
use crate::artifacts::{ArtifactFile, Artifacts, mcid_of_file};
use crate::cli::release::ReleasePublish;
use crate::connect::Remote;
use crate::node::Node;
use crate::output::{Output, bytes};
use crate::{channel, key_file, repository, transfer};

/// A timestamp with less time left makes for a hint.
const SOON_S: u64 = 7 * 86_400;

pub async fn publish(s: &Session, dir: &Path, args: &ReleasePublish) -> Result<()> {
    let repository = repository::load(dir)?;
    let bundle = repository.bundle().context("not ready to be published (`maculactl release show`)")?;
    let releases = believed(&repository, &bundle)?;
    let metadata = bundle.encode()?;
    let mcid = Mcid::of_raw(&metadata);
    let publisher = match &args.publisher_key {
        Some(file) => key_file::load(file)?,
        None => s.key()?,
    };
    let artifacts = args.artifacts.iter().map(|dir| Artifacts::load(dir)).collect::<Result<Vec<_>>>()?;
    let mut files = Vec::new();
    for artifacts in &artifacts {
        files.extend(matching(&s.out, release_of(&releases, artifacts)?, artifacts)?);
    }
    // Made before anything is sent: a bad channel name should not cost an upload.
    let record = channel::head(&publisher, &args.channel, &mcid, &releases, services_api::daemon::now_ms())?;

    let (sent, taken) = s
        .ask(async |node| {
            let sent = upload(&s.out, node.remote()?, &files, &metadata, &args.channel).await?;
            Ok((sent, announce(node, &record).await?))
        })
        .await?;
    if taken == 0 {
        eprintln!("note: no other node took the channel's head yet; publish again when the node has peers");
    }
    hint_at_expiry(&repository)?;
    let versions: Vec<String> =
        releases.iter().map(|n| format!("{} {}", n.release.board, n.release.version)).collect();
    let json = serde_json::json!({
        "metadata": mcid.to_string(),
        "releases": versions,
        "channel": args.channel,
        "publisher": publisher.node_id().to_string(),
        "uploaded_bytes": sent,
        "stored_by": taken,
    });
    s.out.show(&json, |_| {
        let (by, sent, versions) = (publisher.node_id(), bytes(sent), versions.join(", "));
        let channel = &args.channel;
        format!("{versions}: the head of channel `{channel}` of {by} for 48 h ({sent} sent)\n{mcid}\n")
    })
}

/// What a node would believe that comes new to these releases; what it would refuse is not sent around.
fn believed(repository: &Repository, bundle: &Bundle) -> Result<Vec<Named>> {
    let first = Repository { roots: repository.roots[..1].to_vec(), ..Repository::default() };
    let (keys, threshold) = first.keyring()?.remove(&Role::Root).context("a root without root keys")?;
    let anchor = Anchor::new(&keys, threshold as usize);
    let accepted = Trust::default().accept(&anchor, bundle, now_unix());
    accepted.context(
        "nodes would refuse this; `release refresh` or `release root rotate` renews what has expired",
    )
}

fn release_of<'a>(releases: &'a [Named], artifacts: &Artifacts) -> Result<&'a Release> {
    let is_of = |r: &Release| r.board == artifacts.board && r.version == artifacts.version;
    let found = releases.iter().map(|n| &n.release).find(|r| is_of(r));
    found.with_context(|| {
        format!("there is no release of {} {}: create it first", artifacts.board, artifacts.version)
    })
}

fn hint_at_expiry(repository: &Repository) -> Result<()> {
    let now = now_unix();
    for role in repository.standings()?.iter().filter(|r| r.expires_unix < now + SOON_S) {
        let renews = if role.role == Role::Root { "release root rotate" } else { "release refresh" };
        let hours = role.expires_unix.saturating_sub(now) / 3600;
        eprintln!("note: {} expires in {hours} h; `maculactl {renews}` renews it", role.role);
    }
    Ok(())
}

/// The file of each artifact, with its MCID as the release has it.
fn matching<'a>(
    out: &Output,
    r: &Release,
    artifacts: &'a Artifacts,
) -> Result<Vec<(&'a ArtifactFile, Mcid)>> {
    let mut found = Vec::new();
    for artifact in &r.artifacts {
        let word = artifact.role.word();
        let file = artifacts.files.iter().find(|f| f.role == artifact.role);
        let file = file.with_context(|| format!("artifacts.json has no {word}"))?;
        let bar = out.bytes_bar(&format!("checking {word}"), file.size);
        let (mcid, _) = mcid_of_file(&file.path, &file.name, |n| bar.inc(n))?;
        bar.finish_and_clear();
        if mcid != artifact.mcid {
            bail!(
                "{} is not the {word} of this release ({} {}): create the release anew from this folder",
                file.path.display(),
                r.board,
                r.version
            );
        }
        found.push((file, mcid));
    }
    Ok(found)
}

/// Bytes sent: what the node has already is skipped.
async fn upload(
    out: &Output,
    remote: &Remote,
    files: &[(&ArtifactFile, Mcid)],
    metadata: &[u8],
    channel: &str,
) -> Result<u64> {
    let mut sent = 0;
    for (file, mcid) in files {
        if transfer::has(remote, mcid).await? {
            continue;
        }
        let bar = out.bytes_bar(&file.name, file.size);
        let stored = transfer::put(remote, &file.path, &file.name, file.size, &bar).await;
        bar.finish_and_clear();
        same(stored?, *mcid, &file.name)?;
        sent += file.size;
    }
    // Small: sent always, which also announces it anew. A name of its own: the node keeps the newest content of each.
    let name = format!("{channel}-releases.cbor");
    same(transfer::put_block(remote, metadata, &name).await?, Mcid::of_raw(metadata), "the metadata")?;
    Ok(sent + metadata.len() as u64)
}

fn same(stored: Mcid, meant: Mcid, what: &str) -> Result<()> {
    if stored != meant {
        bail!("the node stored {what} as {stored}, it should be {meant}: did the file change meanwhile?");
    }
    Ok(())
}

async fn announce(node: &Node, record: &Record) -> Result<u32> {
    node.put_record(&record.to_bytes()).await.context("the channel's head was not taken")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::tests::sample;
    use crate::repository::tests::{release, signed};
    use os_identity::NodeKey;
    use os_release::Artifact;

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        let artifacts = Artifacts::load(dir.path()).unwrap();
        let artifact = |f: &ArtifactFile| {
            let (mcid, size) = mcid_of_file(&f.path, &f.name, |_| ()).unwrap();
            Artifact { role: f.role, mcid, size, verity_root: f.verity_root }
        };
        let described = Release { artifacts: artifacts.files.iter().map(artifact).collect(), ..release(2) };
        assert_eq!(matching(&Output::new(true), &described, &artifacts).unwrap().len(), 2);
        std::fs::write(dir.path().join("uki.efi"), b"MX").unwrap();
        let error = matching(&Output::new(true), &described, &artifacts).unwrap_err().to_string();
        assert!(error.contains("is not the uki of this release"), "{error}");
        let releases = signed(&NodeKey::from_seed(&[1; 32]), 1).releases().unwrap();
        assert!(release_of(&releases, &artifacts).unwrap_err().to_string().contains("create it first"));
    }
}
