//! How delegations look to people, and as JSON.

use std::fmt::Write;

use anyhow::Result;
use os_ucan::review::{LinkReview, verdict};
use os_ucan::revocation::Revocation;
use os_ucan::{Format, Subject, TokenError, ipld};
use serde_json::{Value, json};

use super::Session;
use crate::output::{Color, Palette, clean, timestamp};

type Links = [Result<LinkReview, TokenError>];

/// The leaf first, each link with what it says and what is wrong with it; then what all of it comes to.
pub fn text(links: &Links, palette: Palette) -> String {
    let mut out = String::new();
    for (at, link) in links.iter().enumerate() {
        let title = format!("link {} of {}", at + 1, links.len());
        let good = link.as_ref().is_ok_and(|link| link.problems.is_empty());
        let (color, word) = if good { (Color::Green, "good") } else { (Color::Red, "bad") };
        let _ = writeln!(out, "{}  {}", palette.paint(Color::Bold, &title), palette.paint(color, word));
        match link {
            Ok(link) => out += &link_text(link, palette),
            Err(e) => {
                let _ = writeln!(out, "  {}", palette.paint(Color::Red, &clean(&e.to_string())));
            }
        }
    }
    out + &verdict_text(links, palette)
}

fn link_text(link: &LinkReview, palette: Palette) -> String {
    let d = &link.token.delegation;
    let mut lines =
        vec![("id", link.token.id.to_string()), ("by", d.issuer.to_string()), ("to", d.audience.to_string())];
    match &d.subject {
        Subject::Implied => {}
        Subject::Anyone => lines.push(("about", "whatever its issuer gets, from whomever".to_owned())),
        Subject::Of(did) => lines.push(("about", format!("what {did} owns"))),
    }
    lines.extend(d.capabilities.iter().map(|c| match link.token.format {
        Format::Jwt => ("can", c.to_string()),
        Format::DagCbor => ("can", c.ability.to_string()),
    }));
    if !d.policy.is_empty() {
        lines.push(("if", d.policy.to_string()));
    }
    lines.push(("holds", validity(d.not_before, d.expires)));
    if !d.meta.is_empty() {
        lines.push(("says", meta(link).to_string()));
    }
    if link.token.format == Format::DagCbor {
        lines.insert(1, ("cid", link.token.id.cid(link.token.format)));
    }
    let mut out = String::new();
    for (name, value) in lines {
        let _ = writeln!(out, "  {name:<6} {}", clean(&value));
    }
    for problem in &link.problems {
        let _ = writeln!(out, "  {}", palette.paint(Color::Red, &clean(problem)));
    }
    out
}

fn validity(not_before: Option<u64>, expires: Option<u64>) -> String {
    let until = expires.map_or("for ever".to_owned(), |at| format!("until {}", timestamp(at)));
    match not_before {
        Some(from) => format!("from {} {until}", timestamp(from)),
        None => until,
    }
}

fn verdict_text(links: &Links, palette: Palette) -> String {
    let verdict = verdict(links);
    let roots: Vec<String> = verdict.roots.iter().map(ToString::to_string).collect();
    match (verdict.good, roots.as_slice()) {
        (false, _) => format!("{}\n", palette.paint(Color::Red, "no node accepts this")),
        (true, []) => "good\n".to_owned(),
        (true, roots) => {
            let conditions = links.iter().flatten().any(|link| !link.token.delegation.policy.is_empty());
            let only = if conditions { ", where every `if` holds" } else { "" };
            let good = palette.paint(Color::Green, "good");
            format!("{good}, on what {} owns{only}\n", roots.join(", "))
        }
    }
}

pub fn report(links: &Links, chain: Option<&str>) -> Value {
    let verdict = verdict(links);
    let roots: Vec<String> = verdict.roots.iter().map(ToString::to_string).collect();
    let links: Vec<Value> = links.iter().map(link_report).collect();
    let mut report = json!({ "good": verdict.good, "roots": roots, "links": links });
    if let Some(chain) = chain {
        report["chain"] = json!(chain);
    }
    report
}

fn link_report(link: &Result<LinkReview, TokenError>) -> Value {
    let link = match link {
        Ok(link) => link,
        Err(e) => return json!({ "good": false, "problems": [e.to_string()] }),
    };
    let d = &link.token.delegation;
    let subject = match &d.subject {
        Subject::Of(did) => Some(did.to_string()),
        Subject::Implied | Subject::Anyone => None,
    };
    let capability =
        |c: &os_ucan::Capability| json!({ "can": c.ability.to_string(), "with": c.resource.to_string() });
    json!({
        "good": link.problems.is_empty(),
        "problems": link.problems,
        "id": link.token.id.to_string(),
        "cid": link.token.id.cid(link.token.format),
        "format": if link.token.format == Format::Jwt { "jwt" } else { "dag-cbor" },
        "issuer": d.issuer.to_string(),
        "audience": d.audience.to_string(),
        "subject": subject,
        "capabilities": d.capabilities.iter().map(capability).collect::<Vec<_>>(),
        "policy": ipld::to_json(&d.policy.to_ipld()),
        "not_before": d.not_before,
        "expires": d.expires,
        "meta": meta(link),
        "proofs": link.proofs.iter().map(|at| at + 1).collect::<Vec<_>>(),
    })
}

fn meta(link: &LinkReview) -> Value {
    link.token.delegation.meta.iter().map(|(name, value)| (name.clone(), ipld::to_json(value))).collect()
}

pub fn revocation(s: &Session, revocation: &Revocation) -> Result<()> {
    let (token, by) = (revocation.token.to_string(), revocation.revoker.to_string());
    let report = json!({ "revokes": token, "by": by, "at": revocation.at });
    s.out.show(&report, |_| {
        format!(
            "a revocation, rightly signed\n  token  {token}\n  by     {by}\n  at     {}\n\
             it counts where {} issued the token, or gave its issuer what it grants\n",
            timestamp(revocation.at),
            revocation.revoker.short()
        )
    })
}
