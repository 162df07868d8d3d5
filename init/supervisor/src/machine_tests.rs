use super::*;

fn unit(name: &str, after: &[&str], watchdog_s: u64) -> Unit {
    let after: Vec<String> = after.iter().map(|a| format!("\"{a}\"")).collect();
    let text = format!(
        "version = 1\n[unit]\nname = \"{name}\"\ndescription = \"\"\nafter = [{}]\nrequired = true\n\
         [service]\nexec = [\"/usr/bin/{name}\"]\nuid = 200\nready_timeout_s = 30\nwatchdog_s = {watchdog_s}\n\
         stop_timeout_s = 5\n[sandbox]\nnetwork = \"none\"\n",
        after.join(", ")
    );
    Unit::parse(name, &text).unwrap()
}

struct Bench {
    machine: Machine,
    now: Duration,
}

impl Bench {
    fn new(units: &[Unit]) -> Self {
        Self::with_broken(units, &[])
    }

    fn with_broken(units: &[Unit], broken: &[BrokenUnit]) -> Self {
        let now = Duration::from_secs(3);
        Self { machine: Machine::new(units, broken, RestartPolicy::default(), now), now }
    }

    /// What is to be done, `Say` shortened to its first words.
    fn actions(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.machine.poll_action())
            .map(|a| match a {
                Action::Spawn(u) => format!("spawn {u}"),
                Action::Terminate(u) => format!("terminate {u}"),
                Action::Kill(u) => format!("kill {u}"),
                Action::Say(text) => format!("say {}", text.split([':', ',']).next().unwrap_or_default()),
                Action::AllReady => "all ready".into(),
                Action::Settled => "settled".into(),
                Action::GiveUp { unit, reason } => format!("give up {unit}: {reason}"),
                Action::AllStopped => "all stopped".into(),
            })
            .collect()
    }

    fn ready(&mut self, unit: &str) -> Vec<String> {
        self.machine.notified(unit, Notification { ready: true, ..Default::default() }, self.now);
        self.actions()
    }

    fn exited(&mut self, unit: &str) -> Vec<String> {
        self.machine.exited(unit, "exited with code 1", self.now);
        self.actions()
    }

    fn pass(&mut self, seconds: f32) -> Vec<String> {
        self.now += Duration::from_secs_f32(seconds);
        self.machine.handle_timeout(self.now);
        self.actions()
    }

    fn unit(&self, name: &str) -> &Tracked {
        self.machine.units().find(|(n, _)| *n == name).unwrap().1
    }

    fn state(&self, unit: &str) -> &'static str {
        self.unit(unit).state()
    }
}

fn chain() -> Bench {
    Bench::new(&[unit("identity", &[], 0), unit("mesh", &["identity"], 0), unit("update", &["mesh"], 0)])
}

fn chain_up() -> Bench {
    let mut b = chain();
    for name in ["identity", "mesh", "update"] {
        b.ready(name);
    }
    b.actions();
    b
}

#[test]
fn starts_each_when_those_before_it_are_ready() {
    let mut b = chain();
    assert_eq!(b.actions(), ["spawn identity"]);
    assert_eq!(b.ready("identity"), ["spawn mesh"]);
    assert_eq!(b.state("update"), "starting");
    assert_eq!(b.ready("mesh"), ["spawn update"]);
    assert_eq!(b.ready("update"), ["all ready"]);
    assert_eq!(b.ready("update"), [""; 0]);
    assert_eq!(b.machine.next_deadline(), None);
}

#[test]
fn a_killed_unit_comes_back_and_others_stay() {
    let mut b = chain_up();
    assert_eq!(b.exited("mesh"), ["say unit mesh exited with code 1"]);
    assert_eq!(b.state("mesh"), "restarting");
    assert_eq!(b.pass(0.1), [""; 0]);
    assert_eq!(b.pass(0.1), ["spawn mesh"]);
    assert_eq!(b.ready("mesh"), [""; 0]);
    assert_eq!((b.state("mesh"), b.unit("mesh").restarts), ("ready", 1));
}

#[test]
fn a_crash_loop_fails_and_no_longer_holds_others_up() {
    let mut b = chain();
    b.actions();
    b.ready("identity");
    for _ in 0..5 {
        assert_eq!(b.exited("mesh"), ["say unit mesh exited with code 1"]);
        assert_eq!(b.pass(10.0), ["spawn mesh"]);
    }
    assert_eq!(b.exited("mesh"), ["say unit mesh failed", "spawn update"]);
    assert_eq!(b.state("mesh"), "failed");
    assert_eq!(b.pass(10.0), ["spawn mesh"]);
    assert_eq!(b.state("mesh"), "failed");
    b.ready("update");
    assert_eq!(b.ready("mesh"), ["all ready"]);
    assert_eq!(b.state("mesh"), "ready");
}

