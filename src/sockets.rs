//! All sockets of the process, bound before anything is started, so that an address in use is said at once.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};

use crate::config::{Listen, Serve, Webhook, addresses};
use crate::proxy::{self, Listener, Socket};

#[derive(Default)]
pub struct Sockets {
    /// By worker.
    pub workers: Vec<Vec<Socket>>,
    pub admin: Vec<TcpListener>,
    pub webhook: Vec<TcpListener>,
    bound: Vec<(&'static str, SocketAddr)>,
}

impl Sockets {
    pub fn bind(config: &Serve, workers: usize) -> Result<Self> {
        let mut sockets = Self { workers: (0..workers).map(|_| Vec::new()).collect(), ..Self::default() };
        let mut listeners = Vec::new();
        let http = addresses(&config.http_listen).map(|address| ("http", address));
        for (kind, address) in http.chain(addresses(&config.https_listen).map(|address| ("https", address))) {
            let (bound, port) = sockets.listen(kind, address, workers)?;
            let secure = kind == "https";
            let proxy_protocol = config.proxy_protocol.iter().any(|named| named.is(secure, port));
            let listener = Listener { port, secure, proxy_protocol };
            listeners.push(listener);
            sockets.workers.iter_mut().zip(bound).for_each(|(all, socket)| all.push(Socket { socket, listener }));
        }
        for named in &config.proxy_protocol {
            let nobody = !listeners.iter().any(|listener| named.is(listener.secure, listener.port));
            anyhow::ensure!(!nobody, "--proxy-protocol {named}: nobody listens there for HTTP or HTTPS");
        }
        sockets.bind_control(&config.admin_listen, &config.webhook)
    }

    /// The control side's sockets, which the workers have nothing to do with.
    pub fn bind_control(mut self, admin: &[Listen], webhook: &Webhook) -> Result<Self> {
        for address in addresses(admin) {
            let (bound, _) = self.listen("admin", address, 1)?;
            self.admin.extend(bound);
        }
        for address in addresses(&webhook.webhook_listen) {
            let (bound, _) = self.listen("webhook", address, 1)?;
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

    /// `count` sockets for one address, and its port.
    fn listen(&mut self, kind: &'static str, address: SocketAddr, count: usize) -> Result<(Vec<TcpListener>, u16)> {
        let bind = || {
            let sockets = proxy::bind(address, count)?;
            let address = sockets.first().map_or(Ok(address), TcpListener::local_addr)?;
            std::io::Result::Ok((sockets, address))
        };
        let (sockets, address) = bind().with_context(|| format!("can't listen for {kind} on {address}"))?;
        self.bound.push((kind, address));
        Ok((sockets, address.port()))
    }
}
