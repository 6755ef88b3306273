//! What is spoken to endpoints, which they are, how requests are spread over them, and the host that they see.

use http::HeaderValue;

use super::{Annotation, Values, open};
use crate::balance::Policy;
use crate::filter::Filter;
use crate::model::{BackendOptions, BackendTls, Protocol};
use std::sync::Arc;

pub(super) const PROTOCOLS: &[Annotation] = &[
    open(
        "backend-protocol",
        "HTTP, HTTPS, GRPC, GRPCS",
        "HTTP, or the Service port's `appProtocol`",
        "what is spoken to endpoints",
    )
    .example("GRPC"),
    open("service-upstream", "bool", "false", "requests go to the Service's own address, and not to its endpoints")
        .example("true"),
    open("upstream-vhost", "host", "", "the `Host` that endpoints get").example("internal.verona.example"),
];

pub(super) const BALANCING: &[Annotation] = &[open(
    "load-balance",
    "`round_robin`, `ewma`",
    "round_robin",
    "how requests are spread; `--load-balance` is the default",
)
.example("ewma")];

/// What is asked of the Ingress's backends, if anything is.
pub(super) fn options(values: &mut Values, tls: Option<&BackendTls>) -> Option<Arc<BackendOptions>> {
    let protocol = values.get("backend-protocol", "write HTTP, HTTPS, GRPC or GRPCS", |text| {
        Some(match text.to_ascii_uppercase().as_str() {
            "HTTP" => Protocol::Http1,
            "HTTPS" => Protocol::Tls,
            "GRPC" => Protocol::H2c,
            "GRPCS" => Protocol::Tls,
            _ => return None,
        })
    });
    let policy = values.get("load-balance", "write round_robin or ewma", |text| match text {
        "round_robin" => Some(Policy::RoundRobin),
        "ewma" => Some(Policy::PeakEwma),
        _ => None,
    });
    let tls = tls.map(|tls| Arc::new(tls.options.clone()));
    BackendOptions { protocol, policy, service_address: values.switch("service-upstream"), tls }.any()
}

pub(super) fn upstream_host(values: &mut Values) -> Option<Filter> {
    let fix = "write a host, as internal.verona.example, or with a port";
    let host = values.get("upstream-vhost", fix, |text| {
        let authority: http::uri::Authority = text.parse().ok()?;
        HeaderValue::from_str(authority.as_str()).ok().filter(|_| !text.contains('@'))
    });
    host.map(Filter::UpstreamHost)
}