#[test]
fn a_unit_that_hangs_is_killed_and_fails_the_second_time() {
    let mut b = chain();
    b.actions();
    b.ready("identity");
    assert_eq!(b.pass(29.9), [""; 0]);
    assert_eq!(b.pass(0.2), ["kill mesh", "spawn update"]);
    assert_eq!(b.ready("mesh"), [""; 0], "too late");
    assert_eq!(b.exited("mesh"), ["say unit mesh not ready within 30 s"]);
    b.ready("update");
    assert_eq!(b.pass(0.2), ["spawn mesh"]);
    assert_eq!(b.pass(30.0), ["kill mesh"]);
    assert_eq!(b.exited("mesh"), ["say unit mesh failed"]);
    assert!(b.unit("mesh").last_exit.contains("not ready within 30 s, exited"));
}

#[test]
fn the_watchdog_bites_only_when_not_fed() {
    let mut b = Bench::new(&[unit("mesh", &[], 10)]);
    b.actions();
    b.ready("mesh");
    assert_eq!(b.pass(9.0), [""; 0]);
    b.machine.notified("mesh", Notification { watchdog: true, ..Default::default() }, b.now);
    assert_eq!(b.pass(9.0), [""; 0]);
    assert_eq!(b.pass(1.0), ["kill mesh"]);
    assert_eq!(b.pass(60.0), [""; 0], "once");
    assert_eq!(b.exited("mesh"), ["say unit mesh no watchdog message for 10 s"]);
}

#[test]
fn stops_in_reverse_and_kills_who_does_not_listen() {
    let mut b = chain_up();
    b.machine.stop(b.now);
    assert_eq!(b.actions(), ["terminate update"]);
    assert_eq!(b.exited("update"), ["terminate mesh"]);
    assert_eq!(b.pass(5.0), ["kill mesh"]);
    assert_eq!(b.exited("identity"), [""; 0], "a unit that exits by itself now is not started again");
    assert_eq!(b.exited("mesh"), ["all stopped"]);
    assert_eq!(b.machine.next_deadline(), None);
}

#[test]
fn stops_what_was_starting_waiting_or_in_back_off() {
    let mut b = chain();
    b.actions();
    b.ready("identity");
    b.exited("mesh");
    b.machine.stop(b.now);
    assert_eq!(b.actions(), ["terminate identity"]);
    assert_eq!(b.exited("identity"), ["all stopped"]);
    assert_eq!(b.pass(60.0), [""; 0]);
}

#[test]
fn restart_is_a_stop_and_a_start_with_a_clean_past() {
    let mut b = chain_up();
    b.machine.restart("mesh", b.now);
    assert_eq!(b.actions(), ["terminate mesh"]);
    assert_eq!(b.state("mesh"), "restarting");
    assert_eq!(b.exited("mesh"), ["spawn mesh"]);
    b.exited("mesh");
    b.machine.restart("mesh", b.now);
    assert_eq!(b.actions(), ["spawn mesh"], "does not wait for the back-off to end");
    b.machine.restart("nobody", b.now);
    assert_eq!(b.actions(), [""; 0]);
}

#[test]
fn a_broken_unit_is_a_failed_one_and_holds_nobody_up() {
    let broken = BrokenUnit { name: "identity".into(), problem: "no such key".into() };
    let mut b = Bench::with_broken(&[unit("mesh", &["identity"], 0)], &[broken]);
    assert_eq!(b.actions(), ["say unit identity failed", "spawn mesh"]);
    assert_eq!(b.ready("mesh"), [""; 0], "not all are ready");
    assert_eq!(b.state("identity"), "failed");
    b.machine.restart("identity", b.now);
    b.machine.stop(b.now);
    assert_eq!(b.actions(), ["terminate mesh"]);
}

#[test]
fn words_about_unknown_units_change_nothing() {
    let mut b = chain_up();
    assert_eq!(b.exited("ghost"), [""; 0]);
    assert_eq!(b.ready("ghost"), [""; 0]);
    assert_eq!(b.exited("mesh").len(), 1);
    assert_eq!(b.exited("mesh").len(), 0, "a second exit of the same process");
}

#[test]
fn rule_4_a_required_unit_that_stays_down_ends_the_boot() {
    let mut bench = Bench::new(&[unit("a", &[], 0)]);
    bench.machine.set_patience(Duration::from_secs(600));
    bench.actions();
    // Crashes soon after it gets ready, again and again: that is no progress.
    let mut seen = Vec::new();
    for _ in 0..100 {
        seen.extend(bench.ready("a"));
        seen.extend(bench.pass(1.0));
        seen.extend(bench.exited("a"));
        seen.extend(bench.pass(10.0));
    }
    let given_up: Vec<&String> = seen.iter().filter(|action| action.starts_with("give up")).collect();
    assert_eq!(given_up.len(), 1, "{seen:?}");
    assert!(
        given_up[0].contains("a has not been ready for 60") && given_up[0].contains("exited with code 1")
    );
}

