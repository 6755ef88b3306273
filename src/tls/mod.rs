//! TLS on both sides: which certificate a handshake gets, what is accepted from clients, and how endpoints are
//! spoken to.

mod certificates;
mod client;
mod server;

pub use certificates::Certificates;
pub use client::client_config;
pub use server::{FindCertificate, default_certificate, server_config, single_config};
