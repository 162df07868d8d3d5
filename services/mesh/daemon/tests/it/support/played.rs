//! `update` as far as the console asks it: real frames, answers out of memory.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use os_audit::{Head, encode, header};
use os_identity::NodeId;
use serde_json::Value;
use services_api::control::{self, Answer, Call, ok};
use services_api::mesh;
use services_api::report::{
    AuditAnswer, ConfigChanged, EventReport, FailedReport, FollowsReport, InstallReport, LinkReport, LogLine,
    OsReport, TrialReport, UnitReport,
};

const RELEASE: &str = "mcid1-raw-blake3-dd0d357a727fbcefd00167a1eaf4a59bdd464420df60daadcccf14f2d640339e";

#[derive(Clone)]
pub struct Update(Arc<State>);

struct State {
    name: String,
    node: String,
    started: Instant,
    calls: Arc<Mutex<Vec<String>>>,
    /// When this unit was restarted.
    restarted: Mutex<Option<(String, Instant)>>,
    installing: Mutex<Option<Instant>>,
    follows: Mutex<Option<FollowsReport>>,
}

#[zbus::interface(name = "io.macula.StreamHandler1")]
impl Update {
    fn accept(
        &self,
        _peer: Vec<u8>,
        _protocol: String,
        resource: String,
        _deadline_ms: u32,
        stream: zbus::OwnedFd,
    ) {
        let (stream, state) = (mesh::from_fd(stream).unwrap(), self.0.clone());
        tokio::spawn(async move {
            control::serve_one(stream, &resource, |call, stream| async move { (state.answer(&call), stream) })
                .await
        });
    }

    fn peer_changed(&self, _peer: Vec<u8>, _connected: bool) {}
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Update {
    pub fn new(name: &str, node: &NodeId, calls: Arc<Mutex<Vec<String>>>) -> Self {
        let state = State {
            name: name.to_owned(),
            node: node.to_string(),
            started: Instant::now(),
            calls,
            restarted: Mutex::default(),
            installing: Mutex::default(),
            follows: Mutex::default(),
        };
        Self(Arc::new(state))
    }
}

impl State {
    fn answer(&self, call: &Call) -> Result<Answer> {
        match call.method.as_str() {
            "status" => return ok(&self.status()),
            "units" => return ok(&self.units()),
            "links" => return ok(&links()),
            "logs" => return ok(&self.logs()),
            "audit" => return ok(&AuditAnswer { segments: audit() }),
            "plan" => {
                return ok(&format!(
                    "wanted   0.2.0 {RELEASE} by channel `stable`\nrunning  0.1.0 the factory image\n\
                     plan     install 0.2.0 ({RELEASE}): channel `stable` has it and 0.1.0 runs\n"
                ));
            }
            _ => {}
        }
        let params: Value = call.params().unwrap_or_default();
        self.calls.lock().unwrap().push(format!("{} {params}", call.method));
        match call.method.as_str() {
            "restart" => {
                let unit = params["unit"].as_str().unwrap_or_default().to_owned();
                *self.restarted.lock().unwrap() = Some((unit, Instant::now()));
            }
            "install" => *self.installing.lock().unwrap() = Some(Instant::now()),
            "rollback" => anyhow::bail!("there is no release to go back to: slot B is empty"),
            "refresh" => {}
            "config_change" => {
                let and = params["and"].as_array().cloned().unwrap_or_default();
                let publisher = and.iter().find(|pair| pair[0] == "update.publisher");
                *self.follows.lock().unwrap() = Some(FollowsReport {
                    channel: params["value"].as_str().unwrap_or_default().into(),
                    publisher: publisher.and_then(|pair| pair[1].as_str()).unwrap_or_default().into(),
                });
                return ok(&ConfigChanged { effect: "holds at once".into() });
            }
            _ => return Err(call.unknown()),
        }
        ok(&())
    }

