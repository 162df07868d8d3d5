//! Transfers as people see them: the last ones, newest last.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use os_content_id::Mcid;
use services_api::report::TransferReport;

const MAX: usize = 32;

#[derive(Default)]
pub struct Transfers(Mutex<(u64, VecDeque<(u64, TransferReport)>)>);

impl Transfers {
    pub fn start(&self, mcid: &Mcid, bytes_total: u64) -> u64 {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, list) = &mut *guard;
        *next += 1;
        if list.len() >= MAX {
            // One that is still running stays, unless all are.
            let done = list.iter().position(|(_, t)| t.finished || !t.error.is_empty()).unwrap_or(0);
            list.remove(done);
        }
        list.push_back((*next, TransferReport { mcid: mcid.to_string(), bytes_total, ..Default::default() }));
        *next
    }

    pub fn update(&self, id: u64, change: impl FnOnce(&mut TransferReport)) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, t)) = guard.1.iter_mut().find(|(i, _)| *i == id) {
            change(t);
        }
    }

    pub fn list(&self) -> Vec<TransferReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.iter().map(|(_, t)| t.clone()).collect()
    }
}
