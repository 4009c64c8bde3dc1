//! A Vast.ai market, boxes with a real sshd and an S3 server on this machine.
//!
//! [`market`] is the state machine, prices and bills (pure, by a clock that is an argument); [`vast`] speaks its HTTP API as the
//! official client knows it; [`boxes`] makes the machines; [`s3`] is the bucket; [`control`] turns the fault switches.

pub mod boxes;
pub mod control;
pub mod market;
pub mod s3;
pub mod vast;
