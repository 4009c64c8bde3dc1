//! Stories under one paused clock, without processes (and without sockets but for those of `faults`), and the invariants of the source tree.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod again;
mod bring_up;
mod by_price;
mod cadence;
mod contract;
mod diagnosis;
mod endings;
mod faults;
mod hosts;
mod judge;
mod keys;
mod lines;
mod links;
mod looks;
mod market;
mod marks;
mod money;
mod own_end;
mod prepay;
mod recovery;
mod remedies;
mod siblings;
mod silence;
mod tidy;
mod unwatched;
mod waiting;
mod waits;
mod weeks;
mod windows;
mod wiping;
mod world;
