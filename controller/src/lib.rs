//! The half of spotter on the user's laptop: library behind a thin binary.
//!
//! Reading order: [`cli`] is the tree of verbs, [`commands`] one file per verb, [`ui`] every line the user sees and
//! [`error`] what a failure says. [`spec`] is the run file, [`estimate`] what it will take, [`run`] the states of a run, [`store`]
//! what is remembered.
//! [`checkpoints`] works on a run's bucket, box or no box. [`provider`] rents, [`tunnel`] connects, [`bootstrap`] puts the agent on a box, [`agent_client`] talks to it.
//! [`lookout`] looks at runs and touches none, [`top`] is what a screen shows of that, [`serve`] what other tools are told.

pub mod agent_client;
pub mod authorities;
pub mod bootstrap;
pub mod checkpoints;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod credentials;
pub mod doctor;
pub mod door;
pub mod error;
pub mod estimate;
pub mod fault;
pub mod granting;
pub mod ledger;
pub mod logbook;
pub mod lookout;
pub mod machine;
pub mod notify;
pub mod provider;
pub mod run;
pub mod serve;
pub mod spec;
pub mod store;
pub mod sync;
pub mod top;
pub mod tunnel;
pub mod ui;
pub mod watcher;
