//! Scenarios against a real control plane, with Portunus in it as Pods from `deploy/` or as a process with flags
//! of its own. `make scenarios` runs them in a cluster of their own (tests/cluster/README.md), one after the
//! other: some take the API server away.

#![allow(clippy::float_cmp, reason = "metrics are whole numbers, written as floats")]

mod affinity;
mod bad_objects;
mod certificates;
mod conditions;
mod conformance;
mod deploy;
mod events;
mod harness;
mod helm;
mod image;
mod local;
mod named;
mod outage;
mod ownership;
mod rolling;
mod romeo;
mod scale;
mod scope;
mod status;
mod ways;
