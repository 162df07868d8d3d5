//! The walk from the one who asks to the root: every link, every rule.

use std::sync::Arc;

use ipld_core::ipld::Ipld;
use os_identity::NodeId;

use crate::authorize::has_expired;
use crate::refusal::{Link, Refusal};
use crate::{CLOCK_SKEW_S, Capability, Format, MAX_DEPTH, Subject, Token, TokenId};

/// Links looked at in one walk, over all its branches.
const MAX_STEPS: usize = 128;

pub(crate) struct Question {
    pub invoker: NodeId,
    pub root: NodeId,
    pub wanted: Capability,
    /// What the policies are about.
    pub args: Ipld,
    pub now: u64,
}

pub(crate) struct Walk<'a> {
    pub question: &'a Question,
    /// The leaf first.
    pub tokens: &'a [Arc<Token>],
    /// Whether each token's signature holds, once that is known.
    pub verified: Vec<Option<bool>>,
    /// Whether this key revoked this token.
    pub revoked: &'a dyn Fn(&TokenId, &NodeId) -> bool,
    pub steps: usize,
}

impl<'a> Walk<'a> {
    /// The chain that grants it, as positions in `tokens`, leaf first.
    pub fn run(&mut self) -> Result<Vec<usize>, Refusal> {
        let question = self.question;
        self.climb(&mut Vec::new(), 0, &question.invoker, &question.wanted)
    }

