//! `ucan`: delegations made, looked at and taken back. Offline but for announcing a revocation; how they look is in `ucan_show`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use os_identity::{NodeId, NodeKey};
use os_ucan::policy::Policy;
use os_ucan::review::{LinkReview, review, verdict};
use os_ucan::revocation::Revocation;
use os_ucan::{
    Capability, Delegation, Did, Format, Resource, Subject, Token, TokenError, TokenId, chain, dag_cbor, jwt,
};

use super::release::now_unix;
use super::{Session, ucan_show};
use crate::cli::ucan::{Format as Wanted, Issue, Ucan};
use crate::output::print;
use crate::whole_file;

const NONCE: usize = 12;

type Links = Vec<Result<LinkReview, TokenError>>;

pub async fn ucan(s: &Session, verb: &Ucan) -> Result<()> {
    match verb {
        Ucan::Announce { file } => announce(s, file).await,
        Ucan::Issue(args) => issue(s, args),
        Ucan::Inspect { file, revocations } => inspect(s, file, revocations),
        Ucan::Revoke { file, link, out } => revoke(s, file, *link, out),
    }
}

fn issue(s: &Session, args: &Issue) -> Result<()> {
    let (key, now) = (s.key()?, now_unix());
    let proofs: Vec<Vec<Vec<u8>>> = args.proofs.iter().map(|file| load(file)).collect::<Result<_>>()?;
    let leaf = leaf(&key, args, &proofs, now)?;
    let mut tokens = vec![leaf];
    for token in proofs.into_iter().flatten() {
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    chain::encode(&tokens).context("with its proofs it would be too much to send")?;
    let links = review(&tokens, now, |_, _| false);
    refuse_bad(&links)?;
    let text = chain::to_text(&tokens);
    if s.out.json {
        return s.out.show(&ucan_show::report(&links, Some(&text)), |_| String::new());
    }
    eprint!("{}", ucan_show::text(&links, s.out.palette));
    print(&text);
    Ok(())
}

fn leaf(key: &NodeKey, args: &Issue, proofs: &[Vec<Vec<u8>>], now: u64) -> Result<Vec<u8>> {
    let parents: Vec<Token> = proofs
        .iter()
        .zip(&args.proofs)
        .map(|(tokens, file)| Token::decode(&tokens[0]).with_context(|| file.display().to_string()))
        .collect::<Result<_>>()?;
    let format = match (args.format, parents.first()) {
        (Some(Wanted::Jwt), _) => Format::Jwt,
        (Some(Wanted::DagCbor), _) => Format::DagCbor,
        (None, parent) => parent.map_or(Format::Jwt, |parent| parent.format),
    };
    if let Some(other) = parents.iter().position(|parent| parent.format != format) {
        bail!("{} is in another format: a chain has one; leave out --format", args.proofs[other].display());
    }
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).context("the kernel gave no random numbers")?;
    let delegation = Delegation {
        issuer: key.node_id().into(),
        audience: args.to.into(),
        subject: Subject::Implied,
        capabilities: args
            .can
            .iter()
            .map(|ability| Capability { ability: ability.clone(), resource: args.with.clone() })
            .collect(),
        policy: Policy::default(),
        not_before: None,
        expires: Some(now + args.expires_s),
        nonce: data_encoding::HEXLOWER.encode(&nonce).into_bytes(),
        meta: Default::default(),
        proofs: parents.iter().map(|parent| parent.id).collect(),
    };
    Ok(match format {
        Format::Jwt => jwt::issue(&delegation, key)?,
        Format::DagCbor => dag_cbor::issue(&as_one_command(delegation, &parents, key)?, key)?,
    })
}

/// UCAN 1.0: a subject, one command that covers what is beneath it, and the resource as a condition.
fn as_one_command(from: Delegation, parents: &[Token], key: &NodeKey) -> Result<Delegation> {
    let ([capability], [] | [_]) = (from.capabilities.as_slice(), parents) else {
        bail!(
            "UCAN 1.0 has one --can and at most one --proof in a delegation: make several, or take --format jwt"
        );
    };
    let subject = match parents.first().map(|parent| &parent.delegation.subject) {
        Some(subject) => subject.clone(),
        None => Subject::Of(Did::Key(key.node_id())),
    };
    Ok(Delegation {
        subject,
        policy: dag_cbor::narrow_to(&capability.resource)?,
        capabilities: vec![Capability {
            ability: capability.ability.with_beneath(),
            resource: Resource::everything(),
        }],
        proofs: Vec::new(),
        ..from
    })
}

