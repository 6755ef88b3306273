//! What the Dockerfile makes, without a container engine: a static binary alone in an empty root, as PID 1, as a
//! user without rights.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::harness::client::{becomes, echo};
use crate::harness::manifests::{self, ingress, selectorless};
use crate::harness::{cluster, eventually, setting};

/// The user of the image.
const USER: &str = "65532";

#[test]
fn a_static_binary_alone_in_an_empty_root_serves_as_pid_1_without_rights() {
    let program = setting("PORTUNUS_STATIC").expect("scripts/scenarios.sh builds it and says where");
    let cluster = cluster();
    let namespace = cluster.namespace("image");
    cluster.apply(manifests::echo(&namespace, "app", 1));
    cluster.ready(&namespace, "app", 1);
    let pod = cluster.list("v1", "Pod", &namespace)[0]["status"]["podIP"].clone();

    let root = tempfile::tempdir().expect("a folder");
    fs::copy(program, root.path().join("portunus")).expect("the binary");
    fs::create_dir(root.path().join("manifests")).expect("a folder");
    let [service, slice] = selectorless("image", "app", &json!([{ "addresses": [pod] }]));
    let routes = ingress("image", "app", "portunus", &[("image.test", &[("Prefix", "/", "app")])]);
    fs::write(root.path().join("manifests/app.yaml"), format!("{service}\n---\n{slice}\n---\n{routes}\n"))
        .expect("write");
    // Everybody may look into the folder, as into an image.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.path(), open).expect("permissions");

    let mut child = start(root.path().into());
    let mut lines = BufReader::new(child.0.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("listening for http on")).expect("it listens");
    std::thread::spawn(move || lines.for_each(drop));
    let address = line.rsplit_once(' ').expect("an address").1.parse().expect("an address");
    assert_eq!(echo(address, "image.test", "/").text("name"), "app");
    becomes(address, "elsewhere.test", "/", 404);

    let id = child.inner();
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim().to_owned();
    assert_eq!(field("NSpid:").split_whitespace().next_back(), Some("1"), "the first process of its namespace");
    assert_eq!(field("Uid:").split_whitespace().next(), Some(USER));
    assert_eq!(u64::from_str_radix(&field("CapEff:"), 16), Ok(0));
    // PID 1 gets no signal that it doesn't handle.
    cluster.run("kill", &["-s", "TERM", &id], "");
    let ended = eventually("its end", || child.0.try_wait().expect("a child"));
    assert_eq!(ended.code(), Some(0));
}

struct Process(Child);

/// In a process namespace and a root of its own.
fn start(root: PathBuf) -> Process {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "chroot", &format!("--userspec={USER}:{USER}")]).arg(root);
    command.args(["/portunus", "serve", "--manifests", "/manifests", "--http-listen", "127.0.0.1:0"]);
    command.args(["--https-listen", "off", "--admin-listen", "127.0.0.1:0", "--access-log", "off"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Process(command.spawn().expect("unshare starts"))
}

impl Process {
    /// The process id of Portunus, as it is seen from here.
    fn inner(&self) -> String {
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("it runs");
        children.split_whitespace().next().expect("a child").to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
