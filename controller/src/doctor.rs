//! What `spotter doctor` looks at: is what a run depends on as it should be, and if not, what would mend it.
//!
//! [`probe`] tries a bucket call by call, [`diagnosis`] says what the answers mean (pure), [`policy`] writes what has to be
//! granted in the words of whoever grants it (pure).

pub mod diagnosis;
pub mod policy;
pub mod probe;
