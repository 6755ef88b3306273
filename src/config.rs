//! Flags and environment: the only reader of either. Every flag is also `PORTUNUS_` and its name in capitals.
#![allow(clippy::disallowed_methods, reason = "this is the one file that reads the environment")]

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use http::HeaderName;
use ipnet::IpNet;

use crate::balance::Policy;
use crate::model::ObjectName;
use crate::telemetry::LogFormat;
use crate::translate::response_header;

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

/// Where the objects come from without a folder.
#[derive(Debug, Args)]
pub struct Cluster {
    /// Kubeconfig of the cluster [default: the Pod's own ServiceAccount, else $KUBECONFIG, else ~/.kube/config]
    #[arg(long, env = "PORTUNUS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces to watch, so that rights in these suffice [default: all]
    #[arg(long, env = "PORTUNUS_WATCH_NAMESPACE", value_name = "NS", value_delimiter = ',')]
    pub watch_namespace: Vec<String>,
    /// Serve the Ingresses of namespaces with these labels only, as in `team=a,stage!=test`
    #[arg(long, env = "PORTUNUS_WATCH_NAMESPACE_SELECTOR", value_name = "LABELS", conflicts_with = "watch_namespace")]
    pub watch_namespace_selector: Option<String>,
    /// Start from this file if the API server can't be reached, and keep the last good state there. Holds keys
    #[arg(long, env = "PORTUNUS_SNAPSHOT_FILE", value_name = "FILE")]
    pub snapshot_file: Option<PathBuf>,
}

/// What is written to the cluster, and by which replica.
#[derive(Debug, Args)]
pub struct Publishing {
    /// Service whose addresses are written into the status of our Ingresses
    #[arg(long, env = "PORTUNUS_PUBLISH_SERVICE", value_name = "NS/NAME", conflicts_with = "publish_status_address")]
    pub publish_service: Option<ObjectName>,
    /// Addresses or host names to write there instead
    #[arg(long, env = "PORTUNUS_PUBLISH_STATUS_ADDRESS", value_name = "ADDR", value_delimiter = ',')]
    pub publish_status_address: Vec<String>,
    /// Take the addresses out of the status again when the last replica stops
    #[arg(long, env = "PORTUNUS_UPDATE_STATUS_ON_SHUTDOWN")]
    pub update_status_on_shutdown: bool,
    /// Name of the Lease by which one replica is chosen to write status and Events
    #[arg(long, env = "PORTUNUS_ELECTION_ID", default_value = "portunus-leader", value_name = "NAME")]
    pub election_id: String,
    /// How long a leader that is gone is waited for; it renews three times as often
    #[arg(long, env = "PORTUNUS_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    pub lease_duration: Duration,
    /// Namespace that the process runs in, and its Lease lies in
    #[arg(long, env = "PORTUNUS_POD_NAMESPACE", default_value = "default", value_name = "NS")]
    pub pod_namespace: String,
    /// Name that the process goes by in the Lease and in Events [default: portunus- and its process id]
    #[arg(long, env = "PORTUNUS_POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
}

/// The admission webhook, which tells users what is wrong with an Ingress before it is stored.
#[derive(Debug, Args)]
pub struct Webhook {
    /// Address for the admission webhook, POST /validate over TLS; may be given several times
    #[arg(long, env = "PORTUNUS_WEBHOOK_LISTEN", default_value = "off", value_name = "ADDR:PORT", value_delimiter = ',', value_parser = listen_address)]
    pub webhook_listen: Vec<Listen>,
    /// Secret of the webhook's certificate, which the API server verifies by the caBundle that it was given
    #[arg(long, env = "PORTUNUS_WEBHOOK_CERTIFICATE", value_name = "NS/NAME")]
    pub webhook_certificate: Option<ObjectName>,
}

