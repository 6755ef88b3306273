//! The status of our Ingresses: under which addresses they are reached. Written by server-side apply, by the
//! leader only, at a bounded rate, and only where it says something else; nobody else's Ingress is touched.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress, IngressPortStatus};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::model::ObjectName;

/// One entry of `status.loadBalancer.ingress`.
pub type Address = IngressLoadBalancerIngress;

/// The owner of the fields that are applied.
const MANAGER: &str = "portunus";
/// Least time between two writes: 50 a second.
const PACE: Duration = Duration::from_millis(20);
/// Changes are gathered for this long.
const GATHER: Duration = Duration::from_millis(200);
/// What could not be written is tried again after this long, and all is looked at again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often nodes are listed, where their addresses are the ones to publish.
const NODES: Duration = Duration::from_secs(60);

/// Which Ingresses are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    All,
    /// Those that have changed since the last look.
    Changed,
}

/// The Ingresses whose status says something else than these addresses, and whether it says nothing at all.
pub type Differing = Rc<dyn Fn(&[Address], Look) -> Vec<(ObjectName, bool)>>;
/// Told of each Ingress whose status was written and said nothing before.
pub type Written = Rc<dyn Fn(ObjectName)>;

/// What an Ingress's status says.
pub fn of(ingress: &Ingress) -> Vec<Address> {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.clone()).unwrap_or_default()
}

/// The operator's own addresses, as the status has them.
pub fn fixed(addresses: &[String]) -> Vec<Address> {
    addresses.iter().map(|address| entry(address)).collect()
}

/// An IP address or a host name.
fn entry(text: &str) -> Address {
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    let (ip, hostname) = if is_address { (Some(text.to_owned()), None) } else { (None, Some(text.to_owned())) };
    Address { ip, hostname, ports: None }
}

/// Writes until the process ends. `addresses` is `None` as long as they aren't known.
pub async fn write(
    client: Client,
    mut leader: watch::Receiver<bool>,
    mut addresses: watch::Receiver<Option<Vec<Address>>>,
    changed: Rc<Notify>,
    differing: Differing,
    written: Written,
) {
    let (mut look, mut looked) = (Look::All, Instant::now());
    loop {
        // Addresses that the operator gave have nobody who would change them.
        let others = leader.has_changed().unwrap_or(false) || addresses.has_changed().unwrap_or(false);
        if look == Look::All || others || looked.elapsed() >= AGAIN {
            (look, looked) = (Look::All, Instant::now());
        }
        let wanted = addresses.borrow_and_update().clone().filter(|_| *leader.borrow_and_update());
        let mut failed = false;
        if let Some(wanted) = wanted {
            for (name, is_empty) in differing(&wanted, look) {
                if !*leader.borrow() || addresses.has_changed().unwrap_or(false) {
                    break;
                }
                match apply(&client, &name, &wanted).await {
                    Ok(()) if is_empty => written(name),
                    Ok(()) => {}
                    Err(error) => {
                        failed = true;
                        tracing::warn!(ingress = %name, %error, "its status can't be written, it is tried again");
                        break;
                    }
                }
                tokio::time::sleep(PACE).await;
            }
        }
        let wait = async {
            tokio::select! {
                () = changed.notified(), if !failed => {
                    tokio::time::sleep(GATHER).await;
                    Look::Changed
                }
                Ok(()) = leader.changed() => Look::All,
                Ok(()) = addresses.changed() => Look::All,
                else => std::future::pending().await,
            }
        };
        look = tokio::time::timeout(AGAIN, wait).await.unwrap_or(Look::All);
    }
}

/// Takes our addresses out of all Ingresses that `differing` from none.
pub async fn clear(client: &Client, differing: &Differing) {
    for (name, _) in differing(&[], Look::All) {
        if let Err(error) = apply(client, &name, &[]).await {
            tracing::warn!(ingress = %name, %error, "its status can't be cleared");
        }
    }
}

async fn apply(client: &Client, name: &ObjectName, addresses: &[Address]) -> kube::Result<()> {
    let api: Api<Ingress> = Api::namespaced(client.clone(), &name.namespace);
    let patch = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": { "name": &*name.name },
        "status": { "loadBalancer": { "ingress": addresses } },
    });
    match api.patch_status(&name.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        // It is gone; so is what there was to write.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Follows the Service whose addresses are ours, for ever.
pub async fn follow(client: Client, service: ObjectName, addresses: watch::Sender<Option<Vec<Address>>>) {
    let api: Api<Service> = Api::namespaced(client.clone(), &service.namespace);
    let mut events = watch_object(api, &service.name).default_backoff().boxed();
    let mut known: Option<Service> = None;
    let mut nodes = tokio::time::interval(NODES);
    loop {
        tokio::select! {
            event = events.try_next() => match event {
                Ok(Some(found)) => {
                    if found.is_none() {
                        tracing::warn!(%service, "there is no such Service to publish the addresses of");
                    }
                    known = found;
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%service, %error, "the Service to publish can't be read");
                    continue;
                }
            },
            _ = nodes.tick(), if known.as_ref().is_some_and(is_node_port) => {}
        }
        let Some(known) = &known else { continue };
        let found = if is_node_port(known) { of_nodes(&client).await } else { Some(of_service(known)) };
        if let Some(found) = found {
            addresses.send_if_modified(|before| before.replace(found.clone()) != Some(found));
        }
    }
}

