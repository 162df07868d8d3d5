//! `maculactl` as its owner runs it, against nodes that these tests play.

mod diagnose;
mod fleet;
mod neighbours;
mod node;
mod owner;
mod provision;
mod test_node;
mod top;
mod ucan;
