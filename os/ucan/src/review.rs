//! Looking at a chain without a question: what each link says, and what is wrong with it. For people; what may be done is for
//! [`crate::authorize`] to say.

use os_identity::NodeId;

use crate::authorize::has_expired;
use crate::{CLOCK_SKEW_S, Format, MAX_DEPTH, Resource, Subject, Token, TokenError, TokenId};

/// A token among its proofs.
#[derive(Debug, Clone)]
pub struct LinkReview {
    pub token: Token,
    /// Positions of the proofs that it rests on.
    pub proofs: Vec<usize>,
    /// Empty when it is good.
    pub problems: Vec<String>,
}

/// Reviews a leaf and its proofs, in the order of [`crate::chain`]. A token that cannot be read is an error in its place.
pub fn review(
    tokens: &[impl AsRef<[u8]>],
    now: u64,
    revoked: impl Fn(&TokenId, &NodeId) -> bool,
) -> Vec<Result<LinkReview, TokenError>> {
    let read: Vec<_> = tokens.iter().map(|bytes| Token::decode(bytes.as_ref())).collect();
    let link = |at: usize| {
        let token = read[at].clone()?;
        let proofs = proofs(&read, at, &token);
        let mut problems = problems(&read, &token, &proofs, now);
        problems.extend(revokers(&read, at).into_iter().find(|key| revoked(&token.id, key)).map(revoked_by));
        Ok(LinkReview { token, proofs, problems })
    };
    (0..read.len()).map(link).collect()
}

type Read = [Result<Token, TokenError>];

fn proofs(read: &Read, at: usize, token: &Token) -> Vec<usize> {
    let position =
        |id: &TokenId| read.iter().position(|other| other.as_ref().is_ok_and(|other| other.id == *id));
    match token.format {
        Format::Jwt => token.delegation.proofs.iter().filter_map(position).collect(),
        Format::DagCbor => Some(at + 1).filter(|next| *next < read.len()).into_iter().collect(),
    }
}

fn problems(read: &Read, token: &Token, proofs: &[usize], now: u64) -> Vec<String> {
    let d = &token.delegation;
    let mut found = Vec::new();
    match d.issuer.key() {
        None => found.push("its issuer is no Ed25519 did:key: nobody can say which key that is".to_owned()),
        Some(_) if token.verify().is_err() => {
            found.push("it does not bear its issuer's signature".to_owned())
        }
        Some(_) => {}
    }
    if has_expired(d.expires, now).is_some() {
        found.push("it has expired".to_owned());
    }
    if d.not_before.is_some_and(|from| now.saturating_add(CLOCK_SKEW_S) < from) {
        found.push("it is not valid yet".to_owned());
    }
    let named = d.proofs.iter().filter(|id| !read.iter().flatten().any(|other| other.id == **id));
    found.extend(named.map(|id| format!("its proof {id} is not here")));
    let parents: Vec<&Token> = proofs.iter().filter_map(|&at| read[at].as_ref().ok()).collect();
    for parent in &parents {
        if parent.delegation.audience != d.issuer {
            found.push(format!("its proof {} is not for its issuer", parent.id));
        }
        if parent.format != token.format {
            found.push(format!("its proof {} is in another format", parent.id));
        }
    }
    if d.subject == Subject::Anyone && proofs.is_empty() {
        found.push("it begins the chain and names no subject".to_owned());
    }
    found.extend(unproved(token, &parents));
    found
}

/// Capabilities that none of the proofs covers. Without any proof the issuer speaks of what is its own.
fn unproved(token: &Token, parents: &[&Token]) -> Vec<String> {
    let d = &token.delegation;
    let covered = |wanted: &&crate::Capability| {
        parents.iter().flat_map(|parent| &parent.delegation.capabilities).any(|c| c.covers(wanted))
    };
    match (&d.subject, parents.is_empty()) {
        (Subject::Of(subject), true) if *subject != d.issuer => {
            vec![format!("nothing shows that its issuer has anything from {subject}")]
        }
        (_, true) => Vec::new(),
        (_, false) => d
            .capabilities
            .iter()
            .filter(|c| !covered(c))
            .map(|c| match c.resource == Resource::everything() && token.format == Format::DagCbor {
                true => format!("it grants {}, its proof does not", c.ability),
                false => format!("it grants {c}, none of its proofs does"),
            })
            .collect(),
    }
}

/// Its issuer and everybody above.
fn revokers(read: &Read, at: usize) -> Vec<NodeId> {
    let (mut reached, mut next) = (vec![at], 0);
    while let Some(&at) = reached.get(next) {
        next += 1;
        if let Ok(token) = &read[at] {
            let more: Vec<usize> =
                proofs(read, at, token).into_iter().filter(|at| !reached.contains(at)).collect();
            reached.extend(more);
        }
    }
    reached.iter().filter_map(|&at| read[at].as_ref().ok()?.delegation.issuer.key()).collect()
}

fn revoked_by(key: NodeId) -> String {
    format!("it was revoked by {key}")
}

/// The keys that the chain begins with, as far as it can be followed from the leaf, and whether all on the way is good.
pub fn verdict(links: &[Result<LinkReview, TokenError>]) -> Verdict {
    let mut verdict = Verdict { good: true, roots: Vec::new() };
    let mut level = vec![0];
    for _ in 0..MAX_DEPTH {
        let mut above = Vec::new();
        for at in level {
            match links.get(at) {
                Some(Ok(link)) => {
                    verdict.good &= link.problems.is_empty();
                    if link.proofs.is_empty() {
                        verdict.roots.extend(link.token.delegation.issuer.key());
                    }
                    above.extend(&link.proofs);
                }
                _ => verdict.good = false,
            }
        }
        above.sort_unstable();
        above.dedup();
        level = above;
    }
    verdict.good &= level.is_empty();
    verdict.roots.sort_unstable();
    verdict.roots.dedup();
    verdict
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Nothing is wrong with the leaf and all that it rests on.
    pub good: bool,
    /// Who owns what it is about, if the chain is to be worth anything.
    pub roots: Vec<NodeId>,
}
