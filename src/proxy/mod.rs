//! The hot path: accepts connections, reads requests, decides by the table, and forwards. Each worker is a
//! thread of its own that shares nothing with the others but the table's pointer and the process's drain.

mod access_log;
mod activity;
mod attempts;
mod body;
mod client_certificate;
mod connection;
mod error;
mod error_page;
mod exchange;
mod filters;
mod forward;
mod frames;
mod framing;
mod guard;
mod handle;
mod headers;
mod intake;
mod io;
mod large;
mod listener;
mod overload;
mod piece;
mod proxy_protocol;
pub mod reading;
mod refuse;
mod retry;
mod seats;
mod send;
mod session;
mod upgrade;
mod worker;

pub use access_log::{AccessLog, Destination};
pub use headers::Limits;
pub use listener::{Listener, Socket, bind};
pub use overload::Thresholds;
pub use seats::Seats;
pub use worker::{Settings, Start, run};
