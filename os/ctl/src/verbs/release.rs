//! `release`: create, sign, show. Publishing is in `publish`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use os_identity::NodeId;
use os_release::{Artifact, Expected, Release, ReleaseError, SIGNED_MAX, SignedRelease, Version};

use super::{Session, publish};
use crate::artifacts::{Artifacts, mcid_of_file};
use crate::cli::{self, ReleaseCreate};
use crate::output::{Color, Output, Palette, bytes, clean, timestamp};
use crate::whole_file;

pub async fn release(s: &Session, verb: cli::Release) -> Result<()> {
    match verb {
        cli::Release::Create(args) => create(s, &args),
        cli::Release::Sign { file } => sign(s, &file),
        cli::Release::Show { file } => show(s, &load(&file)?),
        cli::Release::Publish(args) => publish::publish(s, &args).await,
    }
}

fn create(s: &Session, args: &ReleaseCreate) -> Result<()> {
    let now = services_api::daemon::now_ms() / 1000;
    let release = describe(&s.out, args, now)?;
    let signed = SignedRelease::create(release).context("these artifacts make no release")?;
    whole_file::write(&args.out, &signed.encode())?;
    show(s, &signed)?;
    if !s.out.json {
        eprintln!("next: maculactl release sign {}", args.out.display());
    }
    Ok(())
}

fn describe(out: &Output, args: &ReleaseCreate, now_unix: u64) -> Result<Release> {
    let artifacts = Artifacts::load(&args.artifacts)?;
    let min_version = match &args.min_version {
        Some(text) => Version::parse(text).with_context(|| format!("--min-version {text}"))?,
        None => Version::new(0, 0, 0),
    };
    if min_version > artifacts.version {
        bail!("--min-version {min_version} is newer than the release itself ({})", artifacts.version);
    }
    let mut described = Vec::new();
    for file in &artifacts.files {
        let bar = out.bytes_bar(&file.name, file.size);
        let (mcid, size) = mcid_of_file(&file.path, &file.name, |n| bar.inc(n))?;
        bar.finish_and_clear();
        described.push(Artifact { role: file.role, mcid, size, verity_root: file.verity_root });
    }
    Ok(Release {
        board: artifacts.board,
        version: artifacts.version,
        min_version,
        artifacts: described,
        created_unix: now_unix,
        expires_unix: now_unix + u64::from(args.expires_days) * 86_400,
        notes: args.notes.clone(),
    })
}

fn sign(s: &Session, file: &Path) -> Result<()> {
    let key = s.key()?;
    let mut signed = load(file)?;
    signed.sign(&key)?;
    whole_file::write(file, &signed.encode())?;
    show(s, &signed)
}

/// Reads a release file; a damaged one is named with what is wrong with it.
pub fn load(file: &Path) -> Result<SignedRelease> {
    let shown = file.display();
    let size = fs::metadata(file).with_context(|| format!("cannot read {shown}"))?.len();
    if size > SIGNED_MAX as u64 {
        bail!("{shown} is {size} bytes, a release is at most {SIGNED_MAX}");
    }
    let bytes = fs::read(file).with_context(|| format!("cannot read {shown}"))?;
    SignedRelease::decode(&bytes).with_context(|| shown.to_string())
}

/// Each signer, and whether the signature holds.
pub fn signatures(signed: &SignedRelease) -> Vec<(NodeId, bool)> {
    let r = signed.release();
    let holds = |signer: &NodeId| {
        let keys = [*signer];
        let expected = Expected {
            keys: &keys,
            threshold: 1,
            board: &r.board,
            running: &r.version,
            reinstall: true,
            now_unix: 0,
        };
        !matches!(
            signed.verify(&expected),
            Err(ReleaseError::WrongSignature(_) | ReleaseError::NotEnoughSignatures { .. })
        )
    };
    signed.signers().map(|signer| (*signer, holds(signer))).collect()
}

fn show(s: &Session, signed: &SignedRelease) -> Result<()> {
    s.out.show(&json(signed), |palette| render(signed, palette))
}

