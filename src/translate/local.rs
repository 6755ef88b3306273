//! Addresses that nobody who may write a Service or an EndpointSlice is to reach through Portunus, which stands where
//! they don't: this machine, its link (where clouds tell machines their credentials), whole groups of machines, and the
//! API server. What a name resolves to is held against them each time.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Settings;
use super::resources::Resources;
use crate::model::ObjectName;

/// What to write instead.
pub(super) const FIX: &str = "write the address of a Pod or of another machine; --deny-local-endpoints=false allows \
                              it to everybody. It gets no requests";

/// Where cloud providers tell machines about themselves, beside the link-local 169.254.169.254: Azure, Google and all
/// of Amazon's (`fd00:ec2::/32`).
const AZURE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
const GOOGLE: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);
const AMAZON: [u16; 2] = [0xfd00, 0xec2];

/// The API server, as its own Service says, and as we reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ApiServer {
    /// Of the Service, which has all ports.
    addresses: BTreeSet<IpAddr>,
    endpoints: BTreeSet<SocketAddr>,
}

impl ApiServer {
    /// The Service that stands for the API server.
    pub(super) fn service() -> ObjectName {
        ObjectName::new("default", "kubernetes")
    }

    /// Nothing unless its requests are to be denied.
    pub(super) fn find(resources: &Resources, settings: &Settings) -> Self {
        if !settings.deny_local_endpoints {
            return Self::default();
        }
        let name = Self::service();
        let service = resources.services.get(&name).map(|service| &service.addresses[..]).unwrap_or_default();
        let addresses = service.iter().copied().map(canonical).collect();
        let slices = resources.slices.get(&name).into_iter().flatten();
        let endpoints = slices.flat_map(|slice| {
            let texts = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            let ips: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
            let ports = slice.ports.iter().filter_map(|port| port.port);
            ports.flat_map(move |port| ips.clone().into_iter().map(move |ip| SocketAddr::new(canonical(ip), port)))
        });
        // With its port: the machine may have Pods of its own, by the same address.
        let known = settings.api_server.map(|known| SocketAddr::new(canonical(known.ip()), known.port()));
        Self { addresses, endpoints: endpoints.chain(known).collect() }
    }

    fn is_at(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&address.ip()) || self.endpoints.contains(&address)
    }
}

/// What an address is that gets no requests; `None` for all others, and where the operator denies none.
pub(super) fn denied(address: SocketAddr, api_server: &ApiServer, settings: &Settings) -> Option<&'static str> {
    if !settings.deny_local_endpoints {
        return None;
    }
    let ip = canonical(address.ip());
    let local = match ip {
        IpAddr::V4(ip) => local_v4(ip),
        IpAddr::V6(ip) => local_v6(ip),
    };
    local.or_else(|| api_server.is_at(SocketAddr::new(ip, address.port())).then_some("the API server's address"))
}

/// IPv4 in the clothes of IPv6: mapped (RFC 4291, 2.5.5.2), the older compatible form, and what NAT64 turns into IPv4
/// on its way (RFC 6052, 2.1).
fn canonical(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let [prefix @ .., high, low] = v6.segments();
    let embedded = || {
        let ([one, two], [three, four]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(one, two, three, four))
    };
    match prefix {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => embedded(),
        // `::` and `::1` are IPv6's own.
        [0, 0, 0, 0, 0, 0] if high != 0 => embedded(),
        _ => ip,
    }
}

fn local_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip.octets() {
        [0, ..] => Some("no address of a machine"),
        [127, ..] => Some("a loopback address"),
        [169, 254, ..] => Some("a link-local address"),
        [224..=239, ..] => Some("a multicast address"),
        [255, 255, 255, 255] => Some("a broadcast address"),
        _ => (ip == AZURE).then_some(METADATA),
    }
}

const METADATA: &str = "the address of a cloud's metadata";

fn local_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let first = ip.segments();
    match first[0] {
        _ if ip.is_unspecified() => Some("no address of a machine"),
        _ if ip.is_loopback() => Some("a loopback address"),
        0xfe80..=0xfebf => Some("a link-local address"),
        0xff00..=0xffff => Some("a multicast address"),
        _ => (first[..2] == AMAZON || ip == GOOGLE).then_some(METADATA),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_denied_in_every_form() {
        let near = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::127.0.0.1",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::7f00:1",
            "::ffff:10.96.0.1",
            "10.96.0.1",
        ];
        let far = [
            "1.2.3.4",
            "10.0.0.1",
            "100.64.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.0.1",
            "169.255.0.1",
            "192.168.1.1",
            "223.255.255.255",
            "fd00::1",
            "fec0::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "fd00:ec3::1",
            "10.96.0.2",
        ];
        let settings =
            Settings { deny_local_endpoints: true, api_server: "10.96.0.1:80".parse().ok(), ..Settings::default() };
        let api_server = ApiServer::find(&Resources::default(), &settings);
        let denied_by =
            |settings: &Settings, text: &str| denied(SocketAddr::new(text.parse().unwrap(), 80), &api_server, settings);
        for text in near {
            assert!(denied_by(&settings, text).is_some(), "{text}");
            assert_eq!(denied_by(&Settings::default(), text), None, "{text}");
        }
        for text in far {
            assert_eq!(denied_by(&settings, text), None, "{text}");
        }
        // Another port of the same machine is somebody else's.
        assert_eq!(denied("10.96.0.1:81".parse().unwrap(), &api_server, &settings), None);
    }
}
