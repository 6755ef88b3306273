//! A real gRPC client and server, in Go, through Portunus: unary and streams, metadata, trailers
//! and status codes, in cleartext and over TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::harness::certificates::Authority;
use crate::harness::command::{Output, finish};
use crate::harness::manifests::{app_with, tls_secret};
use crate::harness::*;

/// Builds `tests/grpc` once.
fn grpc_echo() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let binary = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("grpc-echo");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&binary).arg(".");
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc"));
        let output = build.output().expect("the gRPC tests need the Go toolchain (`go` in PATH)");
        assert!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
        binary
    })
}

/// A running `grpc-echo server`.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let mut command = Command::new(grpc_echo());
        command.args(["server", "--listen", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("spawn");
        let output = Output::of(child.stdout.take().expect("stdout"));
        let line = output.wait_for("listening on ");
        let address = line.rsplit(' ').next().and_then(|address| address.parse().ok()).expect("an address");
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the client's cases; all must pass.
#[track_caller]
fn client(target: SocketAddr, arguments: &[&str]) {
    let mut command = Command::new(grpc_echo());
    command.args(["client", "--target", &target.to_string()]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(0), "{}{}", finished.stdout, finished.stderr);
}

fn folder(server: &Server, protocol: &str) -> Folder {
    let folder = Folder::new();
    folder.write("app.yaml", app_with("default", "app", &[server.address], protocol));
    let ingress = Ingress::new("default", "grpc").host("grpc.test").prefix("/", "app", 80);
    let ingress = ingress.annotation("nginx.ingress.kubernetes.io/ssl-redirect", "false");
    folder.write("ingress.yaml", ingress.tls(&["grpc.test"], "grpc"));
    folder
}

#[test]
fn the_client_and_the_server_understand_each_other_without_portunus() {
    client(Server::start().address, &[]);
}

#[test]
fn grpc_works_in_cleartext() {
    let server = Server::start();
    for protocol in ["kubernetes.io/h2c", "grpc"] {
        let folder = folder(&server, protocol);
        let portunus = Portunus::serve(&folder);
        client(portunus.http, &["--authority", "grpc.test"]);
    }
}

/// Serves `grpc.test` with a certificate; returns the file with its authority too.
pub fn serve_over_tls(folder: &Folder) -> (Portunus, PathBuf) {
    let authority = Authority::new();
    let identity = authority.leaf(&["grpc.test"]);
    folder.write("secret.yaml", tls_secret("default", "grpc", &identity.chain_pem, &identity.key_pem));
    let roots = folder.beside("ca.pem");
    std::fs::write(&roots, &authority.pem).expect("ca.pem");
    (Portunus::serve(folder), roots)
}

#[test]
fn grpc_works_over_tls() {
    let server = Server::start();
    let folder = folder(&server, "kubernetes.io/h2c");
    let (portunus, roots) = serve_over_tls(&folder);
    client(portunus.https, &["--tls", "--ca", &roots.display().to_string(), "--server-name", "grpc.test"]);
}
