//! The one test binary: the real `portunus` over real sockets. Each module holds one topic; a
//! test's name says what users may rely on. `harness` says how the tests are made; `proof` holds
//! the scenarios that grow with `PORTUNUS_SCALE=full`.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "counts and sizes of tests are small, and metrics are whole numbers"
)]

mod access;
mod access_log;
mod admin;
mod affinity;
mod aliases;
mod annotations;
mod autobahn;
mod backend_tls;
mod backends;
mod bad_arguments;
mod bad_http2;
mod bad_manifests;
mod bad_requests;
mod bad_responses;
mod balance;
mod basic_auth;
mod canary;
mod chaos;
mod classes;
mod client_certificates;
#[cfg(debug_assertions)]
mod clock;
mod corpus;
mod cors;
mod cost;
mod custom_errors;
mod docs;
mod drain;
mod echo;
mod external_names;
mod floods;
mod forwarding;
mod grpc;
mod grpc_interop;
mod h2_to_h1;
mod h2spec;
mod harness;
mod headers;
mod health;
mod hellos;
mod http1;
mod http2;
mod idle;
mod layers;
mod limits;
mod overload;
#[cfg(debug_assertions)]
mod panics;
mod paths;
mod proof;
mod proxy_protocol;
mod rate_limits;
mod redirects;
mod regex;
mod resources;
mod retry;
mod rewrite;
mod routing;
mod services;
mod slow;
mod spellings;
mod sslyze;
mod streaming;
mod takeover;
mod tls;
mod translate;
mod translate_incremental;
mod trust;
mod upstream;
mod webhook;
mod websocket;
