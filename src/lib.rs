//! Portunus: an L7 ingress controller and reverse proxy for Kubernetes. See ARCHITECTURE.md for the map.

pub mod balance;
pub mod model;
pub mod router;
pub mod tls;
pub mod translate;
