//! Real mesh processes. One program: each more would be linked with everything that is in them.

mod apps;
mod console;
mod control;
mod delegated;
mod flood;
mod gateway;
mod gateway_clients;
mod relay;
mod support;
mod two_meshes;
