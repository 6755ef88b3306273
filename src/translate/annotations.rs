//! ingress-nginx's annotations. None is honoured yet, so all that can be done is to fail safe: one that
//! restricts access takes its Ingress's routes out of service (503), any other is named in a Problem, and none
//! is passed over in silence.

/// Whose annotations these are.
pub(super) const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Beginnings and endings of the names, without the prefix, of all that lets fewer requests through, or may.
const RESTRICTING_STARTS: [&str; 7] =
    ["auth-", "limit-", "modsecurity-", "enable-modsecurity", "enable-owasp", "satisfy", "global-rate-limit"];
const RESTRICTING_ENDS: [&str; 2] = ["-source-range", "-snippet"];

/// Whether a route without this annotation could be open to somebody it should be closed to. `name` is without
/// the prefix.
pub(super) fn restricts(name: &str) -> bool {
    RESTRICTING_STARTS.iter().any(|start| name.starts_with(start))
        || RESTRICTING_ENDS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_closes_a_route_is_known_by_name() {
        for name in [
            "auth-url",
            "auth-tls-secret",
            "auth-type",
            "whitelist-source-range",
            "denylist-source-range",
            "limit-rps",
            "enable-modsecurity",
            "configuration-snippet",
            "server-snippet",
            "satisfy",
        ] {
            assert!(restricts(name), "{name}");
        }
        for name in ["rewrite-target", "ssl-redirect", "proxy-body-size", "enable-cors", "canary-weight"] {
            assert!(!restricts(name), "{name}");
        }
    }
}
