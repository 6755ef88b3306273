//! Services of type ExternalName: followed only when allowed, resolved by the name server that was named, asked
//! for again when the TTL is over, and still served while the name server is away.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::reach::{assert_reaches, assert_status, ingress};
use crate::harness::*;

/// A name server that knows one address for every name, with a TTL of one second (RFC 1035, 4).
struct NameServer {
    address: SocketAddr,
    answer: Arc<Mutex<Option<Ipv4Addr>>>,
    asked: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

impl NameServer {
    fn new(answer: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        let server = Self {
            address: socket.local_addr().expect("address"),
            answer: Arc::new(Mutex::new(Some(answer))),
            asked: Arc::default(),
            done: Arc::default(),
        };
        let (answer, asked, done) = (server.answer.clone(), server.asked.clone(), server.done.clone());
        std::thread::spawn(move || {
            let mut query = [0u8; 512];
            while !done.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                if let Some(address) = *answer.lock().expect("answer") {
                    let _ = socket.send_to(&reply(&query[..length], address), client);
                }
            }
        });
        server
    }

    /// From now on the name has another address, or the server is silent.
    fn set(&self, answer: Option<Ipv4Addr>) {
        *self.answer.lock().expect("answer") = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

fn reply(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let labels = query[12..].iter().position(|byte| *byte == 0).expect("a name ends");
    let question = &query[12..12 + labels + 5];
    let is_a = question[labels + 1..labels + 3] == [0, 1];
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    reply.extend(question);
    if is_a {
        // The name of the question, A, IN, one second, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(address.octets());
    }
    reply
}

fn folder(port: u16) -> Folder {
    let folder = Folder::new();
    folder.write("outside.yaml", Service::new("default", "outside").external_name("outside.test"));
    folder.write("ingress.yaml", ingress("outside").prefix("/", "outside", port));
    folder
}

#[test]
fn an_external_name_is_not_followed_unless_allowed() {
    let backend = Backend::named("outside");
    let server = NameServer::new(Ipv4Addr::LOCALHOST);
    let folder = folder(backend.port());
    let portunus = Portunus::serve_with(&folder, &["--resolver", &server.address.to_string()]);
    assert_status(&portunus, "a.test", "/", 503);
    portunus.wait_problem(&["ExternalName", "--allow-external-names"]);
    assert_eq!((backend.count(), server.asked()), (0, 0));
}

#[test]
fn an_external_name_follows_its_ttl_and_outlives_the_name_server() {
    let first = Backend::named("first");
    let second = Backend::on(&format!("127.0.0.2:{}", first.port()), |exchange| exchange.ok("second"));
    let server = NameServer::new(Ipv4Addr::LOCALHOST);
    let folder = folder(first.port());
    let portunus =
        Portunus::serve_with(&folder, &["--allow-external-names", "--resolver", &server.address.to_string()]);
    eventually("the name to be resolved", || (portunus.get("a.test", "/").status == 200).then_some(()));
    assert_reaches(&portunus, "a.test", "/", "first");

    assert_eq!(second.address().ip(), IpAddr::from([127, 0, 0, 2]));
    portunus.after(|| server.set(Some(Ipv4Addr::new(127, 0, 0, 2))));
    assert_reaches(&portunus, "a.test", "/", "second");

    server.set(None);
    let asked = server.asked();
    eventually("the silent server to be asked again", || (server.asked() > asked + 1).then_some(()));
    assert_reaches(&portunus, "a.test", "/", "second");
    portunus.wait_metric("portunus_name_failures_total", &[], |failures| failures > 0.0);
    portunus.stderr.wait_for("its last addresses stay");
    assert_reaches(&portunus, "a.test", "/", "second");

    server.set(Some(Ipv4Addr::LOCALHOST));
    eventually("the name to be resolved again", || (portunus.get("a.test", "/").text() == "first").then_some(()));
    portunus.stderr.wait_for("can be resolved again");
}

#[test]
fn each_answer_is_looked_at_for_addresses_that_are_denied() {
    let backend = Backend::named("here");
    let server = NameServer::new(Ipv4Addr::LOCALHOST);
    let folder = folder(backend.port());
    let resolver = server.address.to_string();
    let flags = ["--allow-external-names", "--deny-local-endpoints", "--resolver", &resolver];
    let portunus = Portunus::serve_with(&folder, &flags);
    let denied = |address: &str| portunus.wait_problem(&["spec.externalName", "outside.test", address, "deny-local"]);
    denied("127.0.0.1, a loopback address");
    assert_status(&portunus, "a.test", "/", 503);
    // Somewhere else, where nobody is: what counts is that it may be asked.
    server.set(Some(Ipv4Addr::new(192, 0, 2, 1)));
    portunus.wait_no_problems();
    assert!(portunus.admin("/debug/table").text().contains("192.0.2.1"));
    for (address, nature) in
        [([169, 254, 169, 254], "169.254.169.254, a link-local address"), ([127, 9, 9, 9], "127.9.9.9")]
    {
        server.set(Some(address.into()));
        denied(nature);
        assert_status(&portunus, "a.test", "/", 503);
    }
    assert_eq!(backend.connections(), 0);
}
