//! `owner`: who owns a node, and how it changes hands with the owner's word.

use anyhow::{Result, bail};
use serde_json::json;
use services_api::control::protocol;
use services_api::pairing::{CodeReport, InviteParams, OwnerReport, TransferParams};

use super::{Session, ucan};
use crate::cli::pair::Owner;
use crate::node::Node;
use crate::output::clean;

pub async fn owner(s: &Session, verb: &Owner) -> Result<()> {
    match verb {
        Owner::Show => show(s).await,
        Owner::Invite { minutes, delegate } => {
            let chain = delegate.as_deref().map(ucan::chain).transpose()?.unwrap_or_default();
            invite(s, InviteParams { minutes: *minutes, chain }).await
        }
        Owner::Transfer { owner, yes } => {
            if !*yes {
                bail!(
                    "after this the node takes orders from {owner} and none from you; say --yes if that is what you want"
                );
            }
            let params = TransferParams { owner: owner.to_string() };
            s.ask(async |node| order::<_, ()>(node, "transfer", &params).await).await?;
            s.out.done(&format!("{owner} is the owner now; the node's mesh starts again in a second"))
        }
    }
}

async fn show(s: &Session) -> Result<()> {
    let report: OwnerReport = s.ask(async |node| order(node, "show", &()).await).await?;
    s.out.show(&report, |_| {
        let owner = if report.owner.is_empty() { "nobody" } else { &report.owner };
        let mut text =
            format!("{} belongs to {}\n  {}\n", clean(&report.name), clean(owner), clean(&report.node));
        if report.state == "invited" {
            text += &format!("  somebody is invited, for {} s more\n", report.expires_in_s);
        }
        text
    })
}

async fn invite(s: &Session, params: InviteParams) -> Result<()> {
    let delegate = !params.chain.is_empty();
    let report: CodeReport = s.ask(async |node| order(node, "invite", &params).await).await?;
    let value = json!({ "uri": report.uri, "web": report.web, "qr": report.qr, "secret": report.secret,
        "expires_in_s": report.expires_in_s, "role": if delegate { "delegate" } else { "new-owner" } });
    s.out.show(&value, |_| {
        let becomes = if delegate { "may do what the delegation says" } else { "is the owner, in your place" };
        format!(
            "whoever comes with this code within {} minutes {becomes}:\n\n  maculactl pair '{}'\n\nor with a phone: {}\n",
            report.expires_in_s.div_ceil(60),
            clean(&report.uri),
            clean(&report.web)
        )
    })
}

async fn order<P, T>(node: &Node, method: &str, params: &P) -> Result<T>
where
    P: serde::Serialize,
    T: serde::de::DeserializeOwned,
{
    match node {
        Node::Remote(remote) => remote.call(protocol::PAIRING, method, params).await,
        Node::Local => bail!("an owner orders this from elsewhere, with its key: leave --local out"),
    }
}
