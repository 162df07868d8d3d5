//! Whether a stream may be opened: by the owner, or by delegations that come from the owner and that nobody took back.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh_proto::rpc::{CallError, Code};
use os_identity::NodeId;
use os_ucan::{Authorizer, CLOCK_SKEW_S, Grant, Refusal, Request, Token, chain};
use services_api::{bus, clock, update::AuditProxy};
use tokio::sync::mpsc;

use crate::access::{Access, Asked};
use crate::access_log::{AccessLog, Line, Verdict};
use crate::revocations::{Pair, Revocations};

/// Tokens whose signature is known to hold.
const MAX_VERIFIED: usize = 4096;
/// Lines on their way to the audit log.
const MAX_LINES: usize = 64;
/// The clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

pub struct Authority {
    me: NodeId,
    owner: Option<NodeId>,
    authorizer: Mutex<Authorizer>,
    pub revocations: Revocations,
    /// This node's apps that have come so far.
    apps: Mutex<BTreeSet<NodeId>>,
    log: Mutex<AccessLog>,
    lines: mpsc::Sender<Line>,
    started: Instant,
}

/// By what right a stream is open.
#[derive(Debug, Default)]
pub struct Pass {
    /// Seconds since 1970; `None`: it does not end.
    until: Option<u64>,
    /// What would end it: these keys taking back these tokens.
    rests_on: Vec<Pair>,
}

impl Authority {
    /// What is worth it goes to the audit log, from a task of its own.
    pub fn new(me: NodeId, owner: Option<NodeId>) -> Self {
        let (lines, waiting) = mpsc::channel(MAX_LINES);
        tokio::spawn(record(waiting));
        Self {
            me,
            owner,
            authorizer: Mutex::new(Authorizer::new(MAX_VERIFIED)),
            revocations: Revocations::default(),
            apps: Mutex::default(),
            log: Mutex::default(),
            lines,
            started: Instant::now(),
        }
    }

    /// Whether `peer` may have this stream. `ucan` is a chain as `os_ucan::chain` writes it; empty: none was shown.
    pub async fn check(
        &self,
        peer: NodeId,
        access: &Access,
        (protocol, resource): (&str, &str),
        ucan: &[u8],
    ) -> Result<Pass, CallError> {
        if *access == Access::Peer || peer == self.me || self.owner == Some(peer) {
            return Ok(Pass::default());
        }
        let Ok(Some(asked)) = access.asked(&self.me, protocol, resource) else {
            let what = if resource.is_empty() { protocol } else { resource };
            return Err(self.refused(peer, &format!("`{what}`"), &"this is for the owner alone"));
        };
        let mut verdict = self.walk(peer, &asked, ucan);
        if let Ok((_, rests_on)) = &verdict
            && self.revocations.look_up(rests_on).await
        {
            verdict = self.walk(peer, &asked, ucan);
        }
        let what = format!("{} on {}", asked.ability, asked.resource);
        let (grant, rests_on) = verdict.map_err(|refusal| self.refused(peer, &what, &refusal))?;
        self.note(Verdict::Granted, peer, &what, &grant);
        Ok(Pass { until: grant.until, rests_on })
    }

    /// Whether whoever shows this chain, which proves no key, may have that: it is made out to this node, and comes from its owner.
    pub async fn check_shown(&self, asked: &Asked, ucan: &[u8]) -> Result<(), CallError> {
        let what = format!("{} on {}, over HTTP", asked.ability, asked.resource);
        // The root needs no token; were it this node, anything that anybody shows would do.
        let Some(root) = self.owner.filter(|owner| *owner != self.me) else {
            return Err(CallError::new(
                Code::FORBIDDEN,
                "this node has no owner who could have issued a token",
            ));
        };
        let mut verdict = self.walk_from(root, self.me, asked, ucan);
        if let Ok((_, rests_on)) = &verdict
            && self.revocations.look_up(rests_on).await
        {
            verdict = self.walk_from(root, self.me, asked, ucan);
        }
        let (grant, _) = verdict.map_err(|refusal| self.refused(self.me, &what, &refusal))?;
        self.note(Verdict::Granted, self.me, &what, &grant);
        Ok(())
    }

    /// Whether an app of this node may have that, by the first of its chains that allows it; which one that is.
    pub async fn check_any(
        &self,
        app: NodeId,
        asked: &Asked,
        chains: &[Vec<u8>],
    ) -> Result<(Pass, Vec<u8>), CallError> {
        lock(&self.apps).insert(app);
        let what = format!("{} on {}", asked.ability, asked.resource);
        let mut refusal = Refusal::NoToken { invoker: app.to_string() };
        for chain in chains {
            let mut verdict = self.walk(app, asked, chain);
            if let Ok((_, rests_on)) = &verdict
                && self.revocations.look_up(rests_on).await
            {
                verdict = self.walk(app, asked, chain);
            }
            match verdict {
                Ok((grant, rests_on)) => {
                    self.note(Verdict::Granted, app, &what, &grant);
                    return Ok((Pass { until: grant.until, rests_on }, chain.clone()));
                }
                Err(why) => refusal = why,
            }
        }
        Err(self.refused(app, &what, &refusal))
    }

