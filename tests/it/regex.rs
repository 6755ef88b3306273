//! Hosts whose paths are regular expressions, beside the real nginx with the locations that ingress-nginx 1.15 writes
//! for the same rules (`template.go`: buildLocation, buildProxyPass; `controller.go`: the order; `location.go`: two
//! locations for a Prefix). Both send to the same endpoints, which say who they are and what they were asked for.

use std::fmt::Write as _;

use crate::harness::h1::Connection;
use crate::harness::manifests::app;
use crate::harness::*;

const KEY: &str = "nginx.ingress.kubernetes.io/";

/// A rule, in an Ingress of its own.
#[derive(Clone, Debug)]
struct Rule {
    kind: &'static str,
    path: &'static str,
    use_regex: bool,
    target: Option<&'static str>,
}

const fn rule(kind: &'static str, path: &'static str) -> Rule {
    Rule { kind, path, use_regex: false, target: None }
}

const fn regex(path: &'static str) -> Rule {
    Rule { use_regex: true, ..rule("ImplementationSpecific", path) }
}

const fn rewrite(path: &'static str, target: &'static str) -> Rule {
    Rule { target: Some(target), ..rule("ImplementationSpecific", path) }
}

impl Rule {
    fn rewrites(&self) -> bool {
        self.target.is_some_and(|target| target != self.path)
    }
}

/// Portunus and nginx with the same hosts, `h0.test` and so on, and one endpoint for the nth rule of each.
struct Both {
    portunus: Portunus,
    nginx: Nginx,
    _backends: Vec<Backend>,
    _folder: Folder,
}

/// Status, and what the endpoint said.
type Outcome = (u16, String);

impl Both {
    fn new(hosts: &[Vec<Rule>]) -> Self {
        let count = hosts.iter().map(Vec::len).max().unwrap_or_default();
        let endpoint = |name: usize| {
            Backend::new(move |exchange| {
                let text = format!("{name} {}", exchange.head.word(1));
                exchange.ok(&text);
            })
        };
        let backends: Vec<Backend> = (0..count).map(endpoint).collect();
        let folder = Folder::new();
        for (name, backend) in backends.iter().enumerate() {
            folder.write(&format!("app-{name}.yaml"), app("default", &format!("app-{name}"), &[backend.address()]));
        }
        let mut config = String::new();
        for (host, rules) in hosts.iter().enumerate() {
            folder.write(&format!("host-{host}.yaml"), manifests(host, rules));
            config += &server(host, rules, &backends);
        }
        Self { portunus: Portunus::serve(&folder), nginx: Nginx::start(&config), _backends: backends, _folder: folder }
    }

    /// What each makes of a request: Portunus, nginx.
    fn ask(&self, host: usize, target: &str) -> (Outcome, Outcome) {
        let ask = |address| {
            let answer = Connection::open(address).get(&format!("h{host}.test"), target);
            (answer.status, if answer.status == 200 { answer.text() } else { String::new() })
        };
        (ask(self.portunus.http), ask(self.nginx.address()))
    }
}

fn manifests(host: usize, rules: &[Rule]) -> String {
    let mut text = String::new();
    for (index, rule) in rules.iter().enumerate() {
        let mut ingress = Ingress::new("default", &format!("host-{host}-rule-{index}"))
            .created(&format!("2001-01-01T00:00:{index:02}Z"));
        if rule.use_regex {
            ingress = ingress.annotation(&format!("{KEY}use-regex"), "true");
        }
        if let Some(target) = rule.target {
            ingress = ingress.annotation(&format!("{KEY}rewrite-target"), target);
        }
        let ingress = ingress.host(&format!("h{host}.test")).path(rule.kind, rule.path, &format!("app-{index}"), 80);
        write!(text, "---\n{ingress}").expect("a String");
    }
    text
}

/// The locations of one host, as ingress-nginx orders and writes them.
fn server(host: usize, rules: &[Rule], backends: &[Backend]) -> String {
    let mut sorted: Vec<(usize, &Rule)> = rules.iter().enumerate().collect();
    sorted.sort_by(|(_, one), (_, other)| other.path.cmp(one.path));
    sorted.sort_by_key(|(_, rule)| std::cmp::Reverse(rule.path.len()));
    let exact = |path: &str| rules.iter().any(|rule| rule.kind == "Exact" && rule.path == path);
    assert!(rules.iter().any(|rule| rule.use_regex || rule.rewrites()), "{rules:?} ask for no regex");
    let mut text = format!("server {{ listen 127.0.0.1:PORT; server_name h{host}.test;\n");
    for (index, rule) in sorted {
        let two = rule.kind == "Prefix" && rule.path != "/" && !rule.use_regex && !rule.rewrites();
        let below = if rule.path.ends_with('/') { rule.path.to_owned() } else { format!("{}/", rule.path) };
        let paths = match two {
            true if exact(rule.path) => vec![below],
            true => vec![below, rule.path.to_owned()],
            false => vec![rule.path.to_owned()],
        };
        for path in paths {
            let path = path.replace('\\', "\\\\").replace('"', "\\\"");
            let rewrite = match rule.target {
                Some(target) if rule.rewrites() => format!("rewrite \"(?i){path}\" {target} break;"),
                _ => String::new(),
            };
            let address = backends[index].address();
            writeln!(text, "location ~* \"^{path}\" {{ {rewrite} proxy_pass http://{address}; }}").expect("a String");
        }
    }
    text + "}\n"
}

