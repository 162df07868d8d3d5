//! CALL, its answers, and who serves what.

use os_identity::NodeId;

use super::connection::Phase;
use super::{Action, ConnId, Name, Now, Request, Station, Stream, Timer, system, until};
use crate::ErrorCode;
use crate::frame::{Advertise, Call, CallError, CallId, Frame, Received};

/// CALLs that wait at one provider, for each that one caller may have.
const SERVING_FACTOR: usize = 16;

/// Why a client does not get what it wants.
pub(super) type Refusal = (ErrorCode, String);

/// Who asks, and where the answer goes.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub conn: ConnId,
    pub stream: Stream,
    pub node: &'a NodeId,
}

/// A CALL that another client is to answer.
pub(super) struct Passed {
    caller: ConnId,
    stream: Stream,
    deadline_ms: u64,
}

impl Station {
    pub(super) fn call(&mut self, conn: ConnId, stream: Stream, node: NodeId, received: Received, now: Now) {
        let Frame::Call(call) = &received.frame else { return };
        self.counters.calls += 1;
        let asker = Asker { conn, stream, node: &node };
        if let Err((code, detail)) = self.route(asker, call, &received, now) {
            self.reply_error(conn, stream, call.call_id, code, &detail, now);
        }
    }

    fn route(&mut self, asker: Asker<'_>, call: &Call, received: &Received, now: Now) -> Result<(), Refusal> {
        if call.caller != *asker.node {
            self.counters.frames_forged += 1;
            return Err((ErrorCode::Unauthorized, "caller is not who this connection belongs to".into()));
        }
        if !self.genuine(received, asker.node, true) {
            return Err((ErrorCode::SignatureInvalid, String::new()));
        }
        let deadline_ms = until(call.deadline_ms, self.config.call_ms_max, now)
            .ok_or_else(|| (ErrorCode::ExpiryTooSoon, "the call's deadline has passed".into()))?;
        let max = self.config.calls_max;
        if self.conns.get(&asker.conn).is_none_or(|c| c.calls >= max) {
            return Err((ErrorCode::UpstreamCongestion, format!("{max} calls wait for an answer already")));
        }
        if call.realm == system::SYSTEM_REALM && system::is_system(&call.procedure) {
            return self.system_call(asker, call, deadline_ms, now);
        }
        let action = Action::Call { realm: &call.realm, procedure: &call.procedure };
        self.allowed(asker.node, &call.ucan_token, action, now)?;
        let provider = self.provider(&call.realm, &call.procedure)?;
        let passed = Passed { caller: asker.conn, stream: asker.stream, deadline_ms };
        self.pass_on(provider, call.call_id, passed)?;
        self.send(provider, Stream::Control, received.framed().into(), now);
        Ok(())
    }

    fn pass_on(&mut self, provider: ConnId, call_id: CallId, passed: Passed) -> Result<(), Refusal> {
        if self.calls.contains_key(&(provider, call_id)) {
            return Err((ErrorCode::UnknownError, "a call with this call_id waits already".into()));
        }
        let serving_max = self.config.calls_max * SERVING_FACTOR;
        match self.conns.get_mut(&provider) {
            Some(p) if p.serving < serving_max => p.serving += 1,
            _ => return Err((ErrorCode::UpstreamCongestion, "the provider has too many calls".into())),
        }
        self.count_calls(passed.caller, passed.stream, 1);
        self.set_timer(passed.deadline_ms, Timer::Call(provider, call_id));
        self.calls.insert((provider, call_id), passed);
        Ok(())
    }

    /// Whoever advertised the procedure first and is still there.
    pub(super) fn provider(&self, realm: &[u8; 32], procedure: &str) -> Result<ConnId, Refusal> {
        let name = Name { realm: *realm, name: procedure.to_string() };
        let first = self.providers.get(&name).and_then(|conns| conns.first()).copied();
        first.ok_or_else(|| (ErrorCode::UnknownNextPeer, format!("nobody serves {procedure} here")))
    }

    pub(super) fn allowed(
        &self,
        node: &NodeId,
        ucan: &[u8],
        action: Action<'_>,
        now: Now,
    ) -> Result<(), Refusal> {
        let request = Request { node, ucan, unix_ms: now.unix_ms, action };
        self.access.allows(&request).map_err(|why| (ErrorCode::Unauthorized, why))
    }

