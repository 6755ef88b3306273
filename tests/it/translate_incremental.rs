//! Translating step by step gives what translating from nothing gives: for random sequences of objects that
//! come, change and go, few enough that they collide, the snapshot and the problems are the same, and `Changed`
//! names the parts that are different now, all of them and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::Ingress;
use portunus::filter::Filter;
use portunus::model::{Changed, HostPattern, ObjectName, Rule, Snapshot};
use portunus::translate::{Kind, Object, ObjectRef, Problem, Resources, Settings, Translator, review, translate};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::certificates::{Authority, Identity};

/// 2020; the certificates of the tests are valid from 2000 to 2001 or to 2200.
const NOW: i64 = 1_577_836_800;

/// What a provider may see.
#[derive(Clone)]
enum Event {
    Apply(Kind, Value),
    Remove(Kind, &'static str, &'static str),
    Resolve(Vec<u8>),
}

impl Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(kind, object) => write!(f, "apply {kind:?} {object}"),
            Self::Remove(kind, namespace, name) => write!(f, "remove {kind:?} {namespace}/{name}"),
            Self::Resolve(last) => write!(f, "resolve to {last:?}"),
        }
    }
}

/// A rule without what comes to it from others: that its host is served by https, and an alternative.
fn served(rule: &Rule) -> Rule {
    let of_host = |filter: &Filter| matches!(filter, Filter::HttpsRedirect(_) | Filter::Hsts(_));
    let filters = rule.filters.iter().filter(|filter| !of_host(filter)).cloned().collect();
    Rule { filters, canary: None, ..rule.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_as_from_nothing(settings in settings(), steps in vec(vec(event(), 1..4), 1..25)) {
        let mut resources = Resources::default();
        let mut translator = Translator::new(settings.clone());
        let mut history = History::default();
        let mut problems = Vec::new();
        for step in &steps {
            // The events of a step are taken up at once.
            for event in step {
                happen(event, &mut resources);
                history.record(event);
            }
            let before = translator.snapshot().clone();
            let changed = translator.update(&mut resources);
            let after = translator.snapshot();
            names_what_differs(&before, after, &changed)?;
            let mut anew = Translator::new(settings.clone());
            anew.update(&mut history.resources());
            prop_assert_eq!(after, anew.snapshot());
            prop_assert_eq!(translator.problems(), anew.problems());
            prop_assert_eq!(translator.external_names(), anew.external_names());
            prop_assert!(translator.take_problems_changed() || problems == anew.problems(), "{:?}", problems);
            problems = anew.problems();
        }
    }

    /// Marking everything is what a provider does after it lost its connection.
    #[test]
    fn looking_again_at_the_same_objects_changes_nothing(steps in vec(event(), 1..40)) {
        let mut resources = Resources::default();
        let mut translator = Translator::new(Settings::default());
        for event in &steps {
            happen(event, &mut resources);
        }
        translator.update(&mut resources);
        let (before, problems) = (translator.snapshot().clone(), translator.problems());
        resources.mark_all();
        let changed = translator.update(&mut resources);
        prop_assert!(changed.is_empty(), "{:?}", changed);
        prop_assert_eq!(&before, translator.snapshot());
        prop_assert_eq!(problems, translator.problems());
    }

    /// The admission webhook refuses and warns of what the candidate would be told if it were there, as the
    /// youngest of all.
    #[test]
    fn a_review_says_what_translation_would(
        settings in settings(),
        events in vec(event(), 1..30),
        candidate in ingress(json!({ "namespace": "x", "name": "candidate" })),
    ) {
        let (mut resources, mut translator) = (Resources::default(), Translator::new(settings));
        for event in &events {
            happen(event, &mut resources);
        }
        translator.update(&mut resources);
        let looked_for: BTreeSet<String> = translator.references().map(ToString::to_string).collect();
        let review = review(&translator, &resources, read(&candidate));
        let mut told = [review.refused, review.warnings].concat();
        told.sort();
        told.dedup();
        let mut youngest = candidate;
        youngest["metadata"]["creationTimestamp"] = json!("2100-01-01T00:00:00Z");
        let object = reference(Kind::Ingress, &youngest);
        happen(&Event::Apply(Kind::Ingress, youngest), &mut resources);
        translator.update(&mut resources);
        // Of what nobody has named before it isn't known whether it is there.
        let is_known = |problem: &Problem| match problem.what.strip_prefix("there is no ") {
            Some(named) if problem.field.starts_with("metadata.annotations") => looked_for.contains(named),
            Some(_) | None => true,
        };
        let problems = translator.problems().into_iter();
        let problems = problems.filter(|problem| problem.object == object && is_known(problem));
        prop_assert_eq!(told, problems.collect::<Vec<_>>());
    }

    /// No version of an Ingress that was not refused takes a rule out of service of another Ingress, however old it
    /// is (that it brings TLS to their host counts as service); and the version that is there already is never refused.
    #[test]
    fn an_update_that_is_not_refused_takes_nothing_from_others(
        settings in settings(),
        events in vec(event(), 1..30),
        candidate in name(&["i1", "i2", "i3"])
            .prop_flat_map(|(namespace, name)| ingress(json!({ "namespace": namespace, "name": name }))),
    ) {
        let strict = settings.strict_host_ownership;
        let (mut resources, mut translator) = (Resources::default(), Translator::new(settings));
        let mut history = History::default();
        for event in &events {
            happen(event, &mut resources);
            history.record(event);
        }
        translator.update(&mut resources);
        let object = reference(Kind::Ingress, &candidate);
        let stored = history.objects.get(&object).and_then(|versions| versions.last());
        let Some(Event::Apply(_, stored)) = stored else { return Ok(()) };
        let again = review(&translator, &resources, read(stored));
        prop_assert_eq!(again.refused, vec![]);
        if !review(&translator, &resources, read(&candidate)).refused.is_empty() {
            return Ok(());
        }
        let before = translator.snapshot().clone();
        let mut next = candidate.clone();
        next["metadata"]["creationTimestamp"] = stored["metadata"]["creationTimestamp"].clone();
        happen(&Event::Apply(Kind::Ingress, next), &mut resources);
        translator.update(&mut resources);
        for (pattern, host) in &before.hosts {
            // What only holds a host gives way; and with a host that the candidate lets go, its namespace may lose
            // that host.
            let working = host.rules.iter().filter(|rule| rule.path.is_some() || !rule.backends.is_empty());
            let same = |rule: &Rule| strict && rule.source.namespace == object.name.namespace;
            // What paths mean where they are regular expressions, and whether clients need certificates, is for the
            // host's first namespace to say, and for no other; and an alias gives way.
            let after = translator.snapshot().hosts.get(pattern).map_or(&[][..], |host| &host.rules[..]);
            let decides = host.rules.first().is_some_and(|rule| rule.source.namespace == object.name.namespace);
            let closed = after.iter().all(|rule| rule.backends.is_empty());
            if decides && (has_regexes(after) || has_regexes(&host.rules) || closed) {
                continue;
            }
            let named = |rule: &Rule| history.names(&rule.source, pattern);
            for rule in working.filter(|rule| rule.source != object.name && !same(rule) && named(rule)) {
                let opened = |other: &Rule| {
                    rule.backends.is_empty() && (&other.source, &other.path) == (&rule.source, &rule.path)
                };
                let stays = after.iter().any(|other| served(other) == served(rule) || opened(other));
                prop_assert!(stays, "{} {:?}", pattern, rule);
            }
        }
    }

    /// Objects may come in any order, as watches deliver them.
    #[test]
    fn the_order_of_objects_does_not_matter(objects in vec(object(), 1..20), seed in any::<u64>()) {
        let named: BTreeMap<ObjectRef, Object> = objects
            .iter()
            .map(|(kind, value)| parse(*kind, value))
            .map(|object| (object.reference(), object))
            .collect();
        let mut shuffled: Vec<&Object> = named.values().collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let (mut one, mut other) = (Resources::default(), Resources::default());
        for (object, another) in named.values().zip(shuffled) {
            one.apply(object.clone());
            other.apply(another.clone());
        }
        let settings = Settings::default();
        prop_assert_eq!(translate(&mut one, &settings), translate(&mut other, &settings));
    }
}

#[test]
fn the_last_good_certificate_stays_until_a_better_one_comes() {
    let mut resources = Resources::default();
    let settings = Settings { default_certificate: Some(ObjectName::new("x", "t")), ..Settings::default() };
    let mut translator = Translator::new(settings);
    let metadata = json!({ "namespace": "x", "name": "t" });
    let mut apply = |pair: &str| {
        let secret = json!({ "metadata": metadata, "type": "kubernetes.io/tls", "pair": pair });
        happen(&Event::Apply(Kind::Secret, secret), &mut resources);
        let changed = translator.update(&mut resources).certificates.len();
        let served = translator.snapshot().certificates.values().map(|served| served.names[0].to_string()).collect();
        (served, changed, translator.problems().len())
    };
    let served = |name: &str, changed, problems| (vec![name.to_owned()], changed, problems);
    assert_eq!(apply("no PEM"), (vec![], 0, 2), "the Secret's problem and the missing default");
    assert_eq!(apply("expired"), served("x.test", 1, 1), "better than none");
    assert_eq!(apply("good"), served("a.test", 1, 0));
    for broken in ["mismatched", "no PEM", "empty", "expired"] {
        assert_eq!(apply(broken), served("a.test", 0, 1), "{broken}");
    }
    assert_eq!(apply("other"), served("*.b.test", 1, 0));
    assert_eq!(apply("empty"), served("*.b.test", 0, 1));
}

fn happen(event: &Event, resources: &mut Resources) {
    match event {
        Event::Apply(kind, value) => resources.apply(parse(*kind, value)),
        Event::Remove(kind, namespace, name) => {
            resources.remove(&ObjectRef::new(*kind, &ObjectName::new(namespace, name)));
        }
        Event::Resolve(last) => {
            let address = |last: &u8| if *last == 0 { [127, 0, 0, 1] } else { [192, 0, 2, *last] };
            resources.resolve("shop.test", last.iter().map(|last| address(last).into()).collect());
        }
    }
}

/// What it takes to come to the same objects from nothing: the last version of each, and all versions of a
/// Secret, whose last good one counts.
#[derive(Default)]
struct History {
    objects: BTreeMap<ObjectRef, Vec<Event>>,
    resolved: Option<Event>,
}

impl History {
    fn record(&mut self, event: &Event) {
        match event {
            Event::Apply(kind, value) => {
                let versions = self.objects.entry(reference(*kind, value)).or_default();
                if *kind != Kind::Secret {
                    versions.clear();
                }
                versions.push(event.clone());
            }
            Event::Remove(kind, namespace, name) => {
                self.objects.remove(&ObjectRef::new(*kind, &ObjectName::new(namespace, name)));
            }
            Event::Resolve(_) => self.resolved = Some(event.clone()),
        }
    }

    /// Whether the Ingress names the host, itself.
    fn names(&self, ingress: &ObjectName, host: &HostPattern) -> bool {
        let versions = self.objects.get(&ObjectRef::new(Kind::Ingress, ingress)).into_iter().flatten();
        let rules = versions.filter_map(|event| match event {
            Event::Apply(_, value) => value["spec"]["rules"].as_array(),
            Event::Remove(..) | Event::Resolve(_) => None,
        });
        let mut hosts = rules.flatten().filter_map(|rule| HostPattern::parse(rule["host"].as_str()?).ok());
        *host == HostPattern::Any || hosts.any(|named| named == *host)
    }

    fn resources(&self) -> Resources {
        let mut resources = Resources::default();
        let events = self.objects.values().flatten().chain(&self.resolved);
        events.for_each(|event| happen(event, &mut resources));
        resources
    }
}

fn has_regexes(rules: &[Arc<Rule>]) -> bool {
    rules.iter().any(|rule| rule.pattern.is_some())
}

/// An object as a provider reads it.
fn parse(kind: Kind, value: &Value) -> Object {
    fn typed<T: DeserializeOwned>(value: &Value) -> T {
        serde_json::from_value(value.clone()).expect("an object of its kind")
    }
    match kind {
        Kind::Ingress => typed::<Ingress>(value).into(),
        Kind::IngressClass => typed::<k8s_openapi::api::networking::v1::IngressClass>(value).into(),
        Kind::Service => typed::<k8s_openapi::api::core::v1::Service>(value).into(),
        Kind::EndpointSlice => typed::<k8s_openapi::api::discovery::v1::EndpointSlice>(value).into(),
        Kind::Secret => {
            let mut value = value.clone();
            value["stringData"] = pair(value["pair"].as_str().unwrap_or_default());
            Object::from_secret(typed::<Secret>(&value), NOW)
        }
        Kind::ConfigMap => typed::<k8s_openapi::api::core::v1::ConfigMap>(value).into(),
        Kind::Namespace => typed::<k8s_openapi::api::core::v1::Namespace>(value).into(),
    }
}

fn read(ingress: &Value) -> Ingress {
    serde_json::from_value(ingress.clone()).expect("an Ingress")
}

fn reference(kind: Kind, value: &Value) -> ObjectRef {
    let field = |name: &str| value["metadata"][name].as_str().unwrap_or_default();
    ObjectRef::new(kind, &ObjectName::new(field("namespace"), field("name")))
}

fn names_what_differs(before: &Snapshot, after: &Snapshot, changed: &Changed) -> Result<(), TestCaseError> {
    differ(&before.hosts, &after.hosts, &changed.hosts)?;
    differ(&before.backends, &after.backends, &changed.backends)?;
    differ(&before.certificates, &after.certificates, &changed.certificates)?;
    prop_assert_eq!(before.default_certificate != after.default_certificate, changed.default_certificate);
    Ok(())
}

/// `named` are the keys whose parts differ, each once; all other parts are still the same allocation.
fn differ<K: Ord + Debug, V: PartialEq>(
    before: &BTreeMap<K, Arc<V>>,
    after: &BTreeMap<K, Arc<V>>,
    named: &[K],
) -> Result<(), TestCaseError> {
    let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let different: Vec<&K> = keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).collect();
    let mut named: Vec<&K> = named.iter().collect();
    named.sort();
    prop_assert_eq!(&different, &named);
    for (key, part) in after.iter().filter(|(key, _)| !different.contains(key)) {
        prop_assert!(Arc::ptr_eq(part, &before[key]), "{:?} was made again", key);
    }
    Ok(())
}

