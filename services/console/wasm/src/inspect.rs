//! What a chain says, for people.

use os_ucan::review::{review, verdict};
use os_ucan::{Format, chain};
use serde_json::{Value, json};

pub fn inspect(tokens: &str, now: u64) -> Result<Value, String> {
    let tokens = chain::from_text(&tokens.replace(',', "\n")).map_err(|e| e.to_string())?;
    // What was taken back only a node knows.
    let links = review(&tokens, now, |_, _| false);
    let verdict = verdict(&links);
    let shown: Vec<Value> = links
        .iter()
        .map(|link| match link {
            Err(e) => json!({ "problems": [e.to_string()] }),
            Ok(link) => {
                let d = &link.token.delegation;
                let can = d.capabilities.iter().map(|c| match link.token.format {
                    Format::Jwt => c.to_string(),
                    Format::DagCbor => c.ability.to_string(),
                });
                json!({
                    "by": d.issuer.to_string(),
                    "to": d.audience.to_string(),
                    "can": can.collect::<Vec<_>>(),
                    "expires": d.expires,
                    "problems": link.problems,
                })
            }
        })
        .collect();
    let roots: Vec<String> = verdict.roots.iter().map(ToString::to_string).collect();
    Ok(json!({ "good": verdict.good, "roots": roots, "links": shown }))
}
