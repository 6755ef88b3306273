//! Scenarios against a real control plane, with Portunus in it as Pods from `deploy/` or as a process with flags
//! of its own. `make cluster-test` runs them in a cluster of their own (tests/cluster/README.md), one after the
//! other: some take the API server away.

#![allow(dead_code, unused_imports, reason = "until the scenarios use all of it")]

mod affinity;
mod harness;
mod ways;
