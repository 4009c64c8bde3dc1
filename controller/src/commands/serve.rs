//! `serve`: one process for other tools: a page, Prometheus and gRPC of all runs. Gathers and answers; what it looks at goes on whatever
//! happens here.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    commands::Deps,
    error::CommandError,
    lookout::{
        facts::HISTORY_S,
        links::{Links, Logs},
        live::Manner,
    },
    serve::{
        Serving,
        guard::{self, Guard},
        hub::Hub,
        otlp::Receiver,
        server,
    },
    ui::Ui,
};

/// Where it listens when nothing is said.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4750);
/// Between two questions how a box is; what it measures comes by itself.
const POLL: Duration = Duration::from_secs(5);
/// Boxes that are looked at at the same time.
const MOST_LINKS: usize = 1_000;
/// How much of what boxes measured before is asked for, seconds, where there are many of them.
const SHORT_HISTORY_S: i64 = 60;
/// And how many are many.
const MANY: usize = 50;

/// Tell other tools of all runs: a web page, Prometheus, gRPC
///
/// Everything on one port: the page at /, Prometheus at /metrics, gRPC (spotter.v1.Runs) with health and reflection. Only reads:
/// nothing that can be asked here starts, ends or pays for anything, and boxes do not take it for somebody who is there. Without a
/// certificate and a token only this machine is answered, whichever user of it asks.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Address and port; port 0: any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = LISTEN)]
    listen: SocketAddr,
    /// Certificate chain for TLS, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// File with the token that whoever asks must show; for this user alone
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Push all runs to this receiver of OpenTelemetry too, OTLP over HTTP; OTEL_EXPORTER_OTLP_HEADERS may hold its key
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
}

/// Where it listens, as JSON.
#[derive(Serialize)]
struct Listening {
    url: String,
    listen: SocketAddr,
    tls: bool,
    token: bool,
    otlp: Option<String>,
}

/// Runs the verb.
pub async fn serve(
    ui: &mut Ui,
    deps: &Deps,
    args: &ServeArgs,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let address = args.listen;
    let is_reachable = !address.ip().is_loopback();
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(server::tls(cert, key)?),
        _ => None,
    };
    if is_reachable && (tls.is_none() || args.token_file.is_none()) {
        return Err(CommandError::usage(format!(
            "{address} can be reached from other machines, and that takes a certificate and a token"
        ))
        .hint("give `--tls-cert FILE --tls-key FILE --token-file FILE`")
        .hint(
            "or stay on this machine, and reach it from others with `ssh -L 4750:127.0.0.1:4750`",
        ));
    }
    let token = args.token_file.as_deref().map(guard::read_token);
    let token = token.transpose()?;
    let guard = Guard::new(token.as_ref().map(|token| token.as_str()));
    drop(token);
    let headers = deps.config.otlp_headers();
    let receiver = args
        .otlp
        .as_deref()
        .map(|endpoint| Receiver::new(endpoint, headers.as_ref().map(|headers| headers.as_str())));
    let receiver = receiver.transpose()?;

    let store = deps.store()?;
    let hub = Arc::new(Hub::open(store, deps.clock.clone())?);
    let listener = server::bind(address).await?;
    let bound = listener
        .local_addr()
        .map_err(|err| CommandError::new("the port that is listened on is unknown").cause(err))?;
    let listening = Listening {
        url: match tls {
            Some(_) => format!("https://{bound}/"),
            None => format!("http://{bound}/"),
        },
        listen: bound,
        tls: tls.is_some(),
        token: guard.has_token(),
        otlp: receiver.as_ref().map(Receiver::shown),
    };
    match ui.is_json() {
        true => ui.json(&listening),
        false => ui.line(format_args!("{}", listening.url)),
    }
    ui.status(format_args!(
        "Serves all runs until Ctrl-C: the page at that address, Prometheus at /metrics, gRPC on the same port."
    ));

    let going = hub.look(|board, _, _| {
        let going = board.runs.iter().filter(|facts| !facts.recorded.is_over);
        going.count()
    });
    let manner = Manner {
        poll: POLL,
        history_s: match going > MANY {
            true => SHORT_HISTORY_S,
            false => HISTORY_S,
        },
        is_program: true,
    };
    let links = Links::new(deps.looking(manner, Logs::Shown, MOST_LINKS));
    let serving = Serving {
        listener,
        tls,
        guard,
        receiver,
    };
    serving
        .run(hub, links, stop)
        .await
        .map_err(|err| CommandError::bug("what answers has ended").cause(err))
}
