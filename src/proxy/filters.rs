//! A route's filters at work: on the request when it is decided, and on whatever answer it gets in the end. Routes
//! that ask for nothing of it never come here.

use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};

use super::error::Error;
use super::exchange::Exchange;
use super::handle::{Facts, Refusal};
use super::headers::{client_address, is_https};
use crate::balance;
use crate::filter::{Asked, Filter, Login, Request, Verdict};
use crate::model::normalize;
use crate::table::Route;

/// What the answer's filters need, whoever answers.
pub struct Applied {
    filters: Arc<[Filter]>,
    asked: Asked,
}

/// What a route asks for beside the answer's fields.
#[derive(Default)]
pub(super) struct Outcome {
    /// The `Host` that the endpoint gets instead of the client's.
    pub(super) upstream_host: Option<Box<HeaderValue>>,
    /// What balances the request instead of the client's address.
    pub(super) key: Option<u64>,
    /// Who has to be somebody first.
    pub(super) login: Option<Box<Login>>,
}

/// Runs the filters over a request: its host's name, its host as the client wrote it, and its path in normal form if
/// that isn't the target's.
pub(super) fn apply(
    route: &Route,
    facts: &Facts,
    head: &mut Parts,
    (host, authority, path): (&str, &HeaderValue, Option<&str>),
    applied: &mut Option<Box<Applied>>,
    exchange: &mut Exchange,
) -> Result<Outcome, Refusal> {
    // Before anything can end the request: its answer has the route's fields too.
    if let Some(filters) = &route.filters {
        *applied = Some(Box::new(Applied { filters: filters.clone(), asked: Asked::of(facts.secure, &head.headers) }));
    }
    let target = head.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| target.as_ref().map_or("/", |target| target.path()));
    let mut request = Request {
        https: is_https(&head.headers, facts.peer, facts.secure),
        client: client_address(&head.headers, facts.peer, facts.trusted_proxies),
        head,
        host,
        authority,
        path,
        upstream_host: None,
        rewritten: None,
    };
    let mut login = None;
    let key = route.hash_by.as_ref().map(|template| balance::key(&template.fill(&request)));
    for filter in route.filters.iter().flat_map(|filters| filters.iter()) {
        match filter.request(&mut request) {
            Verdict::Pass => {}
            Verdict::Answer(answer) => return Err(Refusal::Answer(answer)),
            Verdict::Count(limits) => {
                let counts = route.counts.as_ref().expect("a route with limits has counts");
                let admitted = counts.admit(limits, request.client);
                exchange.permit = admitted.map_err(|excess| Refusal::Answer(Box::new(limits.answer(excess))))?;
            }
            Verdict::Check(found) => login = Some(found),
        }
    }
    let Request { upstream_host, rewritten, .. } = request;
    if let Some(path) = rewritten {
        replace_path(head, path)?;
    }
    Ok(Outcome { upstream_host: upstream_host.map(Box::new), key, login })
}

/// Puts a path that a filter made into the target. What a pattern found can have another meaning in its new place: a
/// path that isn't in its one meaning any more, as one with dot segments, would reach what no rule meant.
fn replace_path(head: &mut Parts, path: String) -> Result<(), Error> {
    const NO_PATH: Error = Error::Malformed("the path that the rule makes of it is none");
    if normalize(&path).map_err(|_| NO_PATH)?.sent != path {
        return Err(NO_PATH);
    }
    let target = match head.uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    head.uri = Uri::from(target.map_err(|_| NO_PATH)?);
    Ok(())
}

impl Applied {
    pub fn response(&self, headers: &mut HeaderMap) {
        for filter in self.filters.iter() {
            filter.response(&self.asked, headers);
        }
    }
}
