//! What is known of ingress-nginx's annotations, one row a key: those of its last version, 1.15.1; and of our own. A key
//! that is honoured has its row in its topic's file.

use super::{
    Annotation, access, affinity, backend_tls, backends, basic_auth, canary, client_certificates, closing, cors,
    forwarding, headers, limits, open, paths, redirects, resilience,
};

/// All keys without the prefix, by topic.
pub const ANNOTATIONS: &[(&str, &[Annotation])] = &[
    (
        "TLS",
        &[
            open(
                "ssl-passthrough",
                "bool",
                "false",
                "TLS is passed to the backend by its server name, and not ended here",
            ),
            open("ssl-ciphers", "cipher list", "", "suites of TLS 1.2"),
            open("ssl-prefer-server-ciphers", "bool", "false", "server cipher order"),
            open("use-port-in-redirects", "bool", "false", "add the port to absolute redirects"),
        ],
    ),
    ("Redirects", redirects::ANNOTATIONS),
    ("Client certificates (mTLS)", client_certificates::ANNOTATIONS),
    ("Backend protocol", backends::PROTOCOLS),
    ("TLS to backends", backend_tls::ANNOTATIONS),
    (
        "Backends of other kinds",
        &[
            open("proxy-http-version", "1.0 / 1.1", "1.1", "HTTP version to backend"),
            open("fastcgi-index", "file", "", "FastCGI index").never(),
            open("fastcgi-params-configmap", "ConfigMap", "", "FastCGI params").never(),
        ],
    ),
    ("Path, rewrite, aliases", paths::ANNOTATIONS),
    (
        "Default backend, errors",
        &[
            open("enable-rewrite-log", "bool", "false", "nginx rewrite log"),
            closing("satisfy", "any, all", "all", "whether one of address and credentials is enough"),
        ],
    ),
    ("Basic auth", basic_auth::ANNOTATIONS),
    (
        "External auth",
        &[
            closing("auth-url", "URL", "", "who is asked whether a request may pass"),
            closing("auth-method", "method", "", "of the question"),
            closing("auth-signin", "URL (vars); adds rd=", "", "redirect on 401"),
            closing("auth-signin-redirect-param", "string", "rd", "name of that parameter"),
            closing("auth-response-headers", "list", "", "headers copied from auth answer to the request"),
            closing("auth-proxy-set-headers", "ConfigMap ns/name", "", "extra headers to the auth service"),
            closing("auth-request-redirect", "string", "", "X-Auth-Request-Redirect value"),
            closing("auth-always-set-cookie", "bool", "false", "keep Set-Cookie of auth on errors"),
            closing("auth-cache-key", "vars", "", "cache key of auth answers"),
            closing("auth-cache-duration", "list of statuses and times", "", "how long answers are kept"),
            closing("auth-keepalive", "int", "", "connections kept to the one who is asked"),
            closing("auth-keepalive-share-vars", "bool", "false", "share nginx vars"),
            closing("auth-keepalive-requests", "int", "1000", "per connection"),
            closing("auth-keepalive-timeout", "seconds", "60", "idle"),
            closing("auth-snippet", "nginx text", "", "raw nginx in auth").never(),
            open("enable-global-auth", "bool", "true", "opt out of global-auth-url"),
        ],
    ),
    ("Access by address", access::ANNOTATIONS),
    ("Limits", limits::ANNOTATIONS),
    ("Overload", limits::PRIORITY),
    ("CORS", cors::ANNOTATIONS),
    ("Session affinity", affinity::ANNOTATIONS),
    ("Balancing", backends::BALANCING),
    ("Canary", canary::ANNOTATIONS),
    ("Timeouts, retries, bodies, buffers", forwarding::ANNOTATIONS),
    ("Errors", forwarding::ERRORS),
    ("Failing and busy endpoints", resilience::ANNOTATIONS),
    ("Health checks", resilience::CHECKS),
    ("Fields of answers", headers::ANNOTATIONS),
    (
        "Headers, cookies, redirects of the backend",
        &[
            open("connection-proxy-header", "close / keep-alive", "", "Connection header to backend"),
            open("proxy-cookie-domain", "\"from to\" / off", "", "rewrite Domain in Set-Cookie"),
            open("proxy-cookie-path", "\"from to\" / off", "", "rewrite Path in Set-Cookie"),
            open("proxy-redirect-from", "default/off/URL", "", "rewrite Location, from"),
            open("proxy-redirect-to", "URL", "", "rewrite Location, to"),
            open("http2-push-preload", "bool", "false", "HTTP/2 push, which browsers have given up"),
        ],
    ),
    (
        "Mirror",
        &[
            open("mirror-target", "URL", "", "who gets a copy of each request"),
            open("mirror-request-body", "on/off", "on", "copy the body"),
            open("mirror-host", "host", "", "Host of the copy"),
        ],
    ),
    (
        "Logs, traces",
        &[
            open("enable-access-log", "bool", "true", "access log here"),
            open("enable-opentelemetry", "bool", "false", "traces here"),
            open("opentelemetry-trust-incoming-span", "bool", "true", "use the parent"),
            open("opentelemetry-operation-name", "string", "vars", "span name"),
        ],
    ),
    (
        "WAF",
        &[
            closing("enable-modsecurity", "bool", "false", "ModSecurity").never(),
            closing("enable-owasp-core-rules", "bool", "false", "CRS").never(),
            closing("modsecurity-transaction-id", "var", "", "id").never(),
            closing("modsecurity-snippet", "text", "", "rules").never(),
        ],
    ),
    (
        "Raw nginx",
        &[
            closing("configuration-snippet", "text", "", "raw location text (Critical)").never(),
            closing("server-snippet", "text", "", "raw server text (Critical)").never(),
            closing("stream-snippet", "text", "", "raw stream text (Critical)").never(),
        ],
    ),
];
