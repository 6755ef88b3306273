//! gRPC's own interop suite (google.golang.org/grpc/interop, which `scripts/suites.sh` builds): its client and its
//! server, as they are, on either side of Portunus, in cleartext and over TLS. Each case is a run of the client,
//! which says by its exit code whether the server was all that the case asks for.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::grpc::serve_over_tls;
use crate::harness::command::{Output, finish};
use crate::harness::manifests::app_with;
use crate::harness::*;

/// All that ask for no credentials of Google's.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

fn program(name: &str) -> Command {
    let path = suites::tool("grpc-interop").join(name);
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A running interop server.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        // It says where it listens to whoever wants to read its log.
        let mut command = program("server");
        command.arg("--port=0").env("GRPC_GO_LOG_SEVERITY_LEVEL", "info");
        let mut child = command.spawn().expect("the interop server");
        let line = Output::of(child.stderr.take().expect("stderr")).wait_for("interop server listening on ");
        let port = line.rsplit(':').next().and_then(|port| port.trim().parse().ok()).expect("a port");
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cases that don't pass, with what the client says.
fn failures(target: SocketAddr, arguments: &[&str]) -> Vec<String> {
    let mut failures = Vec::new();
    for case in CASES {
        let mut command = program("client");
        command.stdout(Stdio::piped());
        command.arg(format!("--server_host={}", target.ip())).arg(format!("--server_port={}", target.port()));
        command.arg(format!("--test_case={case}")).args(arguments);
        let finished = finish(&mut command);
        if finished.code != Some(0) {
            failures.push(format!("{case}: {}{}", finished.stdout, finished.stderr));
        }
    }
    failures
}

#[track_caller]
fn assert_all_pass(target: SocketAddr, arguments: &[&str]) {
    let failures = failures(target, arguments);
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), CASES.len(), failures.join("\n"));
}

fn folder(server: &Server) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[server.address], "kubernetes.io/h2c"));
    let ingress = Ingress::new("default", "grpc").host("grpc.test").prefix("/", "app", 80);
    folder.write("ingress.yaml", ingress.tls(&["grpc.test"], "grpc"));
    folder.write("all.yaml", Ingress::new("default", "all").prefix("/", "app", 80));
    folder
}

#[test]
fn all_cases_pass_without_portunus_and_in_cleartext() {
    let server = Server::start();
    assert_all_pass(server.address, &[]);
    let portunus = Portunus::serve(&folder(&server));
    assert_all_pass(portunus.http, &[]);
}

#[test]
fn all_cases_pass_over_tls() {
    let server = Server::start();
    let folder = folder(&server);
    let (portunus, roots) = serve_over_tls(&folder);
    let roots = format!("--ca_file={}", roots.display());
    assert_all_pass(portunus.https, &["--use_tls", "--use_test_ca", &roots, "--server_host_override=grpc.test"]);
}
