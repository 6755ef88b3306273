//! Sessions by a cookie, through the deployed instance: over a Deployment that grows and shrinks, over the replicas
//! of Portunus, and over a restart of them all.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::h1::{Connection, Response};
use crate::harness::manifests::{self, ingress};
use crate::harness::{Cluster, Echo, cluster, eventually, scale};

const HOST: &str = "affinity.test";

/// A client with its cookie, and the Pod that has its session.
struct Session {
    cookie: String,
    pod: String,
}

/// One GET on a connection of its own; no answer, or another than 200, is an error.
fn get(address: SocketAddr, cookie: &str) -> Result<Response, String> {
    let stream = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5));
    let stream = stream.map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).map_err(|error| error.to_string())?;
    let mut connection = Connection::over(stream);
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{cookie}\r\n");
    connection.wire.write(request.as_bytes()).map_err(|error| format!("write: {error}"))?;
    let response = connection.try_response(false).map_err(|error| format!("read: {error}"))?;
    if response.status == 200 { Ok(response) } else { Err(format!("{}: {}", response.status, response.text())) }
}

fn pod(response: &Response) -> String {
    Echo(response.json()).text("pod").to_owned()
}

/// A new session, once there is one to have.
fn begin(address: SocketAddr) -> Session {
    let response = eventually("an answer", || get(address, "").ok());
    let set = response.header("set-cookie").expect("a cookie");
    Session { cookie: set.split(';').next().expect("a pair").to_owned(), pod: pod(&response) }
}

/// Where the session is now; the Pod alone if it stays, else with the new cookie.
fn ask(address: SocketAddr, session: &Session) -> Result<(String, bool), String> {
    let response = get(address, &session.cookie)?;
    Ok((pod(&response), response.header("set-cookie").is_some()))
}

#[track_caller]
fn assert_all_stay(address: SocketAddr, sessions: &[Session]) {
    for session in sessions {
        assert_eq!(ask(address, session), Ok((session.pod.clone(), false)), "{address}");
    }
}

/// The Pods of a namespace that live on.
fn living(cluster: &Cluster, namespace: &str) -> Vec<Value> {
    let pods = cluster.list("v1", "Pod", namespace);
    pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
}

#[test]
fn from_1_to_10_to_3_pods_everyone_whose_pod_lives_stays_in_every_replica_and_after_a_restart() {
    let cluster = cluster();
    let portunus = cluster.portunus();
    let namespace = cluster.namespace("affinity");
    let resize = |replicas: usize| {
        cluster.patch("apps/v1", "Deployment", &namespace, "app", &json!({ "spec": { "replicas": replicas } }));
    };
    cluster.apply(manifests::echo(&namespace, "app", 1));
    let mut sticky = ingress(&namespace, "app", "portunus", &[(HOST, &[("Prefix", "/", "app")])]);
    sticky["metadata"]["annotations"] = json!({ "nginx.ingress.kubernetes.io/affinity": "cookie" });
    cluster.put(&sticky);
    let count = scale(20, 200);
    let mut sessions: Vec<Session> = (0..count).map(|_| begin(portunus)).collect();
    // While nine more come, nobody moves.
    resize(10);
    eventually("a session with each of ten Pods", || {
        assert_all_stay(portunus, &sessions);
        sessions.extend((0..count / 2).map(|_| begin(portunus)));
        let pods: BTreeSet<&str> = sessions.iter().map(|session| &*session.pod).collect();
        (pods.len() == 10).then_some(())
    });
    sessions.extend((0..count).map(|_| begin(portunus)));
    assert_all_stay(portunus, &sessions);
    // While seven go, nobody moves but who was with them.
    resize(3);
    let mut moved: Vec<(String, String)> = Vec::new();
    let mut rounds = 0;
    eventually("three Pods", || {
        rounds += 1;
        for session in &sessions {
            // A Pod that goes takes a moment to be gone for all.
            match ask(portunus, session) {
                Ok((pod, _)) if pod == session.pod => {}
                Ok((pod, _)) => moved.push((session.pod.clone(), pod)),
                Err(error) => moved.push((session.pod.clone(), error)),
            }
        }
        (cluster.list("v1", "Pod", &namespace).len() == 3).then_some(())
    });
    let left = living(cluster, &namespace);
    let left: BTreeSet<&str> = left.iter().map(|pod| pod["metadata"]["name"].as_str().expect("a name")).collect();
    let wrongly: Vec<_> = moved.iter().filter(|(home, _)| left.contains(&**home)).collect();
    assert!(wrongly.is_empty(), "moved though their Pod lives: {wrongly:?}");
    let (mut stay, gone): (Vec<_>, Vec<_>) = sessions.into_iter().partition(|session| left.contains(&*session.pod));
    assert!(!stay.is_empty() && !gone.is_empty());
    assert_all_stay(portunus, &stay);
    for session in gone {
        let response = eventually("the Pod to be gone", || get(portunus, &session.cookie).ok());
        let set = response.header("set-cookie").expect("a new cookie").split(';').next().expect("a pair").to_owned();
        stay.push(Session { cookie: set, pod: pod(&response) });
    }
    assert_all_stay(portunus, &stay);
    println!("{} sessions stayed or moved once, over {rounds} rounds of a shrinking Deployment", stay.len());
    // The autoscaler would come to two as well, in its time.
    cluster.patch("apps/v1", "Deployment", "portunus", "portunus", &json!({ "spec": { "replicas": 2 } }));
    let before = every_replica_knows_them(cluster, &stay);
    cluster.kubectl(&["rollout", "restart", "-n", "portunus", "deployment/portunus"]);
    eventually("other replicas than before", || {
        assert_all_stay(portunus, &stay);
        let now = living(cluster, "portunus");
        now.iter().all(|replica| !before.contains(&replica["status"]["podIP"])).then_some(())
    });
    every_replica_knows_them(cluster, &stay);
}

/// Asks each Pod of Portunus by itself; returns their addresses.
fn every_replica_knows_them(cluster: &Cluster, sessions: &[Session]) -> Vec<Value> {
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    let replicas = eventually("two replicas", || {
        let replicas = living(cluster, "portunus");
        (replicas.len() >= 2 && replicas.iter().all(is_ready)).then_some(replicas)
    });
    let addresses: Vec<Value> = replicas.iter().map(|replica| replica["status"]["podIP"].clone()).collect();
    for address in &addresses {
        let address = format!("{}:8080", address.as_str().expect("text"));
        assert_all_stay(address.parse().expect("an address"), sessions);
    }
    addresses
}
