//! What is between Portunus and the API server of a cluster.

pub mod webhook;