/// What a node would refuse is not worth a signature.
fn refuse_bad(links: &Links) -> Result<()> {
    for (at, link) in links.iter().enumerate() {
        let what = if at == 0 { "this delegation".to_owned() } else { format!("link {} of it", at + 1) };
        match link {
            Ok(link) => ensure!(link.problems.is_empty(), "{what} would be refused: {}", link.problems[0]),
            Err(e) => bail!("{what} would be refused: {e}"),
        }
    }
    Ok(())
}

fn inspect(s: &Session, file: &Path, revocations: &[std::path::PathBuf]) -> Result<()> {
    let bytes = read(file)?;
    if let Ok(revocation) = Revocation::from_bytes(&bytes) {
        return ucan_show::revocation(s, &revocation);
    }
    let tokens = tokens(&bytes).with_context(|| shown(file))?;
    let revoked: Vec<Revocation> =
        revocations.iter().map(|file| load_revocation(file)).collect::<Result<_>>()?;
    let is_revoked =
        |token: &TokenId, by: &NodeId| revoked.iter().any(|r| r.token == *token && r.revoker == *by);
    let links = review(&tokens, now_unix(), is_revoked);
    s.out.show(&ucan_show::report(&links, None), |palette| ucan_show::text(&links, palette))?;
    ensure!(verdict(&links).good, "{} would be refused", shown(file));
    Ok(())
}

fn revoke(s: &Session, file: &Path, number: usize, out: &Path) -> Result<()> {
    let (key, tokens) = (s.key()?, load(file)?);
    let at = number.checked_sub(1).filter(|at| *at < tokens.len());
    let at = at.with_context(|| format!("{} has links 1 to {}", shown(file), tokens.len()))?;
    let token = TokenId::of(&tokens[at]);
    let by = key.node_id();
    // Whether the key may is what a review with such a statement says.
    let links = review(&tokens, now_unix(), |id, revoker| *id == token && *revoker == by);
    let counts =
        links[at].as_ref().is_ok_and(|link| link.problems.iter().any(|p| p.starts_with("it was revoked by")));
    ensure!(
        counts,
        "{by} cannot revoke link {number} of {}: only its issuer can, and those whom the issuer has it from",
        shown(file)
    );
    whole_file::write(out, &Revocation::issue(token, now_unix(), &key).to_bytes())?;
    s.out.done(&format!("{} revokes {token} and all that rests on it", out.display()))
}

async fn announce(s: &Session, file: &Path) -> Result<()> {
    let revocation = load_revocation(file)?;
    s.ask(async |node| node.revoke(&revocation.to_bytes()).await).await?;
    s.out.done(&format!("{} counts no longer on this node, and the mesh is being told", revocation.token))
}

/// The delegations of a file as they travel.
pub fn chain(file: &Path) -> Result<Vec<u8>> {
    chain::encode(&load(file)?).with_context(|| shown(file))
}

fn load(file: &Path) -> Result<Vec<Vec<u8>>> {
    tokens(&read(file)?).with_context(|| shown(file))
}

fn load_revocation(file: &Path) -> Result<Revocation> {
    Revocation::from_bytes(&read(file)?).with_context(|| shown(file))
}

/// Text as `ucan issue` writes it, a chain as it travels, or one token alone.
fn tokens(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Ok(chain::from_text(text)?);
    }
    match chain::decode(bytes) {
        Ok(tokens) => Ok(tokens.into_iter().map(<[u8]>::to_vec).collect()),
        Err(_) if Token::decode(bytes).is_ok() => Ok(vec![bytes.to_vec()]),
        Err(e) => Err(e).context("neither a delegation nor a revocation"),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let source: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(file).with_context(|| format!("cannot read {}", file.display()))?),
    };
    let mut bytes = Vec::new();
    let most = chain::MAX_TEXT as u64;
    source.take(most + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", shown(file)))?;
    ensure!(bytes.len() as u64 <= most, "{} is too large to be a delegation", shown(file));
    Ok(bytes)
}

fn shown(file: &Path) -> String {
    if file.as_os_str() == "-" { "stdin".to_owned() } else { file.display().to_string() }
}
