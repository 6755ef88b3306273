//! The next process takes over from this one without a moment in which nobody listens (`--takeover-socket`). It
//! connects to a Unix socket, gets every listening socket as a descriptor (`SCM_RIGHTS`; unix(7)), with whatever waits
//! in its queue, accepts beside the old process as soon as it is ready, and then says so; the old one drains. A
//! newcomer that fails before that leaves everything as it was.
//!
//! The old process writes a line of JSON with one descriptor for each socket, then `end`; the new one `ready`.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::sockets::Passed;

/// Longest wait for the other process's next message; being ready is waited for as long as it takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most sockets, and most bytes of what is said of them.
const SOCKETS_MAX: usize = 4096;
const BYTES_MAX: usize = 1024 * 1024;
/// Descriptors that one message may have; we send them one by one.
const DESCRIPTORS_MAX: usize = 8;
const END: &str = "end";
const READY: &str = "ready";

/// What is said of a socket.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    kind: String,
    asked: SocketAddr,
    group: usize,
}

/// The process that is taken over from, until it is told to go.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

/// Asks whoever listens there for its sockets; `None` if nobody does.
pub fn ask(path: &Path) -> Result<Option<(Predecessor, Vec<Passed>)>> {
    let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if nobody.contains(&error.kind()) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("the takeover socket {}", path.display())),
    };
    let passed = receive(&stream).with_context(|| {
        format!("the process behind the takeover socket {} doesn't hand over its sockets", path.display())
    })?;
    tracing::info!(sockets = passed.len(), "taking over from the process that runs");
    Ok(Some((Predecessor(stream), passed)))
}

impl Predecessor {
    /// Tells it to drain. It may be gone meanwhile, and that is fine too.
    pub fn relieve(mut self) {
        let _ = self.0.write_all(format!("{READY}\n").as_bytes());
    }
}

/// Hands these sockets to a process of the same user that asks for them, from now on. `taken` is notified, once, when
/// it serves.
pub fn offer(path: &Path, sockets: Vec<Passed>, taken: Arc<Notify>) -> Result<()> {
    let listener = listen(path).with_context(|| format!("the takeover socket {}", path.display()))?;
    let sockets = Arc::new(Mutex::new(sockets));
    let thread = std::thread::Builder::new().name("takeover".to_owned());
    let serve = move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let (sockets, taken) = (sockets.clone(), taken.clone());
            let one = std::thread::Builder::new().name("takeover".to_owned());
            // One that hangs must not keep the next from being served.
            let _ = one.spawn(move || match hand_over(&stream, &sockets) {
                Ok(()) => taken.notify_one(),
                Err(error) => tracing::warn!("a process that would take over did not: {error:#}"),
            });
        }
    };
    thread.spawn(serve).context("a thread can't be started")?;
    Ok(())
}

/// Listens there, in place of whoever did before, in one step: there is always somebody to be asked.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

/// Sends the sockets, and returns when the other process serves.
fn hand_over(stream: &UnixStream, sockets: &Mutex<Vec<Passed>>) -> Result<()> {
    let user = socket_peercred(stream)?.uid;
    ensure!(user.is_root() || user == geteuid(), "it belongs to user {}", user.as_raw());
    stream.set_write_timeout(Some(PATIENCE))?;
    let lock = || sockets.lock().unwrap_or_else(PoisonError::into_inner);
    for passed in &*lock() {
        let Passed { kind, asked, group, socket } = passed;
        let line = serde_json::to_string(&Line { kind: kind.clone(), asked: *asked, group: *group })?;
        send(stream, &line, Some(socket))?;
    }
    send(stream, END, None)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    ensure!(line.trim_end() == READY, "it ended before it was ready");
    // They are the other's alone now: what nobody accepts from must not stay open.
    lock().clear();
    Ok(())
}

fn send(stream: &UnixStream, line: &str, socket: Option<&TcpListener>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = socket.map(AsFd::as_fd);
    if let Some(descriptor) = &descriptors {
        let fits = control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
        debug_assert!(fits, "there is room for one");
    }
    let line = format!("{line}\n");
    let sent = sendmsg(stream, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    // What is left of a line has no descriptor.
    (&*stream).write_all(&line.as_bytes()[sent..])?;
    Ok(())
}

fn receive(stream: &UnixStream) -> Result<Vec<Passed>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut text, mut descriptors, mut passed) = (Vec::new(), VecDeque::new(), Vec::new());
    loop {
        receive_some(stream, &mut text, &mut descriptors)?;
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let rest = text.split_off(end + 1);
            let line = std::mem::replace(&mut text, rest);
            let line = std::str::from_utf8(&line)?.trim_end();
            if line == END {
                return Ok(passed);
            }
            let Line { kind, asked, group } = serde_json::from_str(line)?;
            let socket = descriptors.pop_front().context("a socket is named and not there")?;
            passed.push(Passed { kind, asked, group, socket: TcpListener::from(socket) });
        }
        ensure!(text.len() <= BYTES_MAX && passed.len() <= SOCKETS_MAX, "there is more than there can be");
    }
}

fn receive_some(stream: &UnixStream, text: &mut Vec<u8>, descriptors: &mut VecDeque<OwnedFd>) -> Result<()> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    ensure!(received.bytes > 0, "it ended in the middle");
    text.extend_from_slice(&bytes[..received.bytes]);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn passed(kind: &str, group: usize) -> Passed {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        Passed { kind: kind.to_owned(), asked: "[::]:80".parse().unwrap(), group, socket }
    }

    #[test]
    fn sockets_go_over_with_what_waits_in_them_and_the_old_process_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("takeover");
        assert!(ask(&path).unwrap().is_none(), "nobody was before");
        let sockets: Vec<Passed> = (0..100).map(|group| passed("http", group)).collect();
        let waiting: Vec<TcpStream> =
            sockets.iter().map(|one| TcpStream::connect(one.socket.local_addr().unwrap()).unwrap()).collect();
        let taken = Arc::new(Notify::new());
        offer(&path, sockets, taken.clone()).unwrap();
        // One that asks and goes changes nothing.
        drop(ask(&path).unwrap().unwrap());
        let (predecessor, sockets) = ask(&path).unwrap().unwrap();
        assert_eq!(sockets.len(), 100);
        predecessor.relieve();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(taken.notified());
        for (group, (one, client)) in sockets.iter().zip(&waiting).enumerate() {
            assert_eq!((one.group, one.kind.as_str()), (group, "http"));
            let (_, peer) = one.socket.accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
        let address = sockets[0].socket.local_addr().unwrap();
        drop(sockets);
        assert!(TcpStream::connect(address).is_err(), "nobody else holds it");
    }

    #[test]
    fn what_is_no_portunus_is_an_error_and_what_is_left_of_one_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("takeover");
        let listener = UnixListener::bind(&path).unwrap();
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"kind\":\"http\",\"asked\":\"[::]:80\",\"group\":0}\n").unwrap();
        });
        assert!(format!("{:#}", ask(&path).unwrap_err()).contains("not there"));
        answers.join().unwrap();
        assert!(ask(&path).unwrap().is_none());
    }
}