    /// Delegations begin with the owner, or with the node itself, which delegates to its owner and to its apps. What it has once delegated to
    /// an owner of before is worth nothing any more.
    fn walk(&self, invoker: NodeId, asked: &Asked, ucan: &[u8]) -> Result<(Grant, Vec<Pair>), Refusal> {
        let mut first = None;
        let from_node =
            leads_on(ucan, self.me, |to| self.owner == Some(to) || lock(&self.apps).contains(&to));
        for root in self.owner.into_iter().chain(from_node.then_some(self.me)) {
            match self.walk_from(root, invoker, asked, ucan) {
                Err(e @ (Refusal::NotFromRoot { .. } | Refusal::WrongSubject { .. })) => {
                    first.get_or_insert(e);
                }
                decided => return decided,
            }
        }
        Err(first.unwrap_or(Refusal::NoToken { invoker: invoker.to_string() }))
    }

    fn walk_from(
        &self,
        root: NodeId,
        invoker: NodeId,
        asked: &Asked,
        ucan: &[u8],
    ) -> Result<(Grant, Vec<Pair>), Refusal> {
        let (ability, resource) = (&asked.ability, &asked.resource);
        let request = Request { invoker, root, ability, resource, now: now_unix() };
        let looked_at = Mutex::new(BTreeSet::new());
        let revoked = |token: &_, key: &_| {
            lock(&looked_at).insert((*token, *key));
            self.revocations.is_revoked(&(*token, *key))
        };
        let grant = lock(&self.authorizer).authorize(&request, ucan, revoked)?;
        let rests_on = looked_at.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((grant, rests_on.into_iter().collect()))
    }

    fn refused(&self, peer: NodeId, what: &str, why: &dyn fmt::Display) -> CallError {
        self.note(Verdict::Refused, peer, what, why);
        CallError::new(Code::FORBIDDEN, format!("{what}: {why}"))
    }

    /// Notes it, if it is news, in the audit log.
    pub fn note(&self, verdict: Verdict, who: NodeId, what: &str, why: &dyn fmt::Display) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        let line = lock(&self.log).note(verdict, who, what, why, now_ms);
        let Some(line) = line else { return };
        tracing::info!("{} {}", line.verdict.word(), line.text);
        if self.lines.try_send(line).is_err() {
            tracing::warn!("this is not in the audit log: too much waits for it");
        }
    }

    /// Resolves when a stream that was opened by this right has to end.
    pub async fn over(&self, pass: &Pass) {
        let mut changed = self.revocations.changed();
        loop {
            if pass.rests_on.iter().any(|pair| self.revocations.is_revoked(pair)) {
                return;
            }
            let left = pass.until.map(|until| (until + CLOCK_SKEW_S).saturating_sub(now_unix()));
            if left == Some(0) {
                return;
            }
            let sleep = left.map_or(LONGEST_SLEEP, |s| Duration::from_secs(s).min(LONGEST_SLEEP));
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                _ = changed.changed(), if !pass.rests_on.is_empty() => {}
            }
        }
    }
}

impl Pass {
    /// Whether it holds for as long as anybody likes.
    pub fn is_free(&self) -> bool {
        self.until.is_none() && self.rests_on.is_empty()
    }
}

/// Whether a chain that begins with the node goes on with one of those to whom it delegates.
fn leads_on(ucan: &[u8], node: NodeId, delegates: impl Fn(NodeId) -> bool) -> bool {
    let tokens = chain::decode(ucan).unwrap_or_default();
    let mut of_node = tokens
        .iter()
        .filter_map(|bytes| Token::decode(bytes).ok())
        .filter(|token| token.delegation.issuer.key() == Some(node))
        .peekable();
    // All of them: a chain may hold tokens that no link needs, and which of two is needed is the walk's to find.
    of_node.peek().is_some() && of_node.all(|token| token.delegation.audience.key().is_some_and(&delegates))
}

/// Brings lines to the audit log, which `update` keeps.
async fn record(mut lines: mpsc::Receiver<Line>) {
    let update = bus::Link::new("update");
    while let Some(line) = lines.recv().await {
        let write = async || {
            let update = AuditProxy::new(&update.get().await?).await?;
            Ok(update.note_access(line.verdict.word(), &line.text).await?)
        };
        bus::retry("audit log", write).await;
    }
}

/// Seconds since 1970. A clock that was set back is not believed.
pub fn now_unix() -> u64 {
    let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    system.max(clock::certain_unix())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