/// What is the same in both: all of these, on one host each.
#[test]
fn rules_and_rewrites_are_nginxs() {
    let hosts: Vec<(Vec<Rule>, &[&str])> = vec![
        (
            vec![rewrite("/shop(/|$)(.*)", "/$2"), rule("Prefix", "/")],
            &["/shop", "/shop/", "/shop/a/b?x=1", "/SHOP/a", "/shopping", "/", "/a/shop"],
        ),
        // One Ingress makes all paths of the host regular expressions, also Exact ones.
        (
            vec![regex("/a/[a-z]+"), rule("Exact", "/foo"), rule("Prefix", "/b.c"), rule("Prefix", "/d/")],
            &["/foo", "/FOO", "/foobar", "/foo/x", "/bxc", "/b.cd", "/d", "/d/", "/d/x", "/a/1", "/a/x", "/A/X", "/"],
        ),
        // The longest first, whatever it is, then the one that is later in the alphabet.
        (
            vec![regex("/foo/.*"), rule("Prefix", "/foo/bar"), regex("/foo/[a-c]ar"), regex("/foo/[a-b]ar")],
            &["/foo/bar", "/foo/bar/x", "/foo/bars", "/foo/car", "/foo/x", "/foo/aar", "/foo"],
        ),
        // `^` is the first alternative's alone.
        (vec![regex("/a|/b"), rule("Prefix", "/")], &["/a", "/b", "/x/b", "/x/a", "/"]),
        (vec![regex("/a$"), regex("/b/?$"), regex("/c+d?")], &["/a", "/a/", "/b", "/b/", "/b/x", "/ccc", "/cd", "/ce"]),
        // Targets: plain, with captures in any order, with more digits, with groups that there are not.
        (
            vec![
                rewrite("/p", "/"),
                rewrite("/q/(a)(b)", "/$2/$1"),
                rewrite("/r/(.*)", "/x/$10"),
                rewrite("/s/(.*)", "/$1$3"),
                rewrite("/t/(x)?", "/t$1"),
            ],
            &["/p", "/p/x?y", "/P", "/q/AB/x", "/q/b", "/r/1", "/s/a/b?c=d&e", "/t/", "/t/x"],
        ),
        // A target that is the path itself.
        (vec![Rule { target: Some("/same"), ..regex("/same") }], &["/same", "/same/x"]),
        (
            vec![rewrite(r"/v\d+/(.*\.(html|js))$", "/static/$1"), rewrite("/{0,1}(x.*)", "/$1")],
            &["/v1/a.html", "/v12/a/b.js", "/v/a.js", "/v1/a.css", "/xyz", "/v1/a%20b.html", "/v1/%C3%A9.js"],
        ),
    ];
    let both = Both::new(&hosts.iter().map(|(rules, _)| rules.clone()).collect::<Vec<_>>());
    for (host, (rules, requests)) in hosts.iter().enumerate() {
        for request in *requests {
            let (portunus, nginx) = both.ask(host, request);
            assert_eq!(portunus, nginx, "{rules:?} {request}: portunus, nginx");
        }
    }
}

/// Why, the rules, a target, and what we and nginx make of it.
type Difference<'a> = (&'a str, &'a [Rule], &'a str, (u16, &'a str), (u16, &'a str));

