//! Sessions that stay with an endpoint: the endpoint that a request's cookies name, and the cookie that names the
//! one it got instead (RFC 6265). Only requests of routes with affinity have one. A cookie is looked up among what
//! the backend's endpoints are named, so that one which was forged names nothing.

use std::fmt::Write;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};

use crate::model::{Affinity, SameSite};
use crate::upstream::{Endpoint, Token, Upstream};

/// Room for a cookie: most fit.
const COOKIE_BYTES: usize = 160;

/// The session of one request.
pub struct Session {
    /// The endpoint that the client's cookie names.
    token: Option<Token>,
    /// How a new cookie is written; `None` if the client is to keep the one it has. Its count is touched by all
    /// workers, so that requests which know their endpoint leave it alone.
    cookie: Option<Arc<Affinity>>,
    /// The client takes `SameSite=None` for something else.
    misreads_none: bool,
    /// What the new cookie says.
    set: Option<Token>,
}

impl Session {
    /// The session that the cookies name, if they name one whose endpoint still serves.
    pub fn begin(affinity: &Arc<Affinity>, upstream: &Upstream, headers: &HeaderMap) -> Self {
        let tokens = cookies(headers, affinity.cookie.as_bytes()).filter_map(Token::parse);
        // There are several where paths lie within each other; those of other backends name nothing here.
        let token = tokens.into_iter().find(|token| upstream.session(*token).is_some());
        let cookie = (token.is_none() || affinity.change_on_failure).then(|| affinity.clone());
        let asks = cookie.is_some() && affinity.conditional_none && affinity.same_site == Some(SameSite::None);
        let agent = headers.get(header::USER_AGENT).filter(|_| asks).and_then(|agent| agent.to_str().ok());
        Self { token, cookie, misreads_none: agent.is_some_and(misreads_none), set: None }
    }

    /// Whether the client's cookie names an endpoint that serves.
    pub fn is_known(&self) -> bool {
        self.token.is_some()
    }

    /// The session's endpoint, if it serves by this table.
    pub fn endpoint<'u>(&self, upstream: &'u Upstream) -> Option<&'u Endpoint> {
        upstream.session(self.token?)
    }

    /// The request goes to this endpoint now.
    pub fn goes_to(&mut self, upstream: &Upstream, endpoint: &Endpoint) {
        if self.cookie.is_some() {
            self.set = upstream.token(endpoint).filter(|token| Some(*token) != self.token);
        }
    }

    /// The `Set-Cookie` of the answer, if the session is new or has moved.
    pub fn set_cookie(&self, secure: bool) -> Option<HeaderValue> {
        let (token, affinity) = (self.set?, self.cookie.as_ref()?);
        let text = write(affinity, token, secure, self.misreads_none, jiff::Timestamp::now);
        Some(HeaderValue::try_from(text).expect("translate takes what can stand in a field"))
    }
}

fn write(
    affinity: &Affinity,
    token: Token,
    tls: bool,
    misreads_none: bool,
    now: impl FnOnce() -> jiff::Timestamp,
) -> String {
    let Affinity { cookie, path, domain, expires, max_age, secure, same_site, .. } = affinity;
    let mut text = String::with_capacity(COOKIE_BYTES);
    let digits = token.digits();
    let token = std::str::from_utf8(&digits).expect("digits are ASCII");
    for part in [&**cookie, "=", token, "; Path=", path] {
        text.push_str(part);
    }
    let mut add = |name: &str, value: &dyn std::fmt::Display| {
        write!(text, "; {name}={value}").expect("a String takes all");
    };
    if let Some(domain) = domain {
        add("Domain", domain);
    }
    if let Some(seconds) = max_age {
        add("Max-Age", seconds);
    }
    if let Some(seconds) = expires {
        let now = now();
        let end = now.saturating_add(jiff::SignedDuration::from_secs((*seconds).into())).unwrap_or(now);
        // RFC 9110, 5.6.7.
        add("Expires", &end.strftime("%a, %d %b %Y %H:%M:%S GMT"));
    }
    if let Some(same_site) = same_site.filter(|same_site| *same_site != SameSite::None || !misreads_none) {
        add("SameSite", &same_site.as_str());
    }
    if *secure || tls {
        text.push_str("; Secure");
    }
    text.push_str("; HttpOnly");
    text
}

