//! Parses, builds the real parts, runs one verb, prints its error, exits.

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use clap::Parser;
use spotter::{
    cli::Cli,
    clock::Clock,
    commands::{self, Deps},
    config::{Config, Environment},
    error::CommandError,
    machine::Machines,
    provider::{Provider, vast::Vast},
    run::site::Sites,
    tunnel::SshHome,
    ui::{self, Ui},
};

fn main() -> ExitCode {
    ui::report_panics();
    // The one place that chooses who encrypts. Fails only when somebody chose before, which nobody did.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let config = match Config::new(cli.global, Environment::of_process()) {
        Ok(config) => config,
        Err(err) => {
            Ui::new(ui::UiOptions::default()).error(&err, &[]);
            return err.exit_code().into();
        }
    };
    ui::show_log(config.verbosity());
    let mut ui = Ui::new(config.ui_options());
    let deps = Deps::new(config, Clock::system(), Box::new(vast), Box::new(machines));
    commands::execute(&cli.verb, &mut ui, &deps).into()
}

fn vast(config: &Config) -> Result<Arc<dyn Provider>, CommandError> {
    Ok(Arc::new(Vast::new(config.vast_url()?, config.api_key()?)))
}

fn machines(config: &Config) -> Result<Arc<dyn Sites>, CommandError> {
    let user_config = config.user_home().unwrap_or_default().join(".ssh/config");
    let ssh = SshHome::open(
        config.home(),
        config.runtime_dir().as_deref(),
        config.ssh_key()?,
        user_config,
    )
    .map_err(|err| CommandError::from_error(&err))?;
    let executable = std::env::current_exe()
        .map_err(|err| CommandError::new("spotter cannot find its own file").cause(err))?;
    let agent_path = config.agent_path();
    Ok(Arc::new(Machines {
        ssh,
        agent_path,
        executable,
        agent: OnceLock::new(),
        keys: Arc::default(),
    }))
}