fn settings() -> impl Strategy<Value = Settings> {
    let default = option::of(secret_name().prop_map(|(namespace, name)| ObjectName::new(namespace, name)));
    (default, any::<[bool; 7]>()).prop_map(
        |(default_certificate, [external, cluster, strict, ignore, config_map, select, deny])| Settings {
            default_certificate,
            allow_external_names: external,
            without_any_class: !cluster,
            config_map: config_map.then(|| ObjectName::new("x", "settings")),
            select_namespaces: select,
            strict_host_ownership: strict,
            ignore_unsupported_annotations: ignore,
            deny_local_endpoints: deny,
            api_server: "10.0.0.2:9090".parse().ok(),
            allowed_response_headers: vec!["x-b".parse().expect("a name")],
            ..Settings::default()
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let apply = object().prop_map(|(kind, value)| Event::Apply(kind, value));
    let remove = named().prop_map(|(kind, (namespace, name))| Event::Remove(kind, namespace, name));
    let resolve = vec(0..4u8, 0..3).prop_map(Event::Resolve);
    prop_oneof![12 => apply, 5 => remove, 1 => resolve]
}

type Name = (&'static str, &'static str);

/// Its Service and its slice: what they say is denied to others.
const API_SERVER: Name = ("default", "kubernetes");

fn name(names: &'static [&'static str]) -> impl Strategy<Value = Name> + Clone {
    (select(&["x", "y"][..]), select(names))
}

fn secret_name() -> impl Strategy<Value = Name> + Clone {
    name(&["t1", "t2", "t3"])
}

/// Something that may be there to be removed.
fn named() -> impl Strategy<Value = (Kind, Name)> {
    Union::new([
        (Just(Kind::Ingress), name(&["i1", "i2", "i3"]).boxed()),
        (Just(Kind::IngressClass), select(&["c1", "c2"][..]).prop_map(|name| ("", name)).boxed()),
        (Just(Kind::Service), prop_oneof![5 => name(&["s1", "s2"]), 1 => Just(API_SERVER)].boxed()),
        (Just(Kind::EndpointSlice), prop_oneof![5 => name(&["e1", "e2", "e3"]), 1 => Just(API_SERVER)].boxed()),
        (Just(Kind::Secret), secret_name().boxed()),
        (Just(Kind::ConfigMap), name(&["settings", "fields"]).boxed()),
        (Just(Kind::Namespace), select(&["x", "y"][..]).prop_map(|name| ("", name)).boxed()),
    ])
}

fn object() -> impl Strategy<Value = (Kind, Value)> {
    let metadata = |(kind, (namespace, name))| (Just(kind), Just(json!({ "namespace": namespace, "name": name })));
    named().prop_map(metadata).prop_flat_map(|(kind, metadata)| (kind, metadata)).prop_flat_map(|(kind, metadata)| {
        let object = match kind {
            Kind::Ingress => ingress(metadata).boxed(),
            Kind::IngressClass => class(metadata).boxed(),
            Kind::Service => service(metadata).boxed(),
            Kind::EndpointSlice => slice(metadata).boxed(),
            Kind::Secret => secret(metadata).boxed(),
            Kind::ConfigMap => config_map(metadata).boxed(),
            Kind::Namespace => Just(json!({ "metadata": metadata })).boxed(),
        };
        (Just(kind), object)
    })
}

fn config_map(metadata: Value) -> impl Strategy<Value = Value> {
    let load_balance = option::of(select(&["ewma", "round_robin", "fastest"][..]));
    let default = option::of(select(&["x/t1", "y/t2", "t3"][..]));
    let allowed = option::of(select(&["x-a", "x-a, x-b", "a b"][..]));
    let field = || option::of(select(&["1", "2", "$bad"][..]));
    let ranges = option::weighted(0.3, select(&["10.0.0.0/8", "no range"][..]));
    let all = (load_balance, option::of(any::<bool>()), default, allowed, field(), field(), ranges);
    all.prop_map(move |(load_balance, external, default, allowed, a, b, ranges)| {
        let all = [
            ("global-allowed-response-headers", allowed.map(str::to_owned)),
            ("x-a", a.map(str::to_owned)),
            ("x-b", b.map(str::to_owned)),
            ("load-balance", load_balance.map(str::to_owned)),
            ("whitelist-source-range", ranges.map(str::to_owned)),
            ("allow-external-names", external.map(|external| external.to_string())),
            ("default-ssl-certificate", default.map(str::to_owned)),
        ];
        let data: BTreeMap<_, _> = all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        json!({ "metadata": metadata, "data": data })
    })
}

fn ingress(metadata: Value) -> impl Strategy<Value = Value> {
    let host = || select(&["", "a.test", "A.test.", "b.test", "c.b.test", "*.test", "*.b.test", "no host"][..]);
    let path = (
        option::of(select(&["/", "/p", "/p/", "/p/./q", "/(p)", "no path"][..])),
        select(&["Exact", "Prefix", "ImplementationSpecific", "Other"][..]),
        backend(),
    );
    let path = path.prop_map(|(path, kind, backend)| json!({ "path": path, "pathType": kind, "backend": backend }));
    let rule = (host(), vec(path, 0..3));
    let rule = rule.prop_map(|(host, paths)| json!({ "host": host, "http": { "paths": paths } }));
    let tls = (vec(host(), 0..3), option::of(select(&["t1", "t2", "t3"][..])));
    let tls = tls.prop_map(|(hosts, secret)| json!({ "hosts": hosts, "secretName": secret }));
    let class = || option::weighted(0.3, select(&["portunus", "c1", "c2", "c3"][..]));
    let created = option::of(select(&["2001-01-01T00:00:00Z", "2002-01-01T00:00:00Z"][..]));
    let default = option::weighted(0.3, backend());
    let annotation =
        option::weighted(0.2, select(&["auth-url", "mirror-target", "session-cookie-max-age", "other"][..]));
    // What the rules of others mean and get depends on these.
    let paths = option::weighted(
        0.3,
        select(
            &[
                ("rewrite-target", "/$1"),
                ("rewrite-target", "/p"),
                ("use-regex", "true"),
                ("canary", "true"),
                ("canary", "true"),
                ("server-alias", "a.test, d.test"),
                ("server-alias", "d.test, *.b.test, e.b.test"),
            ][..],
        ),
    );
    let affinity = option::weighted(0.3, select(&["cookie", "no cookie"][..]));
    // What annotations name: in the Ingress's namespace or another's, there or not.
    let fields = option::weighted(0.3, select(&["fields", "x/fields", "y/fields", "settings", "gone"][..]));
    let key = select(&["auth-secret", "auth-tls-secret", "proxy-ssl-secret"][..]);
    let secret = (key, select(&["t1", "x/t2", "y/t1", "gone"][..]));
    let annotation = (annotation, affinity, fields, option::weighted(0.2, secret), paths);
    (vec(rule, 0..3), vec(tls, 0..3), default, class(), class(), annotation, created).prop_map(
        move |(rules, tls, default, class, legacy, (annotation, affinity, fields, secret, paths), created)| {
            let mut metadata = metadata.clone();
            metadata["creationTimestamp"] = json!(created);
            metadata["annotations"] = json!({});
            if let Some(legacy) = legacy {
                metadata["annotations"]["kubernetes.io/ingress.class"] = json!(legacy);
            }
            if let Some(affinity) = affinity {
                metadata["annotations"]["nginx.ingress.kubernetes.io/affinity"] = json!(affinity);
            }
            if let Some(fields) = fields {
                metadata["annotations"]["nginx.ingress.kubernetes.io/custom-headers"] = json!(fields);
            }
            if let Some((name, secret)) = secret {
                metadata["annotations"][format!("nginx.ingress.kubernetes.io/{name}")] = json!(secret);
            }
            if let Some((name, value)) = paths {
                metadata["annotations"][format!("nginx.ingress.kubernetes.io/{name}")] = json!(value);
            }
            if let Some(name) = annotation {
                metadata["annotations"][format!("nginx.ingress.kubernetes.io/{name}")] = json!("any");
            }
            let spec = json!({ "ingressClassName": class, "defaultBackend": default, "rules": rules, "tls": tls });
            json!({ "metadata": metadata, "spec": spec })
        },
    )
}

fn backend() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        4 => select(&[80, 81][..]).prop_map(|port| json!({ "number": port })),
        2 => Just(json!({ "name": "web" })),
        1 => Just(json!({})),
    ];
    let service = (select(&["s1", "s2"][..]), port);
    let service = service.prop_map(|(name, port)| json!({ "service": { "name": name, "port": port } }));
    prop_oneof![9 => service, 1 => Just(json!({ "resource": { "kind": "Bucket", "name": "b" } }))]
}

