//! `release publish`: artifacts, then the signed release, then the channel's head.
//!
//! In this order a channel never points at something that the node does not have. A crash in between leaves content that a second
//! run finds and does not send again.

use anyhow::{Context, Result, bail};
use dht_proto::Record;
use os_content_id::Mcid;
use os_release::SignedRelease;

use super::{Session, release};
use crate::artifacts::{ArtifactFile, Artifacts, mcid_of_file};
use crate::channel;
use crate::cli::ReleasePublish;
use crate::connect::Remote;
use crate::key_file;
use crate::node::Node;
use crate::output::{Output, bytes};
use crate::transfer;

pub async fn publish(s: &Session, args: &ReleasePublish) -> Result<()> {
    let signed = release::load(&args.file)?;
    check_signatures(&signed)?;
    let publisher = match &args.publisher_key {
        Some(file) => key_file::load(file)?,
        None => s.key()?,
    };
    let artifacts = Artifacts::load(&args.artifacts)?;
    let files = matching(&s.out, &signed, &artifacts)?;
    let mcid = signed.mcid();
    // Made before anything is sent: a bad channel name should not cost an upload.
    let record = channel::head(&publisher, &args.channel, &signed, services_api::daemon::now_ms())?;

    let (sent, taken) = s
        .ask(async |node| {
            let sent = upload(&s.out, node.remote()?, &files, &signed).await?;
            Ok((sent, announce(node, &record).await?))
        })
        .await?;
    if taken == 0 {
        eprintln!("note: no other node took the channel's head yet; publish again when the node has peers");
    }
    let json = serde_json::json!({
        "release": mcid.to_string(),
        "version": signed.release().version.to_string(),
        "channel": args.channel,
        "publisher": publisher.node_id().to_string(),
        "uploaded_bytes": sent,
        "stored_by": taken,
    });
    s.out.show(&json, |_| {
        let version = &signed.release().version;
        let by = publisher.node_id();
        let sent = bytes(sent);
        format!(
            "{version} is the head of channel `{}` of {by} for 48 h ({sent} sent)\n{mcid}\n",
            args.channel
        )
    })
}

fn check_signatures(signed: &SignedRelease) -> Result<()> {
    let signatures = release::signatures(signed);
    if let Some((signer, _)) = signatures.iter().find(|(_, holds)| !holds) {
        bail!("wrong signature: the one by {signer} is not over this release; sign it again");
    }
    if signatures.is_empty() {
        bail!("nobody signed this release: run `maculactl release sign` first");
    }
    Ok(())
}

/// The file of each artifact, with its MCID as the release has it.
fn matching<'a>(
    out: &Output,
    signed: &SignedRelease,
    artifacts: &'a Artifacts,
) -> Result<Vec<(&'a ArtifactFile, Mcid)>> {
    let r = signed.release();
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
    signed: &SignedRelease,
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
    // Small: sent always, which also announces it anew.
    let (block, r) = (signed.encode(), signed.release());
    // A name of its own: the node keeps the newest content of each name.
    let name = format!("{}-{}-release.cbor", r.board, r.version);
    same(transfer::put_block(remote, &block, &name).await?, signed.mcid(), "the release")?;
    Ok(sent + block.len() as u64)
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
    use os_identity::NodeKey;
    use os_release::{Artifact, Release, Version};

    fn release_of(artifacts: &Artifacts) -> SignedRelease {
        let artifact = |f: &ArtifactFile| {
            let (mcid, size) = mcid_of_file(&f.path, &f.name, |_| ()).unwrap();
            Artifact { role: f.role, mcid, size, verity_root: f.verity_root }
        };
        SignedRelease::create(Release {
            board: artifacts.board.clone(),
            version: artifacts.version.clone(),
            min_version: Version::new(0, 0, 0),
            artifacts: artifacts.files.iter().map(artifact).collect(),
            created_unix: 1_000,
            expires_unix: 2_000,
            notes: String::new(),
        })
        .unwrap()
    }

    #[test]
    fn unsigned_releases_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        let artifacts = Artifacts::load(dir.path()).unwrap();
        let mut signed = release_of(&artifacts);
        assert!(check_signatures(&signed).unwrap_err().to_string().contains("release sign"));
        signed.sign(&NodeKey::from_seed(&[1; 32])).unwrap();
        check_signatures(&signed).unwrap();
        assert_eq!(matching(&Output::new(true), &signed, &artifacts).unwrap().len(), 2);
        std::fs::write(dir.path().join("uki.efi"), b"MX").unwrap();
        let error = matching(&Output::new(true), &signed, &artifacts).unwrap_err().to_string();
        assert!(error.contains("is not the uki of this release"), "{error}");
    }
}
