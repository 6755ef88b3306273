//! Provider: a cluster. What is read goes into [`Resources`](crate::translate::Resources) through [`Stores`]; what
//! is written, the status of Ingresses and Events, goes out through the replica that holds the [`Lease`](lease).

pub mod client;
pub mod controller;
pub mod events;
pub mod lease;
pub mod snapshot;
pub mod status;
mod stores;
pub mod webhook;

pub use kube::Client;
pub use stores::{Scope, Stores};
