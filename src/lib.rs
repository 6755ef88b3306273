//! Portunus: an L7 ingress controller and reverse proxy for Kubernetes. See ARCHITECTURE.md for the map.

pub mod balance;
pub mod clock;
pub mod drain;
pub mod metrics;
pub mod model;
pub mod proxy;
pub mod router;
pub mod table;
pub mod tls;
pub mod translate;
pub mod upstream;
