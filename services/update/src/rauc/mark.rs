//! RAUC's `Mark` in our rules. Pure: what was asked and how the slots stand in, what to do and what to say out.
//!
//! RAUC lets a client write the boot loader's state as it likes. Here the gate commits and the trial's failure marks; what
//! is left to the owner is to give a slot up, and to take that back while it still runs.

use os_slots::{BootInfo, Entry, Slot};

use super::slot_status::{entry_of, name, primary};
use crate::updater::{Change, Standing};

/// How the slots stand. `entries` in the boot loader's order.
pub struct View<'a> {
    pub boot: &'a BootInfo,
    pub standing: Standing,
    pub entries: &'a [Entry],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is so already.
    Nothing,
    Change(Change),
    /// Ends the trial: a rollback with its reboot.
    EndTrial,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    pub slot: Slot,
    pub action: Action,
    pub message: String,
}

/// `identifier` is `booted`, `other`, or a slot's name; our letters do, too.
pub fn decide(state: &str, identifier: &str, view: &View) -> Result<Decision, String> {
    let booted = view.boot.slot;
    let slot = match identifier {
        "booted" => booted,
        "other" => booted.other(),
        "rootfs.0" | "A" => Slot::A,
        "rootfs.1" | "B" => Slot::B,
        _ => {
            return Err(format!(
                "No slot with name {} found",
                identifier.chars().take(80).collect::<String>()
            ));
        }
    };
    let (action, message) = match (state, slot == booted) {
        ("good", true) => (keep_running(view)?, format!("marked slot {} as good", name(slot))),
        ("good", false) => (keep_other(view)?, format!("marked slot {} as good", name(slot))),
        ("bad", true) => (leave_running(view)?, format!("marked slot {} as bad", name(slot))),
        ("bad", false) => (mark_other(view)?, format!("marked slot {} as bad", name(slot))),
        ("active", true) => (keep_running(view)?, format!("activated slot {}", name(slot))),
        ("active", false) if primary(view.entries) == Some(slot) => {
            (Action::Nothing, format!("activated slot {}", name(slot)))
        }
        ("active", false) => (leave_running(view)?, format!("activated slot {}", name(slot))),
        _ => return Err(format!("unknown subcommand {}", state.chars().take(80).collect::<String>())),
    };
    let message = match action {
        Action::EndTrial => format!("{message}: the trial is over, the node reboots"),
        Action::Change(Change::GiveUpRunning) => format!("{message}: the next boot takes the other slot"),
        _ => message,
    };
    Ok(Decision { slot, action, message })
}

fn on_trial(view: &View) -> bool {
    view.boot.trial && !matches!(view.standing, Standing::Settled | Standing::Renewing)
}

fn running_entry<'a>(view: &'a View) -> Option<&'a Entry> {
    view.entries.iter().find(|e| e.seq == view.boot.seq)
}

fn keep_running(view: &View) -> Result<Action, String> {
    let slot = name(view.boot.slot);
    if on_trial(view) {
        return Err(format!("slot {slot} is on trial: its gate alone decides whether it is good"));
    }
    match running_entry(view) {
        Some(e) if e.is_committed() && primary(view.entries) == Some(e.slot()) => Ok(Action::Nothing),
        Some(e) if e.is_committed() => {
            Err(format!("slot {slot} runs, but the other slot is newer and good: mark that one bad first"))
        }
        Some(e) if e.is_exhausted() => Ok(Action::Change(Change::Restore(*e))),
        _ => Err(format!("the boot loader has no committed entry of slot {slot}")),
    }
}

fn keep_other(view: &View) -> Result<Action, String> {
    let slot = view.boot.slot.other();
    match entry_of(slot, view.entries) {
        Some(e) if e.is_committed() => Ok(Action::Nothing),
        Some(_) => Err(format!(
            "what slot {} holds has failed or is on trial: only an install makes it good again",
            name(slot)
        )),
        None => Err(format!("slot {} holds nothing that boots", name(slot))),
    }
}

fn leave_running(view: &View) -> Result<Action, String> {
    let other = view.boot.slot.other();
    if !entry_of(other, view.entries).is_some_and(Entry::is_committed) {
        return Err(format!("slot {} holds no committed release to boot instead", name(other)));
    }
    match running_entry(view) {
        _ if on_trial(view) => Ok(Action::EndTrial),
        Some(e) if e.is_exhausted() => Ok(Action::Nothing),
        Some(_) => Ok(Action::Change(Change::GiveUpRunning)),
        None => Err("the running entry is not on the ESP".into()),
    }
}

