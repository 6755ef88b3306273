//! Flags and environment: the only reader of either. Every flag is also `PORTUNUS_` and its name in capitals.
#![allow(clippy::disallowed_methods, reason = "this is the one module that reads the environment")]

mod cluster;
mod health;
mod process;
mod traffic;
mod values;

use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use http::HeaderName;

pub use cluster::{Cluster, Publishing, Webhook, WebhookServer};
pub use health::{Ejection, NextUpstream, Retries};
pub use process::{Logging, Overload, Process};
pub use traffic::{Clients, Endpoints, Underscores};
pub use values::{Listen, ListenerName, addresses};

use crate::balance::Policy;
use crate::model::{Normalization, ObjectName};
use crate::translate::response_header;
use values::{listen_address, listener_name};

/// Portunus: an L7 ingress controller and reverse proxy for Kubernetes.
///
/// Routes HTTP/1.1, HTTP/2, gRPC and WebSockets by host and path, ends TLS, and balances over endpoints, as
/// Ingress, Service, EndpointSlice and Secret objects say.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, term_width = 100)]
pub struct Config {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the routes that a cluster or a folder of manifests asks for, and follow the changes
    Serve(Box<Serve>),
    /// Tell the API server which Ingresses are wrong, and nothing else: the admission webhook by itself
    Webhook(Box<WebhookServer>),
    /// Print every problem in a folder of manifests, with file and line; exit 1 if there is one
    Check(Check),
    /// Answer every request with what was received: a backend to try things with
    Echo(Echo),
}

