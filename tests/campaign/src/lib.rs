//! Crash replay: what one node writes to its disk during its whole life is recorded, and the power is cut at any of those
//! writes, as often as one likes, without a machine; a model judges each disk, and some of them are really booted, so
//! that the model is held against the machine.
//!
//! [`record`] makes the recording, [`cuts`] says where the power goes, [`replay`] and [`disk`] build the disk that is left,
//! [`model`] reads it as a node does, [`expect`] says what must hold, [`boot`] boots it, [`campaign`] runs all of that
//! and [`report`] counts. The command is `cargo xtask campaign power-cut`.

pub mod boot;
pub mod campaign;
pub mod cuts;
pub mod disk;
pub mod expect;
pub mod model;
pub mod operation;
pub mod record;
pub mod replay;
pub mod report;
