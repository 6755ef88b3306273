//! All sockets of the process, before anything is started, so that an address in use is said at once. They are bound
//! here, or were opened by somebody else: by systemd (`sd_listen_fds(3)`), in place of the flags, or by the process
//! before this one, for the addresses that both listen on.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};

use crate::config::{Listen, Serve, Webhook, addresses};
use crate::proxy::{self, Listener, Socket};
use crate::upstream::keep_alive;

#[derive(Default)]
pub struct Sockets {
    /// By worker.
    pub workers: Vec<Vec<Socket>>,
    pub admin: Vec<TcpListener>,
    pub webhook: Vec<TcpListener>,
    /// The same once more, for the process that follows; only if one may.
    pub offered: Vec<Passed>,
    given: Given,
    bound: Vec<(&'static str, SocketAddr)>,
}

/// Sockets that somebody else opened.
#[derive(Debug, Default)]
pub struct Given {
    /// By the name that systemd has for each.
    pub by_systemd: Vec<(String, TcpListener)>,
    pub by_predecessor: Vec<Passed>,
}

/// A socket that goes from one process to the next.
#[derive(Debug)]
pub struct Passed {
    pub kind: String,
    /// The address as the flag has it, and how many flags came before.
    pub asked: SocketAddr,
    pub group: usize,
    pub socket: TcpListener,
}

const KINDS: [&str; 4] = ["http", "https", "admin", "webhook"];

impl Sockets {
    /// `offers` is whether another process may follow.
    pub fn bind(config: &Serve, workers: usize, given: Given, offers: bool) -> Result<Self> {
        let mut sockets = Self {
            workers: (0..workers).map(|_| Vec::new()).collect(),
            given: given.named(config)?,
            ..Self::default()
        };
        let mut listeners = Vec::new();
        for (kind, asked) in [("http", &config.http_listen), ("https", &config.https_listen)] {
            for address in sockets.given.addresses(kind, asked)? {
                let kept = sockets.given.is_kept(kind, address);
                let (bound, port) = sockets.listen(kind, address, workers, offers)?;
                let secure = kind == "https";
                let proxy_protocol = config.proxy_protocol.iter().any(|named| named.is(secure, port));
                let listener = Listener { port, secure, proxy_protocol, kept };
                listeners.push(listener);
                for (all, socket) in sockets.workers.iter_mut().zip(spread(&bound, workers)?) {
                    all.extend(socket.into_iter().map(|socket| Socket { socket, listener }));
                }
            }
        }
        for named in &config.proxy_protocol {
            let nobody = !listeners.iter().any(|listener| named.is(listener.secure, listener.port));
            anyhow::ensure!(!nobody, "--proxy-protocol {named}: nobody listens there for HTTP or HTTPS");
        }
        sockets.bind_control(&config.admin_listen, &config.webhook, offers)
    }

    /// The control side's sockets, which the workers have nothing to do with.
    pub fn bind_control(mut self, admin: &[Listen], webhook: &Webhook, offers: bool) -> Result<Self> {
        for address in self.given.addresses("admin", admin)? {
            let (bound, _) = self.listen("admin", address, 1, offers)?;
            self.admin.extend(bound);
        }
        for address in self.given.addresses("webhook", &webhook.webhook_listen)? {
            let (bound, _) = self.listen("webhook", address, 1, offers)?;
            self.webhook.extend(bound);
        }
        anyhow::ensure!(
            self.webhook.is_empty() || webhook.webhook_certificate.is_some(),
            "--webhook-listen needs --webhook-certificate, the Secret of the certificate to serve"
        );
        for (kind, address) in &self.bound {
            tracing::info!("listening for {kind} on {address}");
        }
        Ok(self)
    }

