//! The admin port: whether the process lives and is ready, what it counts, and what it believes. Listens on
//! loopback unless told otherwise, and shows no secret. It answers too when clients have taken every descriptor: some
//! are kept for it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::drain::{Drain, Phase};
use crate::metrics::{Exposition, Metrics};
use crate::upstream::is_exhausted;

/// Connections to the admin port at once.
const CONNECTIONS_MAX: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Descriptors that are kept for connections, when there are no others.
const SPARES: usize = 4;
/// A worker that has not looked at its clock for so long is not alive.
const STALL_MAX: Duration = Duration::from_secs(10);
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How far the control side is.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    pub generation: u64,
    /// The table was made of the snapshot file, or changes can't be seen now.
    pub stale: bool,
    /// How each watch stands, a line each.
    pub watches: Vec<String>,
}

/// What the admin port shows. The control loop keeps it up to date.
pub struct State {
    pub metrics: Arc<Metrics>,
    pub drain: Arc<Drain>,
    /// The first table is in, and the workers run.
    pub ready: bool,
    pub standing: Rc<RefCell<Standing>>,
    /// How many endpoints begin slowly now: their time ends by itself, so that they are counted when somebody asks.
    pub warming: Rc<dyn Fn() -> u64>,
    pub problems: Rc<dyn Fn() -> Value>,
    pub table: Rc<dyn Fn() -> Value>,
}

pub type Shared = Rc<RefCell<State>>;

/// Serves one socket until the process ends.
pub async fn serve(listener: StdListener, state: Shared) {
    let listener = TcpListener::from_std(listener).expect("the socket is non-blocking and the runtime runs");
    let (open, spares) = (Rc::new(()), Rc::new(Spares::default()));
    loop {
        spares.fill();
        let Ok(stream) = accept(&listener, &spares).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if Rc::strong_count(&open) > CONNECTIONS_MAX {
            continue;
        }
        let (state, open, spares) = (state.clone(), open.clone(), spares.clone());
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &state.borrow());
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that leaves in the middle is of no interest.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(open);
            // The worker that waits for a descriptor looks every 50 ms.
            spares.fill();
        });
    }
}

/// Descriptors that mean nothing, and are let go when one is needed.
#[derive(Default)]
struct Spares(RefCell<Vec<File>>);

impl Spares {
    fn fill(&self) {
        let mut spares = self.0.borrow_mut();
        while spares.len() < SPARES {
            let Ok(spare) = File::open("/dev/null") else { return };
            spares.push(spare);
        }
    }
}

async fn accept(listener: &TcpListener, spares: &Spares) -> io::Result<TcpStream> {
    let accepted = match listener.accept().await {
        Err(error) if is_exhausted(&error) && spares.0.borrow_mut().pop().is_some() => listener.accept().await,
        accepted => accepted,
    };
    accepted.map(|(stream, _)| stream)
}

fn answer(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered here\n");
    }
    match request.uri().path() {
        // That this is answered shows that the control thread moves.
        "/livez" if state.metrics.stalled(STALL_MAX) => {
            respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "a worker stands still\n")
        }
        "/livez" => respond(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => {
            let (status, sentence) = readiness(state);
            let verbose = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "verbose"));
            let details = if verbose { details(&state.standing.borrow()) } else { String::new() };
            respond(status, TEXT, format!("{sentence}\n{details}"))
        }
        "/metrics" => {
            state.metrics.endpoints_warming.store((state.warming)(), Ordering::Relaxed);
            match Exposition::text(&state.metrics) {
                Ok(text) => respond(StatusCode::OK, OPEN_METRICS, text),
                Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "metrics could not be written\n"),
            }
        }
        "/debug/problems" => respond(StatusCode::OK, JSON, format!("{:#}\n", (state.problems)())),
        "/debug/table" => respond(StatusCode::OK, JSON, format!("{:#}\n", (state.table)())),
        "/" => respond(StatusCode::OK, TEXT, "/livez\n/readyz\n/metrics\n/debug/problems\n/debug/table\n"),
        _ => respond(StatusCode::NOT_FOUND, TEXT, "see / for what is here\n"),
    }
}

fn readiness(state: &State) -> (StatusCode, &'static str) {
    match state.drain.phase() {
        Phase::Serving if state.ready => (StatusCode::OK, "ok"),
        Phase::Serving => (StatusCode::SERVICE_UNAVAILABLE, "no table yet"),
        Phase::Leaving | Phase::Draining | Phase::Closing | Phase::Stopping => {
            (StatusCode::SERVICE_UNAVAILABLE, "going away")
        }
    }
}

/// What `/readyz?verbose` adds.
fn details(standing: &Standing) -> String {
    let Standing { generation, stale, watches } = standing;
    let mut text = format!("table generation: {generation}\nstale: {stale}\n");
    for watch in watches {
        text.push_str(watch);
        text.push('\n');
    }
    text
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
