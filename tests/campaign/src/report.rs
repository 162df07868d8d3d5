//! What a campaign found, as a table and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::boot::Observed;
use crate::cuts::Kind;
use crate::model::{Checked, Judgement};
use crate::operation::{OPERATIONS, Operation};
use crate::replay::Placed;

/// One cut and all that is known about it.
pub struct Case {
    pub placed: Placed,
    pub judgement: Judgement,
    /// What is lost, in sentences.
    pub findings: Vec<String>,
    /// Of a real boot, if there was one.
    pub observed: Option<Observed>,
}

#[derive(Debug, Default, Serialize)]
pub struct Row {
    pub prefixes: usize,
    pub torn: usize,
    pub lost_writes: usize,
    pub slot_a: usize,
    pub slot_b: usize,
    pub state_clean: usize,
    pub state_repaired: usize,
    pub table_from_backup: usize,
    pub with_findings: usize,
    pub booted: usize,
    pub finished: usize,
    pub disagreements: usize,
}

impl Row {
    pub fn judged(&self) -> usize {
        self.prefixes + self.torn + self.lost_writes
    }
}

/// A cut that lost something or on which model and machine differ.
#[derive(Debug, Serialize)]
pub struct Trouble {
    /// Give this to `--only`.
    pub cut: String,
    pub what: Vec<String>,
    pub judgement: Judgement,
    pub observed: Option<Observed>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub seed: u64,
    pub operations: BTreeMap<Operation, Row>,
    pub troubles: Vec<Trouble>,
}

impl Report {
    pub fn new(seed: u64, cases: Vec<Case>) -> Self {
        let mut operations: BTreeMap<Operation, Row> = BTreeMap::new();
        let mut troubles = Vec::new();
        for case in cases {
            operations.entry(case.placed.cut.operation).or_default().count(&case);
            let mut what = case.findings;
            what.extend(case.observed.iter().flat_map(|o| o.disagreements.clone()));
            if !what.is_empty() {
                let (cut, judgement, observed) = (case.placed.cut.to_string(), case.judgement, case.observed);
                troubles.push(Trouble { cut, what, judgement, observed });
            }
        }
        Self { seed, operations, troubles }
    }

    pub fn judged(&self) -> usize {
        self.operations.values().map(Row::judged).sum()
    }

    pub fn booted(&self) -> usize {
        self.operations.values().map(|r| r.booted).sum()
    }

    /// Heading and rows, for people.
    pub fn table(&self) -> ([&'static str; 11], Vec<Vec<String>>) {
        let heading = [
            "operation",
            "judged",
            "prefix",
            "torn",
            "lost",
            "slot A",
            "slot B",
            "repaired",
            "booted",
            "to the end",
            "troubles",
        ];
        let row = |name: &str, r: &Row| {
            let troubles = r.with_findings + r.disagreements;
            let numbers = [
                r.judged(),
                r.prefixes,
                r.torn,
                r.lost_writes,
                r.slot_a,
                r.slot_b,
                r.state_repaired,
                r.booted,
                r.finished,
                troubles,
            ];
            std::iter::once(name.to_string()).chain(numbers.map(|n| n.to_string())).collect()
        };
        let of = |o: &Operation| self.operations.get(o).map(|r| row(o.name(), r));
        (heading, OPERATIONS.iter().filter_map(of).collect())
    }
}

impl Row {
    fn count(&mut self, case: &Case) {
        match case.placed.cut.kind {
            Kind::Prefix => self.prefixes += 1,
            Kind::Torn(_) | Kind::Holes(_) => self.torn += 1,
            Kind::Lost(_) => self.lost_writes += 1,
        }
        if let Ok(booted) = &case.judgement.booted {
            let slot =
                if booted.entry.slot() == os_slots::Slot::A { &mut self.slot_a } else { &mut self.slot_b };
            *slot += 1;
            self.table_from_backup += usize::from(booted.table_from_backup);
        }
        match case.judgement.state.as_ref().map(|s| &s.checked) {
            Some(Checked::Clean) => self.state_clean += 1,
            Some(Checked::Repaired) => self.state_repaired += 1,
            _ => {}
        }
        self.with_findings += usize::from(!case.findings.is_empty());
        if let Some(observed) = &case.observed {
            self.booted += 1;
            self.finished += usize::from(observed.finished);
            self.disagreements += usize::from(!observed.disagreements.is_empty());
        }
    }
}
