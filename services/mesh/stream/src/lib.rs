//! Calls and topics over any byte stream: the shell around `mesh_proto::rpc` and `mesh_proto::pubsub`, for QUIC streams and for the
//! sockets that mesh passes to services and apps.

mod call;
mod topic;

pub use call::{Exchange, Sender, accept, call, unary};
pub use topic::{Subscription, TopicStreamError, publish_to};
