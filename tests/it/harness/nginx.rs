//! The real nginx, for tests that stand beside it: a configuration for its `http` block, a port on loopback, and an
//! end by its process id when the value is dropped. `make test` installs it; without it such a test fails.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::command::Output;
use super::{eventually, h1};

/// Where a configuration says on which port it listens: `listen 127.0.0.1:PORT;`.
const PORT: &str = "PORT";
/// Where a configuration names files of its own: `auth_basic_user_file FOLDER/htpasswd;`.
const FOLDER: &str = "FOLDER";
/// Debian has it where only root looks.
const PROGRAM: &str = "/usr/sbin/nginx";
/// Somebody else may take a port between its choice and nginx's bind.
const TRIES: usize = 5;

/// A running nginx.
pub struct Nginx {
    pub port: u16,
    child: Child,
    stderr: Output,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// Starts nginx with this text in its `http` block and waits until it listens. In the text, `PORT` stands for
    /// its port and `FOLDER` for its folder.
    #[track_caller]
    pub fn start(config_http_block: &str) -> Self {
        Self::with_files(config_http_block, &[])
    }

    /// The same, with files in its folder: name and text.
    #[track_caller]
    pub fn with_files(config_http_block: &str, files: &[(&str, &str)]) -> Self {
        (0..TRIES)
            .find_map(|_| Self::try_start(config_http_block, files))
            .unwrap_or_else(|| panic!("no port was free for nginx in {TRIES} tries"))
    }

    #[track_caller]
    fn try_start(config: &str, files: &[(&str, &str)]) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("portunus-nginx-").tempdir().expect("temp dir");
        let at = folder.path().to_owned();
        // Its workers are somebody else's if the tests are root's.
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        for (name, text) in files {
            std::fs::write(at.join(name), text).expect("a file of nginx");
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        std::fs::write(at.join("nginx.conf"), whole(config, &at, port)).expect("nginx.conf");
        let mut command = Command::new(if Path::new(PROGRAM).exists() { PROGRAM } else { "nginx" });
        command.arg("-p").arg(&at).arg("-c").arg(at.join("nginx.conf")).arg("-e").arg("stderr");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("nginx is there: scripts/setup.sh installs it");
        let stderr = Output::of(child.stderr.take().expect("stderr"));
        let mut this = Self { port, child, stderr, _folder: folder };
        let listens = eventually("nginx", || {
            if let Ok(Some(status)) = this.child.try_wait() {
                let log = this.stderr.text();
                assert!(log.contains("Address already in use"), "nginx ended with {status}:\n{log}\n{config}");
                return Some(false);
            }
            // Written when it listens; a connection could be to somebody else.
            at.join("pid").exists().then_some(true)
        });
        listens.then_some(this)
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// A GET.
    #[track_caller]
    #[allow(dead_code, reason = "for who asks for one thing")]
    pub fn get(&self, host: &str, target: &str) -> h1::Response {
        h1::get(self.address(), host, target)
    }

    /// What it wrote to its error log.
    pub fn log(&self) -> String {
        self.stderr.text()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It has no workers to leave behind: it runs as one process.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the log of nginx:\n{}", self.log());
        }
    }
}

/// The configuration around an `http` block. All that nginx writes is in its folder.
fn whole(config: &str, folder: &Path, port: u16) -> String {
    let folder = folder.display().to_string();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(temporary, "    {kind}_temp_path {folder}/{kind};").expect("a String takes all");
    }
    let config = config.replace(PORT, &port.to_string()).replace(FOLDER, &folder);
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n    access_log off; default_type text/plain;\n{temporary}{config}\n}}\n"
    )
}
