//! The Pingora peer of the load bench: a proxy that does the work of the other peers, written as Pingora's own examples are.
//!
//! Routing by host and path prefix, the forwarding headers, a request id where there is none, kept-alive upstream connections
//! (HTTP/2 without TLS with `--h2c`), TLS with HTTP/2 by ALPN, a counter by status to scrape; one worker thread that runs no
//! other's tasks. TLS is rustls (ring): Pingora's BoringSSL needs libclang to build, and its OpenSSL would be Debian's 3.0.
//!
//! usage: pingora-peer HOST PREFIX BACKEND HTTP HTTPS METRICS CERTIFICATE KEY [--h2c]    (the four in the middle are addresses)

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use pingora::http::RequestHeader;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{Error, HttpPeer, ProxyHttp, Result, Server, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;
use prometheus::{IntCounterVec, register_int_counter_vec};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Streams that share a connection to the backend with `--h2c`.
const H2_STREAMS: usize = 100;
/// Idle connections to the backend that are kept, as in the other peers.
const IDLE_MAX: usize = 256;

struct Edge {
    host: String,
    prefix: String,
    peer: HttpPeer,
    https: SocketAddr,
    answers: IntCounterVec,
}

#[async_trait]
impl ProxyHttp for Edge {
    /// The host that was asked for, as the client wrote it.
    type CTX = Option<HeaderValue>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    async fn request_filter(&self, session: &mut Session, asked: &mut Self::CTX) -> Result<bool> {
        let request = session.req_header();
        *asked = host(request);
        let name =
            asked.as_ref().and_then(|value| value.as_bytes().split(|byte| *byte == b':').next()).unwrap_or_default();
        if name.eq_ignore_ascii_case(self.host.as_bytes()) && request.uri.path().starts_with(&self.prefix) {
            return Ok(false);
        }
        session.respond_error(404).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        asked: &mut Self::CTX,
    ) -> Result<()> {
        let server = session.server_addr().and_then(|address| address.as_inet()).copied();
        let tls = server == Some(self.https);
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            let client = HeaderValue::try_from(client.ip().to_string()).expect("an address is a field's value");
            request.insert_header("X-Forwarded-For", client.clone())?;
            request.insert_header("X-Real-IP", client)?;
        }
        request.insert_header("X-Forwarded-Proto", HeaderValue::from_static(if tls { "https" } else { "http" }))?;
        if let Some(value) = asked.clone() {
            request.insert_header("X-Forwarded-Host", value)?;
        }
        request.insert_header("X-Forwarded-Port", HeaderValue::from(server.map_or(0, |address| address.port())))?;
        if !request.headers.contains_key("x-request-id") {
            let id = format!("{:032x}", fastrand::u128(..));
            request.insert_header("X-Request-ID", id)?;
        }
        Ok(())
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, _: &mut Self::CTX) {
        let status = session.response_written().map_or(0, |answer| answer.status.as_u16());
        let class = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"][usize::from(status / 100).min(5)];
        self.answers.with_label_values(&[class]).inc();
    }
}

/// `Host`, or HTTP/2's `:authority`.
fn host(request: &RequestHeader) -> Option<HeaderValue> {
    match request.headers.get(http::header::HOST) {
        Some(value) => Some(value.clone()),
        None => HeaderValue::try_from(request.uri.authority()?.as_str()).ok(),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (given, h2c) = match arguments.split_last() {
        Some((last, rest)) if last == "--h2c" => (rest, true),
        _ => (arguments.as_slice(), false),
    };
    if given == ["--version"] {
        // This crate has the version of the Pingora that it asks for.
        return println!("pingora {}", env!("CARGO_PKG_VERSION"));
    }
    let [host, prefix, backend, http, https, metrics, certificate, key] = given else {
        eprintln!("usage: pingora-peer HOST PREFIX BACKEND HTTP HTTPS METRICS CERTIFICATE KEY [--h2c]");
        std::process::exit(2);
    };
    let conf = ServerConf {
        threads: 1,
        work_stealing: false, // one thread needs no queue to steal from; cheaper by some percent
        upstream_keepalive_pool_size: IDLE_MAX,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    let mut peer = HttpPeer::new(backend.as_str(), false, String::new());
    peer.options.idle_timeout = Some(Duration::from_secs(60));
    if h2c {
        peer.options.set_http_version(2, 2);
        peer.options.max_h2_streams = H2_STREAMS;
    }
    let edge = Edge {
        host: host.clone(),
        prefix: prefix.clone(),
        peer,
        https: https.parse().expect("HTTPS is an address with a port"),
        answers: register_int_counter_vec!("answers_total", "Answers by class of status", &["class"])
            .expect("registered once"),
    };
    let mut proxy = http_proxy_service(&Arc::clone(&server.configuration), edge);
    proxy.add_tcp(http);
    let mut tls = TlsSettings::intermediate(certificate, key).expect("a certificate and its key");
    tls.enable_h2();
    proxy.add_tls_with_settings(https, None, tls);
    server.add_service(proxy);

    let mut scraped = pingora_prometheus::prometheus_http_service();
    scraped.add_tcp(metrics);
    server.add_service(scraped);
    server.run_forever();
}
