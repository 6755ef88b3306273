//! What values of flags are read as, each with a sentence for one who wrote it wrong.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroU16;
use std::time::Duration;

use ipnet::IpNet;

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    Address(SocketAddr),
    Off,
}

/// Listeners, by what they speak or by their port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerName {
    Http,
    Https,
    Port(u16),
}

impl ListenerName {
    pub fn is(self, secure: bool, port: u16) -> bool {
        match self {
            Self::Http => !secure,
            Self::Https => secure,
            Self::Port(named) => named == port,
        }
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => out.write_str("http"),
            Self::Https => out.write_str("https"),
            Self::Port(port) => write!(out, "{port}"),
        }
    }
}

/// The addresses of a listener, without `off`.
pub fn addresses(listen: &[Listen]) -> impl Iterator<Item = SocketAddr> {
    listen.iter().filter_map(|listen| match listen {
        Listen::Address(address) => Some(*address),
        Listen::Off => None,
    })
}

pub(super) fn listen_address(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen::Off);
    }
    let wrong = || format!("`{text}` is not ADDR:PORT; write 127.0.0.1:8080, [::]:8080, localhost:8080 or off");
    let mut addresses = text.to_socket_addrs().map_err(|_| wrong())?;
    addresses.next().map(Listen::Address).ok_or_else(wrong)
}

pub(super) fn listener_name(text: &str) -> Result<ListenerName, String> {
    match (text, text.parse::<NonZeroU16>()) {
        ("http", _) => Ok(ListenerName::Http),
        ("https", _) => Ok(ListenerName::Https),
        (_, Ok(port)) => Ok(ListenerName::Port(port.get())),
        (_, Err(_)) => Err(format!("`{text}` is no listener; write http, https or a port, as in http,8443")),
    }
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    text.parse()
        .ok()
        .or_else(address)
        .ok_or_else(|| format!("`{text}` is neither a CIDR nor an address; write 10.0.0.0/8"))
}

pub(super) fn percent(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|percent| *percent <= 100);
    number.ok_or_else(|| format!("`{text}` is no percentage; write 0 to 100"))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_none(text)? {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

pub(super) fn duration_or_none(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("`{text}` is no duration; write 500ms, 10s, 1m or 1h"))
}

/// A duration as those settings have it that are whole seconds.
pub(super) fn whole_seconds(text: &str) -> Result<u32, String> {
    let duration = duration_or_none(text)?;
    let seconds = u32::try_from(duration.as_secs()).ok().filter(|_| duration.subsec_nanos() == 0);
    seconds.ok_or_else(|| format!("`{text}` is not in whole seconds; write 5s or 1m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_or_explained() {
        assert_eq!(listen_address("off"), Ok(Listen::Off));
        assert_eq!(listen_address("[::]:80"), Ok(Listen::Address("[::]:80".parse().unwrap())));
        assert!(listen_address("80").unwrap_err().contains("ADDR:PORT"));
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(network("x").is_err());
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(percent("100") == Ok(100) && percent("101").is_err() && percent("5%").is_err());
        assert!(duration("0s").is_err() && duration("5").is_err());
        assert_eq!((duration_or_none("0s"), duration_or_none("5s")), (Ok(Duration::ZERO), Ok(Duration::from_secs(5))));
        assert_eq!((whole_seconds("0s"), whole_seconds("2m")), (Ok(0), Ok(120)));
        assert!(whole_seconds("1500ms").is_err() && whole_seconds("9000 years").is_err());
        assert_eq!(listener_name("8443").map(|name| name.is(true, 8443)), Ok(true));
        assert!(listener_name("0").is_err() && listener_name("admin").is_err());
    }
}
