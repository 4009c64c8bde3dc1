//! The stories on real sshd, tmux, rsync and S3, driven by the programs a user has: tier 1 as an ordinary user, tier 2 as root.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

#[path = "../../others.rs"]
mod others;
mod world;

mod alone;
mod checkpoints;
mod crash_points;
mod disk;
mod doctor;
mod endings;
mod happy;
mod hosts;
mod interruption;
mod interruptions;
mod json;
mod keys;
mod limits;
mod lines;
mod links;
mod money;
mod notify;
mod other_tools;
mod presigned;
mod refusals;
mod report;
mod results;
mod screen;
mod serve;
mod servers;
mod top;
