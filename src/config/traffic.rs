//! Flags about clients and endpoints: limits, time limits and whom to trust.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::health::Retries;
use super::values::{duration, network};

#[derive(Debug, Args)]
pub struct Clients {
    /// Networks whose X-Forwarded-* fields and PROXY protocol headers are believed [default: none]
    #[arg(long, env = "PORTUNUS_TRUSTED_PROXIES", value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Longest time from the first byte of a request's head to its last
    #[arg(long, env = "PORTUNUS_REQUEST_HEAD_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub request_head_timeout: Duration,
    /// Longest time between two requests on a connection
    #[arg(long, env = "PORTUNUS_IDLE_TIMEOUT", default_value = "75s", value_parser = duration)]
    pub idle_timeout: Duration,
    /// Longest TLS handshake
    #[arg(long, env = "PORTUNUS_TLS_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub tls_handshake_timeout: Duration,
    /// Longest time between two reads of a request's body
    #[arg(long, env = "PORTUNUS_REQUEST_BODY_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub request_body_timeout: Duration,
    /// Bytes a second of a request's body, on average over the time that its client was waited for; 0 is no limit
    #[arg(long, env = "PORTUNUS_REQUEST_BODY_RATE_MIN", default_value_t = 0, value_name = "BYTES")]
    pub request_body_rate_min: u64,
    /// Longest time that a client may take no byte of its answer
    #[arg(long, env = "PORTUNUS_RESPONSE_WRITE_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub response_write_timeout: Duration,
    /// Bytes a second of its answers that a client takes, on average over the time that it was waited for; 0 is no limit
    #[arg(long, env = "PORTUNUS_RESPONSE_WRITE_RATE_MIN", default_value_t = 0, value_name = "BYTES")]
    pub response_write_rate_min: u64,
    /// Longest time without a byte on a WebSocket or another upgraded connection
    #[arg(long, env = "PORTUNUS_TUNNEL_IDLE_TIMEOUT", default_value = "1h", value_parser = duration)]
    pub tunnel_idle_timeout: Duration,
    /// Bytes of a request's header fields; more is answered 431
    #[arg(long, env = "PORTUNUS_HEADER_BYTES_MAX", default_value_t = 40 * 1024, value_name = "BYTES")]
    pub header_bytes_max: usize,
    /// Header fields of a request; more is answered 431
    #[arg(long, env = "PORTUNUS_HEADER_COUNT_MAX", default_value_t = 100, value_name = "COUNT")]
    pub header_count_max: usize,
    /// Bytes of a request's target; more is answered 414
    #[arg(long, env = "PORTUNUS_URI_BYTES_MAX", default_value_t = 16 * 1024, value_name = "BYTES")]
    pub uri_bytes_max: usize,
    /// What becomes of request fields with an underscore in their names, which frameworks take for those with a hyphen
    #[arg(long, env = "PORTUNUS_UNDERSCORES_IN_HEADERS", default_value = "drop", value_name = "WHAT")]
    pub underscores_in_headers: Underscores,
    /// Client connections of the process; one more is told 503 and closed
    #[arg(long, env = "PORTUNUS_MAX_CONNECTIONS", default_value_t = 65_536, value_name = "COUNT")]
    pub max_connections: usize,
    /// Of one client, by its address, an IPv6 one by its first 64 bits; 0 is no limit
    #[arg(long, env = "PORTUNUS_MAX_CONNECTIONS_PER_CLIENT", default_value_t = 0, value_name = "COUNT")]
    pub max_connections_per_client: u32,
    /// Requests in flight of the process, divided among the workers; one more is answered 503
    #[arg(long, env = "PORTUNUS_MAX_IN_FLIGHT", default_value_t = 65_536, value_name = "COUNT")]
    pub max_in_flight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Underscores {
    /// They don't reach endpoints
    Drop,
    /// They do, unless the name with hyphens is one that Portunus says or reads itself
    Keep,
}

#[derive(Debug, Args)]
pub struct Endpoints {
    /// Name server for ExternalName Services [default: the system's]
    #[arg(long, env = "PORTUNUS_RESOLVER", value_name = "ADDR:PORT")]
    pub resolver: Option<SocketAddr>,
    /// Longest time to connect to an endpoint, TLS included
    #[arg(long, env = "PORTUNUS_CONNECT_TIMEOUT", default_value = "5s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// Longest time for an answer's head, and between two reads of its body
    #[arg(long, env = "PORTUNUS_UPSTREAM_READ_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub upstream_read_timeout: Duration,
    /// Longest time between two writes of a request's body
    #[arg(long, env = "PORTUNUS_UPSTREAM_WRITE_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub upstream_write_timeout: Duration,
    /// How long an idle connection to an endpoint is kept
    #[arg(long, env = "PORTUNUS_UPSTREAM_IDLE_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub upstream_idle_timeout: Duration,
    /// Idle connections kept per endpoint and worker; more are kept for a second
    #[arg(long, env = "PORTUNUS_UPSTREAM_IDLE_MAX", default_value_t = 256, value_name = "COUNT")]
    pub upstream_idle_max: usize,
    /// File with a secret, the same in all replicas, that the cookies of sessions are made with
    #[arg(long, env = "PORTUNUS_SESSION_KEY_FILE", value_name = "FILE")]
    pub session_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub retries: Retries,
}