    fn status(&self) -> OsReport {
        let installing = self.installing.lock().unwrap().map(|since| InstallReport {
            version: "0.2.0".into(),
            release: RELEASE.into(),
            phase: "fetch".into(),
            bytes_done: (since.elapsed().as_millis() as u64 * 9_000).min(58_000_000),
            bytes_total: 61_000_000,
            bytes_reused: 29_000_000,
            from: vec![],
        });
        let event = |ago: u64, kind: &str, text: &str| EventReport {
            at_unix: now() - ago,
            kind: kind.into(),
            text: text.into(),
            ..Default::default()
        };
        OsReport {
            node: self.node.clone(),
            name: self.name.clone(),
            board: "x86-generic".into(),
            version: "0.1.0".into(),
            slot: "A".into(),
            seq: 3,
            release_keys: Some(self.follows.lock().unwrap().iter().count() as u32),
            follows: self.follows.lock().unwrap().clone(),
            entries: vec!["macula-000004+2-1.efi".into(), "macula-000003.efi".into()],
            uptime_s: 93_784 + self.started.elapsed().as_secs(),
            trial: Some(TrialReport {
                version: "0.2.0".into(),
                release: RELEASE.into(),
                slot: "B".into(),
                tries_left: 2,
                gate: "waits for the next restart".into(),
            }),
            installing,
            events: vec![
                event(94_000, "committed", "0.1.0 in slot A: all required units ready, 2 peers answered"),
                event(7_200, "refused", "0.1.9: signed by nobody that this node trusts"),
                event(3_600, "installed", "0.2.0 into slot B, 29.0 MB of it out of this node's own slots"),
            ],
            failed_releases: vec![FailedReport {
                release: RELEASE.into(),
                version: "0.1.8".into(),
                reason: "unit mesh did not get ready within 180 s".into(),
                log_tail: vec!["mesh: cannot bind UDP 4433: permission denied".into()],
                at_unix: now() - 400_000,
            }],
            warnings: vec!["the state partition is 91 % full".into()],
            secure_boot: "on".into(),
            encryption: "tpm".into(),
            rescue_version: "0.1.0".into(),
            temperature_c: Some(47),
            disk_wear_percent: Some(10),
            ..Default::default()
        }
    }

    fn units(&self) -> Vec<UnitReport> {
        let restarted = self.restarted.lock().unwrap().clone();
        let unit = |name: &str, required, memory: u64, status: &str| {
            let since = restarted.as_ref().filter(|(unit, _)| unit == name).map(|(_, at)| at.elapsed());
            let away = since.is_some_and(|since| since < Duration::from_secs(3));
            UnitReport {
                name: name.into(),
                state: if away { "restarting" } else { "ready" }.into(),
                required,
                pid: 200,
                since_s: since.map_or(93_700 + self.started.elapsed().as_secs(), |since| since.as_secs()),
                restarts: u32::from(since.is_some()),
                memory_bytes: memory,
                pss_bytes: memory,
                status: status.into(),
                ..Default::default()
            }
        };
        vec![
            unit("identity", true, 1_900_000, ""),
            unit("mesh", true, 11_400_000, "2 peers connected"),
            unit("dht", true, 4_200_000, "2 contacts"),
            unit("content", true, 6_800_000, ""),
            unit("update", true, 5_100_000, ""),
            unit("network", true, 2_300_000, "eth0 bound"),
            unit("reconciler", false, 3_000_000, "install 0.2.0"),
        ]
    }

    /// One more each second.
    fn logs(&self) -> Vec<LogLine> {
        let line = |n: u64| {
            let (unit, priority, text) = match n % 4 {
                0 => ("mesh", 6, "a peer connected over QUIC"),
                1 => ("content", 7, "served 4 chunks to a peer"),
                2 => ("network", 4, "eth0: no answer to the renewal of the lease, asking again"),
                _ => ("dht", 6, "32 records republished"),
            };
            LogLine {
                at_ms: n * 1000 + 17,
                unit: unit.into(),
                priority,
                text: format!("{text} ({n})"),
                seq: n + 1,
            }
        };
        (0..30 + self.started.elapsed().as_secs()).map(line).collect()
    }
}

fn links() -> Vec<LinkReport> {
    vec![LinkReport {
        name: "eth0".into(),
        up: true,
        mac: "02:00:00:00:00:01".into(),
        addresses: vec!["192.0.2.7/24".into(), "2001:db8::7/64".into()],
        dhcp: "bound".into(),
        wifi: None,
    }]
}

fn audit() -> Vec<Vec<u8>> {
    let mut bytes = header(Head::START);
    let mut head = Head::START;
    for (ago, kind, text) in [
        (500_000, "node-key", "made on the first boot"),
        (499_000, "owner", "paired with the key that is the owner since"),
        (94_000, "committed", "0.1.0 in slot A"),
        (7_200, "refused", "a stranger's macula/os/reboot: no token was shown"),
        (3_600, "installed", "0.2.0 into slot B"),
    ] {
        let (record, next, _) = encode(head, now() - ago, kind, text);
        bytes.extend(record);
        head = next;
    }
    vec![bytes]
}
