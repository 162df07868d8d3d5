//! The decisions of `init`, as values: what the kernel command line means, which modules to load, which disk is
//! ours, what the first boot changes on it, which steps a boot consists of and what a failure leads to.
//!
//! Nothing here reads a file, the clock or a device: callers bring bytes and times, and get values they can compare
//! and print. A crash in the middle of this crate leaves nothing behind.

pub mod app;
pub mod cmdline;
pub mod disks;
pub mod ext4;
pub mod failure;
pub mod firmware;
pub mod glob;
pub mod gpt;
pub mod guid;
pub mod hostname;
pub mod kernel_log;
pub mod last_boot;
pub mod luks;
pub mod modules;
pub mod provision;
pub mod recovery_key;
pub mod renew;
pub mod reset;
pub mod steps;
pub mod supervision;
pub mod uevent;
pub mod unit;
pub mod unit_order;
