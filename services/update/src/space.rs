//! Room on the state partition: said when it is gone, and kept for updates.
//!
//! A twentieth of the file system is reserved for this service (ext4's reserved blocks, `resuid=` in `init-plan`), so that a
//! release can still be installed, recorded and committed when nobody else can write. The content store stops before that by
//! itself: it refuses what would leave less than its margin. Logs are in RAM.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::updater::Updater;

/// A little above the content store's own margin: where it refuses, this has been said.
const FULL: u64 = 12 << 20;
/// Said to be over only then, so that a few bytes to and fro make no events.
pub const ROOM: u64 = 24 << 20;
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Of the file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// Free for every service.
    pub free: u64,
    /// Free for this one: with the reserve.
    pub free_for_updates: u64,
}

impl Space {
    pub fn of(dir: &Path) -> io::Result<Self> {
        let s = nix::sys::statvfs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(s.fragment_size());
        let (total, free) = (bytes(s.blocks()), bytes(s.blocks_available()));
        Ok(Self { total, free, free_for_updates: bytes(s.blocks_free()) })
    }

    /// The full state in words for the owner; `None` while there is room. `was_full`: whether it was said before.
    pub fn complaint(&self, was_full: bool) -> Option<String> {
        let mib = |bytes: u64| bytes >> 20;
        (self.free < if was_full { ROOM } else { FULL }).then(|| {
            format!(
                "state is full: {} of {} MiB are free; new content is refused, updates still have {} MiB; remove content, \
                 or move to a larger disk",
                mib(self.free),
                mib(self.total),
                mib(self.free_for_updates)
            )
        })
    }
}

/// Looks again and again; an event when it gets full and one when there is room again.
pub async fn watch(updater: Arc<Updater>) {
    loop {
        match Space::of(&updater.node.state_dir) {
            Ok(space) => note(&updater, &space),
            Err(e) => tracing::warn!("the state partition does not say how full it is: {e}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn note(updater: &Updater, space: &Space) {
    let was_full = updater.space_complaint().is_some();
    let complaint = space.complaint(was_full);
    match (&complaint, was_full) {
        (Some(text), false) => updater.records.event("state-full", text.clone()),
        (None, true) => {
            updater.records.event("state-room", format!("{} MiB are free again", space.free >> 20))
        }
        _ => {}
    }
    updater.set_space_complaint(complaint);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fullness_is_said_once_and_taken_back_only_with_room_to_spare() {
        let with = |free: u64| Space { total: 64 << 20, free, free_for_updates: free + (3 << 20) };
        assert_eq!(with(FULL).complaint(false), None);
        let text = with(FULL - 1).complaint(false).unwrap();
        assert!(text.contains("11 of 64 MiB") && text.contains("14 MiB"), "{text}");
        assert!(with(FULL + 1).complaint(true).is_some() && with(ROOM).complaint(true).is_none());
    }

    #[test]
    fn a_file_system_says_how_full_it_is() {
        let space = Space::of(Path::new("/")).unwrap();
        assert!(space.total >= space.free_for_updates && space.free_for_updates >= space.free);
    }
}