fn class(metadata: Value) -> impl Strategy<Value = Value> {
    let controller = select(&["portunus.dev/ingress-controller", "k8s.io/ingress-nginx"][..]);
    (controller, any::<bool>()).prop_map(move |(controller, default)| {
        let annotations = json!({ "ingressclass.kubernetes.io/is-default-class": default.to_string() });
        let metadata = json!({ "name": metadata["name"], "annotations": annotations });
        json!({ "metadata": metadata, "spec": { "controller": controller } })
    })
}

fn service(metadata: Value) -> impl Strategy<Value = Value> {
    let protocol = option::of(select(&["https", "grpc", "mysql"][..]));
    let port = (select(&["web", "side"][..]), select(&[80, 81][..]), select(&["TCP", "UDP"][..]), protocol);
    let port = port.prop_map(|(name, port, transport, protocol)| {
        json!({ "name": name, "port": port, "protocol": transport, "targetPort": "any", "appProtocol": protocol })
    });
    let uid = option::of(select(&["one", "two"][..]));
    let own = option::of(select(&["10.0.0.1", "10.0.0.3"][..]).prop_map(|own| [own]));
    (vec(port, 0..3), prop::bool::weighted(0.2), uid, own).prop_map(move |(ports, external, uid, own)| {
        let external = if external { json!("shop.test") } else { Value::Null };
        let kind = if external.is_null() { "ClusterIP" } else { "ExternalName" };
        let mut metadata = metadata.clone();
        metadata["uid"] = json!(uid);
        let spec = json!({ "type": kind, "clusterIPs": own, "externalName": external, "ports": ports });
        json!({ "metadata": metadata, "spec": spec })
    })
}