/// The values of the cookies of this name, in all fields.
fn cookies<'h>(headers: &'h HeaderMap, name: &'h [u8]) -> impl Iterator<Item = &'h [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

/// Browsers that refuse a cookie with `SameSite=None`, or take it for `Strict`: Chrome 51 to 66, all of iOS 12, and
/// Safari on macOS 10.14 (chromium.org, "SameSite=None: Known Incompatible Clients").
fn misreads_none(agent: &str) -> bool {
    let chrome = ["Chrome/", "Chromium/"].iter().find_map(|name| agent.split_once(name));
    let major =
        chrome.and_then(|(_, rest)| rest.split(|byte: char| !byte.is_ascii_digit()).next()?.parse::<u32>().ok());
    let ios = agent.contains("CPU iPhone OS 12_") || agent.contains("iPad; CPU OS 12_");
    let safari = agent.contains("Intel Mac OS X 10_14") && agent.contains("Version/") && agent.contains("Safari");
    major.is_some_and(|major| (51..=66).contains(&major)) || ios || (safari && chrome.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "000102030405060708090a0b0c0d0e0f";

    fn affinity() -> Affinity {
        Affinity {
            cookie: "route".into(),
            path: "/".into(),
            domain: None,
            expires: None,
            max_age: None,
            secure: false,
            same_site: None,
            conditional_none: false,
            change_on_failure: false,
        }
    }

    fn written(affinity: &Affinity, tls: bool, misreads_none: bool) -> String {
        let token = Token::parse(TOKEN.as_bytes()).unwrap();
        let text = write(affinity, token, tls, misreads_none, || jiff::Timestamp::from_second(784_111_777).unwrap());
        text.strip_prefix(&format!("route={TOKEN}; ")).unwrap().to_owned()
    }

    #[test]
    fn a_cookie_has_the_attributes_that_were_asked_for() {
        assert_eq!(written(&affinity(), false, false), "Path=/; HttpOnly");
        assert_eq!(written(&affinity(), true, false), "Path=/; Secure; HttpOnly");
        let all = Affinity {
            path: "/shop".into(),
            domain: Some("verona.example".into()),
            expires: Some(60),
            max_age: Some(3600),
            secure: true,
            same_site: Some(SameSite::None),
            ..affinity()
        };
        let front = "Path=/shop; Domain=verona.example; Max-Age=3600; Expires=Sun, 06 Nov 1994 08:50:37 GMT";
        assert_eq!(written(&all, false, false), format!("{front}; SameSite=None; Secure; HttpOnly"));
        assert_eq!(written(&all, false, true), format!("{front}; Secure; HttpOnly"));
        for (same_site, text) in [(SameSite::Lax, "Lax"), (SameSite::Strict, "Strict")] {
            let affinity = Affinity { same_site: Some(same_site), ..affinity() };
            assert_eq!(written(&affinity, false, true), format!("Path=/; SameSite={text}; HttpOnly"));
        }
        let longest = Affinity { expires: Some(u32::MAX), ..affinity() };
        assert_eq!(written(&longest, false, false), "Path=/; Expires=Wed, 13 Dec 2130 15:17:52 GMT; HttpOnly");
    }

    #[test]
    fn cookies_are_found_in_any_field_and_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        for field in
            ["a=1; route=2;route=3", "xroute=4; route =5; routes=6; Route=7; route", "  route=8 ;b=route=9", ";;="]
        {
            headers.append(header::COOKIE, HeaderValue::from_static(field));
        }
        headers.append(header::COOKIE, HeaderValue::from_bytes(b"\xff=\xfe; route=\xff; route=").unwrap());
        let found: Vec<&[u8]> = cookies(&headers, b"route").collect();
        assert_eq!(found, [&b"2"[..], b"3", b"8", b"\xff", b""]);
    }

    #[test]
    fn browsers_that_misread_none_are_known() {
        let mac = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) AppleWebKit/605.1.15 (KHTML, like Gecko)";
        for agent in [
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/51.0.2704.103 Safari/537.36",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/66.0.3359.139 Safari/537.36",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 12_4 like Mac OS X) AppleWebKit/605.1.15 Version/12.1 Mobile Safari/604.1",
            "Mozilla/5.0 (iPad; CPU OS 12_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
            &format!("{mac} Version/13.0 Safari/605.1.15"),
        ] {
            assert!(misreads_none(agent), "{agent}");
        }
        for agent in [
            "",
            "curl/8.5.0",
            "Chrome/",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/50.0.2661.102 Safari/537.36",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/67.0.3396.62 Safari/537.36",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/666.0.0.0 Safari/537.36",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 13_0 like Mac OS X) AppleWebKit/605.1.15 Version/13.0 Mobile Safari/604.1",
            &format!("{mac} Chrome/120.0.0.0 Safari/537.36"),
        ] {
            assert!(!misreads_none(agent), "{agent}");
        }
    }
}
