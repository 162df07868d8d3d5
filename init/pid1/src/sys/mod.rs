//! Raw kernel interfaces, one file each: argument layouts and numbers, no decisions.

pub mod block;
pub mod clock;
pub mod dm;
pub mod files;
pub mod module;
pub mod net;
pub mod power;
pub mod random;