fn slice(metadata: Value) -> impl Strategy<Value = Value> {
    let condition = || option::of(any::<bool>());
    let address = select(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1", "127.0.0.1", "no address"][..]);
    let endpoint =
        (address, condition(), condition(), condition()).prop_map(|(address, ready, serving, terminating)| {
            let conditions = json!({ "ready": ready, "serving": serving, "terminating": terminating });
            json!({ "addresses": [address], "conditions": conditions })
        });
    let port = (select(&["web", "side", "other"][..]), option::of(select(&[8080, 9090][..])));
    let port = port.prop_map(|(name, port)| json!({ "name": name, "port": port }));
    (select(&["s1", "s2", "s3"][..]), vec(port, 0..3), vec(endpoint, 0..4)).prop_map(
        move |(service, ports, endpoints)| {
            let mut metadata = metadata.clone();
            let service = if metadata["name"] == API_SERVER.1 { API_SERVER.1 } else { service };
            metadata["labels"] = json!({ "kubernetes.io/service-name": service });
            json!({ "metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints })
        },
    )
}

fn secret(metadata: Value) -> impl Strategy<Value = Value> {
    let kind = prop_oneof![9 => Just("kubernetes.io/tls"), 1 => Just("Opaque")];
    let pair = select(&["good", "other", "expired", "mismatched", "no PEM", "empty"][..]);
    (kind, pair).prop_map(move |(kind, pair)| json!({ "metadata": metadata, "type": kind, "pair": pair }))
}

struct Identities {
    good: Identity,
    other: Identity,
    expired: Identity,
}

static IDENTITIES: LazyLock<Identities> = LazyLock::new(|| {
    let authority = Authority::new();
    Identities {
        good: authority.leaf(&["a.test", "*.test"]),
        other: authority.leaf(&["*.b.test", "b.test"]),
        expired: authority.expired_leaf(&["x.test", "a.test", "b.test"]),
    }
});

fn pair(name: &str) -> Value {
    let Identities { good, other, expired } = &*IDENTITIES;
    let pair = |certificate: &str, key: &str| json!({ "tls.crt": certificate, "tls.key": key });
    match name {
        "good" => pair(&good.chain_pem, &good.key_pem),
        "other" => pair(&other.chain_pem, &other.key_pem),
        "expired" => pair(&expired.chain_pem, &expired.key_pem),
        "mismatched" => pair(&good.chain_pem, &other.key_pem),
        "no PEM" => pair("no certificate", &good.key_pem),
        _ => json!({}),
    }
}
