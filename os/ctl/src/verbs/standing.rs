//! How a repository of releases stands: who signed what, what is missing, what comes next.

use anyhow::Result;
use os_release::author::{Repository, Standing};
use os_release::{Artifact, Named};

use super::Session;
use crate::output::{Color, Palette, bytes, clean, timestamp};

pub fn show(s: &Session, repository: &Repository) -> Result<()> {
    let (roles, releases) = (repository.standings()?, repository.releases()?);
    let missing = repository.bundle().err().map(|e| e.to_string());
    let json = serde_json::json!({
        "roles": roles.iter().map(role_json).collect::<Vec<_>>(),
        "releases": releases.iter().map(release_json).collect::<Vec<_>>(),
        "missing": missing,
    });
    s.out.show(&json, |palette| render(&roles, &releases, missing.as_deref(), palette))
}

fn role_json(role: &Standing) -> serde_json::Value {
    let texts = |ids: &[os_identity::NodeId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    serde_json::json!({
        "role": role.role.word(),
        "version": role.version,
        "expires_unix": role.expires_unix,
        "threshold": role.threshold,
        "keys": texts(&role.keys),
        "signed": texts(&role.signed),
        "complete": role.complete,
    })
}

fn release_json(named: &Named) -> serde_json::Value {
    let r = &named.release;
    let artifact = |a: &Artifact| {
        serde_json::json!({
            "role": a.role.word(),
            "mcid": a.mcid.to_string(),
            "size": a.size,
            "verity_root": a.verity_root.map(|h| data_encoding::HEXLOWER.encode(&h)),
        })
    };
    serde_json::json!({
        "mcid": named.mcid.to_string(),
        "board": r.board,
        "version": r.version.to_string(),
        "min_version": r.min_version.to_string(),
        "created_unix": r.created_unix,
        "expires_unix": r.expires_unix,
        "notes": r.notes,
        "artifacts": r.artifacts.iter().map(artifact).collect::<Vec<_>>(),
    })
}

fn render(roles: &[Standing], releases: &[Named], missing: Option<&str>, palette: Palette) -> String {
    let head = |text: &str| palette.paint(Color::Bold, &format!("{text:10}"));
    let mut text: String = roles.iter().map(|role| role_line(role, palette)).collect();
    for named in releases {
        let r = &named.release;
        text += &format!(
            "{} {} {}, replaces {} or newer, until {}\n{} {}\n",
            head("release"),
            clean(&r.board),
            r.version,
            r.min_version,
            timestamp(r.expires_unix),
            head(""),
            named.mcid,
        );
        for a in &r.artifacts {
            text += &format!("{} {} {}, {}\n", head(""), a.role.word(), a.mcid, bytes(a.size));
        }
        text += &r.notes.lines().map(|l| format!("{} {}\n", head(""), clean(l))).collect::<String>();
    }
    text + &match missing {
        Some(what) => format!("{} {}\n", head("missing"), palette.paint(Color::Yellow, &clean(what))),
        None => format!("{} {}\n", head("ready"), palette.paint(Color::Green, "maculactl release publish")),
    }
}

fn role_line(role: &Standing, palette: Palette) -> String {
    let head = palette.paint(Color::Bold, &format!("{:10}", role.role.word()));
    if role.version == 0 {
        return format!("{head} none yet; {} of {} keys will sign it\n", role.threshold, role.keys.len());
    }
    let signed: Vec<String> = role.signed.iter().map(|id| id.short()).collect();
    let by = if signed.is_empty() { "nobody yet".into() } else { signed.join(", ") };
    let verdict = if role.complete { "" } else { ", not enough" };
    format!(
        "{head} version {}, until {}; signed by {by} ({} of {} keys needed{})\n",
        role.version,
        timestamp(role.expires_unix),
        role.threshold,
        role.keys.len(),
        palette.paint(Color::Yellow, verdict),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::tests::{NOW, release, signed};
    use os_identity::NodeKey;

    #[test]
    fn what_is_missing_is_said() {
        let key = NodeKey::from_seed(&[1; 32]);
        let mut repository = signed(&key, 1);
        let text = |r: &Repository| {
            let missing = r.bundle().err().map(|e| e.to_string());
            render(&r.standings().unwrap(), &r.releases().unwrap(), missing.as_deref(), Palette::default())
        };
        let ready = text(&repository);
        assert!(ready.contains("x86-generic 0.1.0") && ready.contains("release publish"), "{ready}");
        let noted = os_release::Release { notes: "two\x1b[2J".into(), ..release(2) };
        repository.add(&noted, NOW).unwrap();
        let waits = text(&repository);
        assert!(waits.contains("signed by nobody yet (1 of 1 keys needed, not enough)"), "{waits}");
        assert!(waits.contains("targets has 0 of 1 signatures") && !waits.contains('\x1b'), "{waits}");
    }
}