    /// RESULT or ERROR from a client that was to answer.
    pub(super) fn call_answered(
        &mut self,
        conn: ConnId,
        call_id: CallId,
        speaks_for_itself: bool,
        received: &Received,
        now: Now,
    ) {
        let Some(node) = self.conns.get(&conn).and_then(|c| c.node) else { return };
        if !self.genuine(received, &node, speaks_for_itself) {
            return;
        }
        match self.take_call(conn, call_id) {
            Some(passed) => {
                self.send(passed.caller, passed.stream, received.framed().into(), now);
                self.release(passed.caller, passed.stream);
            }
            None => self.counters.answers_late += 1,
        }
    }

    /// The deadline of a CALL has passed.
    pub(super) fn call_over(&mut self, conn: ConnId, call_id: CallId, now: Now) {
        self.fail_call(conn, call_id, "no answer before the deadline", now);
    }

    /// The connection is gone: nobody waits for its calls, and nobody will answer those that it was to answer.
    pub(super) fn forget_calls(&mut self, conn: ConnId, now: Now) {
        let own: Vec<_> = self.calls.iter().filter(|(_, p)| p.caller == conn).map(|(key, _)| *key).collect();
        for (provider, call_id) in own {
            self.take_call(provider, call_id);
        }
        let served = self.calls.range((conn, [0; 16])..=(conn, [0xff; 16]));
        let served: Vec<_> = served.map(|(key, _)| *key).collect();
        for (provider, call_id) in served {
            self.fail_call(provider, call_id, "the provider has gone", now);
        }
    }

    fn fail_call(&mut self, provider: ConnId, call_id: CallId, why: &str, now: Now) {
        if let Some(passed) = self.take_call(provider, call_id) {
            let code = ErrorCode::TemporaryRelayFailure;
            self.reply_error(passed.caller, passed.stream, call_id, code, why, now);
            self.release(passed.caller, passed.stream);
        }
    }

    fn take_call(&mut self, provider: ConnId, call_id: CallId) -> Option<Passed> {
        let passed = self.calls.remove(&(provider, call_id))?;
        self.clear_timer(passed.deadline_ms, Timer::Call(provider, call_id));
        self.count_calls(passed.caller, passed.stream, -1);
        if let Some(p) = self.conns.get_mut(&provider) {
            p.serving = p.serving.saturating_sub(1);
        }
        Some(passed)
    }

    pub(super) fn reply_error(
        &mut self,
        conn: ConnId,
        stream: Stream,
        call_id: CallId,
        code: ErrorCode,
        detail: &str,
        now: Now,
    ) {
        self.counters.calls_failed += 1;
        let error = Frame::Error(CallError::new(call_id, code, self.me, detail));
        self.send_frame(conn, stream, &error, now);
    }

    pub(super) fn advertise(
        &mut self,
        conn: ConnId,
        node: NodeId,
        advertise: &Advertise,
        received: &Received,
        now: Now,
    ) {
        let (realm, procedure) = (&advertise.realm, advertise.procedure.as_str());
        if !self.genuine(received, &node, advertise.advertiser == node)
            || !self.permitted(&node, Action::Advertise { realm, procedure }, now)
        {
            return;
        }
        let max = self.config.advertised_max;
        let name = Name { realm: *realm, name: procedure.to_string() };
        let Some(c) = self.conns.get_mut(&conn).filter(|c| c.phase == Phase::Open) else { return };
        if !c.advertised.insert(name.clone()) {
            return;
        }
        if c.advertised.len() > max {
            return self.expel(conn, "limit_exceeded", &format!("more than {max} procedures"), now);
        }
        self.providers.entry(name).or_default().push(conn);
    }

    pub(super) fn unadvertise(
        &mut self,
        conn: ConnId,
        node: NodeId,
        advertise: &Advertise,
        received: &Received,
    ) {
        if !self.genuine(received, &node, advertise.advertiser == node) {
            return;
        }
        let name = Name { realm: advertise.realm, name: advertise.procedure.clone() };
        if self.conns.get_mut(&conn).is_some_and(|c| c.advertised.remove(&name)) {
            self.remove_provider(&name, conn);
        }
    }

    pub(super) fn remove_provider(&mut self, name: &Name, conn: ConnId) {
        if let Some(conns) = self.providers.get_mut(name) {
            conns.retain(|other| *other != conn);
            if conns.is_empty() {
                self.providers.remove(name);
            }
        }
    }
}
