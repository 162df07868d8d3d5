//! One record on its way to the nodes closest to its key.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Contact;
use crate::record::Record;

/// Store requests of one publication in flight.
const PARALLEL: usize = 5;

/// How a publication went: what each of the closest nodes said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub record: Arc<Record>,
    pub stored: u32,
    pub refused: u32,
    pub silent: u32,
    /// The last refusal, for people.
    pub reason: Option<String>,
}

#[derive(Debug)]
pub struct Publication {
    waiting: VecDeque<Contact>,
    in_flight: usize,
    result: Published,
}

impl Publication {
    pub fn new(record: Arc<Record>, targets: Vec<Contact>) -> Self {
        let result = Published { record, stored: 0, refused: 0, silent: 0, reason: None };
        Self { waiting: targets.into(), in_flight: 0, result }
    }

    pub fn record(&self) -> &Arc<Record> {
        &self.result.record
    }

    /// The next node to send the record to, to be called until it gives `None`.
    pub fn next_request(&mut self) -> Option<Contact> {
        if self.in_flight >= PARALLEL {
            return None;
        }
        let contact = self.waiting.pop_front()?;
        self.in_flight += 1;
        Some(contact)
    }

    pub fn on_answer(&mut self, stored: Result<(), String>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match stored {
            Ok(()) => self.result.stored += 1,
            Err(reason) => {
                self.result.refused += 1;
                self.result.reason = Some(reason);
            }
        }
    }

    pub fn on_failure(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.result.silent += 1;
    }

    pub fn is_finished(&self) -> bool {
        self.in_flight == 0 && self.waiting.is_empty()
    }

    pub fn into_result(self) -> Published {
        self.result
    }
}
