//! `spotter-sim`: reads flags, runs the simulator or one control verb, prints JSON.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use spotter_sim::{
    Ready, SimConfig,
    boxes::Tier,
    control::verbs::Verb,
    market::catalogue::{MACHINES, MOST_MACHINES},
    sim::DEFAULT_DEPOSIT_USD,
    world::AccountConfig,
};

/// A Vast.ai market, boxes with a real sshd and a bucket on this machine
#[derive(Debug, Parser)]
#[command(name = "spotter-sim", version)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the simulator; one line of JSON says where it is
    Serve(Serve),
    /// Be a bucket that drops what it gets, for benchmarks; one line of JSON says where
    Sink,
    /// Do something to a running simulator
    Ctl {
        /// The `url` of the ready line
        #[arg(long, env = "SPOTTER_SIM_URL")]
        url: String,
        #[command(subcommand)]
        verb: Verb,
    },
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Where boxes and bucket live; a short path, because sockets lie below it
    #[arg(long)]
    dir: PathBuf,
    /// Kind of boxes: auto (the strongest that works), 1, 1.5 or 2
    #[arg(long, default_value = "auto")]
    tier: String,
    /// A market of RTX 4090s in which prices move, others bid and hosts fail, as this number has it; by default the usual machines, at
    /// prices that stay
    #[arg(long, value_name = "SEED", conflicts_with = "machines")]
    market: Option<u64>,
    /// Divide the provider's delays by this; in a market that moves, an hour of the others' passes this much faster, too
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Machines, prices and generated keys follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Machines of the market, up to 240; the usual ones have some forty offers
    #[arg(long, default_value_t = MACHINES)]
    machines: usize,
    /// Port of API and control interface; 0: any
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// An account by its API keys, separated by commas; may be given more than once
    #[arg(long, value_name = "KEY[,KEY...]")]
    account: Vec<String>,
    /// Dollars that each account starts with
    #[arg(long, default_value_t = DEFAULT_DEPOSIT_USD)]
    credit: f64,
    /// End when standard input closes, so that the simulator does not outlive its parent
    #[arg(long)]
    with_stdin: bool,
}

impl Serve {
    fn decide(self) -> Result<SimConfig, String> {
        let tier = match self.tier.as_str() {
            "auto" => None,
            text => Some(text.parse::<Tier>()?),
        };
        if !(self.time_scale > 0.0 && self.time_scale.is_finite()) {
            return Err(format!(
                "--time-scale has to be above 0, not {}",
                self.time_scale
            ));
        }
        if !(1..=MOST_MACHINES).contains(&self.machines) {
            return Err(format!(
                "--machines is 1 to {MOST_MACHINES}, not {}",
                self.machines
            ));
        }
        let mut keys: Vec<Vec<String>> = self
            .account
            .iter()
            .map(|keys| {
                keys.split(',')
                    .map(str::to_owned)
                    .filter(|key| !key.is_empty())
                    .collect()
            })
            .collect();
        if keys.iter().any(Vec::is_empty) {
            return Err("--account needs at least one key".to_owned());
        }
        if keys.is_empty() {
            keys.push(vec![spotter_sim::market::catalogue::secret(
                self.seed, "api key", 0,
            )]);
        }
        let accounts = keys
            .into_iter()
            .map(|api_keys| AccountConfig {
                api_keys,
                deposit_usd: self.credit,
            })
            .collect();
        Ok(SimConfig {
            dir: self.dir,
            tier,
            time_scale: self.time_scale,
            market: self.market,
            seed: self.seed,
            machines: self.machines,
            port: self.port,
            accounts,
            with_stdin: self.with_stdin,
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let done = match Flags::parse().command {
        Command::Serve(serve) => match serve.decide() {
            Ok(config) => spotter_sim::run(config, |ready: Ready| print(&ready)).await,
            Err(text) => return complain(&text, 2),
        },
        Command::Sink => sink().await,
        Command::Ctl { url, verb } => verb.run(&url).await.map(|answer| print(&answer)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => complain(&format!("{err:#}"), 1),
    }
}

/// Answers until standard input closes.
async fn sink() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    print(&serde_json::json!({ "url": format!("http://{}", listener.local_addr()?) }));
    let (mut stdin, mut rest) = (tokio::io::stdin(), Vec::new());
    let parent_left = tokio::io::AsyncReadExt::read_to_end(&mut stdin, &mut rest);
    tokio::select! {
        () = spotter_sim::sink::serve(listener) => {}
        _ = parent_left => {}
    }
    Ok(())
}

/// Data goes to standard output, one line of JSON; a reader that left is nobody's problem.
fn print(value: &impl serde::Serialize) {
    use std::io::Write as _;
    let text = serde_json::to_string(value).expect("answers are made of strings and numbers");
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[expect(
    clippy::print_stderr,
    reason = "this is the one place of the program that prints errors"
)]
fn complain(text: &str, code: u8) -> ExitCode {
    eprintln!("error: {text}");
    ExitCode::from(code)
}