#[test]
fn a_long_good_time_is_progress_and_nobody_gives_up_while_stopping() {
    let mut bench = Bench::new(&[unit("a", &[], 0)]);
    bench.machine.set_patience(Duration::from_secs(600));
    bench.ready("a");
    bench.pass(100_000.0);
    bench.exited("a");
    let until_given_up = bench.machine.overdue().map(|(_, at)| at.saturating_sub(bench.now));
    assert_eq!(until_given_up, Some(Duration::from_secs(600)));
    bench.machine.stop(bench.now);
    assert!(!bench.pass(1000.0).iter().any(|action| action.starts_with("give up")));
}

#[test]
fn a_unit_that_nobody_can_read_ends_the_boot_too() {
    let broken = [BrokenUnit { name: "mesh".into(), problem: "no [service]".into() }];
    let mut bench = Bench::with_broken(&[], &broken);
    bench.machine.set_patience(Duration::from_secs(600));
    bench.actions();
    assert_eq!(bench.machine.next_deadline(), Some(Duration::from_secs(603)));
    let actions = bench.pass(600.0);
    assert_eq!(actions, ["give up mesh: required unit mesh has not been ready for 600 s: no [service]"]);
}

#[test]
fn rule_2_a_boot_has_settled_when_all_required_units_were_ready_for_long_enough() {
    let mut b = chain_up();
    b.machine.set_settled_after(Duration::from_secs(600));
    assert_eq!(b.pass(599.0), [""; 0]);
    // A break, however short, and the time begins anew.
    assert_eq!(b.exited("mesh"), ["say unit mesh exited with code 1"]);
    assert_eq!(b.pass(1.0), ["spawn mesh"]);
    b.ready("mesh");
    assert_eq!(b.machine.next_deadline(), Some(b.now + Duration::from_secs(600)));
    assert_eq!(b.pass(599.0), [""; 0]);
    assert_eq!(b.pass(1.0), ["settled"]);
    assert_eq!((b.pass(6000.0), b.machine.next_deadline()), (vec![], None), "it is said once");
}

#[test]
fn a_boot_that_ends_or_has_a_unit_down_does_not_settle() {
    let mut b = chain();
    b.machine.set_settled_after(Duration::from_secs(600));
    b.ready("identity");
    b.ready("mesh");
    assert!(!b.pass(10_000.0).contains(&"settled".into()), "update is not ready");
    let mut b = chain_up();
    b.machine.set_settled_after(Duration::from_secs(600));
    b.machine.stop(b.now);
    assert!(!b.pass(10_000.0).contains(&"settled".into()));
}

fn radio() -> Unit {
    let text = "version = 1\n[unit]\nname = \"wifi\"\ndescription = \"\"\nafter = [\"mesh\"]\non_demand = true\n\
         [service]\nexec = [\"/usr/libexec/iwd\"]\nuid = 201\nforeign = true\n[sandbox]\nnetwork = \"host\"\nradio = true\n";
    Unit::parse("wifi", text).unwrap()
}

#[test]
fn a_unit_on_demand_is_idle_until_it_is_asked_for_and_then_kept_running() {
    let mut b = Bench::new(&[unit("mesh", &[], 0), radio()]);
    assert_eq!(b.actions(), ["spawn mesh"]);
    assert_eq!(b.ready("mesh"), ["all ready"]);
    assert_eq!((b.state("wifi"), b.pass(1000.0)), ("idle", vec![]));
    b.machine.restart("wifi", b.now);
    assert_eq!(
        (b.state("wifi"), b.actions()),
        ("idle", vec![]),
        "nobody needs it, so a restart starts nothing"
    );
    b.machine.ask_for("wifi", b.now);
    assert_eq!(b.actions(), ["spawn wifi"]);
    // It says nothing of itself.
    b.machine.spawned("wifi", 7, b.now);
    assert_eq!((b.state("wifi"), b.pass(1000.0)), ("ready", vec![]));
    b.machine.ask_for("wifi", b.now);
    assert_eq!(b.actions(), [""; 0], "it runs");
    b.exited("wifi");
    assert_eq!(b.state("wifi"), "restarting");
    b.machine.ask_for("wifi", b.now);
    assert_eq!(b.actions(), ["spawn wifi"], "whoever asks need not wait");
}

#[test]
fn an_idle_unit_keeps_nobody_from_stopping() {
    let mut b = Bench::new(&[unit("mesh", &[], 0), radio()]);
    b.ready("mesh");
    b.actions();
    b.machine.stop(b.now);
    assert_eq!(b.actions(), ["terminate mesh"]);
    assert_eq!(b.exited("mesh"), ["all stopped"]);
    b.machine.ask_for("wifi", b.now);
    assert_eq!(b.actions(), [""; 0]);
}
