//! The tree of verbs and the flags that all of them take. A new verb is one variant here and one arm in [`crate::commands`].

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::{commands, ui::ColourChoice};

/// Trains on rented GPUs: offers, runs, checkpoints and money from one command line
///
/// Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 could not, 2 wrong command line or file, 101 a bug of
/// spotter; `wait`: 10 crashed, 11 timed out, 12 interrupted and not recovered, 13 lost, 14 ended by a contradiction, 15 stopped by a limit; `plan`: 20 cannot be rented as written.
#[derive(Debug, Parser)]
#[command(
    name = "spotter",
    version,
    max_term_width = 100,
    infer_subcommands = false
)]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: GlobalFlags,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that every verb takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Flags of every verb")]
pub struct GlobalFlags {
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Leave out status lines and hints
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show what is done; twice for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Read the API key from this file, rather than from VAST_API_KEY or the official client's files
    #[arg(long, global = true, value_name = "PATH")]
    pub api_key_file: Option<PathBuf>,
    /// Put this agent on boxes, rather than the one that came with spotter
    #[arg(long, global = true, value_name = "PATH")]
    pub agent: Option<PathBuf>,
    /// When to colour: auto, always or never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value_t = ColourChoice::Auto,
        hide_possible_values = true
    )]
    pub color: ColourChoice,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "a verb's help is that of its arguments")]
pub enum Verb {
    Init(commands::init::InitArgs),
    Offers(commands::offers::OffersArgs),
    Volumes(commands::volumes::VolumesArgs),
    Plan(commands::plan::PlanArgs),
    Run(Box<commands::run::RunArgs>),
    Up(commands::up::UpArgs),
    Resume(commands::resume::ResumeArgs),
    Accept(commands::accept::AcceptArgs),
    Cost(commands::cost::CostArgs),
    Bid(commands::bid::BidArgs),
    Prepay(commands::prepay::PrepayArgs),
    History(commands::history::HistoryArgs),
    Ps(commands::ps::PsArgs),
    Status(commands::status::StatusArgs),
    Checklist(commands::checklist::ChecklistArgs),
    Top(commands::top::TopArgs),
    Serve(commands::serve::ServeArgs),
    Logs(commands::logs::LogsArgs),
    Metrics(commands::metrics::MetricsArgs),
    Report(commands::report::ReportArgs),
    Attach(commands::attach::AttachArgs),
    Ssh(commands::ssh::SshArgs),
    Wait(commands::wait::WaitArgs),
    Checkpoints(commands::checkpoints::CheckpointsArgs),
    Fetch(commands::fetch::FetchArgs),
    Events(commands::events::EventsArgs),
    Parse(commands::parse::ParseArgs),
    Stop(commands::stop::StopArgs),
    Destroy(commands::destroy::DestroyArgs),
    Gc(commands::gc::GcArgs),
    Doctor(commands::doctor::DoctorArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_verbs_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