    /// The sockets of one address, `count` of them unless they were given, and its port.
    fn listen(
        &mut self,
        kind: &'static str,
        asked: SocketAddr,
        count: usize,
        offers: bool,
    ) -> Result<(Vec<TcpListener>, u16)> {
        let given = self.given.take(kind, asked);
        let bind = || {
            let sockets = if given.is_empty() { proxy::bind(asked, count)? } else { given };
            sockets.iter().try_for_each(|socket| socket.set_nonblocking(true).and_then(|()| keep_alive(socket)))?;
            let address = sockets.first().map_or(Ok(asked), TcpListener::local_addr)?;
            std::io::Result::Ok((sockets, address))
        };
        let (sockets, address) = bind().with_context(|| format!("can't listen for {kind} on {asked}"))?;
        if offers {
            let group = self.bound.len();
            for socket in &sockets {
                let socket = socket.try_clone().context("a socket can't be kept for the next process")?;
                self.offered.push(Passed { kind: kind.to_owned(), asked, group, socket });
            }
        }
        self.bound.push((kind, address));
        Ok((sockets, address.port()))
    }
}

impl Given {
    /// With a kind for each of systemd's, by its name, or else by the address that a flag has too.
    fn named(mut self, config: &Serve) -> Result<Self> {
        let flags = [&config.http_listen, &config.https_listen, &config.admin_listen, &config.webhook.webhook_listen];
        for (name, socket) in &mut self.by_systemd {
            if KINDS.contains(&name.as_str()) {
                continue;
            }
            let address = socket.local_addr().with_context(|| format!("the socket `{name}` that was passed"))?;
            let asked = KINDS.iter().zip(flags).find(|(_, listen)| addresses(listen).any(|one| one == address));
            let (kind, _) = asked.with_context(|| {
                format!(
                    "a socket named `{name}` was passed; name it http, https, admin or webhook (FileDescriptorName=)"
                )
            })?;
            (*kind).clone_into(name);
        }
        Ok(self)
    }

    /// Where to listen: where systemd does, if it does at all, else where the flag says.
    fn addresses(&self, kind: &str, listen: &[Listen]) -> Result<Vec<SocketAddr>> {
        let passed = self.by_systemd.iter().filter(|(name, _)| name == kind);
        let passed = passed.map(|(_, socket)| socket.local_addr()).collect::<std::io::Result<Vec<_>>>()?;
        Ok(if passed.is_empty() { addresses(listen).collect() } else { passed })
    }

    /// Whether the socket for an address outlives this process.
    fn is_kept(&self, kind: &str, address: SocketAddr) -> bool {
        self.by_systemd.iter().any(|passed| is_at(passed, kind, address))
    }

    /// The sockets for an address, which nobody else gets.
    fn take(&mut self, kind: &str, address: SocketAddr) -> Vec<TcpListener> {
        if let Some((_, socket)) = self.by_systemd.extract_if(.., |passed| is_at(passed, kind, address)).next() {
            return vec![socket];
        }
        let matches = |passed: &Passed| passed.kind == kind && passed.asked == address;
        let Some(group) = self.by_predecessor.iter().find(|passed| matches(passed)).map(|passed| passed.group) else {
            return Vec::new();
        };
        let taken = self.by_predecessor.extract_if(.., |passed| matches(passed) && passed.group == group);
        taken.map(|passed| passed.socket).collect()
    }
}

fn is_at((name, socket): &(String, TcpListener), kind: &str, address: SocketAddr) -> bool {
    name == kind && socket.local_addr().is_ok_and(|passed| passed == address)
}

/// Each worker's part of an address's sockets: every socket has a worker, as connections wait in each, and every
/// worker a socket, if it is one that another has too.
fn spread(sockets: &[TcpListener], workers: usize) -> Result<Vec<Vec<TcpListener>>> {
    let mut spread: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for index in 0..sockets.len().max(workers) {
        let socket = sockets[index % sockets.len()].try_clone().context("a socket can't be shared by workers")?;
        spread[index % workers].push(socket);
    }
    Ok(spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(count: usize) -> Vec<TcpListener> {
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect()
    }

    #[test]
    fn every_socket_has_a_worker_and_every_worker_a_socket() {
        for (sockets, workers) in [(1, 1), (1, 4), (4, 1), (2, 3), (3, 2), (4, 4)] {
            let all = listeners(sockets);
            let spread = spread(&all, workers).unwrap();
            assert!(spread.iter().all(|part| !part.is_empty()), "{sockets} for {workers}");
            let mut ports: Vec<_> = spread.iter().flatten().map(|socket| socket.local_addr().unwrap().port()).collect();
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), sockets);
        }
    }

    #[test]
    fn what_was_given_goes_to_the_flag_that_asked_for_it() {
        let asked: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let passed = |(group, socket)| Passed { kind: "http".to_owned(), asked, group: group / 2, socket };
        let mut given =
            Given { by_predecessor: listeners(4).into_iter().enumerate().map(passed).collect(), ..Given::default() };
        assert_eq!(given.take("https", asked).len(), 0);
        assert_eq!([2, 2, 0].map(|_| given.take("http", asked).len()), [2, 2, 0], "a flag that is there twice");
    }
}