/// What is other than in nginx, and is meant to be; docs/routing.md has the same list.
#[test]
fn what_differs_from_nginx_does_for_a_reason() {
    #[rustfmt::skip]
    let rows: &[Difference] = &[
        ("a path that isn't rewritten is sent in its one meaning too",
            &[regex("/a.*")], "/a/%61/./b", (200, "0 /a/a/b"), (200, "0 /a/%61/./b")),
        ("an escaped slash is no slash",
            &[rewrite("/a/(.*)", "/$1")], "/a/x%2Fy", (200, "0 /x%2Fy"), (200, "0 /x/y")),
        ("… and a path that reaches another rule with it is refused",
            &[regex("/a/[^/]*$"), regex("/a/.*")], "/a/x%2Fy", (400, ""), (200, "1 /a/x%2Fy")),
        ("what is escaped stays so, as a server may tell the two apart (RFC 3986, 2.2)",
            &[rewrite("/a/(.*)", "/$1")], "/a/x%40y", (200, "0 /x%40y"), (200, "0 /x@y")),
        ("patterns see escaped paths",
            &[regex("/a.b$")], "/a%20b", (404, ""), (200, "0 /a%20b")),
        ("two slashes at the beginning are a host to some",
            &[rewrite("/a(.*)", "/$1")], "/a/evil.example", (200, "0 /evil.example"), (200, "0 //evil.example")),
        ("a rewrite doesn't climb out of where it leads",
            &[rewrite("/a(.*)", "/files/$1")], "/a../admin", (400, ""), (200, "0 /files/../admin")),
        ("a Prefix has what is below it, also beside an older Exact of the same path",
            &[rule("Exact", "/foo"), rule("Prefix", "/foo"), regex("/x")], "/foo/a", (200, "1 /foo/a"), (200, "0 /foo/a")),
        ("a target that is the path itself asks for nothing; of a Prefix ingress-nginx sends what is below to it too",
            &[Rule { kind: "Prefix", ..rewrite("/same", "/same") }, regex("/x")], "/same/a", (200, "0 /same/a"), (200, "0 /same/a")),
    ];
    let both = Both::new(&rows.iter().map(|(_, rules, ..)| rules.to_vec()).collect::<Vec<_>>());
    for (host, (why, rules, request, expected, expected_of_nginx)) in rows.iter().enumerate() {
        let ((status, text), (nginx_status, nginx_text)) = both.ask(host, request);
        let outcomes = ((status, text.as_str()), (nginx_status, nginx_text.as_str()));
        assert_eq!(outcomes, (*expected, *expected_of_nginx), "{why}: {rules:?} {request}");
    }
}

const GENERATED_HOSTS: usize = 12;
const GENERATED_REQUESTS: usize = 50;

/// Rules and requests by chance, the same in each run.
#[test]
fn hundreds_of_generated_requests_reach_what_nginx_has_them_reach() {
    let plain = ["/", "/foo", "/foo/", "/foo/bar", "/Foo/b", "/foo.bar", "/bar", "/b/a", "/fo", "/f.o/x"];
    let patterns = [
        "/foo(/|$)(.*)",
        "/foo/(.*)",
        "/(foo|bar)/(.*)",
        "/f[o]+",
        "/b.*",
        r"/(.*)\.html$",
        r"/items/(\d+)",
        "/fo+/b?(a.*)",
        "/(.*)",
        "/bar/?$",
        "/f(o)(o)",
        "/[^/]+/b",
    ];
    let targets = ["/$1", "/$2", "/x/$1/y", "/", "/y/$2$1"];
    let pieces = ["/", "/foo", "/FOO", "/bar", "/b", "/a", "o", ".html", "/items", "/7", "x", "/f", "?q=/foo", "-"];
    let mut random = fastrand::Rng::with_seed(11);
    let hosts: Vec<Vec<Rule>> = (0..GENERATED_HOSTS)
        .map(|_| {
            let mut rules: Vec<Rule> = Vec::new();
            while rules.len() < 7 || !rules.iter().any(|rule| rule.use_regex || rule.rewrites()) {
                let kind = random.choice(["Exact", "Prefix", "ImplementationSpecific"]).expect("one");
                let new = match random.u8(..3) {
                    0 => rule(kind, random.choice(plain).expect("one")),
                    1 => Rule { kind, ..regex(random.choice(patterns).expect("one")) },
                    _ => rewrite(random.choice(patterns).expect("one"), random.choice(targets).expect("one")),
                };
                if rules.iter().all(|rule| rule.path != new.path) {
                    rules.push(new);
                }
            }
            rules
        })
        .collect();
    let both = Both::new(&hosts);
    let mut reached = std::collections::BTreeSet::new();
    for (host, rules) in hosts.iter().enumerate() {
        for _ in 0..GENERATED_REQUESTS {
            let request: String = (0..random.usize(1..5)).filter_map(|_| random.choice(pieces)).collect();
            let request = format!("/{}", request.trim_start_matches('/'));
            // Runs of slashes are sent as they come where nothing is rewritten, and otherwise are one.
            if request.contains("//") {
                continue;
            }
            let (portunus, (status, nginx)) = both.ask(host, &request);
            // Two slashes at the beginning, as above.
            let nginx = nginx
                .split_once(' ')
                .map_or(String::new(), |(name, target)| format!("{name} /{}", target.trim_start_matches('/')));
            assert_eq!(portunus, (status, nginx), "{rules:#?} {request}: portunus, nginx");
            reached.insert((host, portunus.1));
        }
    }
    assert!(reached.len() > 100, "only {} different outcomes", reached.len());
}