/// What an Ingress without further word gets.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct Objects {
    /// Name of the controller in our IngressClasses
    #[arg(long, env = "PORTUNUS_CONTROLLER_CLASS", default_value = "portunus.dev/ingress-controller")]
    pub controller_class: String,
    /// Class that is ours by name, as in the annotation kubernetes.io/ingress.class
    #[arg(long, env = "PORTUNUS_INGRESS_CLASS", default_value = "portunus")]
    pub ingress_class: String,
    /// Take Ingresses without a class even though there are IngressClasses
    #[arg(long, env = "PORTUNUS_WATCH_INGRESS_WITHOUT_CLASS")]
    pub watch_ingress_without_class: bool,
    /// Follow Services of type ExternalName. Whoever writes Services may then send requests to any host
    #[arg(long, env = "PORTUNUS_ALLOW_EXTERNAL_NAMES")]
    pub allow_external_names: bool,
    /// Send nothing to endpoints that are this machine, its link or the API server [default: true in a cluster]
    #[arg(long, env = "PORTUNUS_DENY_LOCAL_ENDPOINTS", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub deny_local_endpoints: Option<bool>,
    /// What is done about paths that backends read apart, as those with `%2F` or `;`
    #[arg(long, env = "PORTUNUS_PATH_NORMALIZATION", default_value = "strict", value_name = "HOW")]
    pub path_normalization: PathNormalization,
    /// Secret of the certificate for names that no other is for; a self-signed one is made if left out
    #[arg(long, env = "PORTUNUS_DEFAULT_TLS_CERTIFICATE", alias = "default-ssl-certificate", value_name = "NS/NAME")]
    pub default_tls_certificate: Option<ObjectName>,
    /// What becomes of an Ingress with an ingress-nginx annotation that restricts access and isn't supported
    #[arg(long, env = "PORTUNUS_UNSUPPORTED_ANNOTATIONS", default_value = "close", value_name = "WHAT")]
    pub unsupported_annotations: Unsupported,
    /// Send requests from http to https on hosts that a TLS block lists, unless their Ingress says `ssl-redirect`
    #[arg(long, env = "PORTUNUS_SSL_REDIRECT", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub ssl_redirect: bool,
    /// Tell browsers over TLS to come by https alone for a year, to subdomains too (Strict-Transport-Security)
    #[arg(long, env = "PORTUNUS_HSTS", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub hsts: bool,
    /// ConfigMap with settings that count before these flags, under their names, and may change while serving
    #[arg(long, env = "PORTUNUS_CONFIGMAP", value_name = "NS/NAME")]
    pub configmap: Option<ObjectName>,
    /// A host belongs to the namespace of the oldest Ingress that names it; other namespaces' are refused for it
    #[arg(long, env = "PORTUNUS_STRICT_HOST_OWNERSHIP")]
    pub strict_host_ownership: bool,
    /// Fields that Ingresses may set in answers by the annotation custom-headers [default: none]
    #[arg(long, env = "PORTUNUS_GLOBAL_ALLOWED_RESPONSE_HEADERS", value_name = "NAMES", value_delimiter = ',', value_parser = response_header)]
    pub global_allowed_response_headers: Vec<HeaderName>,
    /// How requests are spread over a Service's endpoints; `consistent_hash` goes by the client's address
    #[arg(long, env = "PORTUNUS_LOAD_BALANCE", default_value = "round_robin", value_name = "POLICY")]
    pub load_balance: LoadBalance,
    #[command(flatten)]
    pub next_upstream: NextUpstream,
    #[command(flatten)]
    pub ejection: Ejection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum LoadBalance {
    RoundRobin,
    LeastRequests,
    Ewma,
    ConsistentHash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PathNormalization {
    /// It is data; 400 if it would reach another rule when it is read otherwise
    Strict,
    /// Likewise, but `%2F` is a slash
    DecodeSlashes,
    /// 400, whatever the rules
    Reject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unsupported {
    /// Its routes answer 503
    Close,
    /// Its routes are served as if the annotation were not there
    Ignore,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Folder of manifests
    pub manifests: PathBuf,
    #[command(flatten)]
    pub objects: Objects,
}

#[derive(Debug, Args)]
pub struct Echo {
    /// Address to listen on; may be given several times
    #[arg(long, env = "PORTUNUS_LISTEN", default_value = "127.0.0.1:3001", value_name = "ADDR:PORT", value_delimiter = ',', value_parser = listen_address)]
    pub listen: Vec<Listen>,
    /// Name to answer with
    #[arg(long, env = "PORTUNUS_NAME", default_value = "echo")]
    pub name: String,
    /// Speak TLS, with a self-signed certificate
    #[arg(long, env = "PORTUNUS_TLS")]
    pub tls: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub struct Serve {
    /// Folder of manifests (.yaml, .yml, .json), read recursively and watched, in place of a cluster
    #[arg(long, env = "PORTUNUS_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Address for HTTP; may be given several times. Port 0 takes any free one, `off` means none, [::] takes IPv4 too
    #[arg(long, env = "PORTUNUS_HTTP_LISTEN", default_value = "[::]:8080", value_name = "ADDR:PORT", value_delimiter = ',', value_parser = listen_address)]
    pub http_listen: Vec<Listen>,
    /// Address for HTTPS; likewise
    #[arg(long, env = "PORTUNUS_HTTPS_LISTEN", default_value = "[::]:8443", value_name = "ADDR:PORT", value_delimiter = ',', value_parser = listen_address)]
    pub https_listen: Vec<Listen>,
    /// Address for /livez, /readyz, /metrics and /debug; likewise
    #[arg(long, env = "PORTUNUS_ADMIN_LISTEN", default_value = "127.0.0.1:10254", value_name = "ADDR:PORT", value_delimiter = ',', value_parser = listen_address)]
    pub admin_listen: Vec<Listen>,
    /// Listeners whose connections begin with a PROXY protocol header: http, https or a port [default: none]
    #[arg(long, env = "PORTUNUS_PROXY_PROTOCOL", value_name = "LISTENERS", value_delimiter = ',', value_parser = listener_name)]
    pub proxy_protocol: Vec<ListenerName>,
    /// Worker threads [default: the CPU quota of the cgroup, else the number of cores]
    #[arg(long, env = "PORTUNUS_WORKERS")]
    pub workers: Option<NonZeroUsize>,

    #[command(flatten, next_help_heading = "Cluster")]
    pub cluster: Cluster,

    #[command(flatten, next_help_heading = "Cluster")]
    pub publishing: Publishing,

    #[command(flatten, next_help_heading = "Objects")]
    pub objects: Objects,

    #[command(flatten, next_help_heading = "Webhook")]
    pub webhook: Webhook,

    #[command(flatten, next_help_heading = "Clients")]
    pub clients: Clients,

    #[command(flatten, next_help_heading = "Endpoints")]
    pub endpoints: Endpoints,

    #[command(flatten, next_help_heading = "Process")]
    pub process: Process,
}

impl From<LoadBalance> for Policy {
    fn from(policy: LoadBalance) -> Self {
        match policy {
            LoadBalance::RoundRobin => Self::RoundRobin,
            LoadBalance::LeastRequests => Self::LeastRequests,
            LoadBalance::Ewma => Self::PeakEwma,
            LoadBalance::ConsistentHash => Self::ConsistentHash,
        }
    }
}

impl From<PathNormalization> for Normalization {
    fn from(how: PathNormalization) -> Self {
        match how {
            PathNormalization::Strict => Self::Strict,
            PathNormalization::DecodeSlashes => Self::DecodeSlashes,
            PathNormalization::Reject => Self::Reject,
        }
    }
}

/// Reads flags and environment. Prints help and exits with 0; what is wrong comes back as one sentence.
pub fn read() -> Result<Config, String> {
    let config = Config::try_parse().map_err(|error| {
        if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            error.exit();
        }
        let text = error.to_string();
        let sentence: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let sentence = sentence.join(" ");
        format!("{}; --help says more", sentence.strip_prefix("error: ").unwrap_or(&sentence))
    })?;
    match &config.command {
        Command::Serve(serve) if !serve.proxy_protocol.is_empty() && serve.clients.trusted_proxies.is_empty() => {
            Err("--proxy-protocol needs --trusted-proxies, the networks of the load balancers that write its headers: \
                 anybody could claim any address"
                .to_owned())
        }
        Command::Serve(_) | Command::Webhook(_) | Command::Check(_) | Command::Echo(_) => Ok(config),
    }
}

/// The listening sockets that systemd opened for this process, by name (`sd_listen_fds(3)`).
pub fn inherited() -> anyhow::Result<Vec<(String, TcpListener)>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut passed = listenfd::ListenFd::from_env();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let name = names.next().unwrap_or_default().to_owned();
        let socket = passed.take_tcp_listener(index);
        let socket = socket.with_context(|| format!("the socket `{name}` that was passed is not one for TCP"))?;
        sockets.extend(socket.map(|socket| (name, socket)));
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory;
        Config::command().debug_assert();
    }
}
