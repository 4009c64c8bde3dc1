//! The gRPC contract and nothing else: the code generated from `spotter/v1/agent.proto`, and from `spotter/v1/runs.proto`, by which
//! `spotter serve` tells other tools of all runs.
//!
//! Fields are only ever added and numbers never reused, so that an older agent and a newer controller understand
//! each other. Every field is documented, with its unit, in the `.proto` file.
#![allow(
    missing_docs,
    reason = "generated; the .proto file holds the documentation"
)]
#![allow(clippy::all, reason = "generated")]

/// Messages, client and server of `spotter.v1`.
pub mod v1 {
    tonic::include_proto!("spotter.v1");

    /// Descriptors of the agent's service, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

    /// Descriptors of the service of all runs, for gRPC reflection.
    pub const RUNS_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runs.bin"));
}
