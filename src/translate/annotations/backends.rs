//! What is spoken to endpoints, which they are, how requests are spread over them, and the host that they see.

use std::num::NonZeroU16;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::Authority;

use super::{Annotation, Values, open, shown};
use crate::balance::Policy;
use crate::filter::{Filter, Template, VARIABLES};
use crate::model::{BackendOptions, BackendTls, Protocol, Resilience};

#[rustfmt::skip]
pub(super) const PROTOCOLS: &[Annotation] = &[
    open("backend-protocol", "HTTP, HTTPS, GRPC, GRPCS, AUTO_HTTP", "HTTP, or the Service port's `appProtocol`", "what is spoken to endpoints; AUTO_HTTP is HTTPS for requests that came over TLS, and HTTP for others").example("GRPC"),
    open("service-upstream", "bool", "false", "requests go to the Service's own address, and not to its endpoints").example("true"),
    open("upstream-vhost", "host", "", "the `Host` that endpoints get").example("internal.verona.example"),
];

#[rustfmt::skip]
pub(super) const BALANCING: &[Annotation] = &[
    open("load-balance", "`round_robin`, `ewma`", "round_robin", "how requests are spread; `--load-balance` is the default. `affinity` and `upstream-hash-by` go before it").example("ewma"),
    open("upstream-hash-by", "text with nginx's variables `$request_uri`, `$uri`, `$args`, `$arg_NAME`, `$host`, `$http_NAME`, `$cookie_NAME`, `$remote_addr`, `$binary_remote_addr`, `$request_method`, `$scheme`", "", "requests for which the text is the same go to the same endpoint (consistent hashing with bounded loads)").example("$cookie_user$request_uri"),
    open("upstream-hash-by-subset", "bool", "false", "to any of some endpoints instead, the same ones each time").example("true"),
    open("upstream-hash-by-subset-size", "number from 1 on", "3", "how many").example("5"),
];

/// Endpoints of a subset.
const SUBSET: NonZeroU16 = NonZeroU16::new(3).expect("it is not 0");

/// What is asked of an Ingress's backends.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) options: BackendOptions,
    /// For requests that came over TLS, if they are others.
    pub(super) secure: Option<BackendOptions>,
    pub(super) hash_by: Option<Template>,
}

pub(super) fn read(values: &mut Values, tls: Option<&BackendTls>, resilience: Option<Arc<Resilience>>) -> Asked {
    let fix = "write HTTP, HTTPS, GRPC, GRPCS or AUTO_HTTP";
    let protocols = values.get("backend-protocol", fix, |text| {
        Some(match text.to_ascii_uppercase().as_str() {
            "HTTP" => (Protocol::Http1, None),
            "HTTPS" | "GRPCS" => (Protocol::Tls, None),
            "GRPC" => (Protocol::H2c, None),
            "AUTO_HTTP" => (Protocol::Http1, Some(Protocol::Tls)),
            _ => return None,
        })
    });
    let (policy, hash_by) = balancing(values);
    let protocol = protocols.map(|(protocol, _)| protocol);
    let tls = tls.map(|tls| Arc::new(tls.options.clone()));
    let options =
        BackendOptions { protocol, policy, service_address: values.switch("service-upstream"), tls, resilience };
    let secure = protocols.and_then(|(_, secure)| secure);
    let secure = secure.map(|protocol| BackendOptions { protocol: Some(protocol), ..options.clone() });
    Asked { options, secure, hash_by }
}

fn balancing(values: &mut Values) -> (Option<Policy>, Option<Template>) {
    let policy = values.get("load-balance", "write round_robin or ewma", |text| match text {
        "round_robin" => Some(Policy::RoundRobin),
        "ewma" => Some(Policy::PeakEwma),
        _ => None,
    });
    let [_, _, subset @ ..] = BALANCING else { return (policy, None) };
    let hash_by = values.parse("upstream-hash-by", |text| {
        Template::parse(text).map_err(|part| {
            (format!("`{}` is no variable that is known", shown(&part)), format!("write text and {VARIABLES}"))
        })
    });
    if hash_by.is_none() {
        values.without_effect(subset, "upstream-hash-by");
        return (policy, None);
    }
    let size = values.get("upstream-hash-by-subset-size", "write a number from 1 on", |text| text.parse().ok());
    let hashed = if values.switch("upstream-hash-by-subset") {
        Policy::HashedSubset(size.unwrap_or(SUBSET))
    } else {
        Policy::ConsistentHash
    };
    (Some(hashed), hash_by)
}

pub(super) fn upstream_host(values: &mut Values) -> Option<Filter> {
    let fix = "write a host, as internal.verona.example, or with a port";
    let host = values.get("upstream-vhost", fix, |text| {
        let authority: Authority = text.parse().ok()?;
        HeaderValue::from_str(authority.as_str()).ok().filter(|_| !text.contains('@'))
    });
    host.map(Filter::UpstreamHost)
}