/// The admission webhook by itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub struct WebhookServer {
    #[command(flatten)]
    pub webhook: Webhook,
    /// Address for /livez, /readyz, /metrics and /debug; likewise
    #[arg(long, env = "PORTUNUS_ADMIN_LISTEN", default_value = "127.0.0.1:10254", value_name = "ADDR:PORT", value_delimiter = ',', value_parser = listen_address)]
    pub admin_listen: Vec<Listen>,

    #[command(flatten, next_help_heading = "Cluster")]
    pub cluster: Cluster,

    #[command(flatten, next_help_heading = "Objects")]
    pub objects: Objects,

    #[command(flatten, next_help_heading = "Process")]
    pub logging: Logging,
}

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
    /// Longest time that a client may take no byte of its answer
    #[arg(long, env = "PORTUNUS_RESPONSE_WRITE_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub response_write_timeout: Duration,
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
    /// Client connections of the process; one more is closed at once
    #[arg(long, env = "PORTUNUS_MAX_CONNECTIONS", default_value_t = 65_536, value_name = "COUNT")]
    pub max_connections: usize,
    /// Requests in flight of the process, divided among the workers; one more is answered 503
    #[arg(long, env = "PORTUNUS_MAX_IN_FLIGHT", default_value_t = 65_536, value_name = "COUNT")]
    pub max_in_flight: u32,
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
    /// Idle connections kept per endpoint and worker
    #[arg(long, env = "PORTUNUS_UPSTREAM_IDLE_MAX", default_value_t = 256, value_name = "COUNT")]
    pub upstream_idle_max: usize,
    /// File with a secret, the same in all replicas, that the cookies of sessions are made with
    #[arg(long, env = "PORTUNUS_SESSION_KEY_FILE", value_name = "FILE")]
    pub session_key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Process {
    /// How long everything is served as before after SIGTERM, with /readyz at 503, before draining begins
    #[arg(long, env = "PORTUNUS_PRE_STOP_DELAY", default_value = "0s", value_parser = duration_or_none)]
    pub pre_stop_delay: Duration,
    /// Longest time that running requests are waited for after SIGTERM; a second signal stops at once
    #[arg(long, env = "PORTUNUS_DRAIN_TIMEOUT", default_value = "25s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Access log, a JSON line a request: `stdout`, a file, or `off`
    #[arg(long, env = "PORTUNUS_ACCESS_LOG", default_value = "stdout", value_name = "WHERE")]
    pub access_log: String,
    /// Answers carry x-portunus-generation, the number of the table that decided them
    #[arg(long, env = "PORTUNUS_GENERATION_HEADER")]
    pub generation_header: bool,
    #[command(flatten)]
    pub logging: Logging,
}

/// The process's own log.
#[derive(Debug, Args)]
pub struct Logging {
    /// Form of the process's own log, which goes to stderr
    #[arg(long, env = "PORTUNUS_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info or debug, also by module
    #[arg(long, env = "PORTUNUS_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    Address(SocketAddr),
    Off,
}

/// Listeners, by what they speak or by their port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerName {
    Http,
    Https,
    Port(u16),
}

impl ListenerName {
    pub fn is(self, secure: bool, port: u16) -> bool {
        match self {
            Self::Http => !secure,
            Self::Https => secure,
            Self::Port(named) => named == port,
        }
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => out.write_str("http"),
            Self::Https => out.write_str("https"),
            Self::Port(port) => write!(out, "{port}"),
        }
    }
}

/// The addresses of a listener, without `off`.
pub fn addresses(listen: &[Listen]) -> impl Iterator<Item = SocketAddr> {
    listen.iter().filter_map(|listen| match listen {
        Listen::Address(address) => Some(*address),
        Listen::Off => None,
    })
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

fn listen_address(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen::Off);
    }
    let wrong = || format!("`{text}` is not ADDR:PORT; write 127.0.0.1:8080, [::]:8080, localhost:8080 or off");
    let mut addresses = text.to_socket_addrs().map_err(|_| wrong())?;
    addresses.next().map(Listen::Address).ok_or_else(wrong)
}

fn listener_name(text: &str) -> Result<ListenerName, String> {
    match (text, text.parse::<NonZeroU16>()) {
        ("http", _) => Ok(ListenerName::Http),
        ("https", _) => Ok(ListenerName::Https),
        (_, Ok(port)) => Ok(ListenerName::Port(port.get())),
        (_, Err(_)) => Err(format!("`{text}` is no listener; write http, https or a port, as in http,8443")),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    text.parse()
        .ok()
        .or_else(address)
        .ok_or_else(|| format!("`{text}` is neither a CIDR nor an address; write 10.0.0.0/8"))
}

fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_none(text)? {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

fn duration_or_none(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("`{text}` is no duration; write 500ms, 10s, 1m or 1h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory;
        Config::command().debug_assert();
    }

    #[test]
    fn values_are_read_or_explained() {
        assert_eq!(listen_address("off"), Ok(Listen::Off));
        assert_eq!(listen_address("[::]:80"), Ok(Listen::Address("[::]:80".parse().unwrap())));
        assert!(listen_address("80").unwrap_err().contains("ADDR:PORT"));
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(network("x").is_err());
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(duration("0s").is_err() && duration("5").is_err());
        assert_eq!((duration_or_none("0s"), duration_or_none("5s")), (Ok(Duration::ZERO), Ok(Duration::from_secs(5))));
        assert_eq!(listener_name("8443").map(|name| name.is(true, 8443)), Ok(true));
        assert!(listener_name("0").is_err() && listener_name("admin").is_err());
    }
}
