//! Parses, builds the real parts, runs one verb, prints its error, exits.

use std::{
    io::IsTerminal,
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use clap::Parser;
use spotter::{
    cli::{Cli, Verb},
    clock::Clock,
    commands::{self, Deps},
    config::{Config, Environment},
    door::{OpenSsh, SshDoor},
    error::CommandError,
    machine::Machines,
    provider::{Provider, fleet::Fleet, hosts::Hosts, vast::Vast},
    run::site::Sites,
    store::Store,
    tunnel::SshHome,
    ui::{self, Ui},
};

fn main() -> ExitCode {
    ui::report_panics();
    // Account key and bucket keys are in this memory: no core dump may hold them. It fails only for an unknown number.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
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
    // A screen has no room for it.
    if !matches!(cli.verb, Verb::Top(_)) {
        ui::show_log(config.verbosity());
    }
    let mut ui = Ui::new(config.ui_options());
    // `wait` is for those who went away, and nobody sits at a program without a terminal.
    let attended = std::io::stderr().is_terminal() && !matches!(cli.verb, Verb::Wait(_));
    let deps = Deps::new(
        config,
        Clock::system(),
        Box::new(provider),
        Box::new(move |config| machines(config, attended)),
    );
    commands::execute(&cli.verb, &mut ui, &deps).into()
}

fn provider(config: &Config) -> Result<Arc<dyn Provider>, CommandError> {
    let vast = Vast::new(config.vast_url()?, config.api_key()?).sharing(config.home());
    let vast = Arc::new(vast);
    let clock = Clock::system();
    // Hosts of the user's own are known by the store; where there is none, there are no hosts.
    let Some(store) = Store::open_existing(&config.store_path(), clock.clone())? else {
        return Ok(vast);
    };
    let (store, open) = (Arc::new(store), ssh_home(config)?);
    let hosts = Hosts::new(Box::new(SshDoor::new(open)), Arc::clone(&store), clock);
    Ok(Arc::new(Fleet::new(vast, hosts, store)))
}

/// Opens spotter's ssh directory, when that is needed.
fn ssh_home(config: &Config) -> Result<OpenSsh, CommandError> {
    let user_config = config.user_home().unwrap_or_default().join(".ssh/config");
    let (home, runtime) = (config.home().to_owned(), config.runtime_dir());
    let key = config.ssh_key()?;
    Ok(Box::new(move || {
        SshHome::open(&home, runtime.as_deref(), key.clone(), user_config.clone())
    }))
}

fn machines(config: &Config, attended: bool) -> Result<Arc<dyn Sites>, CommandError> {
    let ssh = ssh_home(config)?().map_err(|err| CommandError::from_error(&err))?;
    let executable = std::env::current_exe()
        .map_err(|err| CommandError::new("spotter cannot find its own file").cause(err))?;
    let agent_path = config.agent_path();
    Ok(Arc::new(Machines {
        ssh,
        agent_path,
        executable,
        agent: OnceLock::new(),
        keys: Arc::default(),
        attended,
    }))
}