fn json(signed: &SignedRelease) -> serde_json::Value {
    let r = signed.release();
    let artifact = |a: &Artifact| {
        serde_json::json!({
            "role": a.role.word(),
            "mcid": a.mcid.to_string(),
            "size": a.size,
            "verity_root": a.verity_root.map(|h| data_encoding::HEXLOWER.encode(&h)),
        })
    };
    let signature =
        |(signer, holds): (NodeId, bool)| serde_json::json!({ "signer": signer.to_string(), "valid": holds });
    serde_json::json!({
        "mcid": signed.mcid().to_string(),
        "board": r.board,
        "version": r.version.to_string(),
        "min_version": r.min_version.to_string(),
        "created_unix": r.created_unix,
        "expires_unix": r.expires_unix,
        "notes": r.notes,
        "artifacts": r.artifacts.iter().map(artifact).collect::<Vec<_>>(),
        "signatures": signatures(signed).into_iter().map(signature).collect::<Vec<_>>(),
    })
}

fn render(signed: &SignedRelease, palette: Palette) -> String {
    let r = signed.release();
    let head = |text: &str| palette.paint(Color::Bold, &format!("{text:10}"));
    let mut text = format!(
        "{} {}\n{} {}, replaces {} or newer\n{} {}\n{} {} to {} (UTC)\n",
        head("release"),
        signed.mcid(),
        head("version"),
        r.version,
        r.min_version,
        head("board"),
        clean(&r.board),
        head("valid"),
        timestamp(r.created_unix),
        timestamp(r.expires_unix),
    );
    for a in &r.artifacts {
        text += &format!("{} {}, {}\n", head(a.role.word()), a.mcid, bytes(a.size));
    }
    match signatures(signed).as_slice() {
        [] => text += &format!("{} {}\n", head("signed by"), palette.paint(Color::Yellow, "nobody yet")),
        signatures => {
            for (signer, holds) in signatures {
                let verdict = if *holds { "" } else { "  WRONG SIGNATURE" };
                text += &format!("{} {signer}{}\n", head("signed by"), palette.paint(Color::Red, verdict));
            }
        }
    }
    text + &r.notes.lines().map(|l| format!("{} {}\n", head("notes"), clean(l))).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::tests::sample;
    use os_identity::NodeKey;
    use os_release::Role;
    use std::path::PathBuf;

    fn args(dir: &Path, min_version: Option<&str>) -> ReleaseCreate {
        ReleaseCreate {
            artifacts: dir.to_path_buf(),
            out: PathBuf::new(),
            min_version: min_version.map(Into::into),
            expires_days: 30,
            notes: "first\x1b[2J light".into(),
        }
    }

    #[test]
    fn a_release_is_made_signed_twice_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        let release = describe(&Output::new(true), &args(dir.path(), Some("0.1.0")), 1_000).unwrap();
        assert_eq!((release.board.as_str(), release.expires_unix), ("x86-generic", 1_000 + 30 * 86_400));
        let root = release.artifact(Role::Root).unwrap();
        assert_eq!((root.size, root.verity_root), (300_000, Some([0xab; 32])));
        let mut signed = SignedRelease::create(release).unwrap();
        let file = dir.path().join("release.cbor");
        for n in [1, 2] {
            signed.sign(&NodeKey::from_seed(&[n; 32])).unwrap();
            whole_file::write(&file, &signed.encode()).unwrap();
        }
        let read = load(&file).unwrap();
        assert_eq!(read, signed);
        assert!(signatures(&read).len() == 2 && signatures(&read).iter().all(|(_, holds)| *holds));
        let text = render(&read, Palette::default());
        assert!(text.contains("0.2.0, replaces 0.1.0 or newer") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn bad_versions_and_damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        let out = Output::new(true);
        for (min, word) in [("9.0.0", "newer than the release"), ("one", "--min-version one")] {
            let error = describe(&out, &args(dir.path(), Some(min)), 1_000).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        let mut signed =
            SignedRelease::create(describe(&out, &args(dir.path(), None), 1_000).unwrap()).unwrap();
        signed.sign(&NodeKey::from_seed(&[1; 32])).unwrap();
        let file = dir.path().join("release.cbor");
        let good = signed.encode();
        fs::write(&file, &good[..good.len() / 2]).unwrap();
        assert!(format!("{:#}", load(&file).unwrap_err()).contains("truncated"));
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&file, &flipped).unwrap();
        let read = load(&file).unwrap();
        assert_eq!(signatures(&read).iter().map(|(_, holds)| *holds).collect::<Vec<_>>(), [false]);
        assert!(render(&read, Palette::default()).contains("WRONG SIGNATURE"));
        fs::write(&file, vec![0; SIGNED_MAX + 1]).unwrap();
        assert!(format!("{:#}", load(&file).unwrap_err()).contains("at most"));
    }
}
