//! TLS on both sides: which certificate a handshake gets, what is accepted from clients, and how endpoints are
//! spoken to.

mod certificates;
mod client;
mod clients;
mod server;
mod subject;
mod verify;

pub use certificates::Certificates;
pub use client::EndpointTls;
pub use clients::{ClientVerifier, ClientVerifiers, Names, Rejected, next_change};
pub use server::{FindCertificate, default_certificate, server_config, single_config};