fn is_node_port(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("NodePort")
}

/// What a Service is reached by from where its type lets it be.
fn of_service(service: &Service) -> Vec<Address> {
    let spec = service.spec.clone().unwrap_or_default();
    let external = spec.external_ips.unwrap_or_default();
    match spec.type_.as_deref() {
        Some("LoadBalancer") => {
            let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let entries = balancer.and_then(|balancer| balancer.ingress.clone()).unwrap_or_default();
            let of_balancer = entries.into_iter().map(|entry| Address {
                ip: entry.ip,
                hostname: entry.hostname,
                ports: entry.ports.map(|ports| {
                    let port = |port: k8s_openapi::api::core::v1::PortStatus| IngressPortStatus {
                        error: port.error,
                        port: port.port,
                        protocol: port.protocol,
                    };
                    ports.into_iter().map(port).collect()
                }),
            });
            of_balancer.chain(fixed(&external)).collect()
        }
        Some("ExternalName") => spec.external_name.iter().map(|name| entry(name)).collect(),
        _ if !external.is_empty() => fixed(&external),
        _ => spec.cluster_ip.iter().filter(|ip| *ip != "None").map(|ip| entry(ip)).collect(),
    }
}

/// The nodes' addresses, external ones if there are any; `None` if they can't be had now.
async fn of_nodes(client: &Client) -> Option<Vec<Address>> {
    let nodes = match Api::<Node>::all(client.clone()).list(&ListParams::default()).await {
        Ok(nodes) => nodes,
        Err(error) => {
            tracing::warn!(%error, "the nodes' addresses can't be read");
            return None;
        }
    };
    let of_kind = |kind: &str| -> BTreeSet<String> {
        let all = nodes.iter().filter_map(|node| node.status.as_ref()?.addresses.as_ref()).flatten();
        all.filter(|address| address.type_ == kind).map(|address| address.address.clone()).collect()
    };
    let found = Some(of_kind("ExternalIP")).filter(|found| !found.is_empty()).unwrap_or_else(|| of_kind("InternalIP"));
    Some(found.iter().map(|address| entry(address)).collect())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use kube::client::Body;

    use super::*;

    /// Long enough for thousands of looks, and much shorter than [`AGAIN`].
    const A_MOMENT: Duration = Duration::from_millis(100);

    #[test]
    fn addresses_that_never_change_are_looked_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let looks = Rc::new(Cell::new(0));
        let counted = looks.clone();
        let differing: Differing = Rc::new(move |_, _| {
            counted.set(counted.get() + 1);
            Vec::new()
        });
        runtime.block_on(async {
            let unasked = |_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, Infallible>>();
            let client = Client::new(tower::service_fn(unasked), "default");
            let (_leads, leader) = watch::channel(true);
            // Nobody is left who could change them.
            let addresses = watch::channel(Some(fixed(&["192.0.2.1".to_owned()]))).1;
            let writing = write(client, leader, addresses, Rc::default(), differing, Rc::new(|_| {}));
            assert!(tokio::time::timeout(A_MOMENT, writing).await.is_err(), "it writes until the process ends");
        });
        assert_eq!(looks.get(), 1);
    }

    fn service(spec: &serde_json::Value, status: &serde_json::Value) -> Service {
        serde_json::from_value(json!({ "metadata": { "name": "edge" }, "spec": spec, "status": status })).unwrap()
    }

    fn shown(addresses: &[Address]) -> String {
        let words = addresses.iter().map(|address| {
            let name = address.ip.as_ref().or(address.hostname.as_ref()).unwrap();
            let port = address.ports.iter().flatten().next();
            port.map_or_else(|| name.clone(), |port| format!("{name}:{}", port.port))
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_service_is_reached_as_its_type_says() {
        let balancer = json!({ "loadBalancer": { "ingress": [
            { "ip": "203.0.113.1", "ports": [{ "port": 80, "protocol": "TCP" }] }, { "hostname": "edge.example" },
        ] } });
        let table = [
            (json!({ "type": "LoadBalancer" }), &balancer, "203.0.113.1:80 edge.example"),
            (json!({ "type": "LoadBalancer" }), &json!({}), ""),
            (json!({ "type": "LoadBalancer", "externalIPs": ["198.51.100.1"] }), &json!({}), "198.51.100.1"),
            (json!({ "type": "ClusterIP", "clusterIP": "10.96.0.7" }), &json!({}), "10.96.0.7"),
            (json!({ "type": "ClusterIP", "clusterIP": "None" }), &json!({}), ""),
            (json!({ "clusterIP": "10.96.0.7", "externalIPs": ["2001:db8::1"] }), &json!({}), "2001:db8::1"),
            (json!({ "type": "ExternalName", "externalName": "a.example" }), &json!({}), "a.example"),
        ];
        for (spec, status, expected) in table {
            assert_eq!(shown(&of_service(&service(&spec, status))), expected, "{spec}");
        }
        assert_eq!(shown(&fixed(&["192.0.2.1".to_owned(), "b.example".to_owned()])), "192.0.2.1 b.example");
    }
}
