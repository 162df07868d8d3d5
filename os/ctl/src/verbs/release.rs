//! `release`: create, sign, refresh, withdraw, pack, show. The roots' keys are in `root_keys`, publishing in `publish`.

use anyhow::{Context, Result, bail};
use os_content_id::Mcid;
use os_release::author::{Repository, keyring};
use os_release::{Artifact, Named, Release, Version, target_path};
use services_api::daemon::now_ms;

use super::{Session, publish, root_keys, standing};
use crate::artifacts::{Artifacts, mcid_of_file};
use crate::cli::release::{self as cli, ReleaseCreate};
use crate::output::Output;
use crate::{repository, whole_file};

pub async fn release(s: &Session, args: cli::ReleaseArgs) -> Result<()> {
    let dir = args.repo.as_path();
    match args.verb {
        cli::Release::Create(args) => create(s, dir, &args),
        cli::Release::Sign => sign(s, dir),
        cli::Release::Show => standing::show(s, &repository::load(dir)?),
        cli::Release::Refresh { lifetime_s } => refresh(s, dir, lifetime_s),
        cli::Release::Withdraw { version, board } => withdraw(s, dir, &version, board.as_deref()),
        cli::Release::Pack { out } => pack(s, dir, &out),
        cli::Release::Publish(args) => publish::publish(s, dir, &args).await,
        cli::Release::Root(verb) => root_keys::root(s, dir, &verb),
    }
}

pub fn now_unix() -> u64 {
    now_ms() / 1000
}

fn create(s: &Session, dir: &std::path::Path, args: &ReleaseCreate) -> Result<()> {
    let now = now_unix();
    let mut repository = if repository::exists(dir) { repository::load(dir)? } else { begin(s, dir, now)? };
    let release = describe(&s.out, args, now)?;
    repository.add(&release, now).context("these artifacts make no release")?;
    repository::save(dir, &repository)?;
    standing::show(s, &repository)
}

/// One person's: the same key for every role.
fn begin(s: &Session, dir: &std::path::Path, now: u64) -> Result<Repository> {
    let id = s.key().context("the first release needs to know who will sign")?.node_id();
    if !s.out.json {
        eprintln!(
            "{}: new; you alone ({}) sign its releases. For more keys than one: maculactl help release root",
            dir.display(),
            id.short()
        );
    }
    Ok(Repository::begin(&keyring(&[id], 1), now)?)
}

fn sign(s: &Session, dir: &std::path::Path) -> Result<()> {
    let key = s.key()?;
    let mut repository = repository::load(dir)?;
    let signed = repository.sign(&key, now_unix())?;
    repository::save(dir, &repository)?;
    if !s.out.json {
        let roles: Vec<&str> = signed.iter().map(|role| role.word()).collect();
        match roles.as_slice() {
            [] => eprintln!("nothing here waits for a signature by {}", key.node_id()),
            roles => eprintln!("signed {}", roles.join(", ")),
        }
    }
    standing::show(s, &repository)
}

fn refresh(s: &Session, dir: &std::path::Path, lifetime_s: u64) -> Result<()> {
    let (key, now) = (s.key()?, now_unix());
    let mut repository = repository::load(dir)?;
    repository.refresh(&key, lifetime_s, now)?;
    repository.sign(&key, now)?;
    repository::save(dir, &repository)?;
    standing::show(s, &repository)
}

fn withdraw(s: &Session, dir: &std::path::Path, version: &Version, board: Option<&str>) -> Result<()> {
    let mut repository = repository::load(dir)?;
    let meant = |n: &Named| n.release.version == *version && board.is_none_or(|b| b == n.release.board);
    let paths: Vec<String> =
        repository.releases()?.iter().filter(|n| meant(n)).map(|n| target_path(&n.release)).collect();
    match paths.as_slice() {
        [] => bail!("{} holds no release {version}", dir.display()),
        [path] => repository.withdraw(path, now_unix())?,
        several => bail!("which one? --board says: {}", several.join(", ")),
    }
    repository::save(dir, &repository)?;
    standing::show(s, &repository)
}

fn pack(s: &Session, dir: &std::path::Path, out: &std::path::Path) -> Result<()> {
    let bytes = repository::load(dir)?.bundle()?.encode()?;
    whole_file::write(out, &bytes)?;
    let mcid = Mcid::of_raw(&bytes).to_string();
    s.out.show(&serde_json::json!({ "metadata": mcid, "bytes": bytes.len() }), |_| format!("{mcid}\n"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::tests::sample;
    use os_release::Role;
    use std::path::Path;

    fn args(dir: &Path, min_version: Option<&str>) -> ReleaseCreate {
        ReleaseCreate {
            artifacts: dir.to_path_buf(),
            min_version: min_version.map(Into::into),
            expires_days: 30,
            notes: "first".into(),
        }
    }

    #[test]
    fn artifacts_become_a_statement() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        let release = describe(&Output::new(true), &args(dir.path(), Some("0.1.0")), 1_000).unwrap();
        assert_eq!((release.board.as_str(), release.expires_unix), ("x86-generic", 1_000 + 30 * 86_400));
        let root = release.artifact(Role::Root).unwrap();
        assert_eq!((root.size, root.verity_root), (300_000, Some([0xab; 32])));
        release.check().unwrap();
    }

    #[test]
    fn bad_versions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        for (min, word) in [("9.0.0", "newer than the release"), ("one", "--min-version one")] {
            let error = describe(&Output::new(true), &args(dir.path(), Some(min)), 1_000).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }
}