    /// Whether token `at`, held by `holder`, gives `wanted`, and so on up to the root. `path` is how we came here.
    fn climb(
        &mut self,
        path: &mut Vec<usize>,
        at: usize,
        holder: &NodeId,
        wanted: &'a Capability,
    ) -> Result<Vec<usize>, Refusal> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(Refusal::TooManyBranches);
        }
        let token: &'a Token = &self.tokens[at];
        let link = Link { number: path.len() + 1, id: token.id };
        let issuer = self.check_link(path, token, link, holder)?;
        let granted = granted(token, link, wanted)?;
        path.push(at);
        let found = if issuer == self.question.root {
            self.arrive(path, token, link)
        } else {
            self.climb_on(path, token, link, &issuer, &granted)
        };
        path.pop();
        found
    }

    /// What does not depend on the links above.
    fn check_link(
        &self,
        path: &[usize],
        token: &Token,
        link: Link,
        holder: &NodeId,
    ) -> Result<NodeId, Refusal> {
        let d = &token.delegation;
        let issuer =
            d.issuer.key().ok_or_else(|| Refusal::IssuerIsNoKey { link, issuer: d.issuer.to_string() })?;
        if d.audience.key() != Some(*holder) {
            return Err(Refusal::wrong_audience(link, &d.audience, holder));
        }
        if path.iter().any(|&below| self.tokens[below].delegation.issuer == d.issuer) {
            return Err(Refusal::Cycle { link });
        }
        let now = self.question.now;
        if let Some(from) = d.not_before.filter(|from| now.saturating_add(CLOCK_SKEW_S) < *from) {
            return Err(Refusal::NotYetValid { link, from });
        }
        if let Some(at) = has_expired(d.expires, now) {
            return Err(Refusal::Expired { link, at });
        }
        if let Subject::Of(subject) = &d.subject
            && subject.key() != Some(self.question.root)
        {
            let (subject, root) = (subject.to_string(), self.question.root.to_string());
            return Err(Refusal::WrongSubject { link, subject, root });
        }
        match d.policy.broken_by(&self.question.args) {
            Some(statement) => Err(Refusal::Policy { link, statement }),
            None => Ok(issuer),
        }
    }

    /// Tries every capability that would do with every proof that is named.
    fn climb_on(
        &mut self,
        path: &mut Vec<usize>,
        token: &Token,
        link: Link,
        issuer: &NodeId,
        granted: &[&'a Capability],
    ) -> Result<Vec<usize>, Refusal> {
        if path.len() >= MAX_DEPTH {
            return Err(Refusal::TooDeep { link });
        }
        let mut farthest = None;
        for proof in self.proofs(path, token) {
            let Some(at) = proof.at else {
                keep_farther(&mut farthest, Refusal::MissingProof { link, proof: proof.id });
                continue;
            };
            for wanted in granted {
                match self.climb(path, at, issuer, wanted) {
                    Err(Refusal::TooManyBranches) => return Err(Refusal::TooManyBranches),
                    Err(refusal) => keep_farther(&mut farthest, refusal),
                    found => return found,
                }
            }
        }
        Err(farthest.unwrap_or_else(|| self.not_from_root(link, issuer)))
    }

    fn not_from_root(&self, link: Link, issuer: &NodeId) -> Refusal {
        Refusal::NotFromRoot { link, issuer: issuer.to_string(), root: self.question.root.to_string() }
    }

    /// A JWT names its proofs. In UCAN 1.0 the next token is it.
    fn proofs(&self, path: &[usize], token: &Token) -> Vec<Proof> {
        let position = |id: &TokenId| self.tokens.iter().position(|t| t.id == *id);
        match token.format {
            Format::Jwt => {
                token.delegation.proofs.iter().map(|id| Proof { id: *id, at: position(id) }).collect()
            }
            Format::DagCbor => {
                let next = path.last().map_or(0, |at| at + 1);
                self.tokens.get(next).map(|t| Proof { id: t.id, at: Some(next) }).into_iter().collect()
            }
        }
    }

    /// At the root: now that the whole chain is known, what needs all of it. Signatures last, they cost most.
    fn arrive(&mut self, path: &[usize], token: &Token, link: Link) -> Result<Vec<usize>, Refusal> {
        if token.format == Format::DagCbor {
            if token.delegation.subject == Subject::Anyone {
                return Err(Refusal::NoSubjectAtRoot { link });
            }
            if path.len() < self.tokens.len() {
                return Err(Refusal::Surplus(self.tokens.len() - path.len()));
            }
        }
        self.check_revocations(path)?;
        for (below, &at) in path.iter().enumerate() {
            let token = &self.tokens[at];
            if !*self.verified[at].get_or_insert_with(|| token.verify().is_ok()) {
                return Err(Refusal::Signature { link: Link { number: below + 1, id: token.id } });
            }
        }
        Ok(path.to_vec())
    }

    /// A token may be revoked by its issuer and by everybody that the issuer has it from (UCAN Revocation, "Scope").
    fn check_revocations(&self, path: &[usize]) -> Result<(), Refusal> {
        let issuers: Vec<NodeId> =
            path.iter().filter_map(|&at| self.tokens[at].delegation.issuer.key()).collect();
        for (below, &at) in path.iter().enumerate() {
            let link = Link { number: below + 1, id: self.tokens[at].id };
            if let Some(by) = issuers[below..].iter().find(|issuer| (self.revoked)(&link.id, issuer)) {
                return Err(Refusal::Revoked { link, by: by.to_string() });
            }
        }
        Ok(())
    }
}

struct Proof {
    id: TokenId,
    at: Option<usize>,
}

/// The token's capabilities that cover what is wanted; at the leaf that is the request, above it a capability of the link below.
fn granted<'a>(token: &'a Token, link: Link, wanted: &Capability) -> Result<Vec<&'a Capability>, Refusal> {
    let all = &token.delegation.capabilities;
    let covering: Vec<&Capability> = all.iter().filter(|c| c.covers(wanted)).collect();
    if !covering.is_empty() {
        return Ok(covering);
    }
    let text = wanted.to_string();
    Err(match (link.number, all.iter().any(|c| c.ability.covers(&wanted.ability))) {
        (1, _) => Refusal::NotGranted { link, wanted: text },
        (_, true) => Refusal::ResourceEscalated { link, wanted: text },
        (_, false) => Refusal::AbilityEscalated { link, wanted: text },
    })
}

fn keep_farther(kept: &mut Option<Refusal>, other: Refusal) {
    if kept.as_ref().is_none_or(|kept| other.depth() > kept.depth()) {
        *kept = Some(other);
    }
}
