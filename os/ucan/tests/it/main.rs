//! Chains of delegations as others see this crate.

mod common;
mod encodings;
mod invocations;
mod properties;
mod refusals;
mod review;
mod specification;