fn mark_other(view: &View) -> Result<Action, String> {
    let slot = view.boot.slot.other();
    if on_trial(view) {
        return Err(format!("slot {} is the way back from the release on trial", name(slot)));
    }
    if !running_entry(view).is_some_and(Entry::is_committed) {
        return Err("both slots would be bad: the running one is already".into());
    }
    match entry_of(slot, view.entries) {
        Some(e) if e.is_exhausted() => Ok(Action::Nothing),
        Some(e) => Ok(Action::Change(Change::MarkBad(*e))),
        None => Err(format!("slot {} holds nothing that boots", name(slot))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::slot_status::tests::{booted, list};
    use super::*;

    fn ask(
        state: &str,
        slot: &str,
        running: &str,
        entries: &[&str],
        standing: Standing,
    ) -> Result<Action, String> {
        let (boot, entries) = (booted(running), list(entries));
        decide(state, slot, &View { boot: &boot, standing, entries: &entries }).map(|d| d.action)
    }

    const A: &str = "macula-000001.efi";
    const B: &str = "macula-000002.efi";
    const BAD_B: &str = "macula-000002+0-3.efi";

    fn entry(name: &str) -> Entry {
        name.parse().unwrap()
    }

    #[test]
    fn two_good_slots() {
        let at_rest = |state, slot| ask(state, slot, B, &[A, B], Standing::Settled).unwrap();
        for (state, slot) in [("good", "booted"), ("good", "other"), ("active", "rootfs.1"), ("active", "B")]
        {
            assert_eq!(at_rest(state, slot), Action::Nothing, "{state} {slot}");
        }
        assert_eq!(at_rest("bad", "other"), Action::Change(Change::MarkBad(entry(A))));
        for (state, slot) in [("bad", "booted"), ("active", "other"), ("active", "rootfs.0")] {
            assert_eq!(at_rest(state, slot), Action::Change(Change::GiveUpRunning), "{state} {slot}");
        }
        assert!(ask("bad", "rootfs.2", B, &[A, B], Standing::Settled).unwrap_err().contains("rootfs.2"));
        assert!(ask("ugly", "other", B, &[A, B], Standing::Settled).unwrap_err().contains("ugly"));
    }

    #[test]
    fn on_trial_the_gate_decides_and_the_way_back_stays() {
        let trial = "macula-000002+2-1.efi";
        let on_trial = |state, slot| ask(state, slot, trial, &[A, trial], Standing::OnTrial);
        assert!(on_trial("good", "booted").unwrap_err().contains("gate"));
        assert!(on_trial("active", "booted").unwrap_err().contains("gate"));
        assert!(on_trial("bad", "other").unwrap_err().contains("way back"));
        assert_eq!(on_trial("bad", "booted"), Ok(Action::EndTrial));
        assert_eq!(on_trial("active", "other"), Ok(Action::EndTrial));
        // Committed in this very boot.
        assert_eq!(ask("good", "booted", trial, &[A, B], Standing::Settled), Ok(Action::Nothing));
    }

    #[test]
    fn never_both_bad_and_never_nothing_to_boot() {
        let alone = |state, slot| ask(state, slot, A, &[A], Standing::Settled);
        assert!(alone("bad", "booted").unwrap_err().contains("rootfs.1"));
        assert!(alone("active", "other").is_err() && alone("bad", "other").is_err());
        assert!(ask("bad", "booted", A, &[A, BAD_B], Standing::Settled).is_err());
        assert!(ask("active", "other", A, &[A, BAD_B], Standing::Settled).is_err());
        assert!(ask("good", "other", A, &[A, BAD_B], Standing::Settled).is_err());
        assert_eq!(ask("bad", "other", A, &[A, BAD_B], Standing::Settled), Ok(Action::Nothing));
        // The running slot was given up in this boot.
        assert!(ask("bad", "other", B, &[A, BAD_B], Standing::Settled).unwrap_err().contains("both"));
        assert_eq!(ask("bad", "booted", B, &[A, BAD_B], Standing::Settled), Ok(Action::Nothing));
    }

    #[test]
    fn giving_up_can_be_taken_back() {
        for state in ["good", "active"] {
            let back = ask(state, "booted", B, &[A, BAD_B], Standing::Settled);
            assert_eq!(back, Ok(Action::Change(Change::Restore(entry(BAD_B)))));
        }
    }

    #[test]
    fn a_fallback_that_runs_is_not_the_one_that_boots() {
        let fallback = |state| ask(state, "booted", A, &[A, B], Standing::FellBack);
        assert!(fallback("active").unwrap_err().contains("newer"));
        assert_eq!(ask("active", "other", A, &[A, B], Standing::FellBack), Ok(Action::Nothing));
    }
}
