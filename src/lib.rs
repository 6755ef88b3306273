//! Portunus: an L7 ingress controller and reverse proxy for Kubernetes. ARCHITECTURE.md is the map; the modules
//! stand here from the pure ones down to those that touch the world.

pub mod balance;
pub mod clock;
pub mod drain;
pub mod filter;
pub mod memory;
pub mod metrics;
pub mod telemetry;

pub mod model;

pub mod router;
pub mod tls;
pub mod translate;

pub mod upstream;

pub mod table;

pub mod file;
pub mod kubernetes;
pub mod proxy;
pub mod resolve;

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod ending;
pub mod sockets;
pub mod takeover;
