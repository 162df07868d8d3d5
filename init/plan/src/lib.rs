//! The decisions of `init`, as values.

pub mod unit;
pub mod unit_order;
