//! What one `spotter serve` takes with many boxes: a thousand agents that are made up, each with eight GPUs once a second, in another
//! process; a tool that listens to all of them, and one that reads `/metrics`, as they do in earnest.
//!
//! ```sh
//! cargo run --release -p spotter --example fan-in -- [AGENTS [SECONDS]]
//! ```
//!
//! Prints CPU, memory and the worst delay from a reading to the tool that listens, each beside its limit; ends with 1 when one is passed.
//! The agents' links are Unix sockets: ssh has processes of its own, which are not measured.
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Stdio},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::{FutureExt, Stream, StreamExt, stream};
use spotter::{
    agent_client::{AgentClient, Dial, DialError, Io},
    clock::Clock,
    error::CommandError,
    lookout::{
        links::{Links, Logs, Looking},
        live::{Manner, Way},
    },
    provider::{Rental, SshAddress},
    run::State,
    serve::{Serving, guard::Guard, hub::Hub, server},
    spec::RunSpec,
    store::{AttemptRecord, RunRecord, Store},
};
use spotter_proto::v1::{self, agent_server, runs_client::RunsClient};
use tokio::{
    net::{UnixListener, UnixStream},
    time,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Endpoint};

const GPUS: u32 = 8;
/// Limits of a controller with 1,000 agents: share of a core, memory.
const MOST_CORES: f64 = 1.0;
const MOST_MIB: f64 = 300.0;
/// A figure that is older than this when it is shown is not of now.
const MOST_DELAY_S: f64 = 1.0;
/// Until every agent is linked and the first burst is over.
const WARM_UP: Duration = Duration::from_secs(20);
/// As Prometheus does.
const SCRAPE: Duration = Duration::from_secs(15);

fn main() -> anyhow::Result<()> {
    // As the program itself does; fails only when somebody chose before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual: u64| args.get(at).map_or(Ok(usual), |text| text.parse());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match args.first().map(String::as_str) {
        Some("--serve") => runtime.block_on(serve(Path::new(&args[1]))),
        _ => runtime.block_on(drive(number(0, 1000)?, number(1, 60)?)),
    }
}

/// The process that is measured: what the verb `serve` is, with sockets where it has ssh.
async fn serve(dir: &Path) -> anyhow::Result<()> {
    let (dir, clock) = (dir.to_owned(), Clock::system());
    let store = Arc::new(Store::open(&dir.join("spotter.db"), clock.clone())?);
    let hub = Arc::new(Hub::open(store, clock.clone()).map_err(said)?);
    let listener = server::bind(([127, 0, 0, 1], 0).into())
        .await
        .map_err(said)?;
    println!("{}", listener.local_addr()?);
    let sockets = dir.clone();
    let dial = move |run: String| {
        let socket = Socket(sockets.join(run));
        let client = AgentClient::new(Arc::new(socket));
        let tunnel = None;
        async move { Ok::<_, CommandError>(Way { client, tunnel }) }.boxed_local()
    };
    let links = Links::new(Looking {
        home: dir,
        clock,
        dial: Rc::new(dial),
        manner: Manner {
            poll: Duration::from_secs(5),
            history_s: 60,
            is_program: true,
        },
        logs: Logs::Shown,
        most: usize::MAX,
    });
    let serving = Serving {
        listener,
        tls: None,
        guard: Guard::new(None),
        receiver: None,
    };
    Ok(serving.run(hub, links, CancellationToken::new()).await?)
}

fn said(err: CommandError) -> anyhow::Error {
    anyhow::anyhow!("{}: {}", err.message(), err.causes().join(": "))
}

struct Socket(PathBuf);

#[async_trait]
impl Dial for Socket {
    async fn dial(&self) -> Result<Box<dyn Io>, DialError> {
        let stream = UnixStream::connect(&self.0).await;
        let stream = stream.map_err(|err| DialError {
            why: err.to_string(),
            permanent: false,
        })?;
        Ok(Box::new(stream))
    }
}

/// The agents, the tools, and the look at the process that is measured.
async fn drive(agents: u64, seconds: u64) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    record(dir.path(), agents)?;
    for number in 0..agents {
        let listener = UnixListener::bind(dir.path().join(name(number)))?;
        let offset = Duration::from_micros(1_000_000 * number / agents);
        let service = agent_server::AgentServer::new(Agent { offset });
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    }
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--serve")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut address = String::new();
    BufReader::new(child.stdout.take().expect("it was piped")).read_line(&mut address)?;
    let measured = measure(address.trim(), child.id(), agents, seconds).await;
    child.kill()?;
    child.wait()?;
    let figures = measured?;
    println!("figure\tfound\tlimit\tverdict");
    let mut passed = true;
    for (what, found, limit) in [
        ("cpu_cores", figures.cores, MOST_CORES),
        ("rss_mib_peak", figures.mib, MOST_MIB),
        ("worst_delay_s", figures.worst_s, MOST_DELAY_S),
    ] {
        let fits = found < limit;
        passed &= fits;
        let verdict = if fits { "within" } else { "TOO MUCH" };
        println!("{what}\t{found:.3}\t{limit}\t{verdict}");
    }
    let wanted = agents * seconds;
    println!(
        "{} of {wanted} readings came, p50 {:.3} s, p99 {:.3} s; /metrics took {:.3} s at most, {:.1} MB",
        figures.readings, figures.p50_s, figures.p99_s, figures.scrape_s, figures.scrape_mb
    );
    // Some are under way at either end.
    let came = figures.readings as f64 >= wanted as f64 * 0.97;
    anyhow::ensure!(passed && came, "a limit is passed");
    Ok(())
}

struct Figures {
    cores: f64,
    mib: f64,
    worst_s: f64,
    p50_s: f64,
    p99_s: f64,
    readings: usize,
    scrape_s: f64,
    scrape_mb: f64,
}

async fn measure(address: &str, pid: u32, agents: u64, seconds: u64) -> anyhow::Result<Figures> {
    let url = format!("http://{address}");
    // All boxes are reached, and what they measured before has come.
    let channel = Endpoint::from_shared(url.clone())?.connect().await?;
    let mut client = RunsClient::new(channel);
    let limit = Instant::now() + Duration::from_secs(120);
    loop {
        let runs = client
            .list_runs(v1::ListRunsRequest {})
            .await?
            .into_inner()
            .runs;
        let reached = runs.iter().filter(|run| run.reachable).count() as u64;
        if reached == agents {
            break;
        }
        anyhow::ensure!(
            Instant::now() < limit,
            "{reached} of {agents} boxes were reached"
        );
        time::sleep(Duration::from_secs(1)).await;
    }
    time::sleep(WARM_UP).await;
    let request = v1::RunSamplesRequest {
        run: String::new(),
        follow: true,
    };
    let mut samples = client.run_samples(request).await?.into_inner();
    // The newest of each run comes first.
    for _ in 0..agents {
        samples.message().await?;
    }
    let scrapes = tokio::spawn(scrape(format!("{url}/metrics")));
    let (began, before_s) = (Instant::now(), cpu_s(pid)?);
    let mut delays_s = Vec::new();
    while began.elapsed() < Duration::from_secs(seconds) {
        let message = time::timeout(Duration::from_secs(10), samples.message()).await??;
        let message = message.ok_or_else(|| anyhow::anyhow!("the stream has ended"))?;
        let taken_us = message.sample.map_or(0, |sample| sample.time_us);
        delays_s.push(now_us().saturating_sub(taken_us) as f64 / 1e6);
    }
    let cores = (cpu_s(pid)? - before_s) / began.elapsed().as_secs_f64();
    scrapes.abort();
    let (scrape_s, scrape_mb) = scrape_once(&format!("{url}/metrics")).await?;
    delays_s.sort_by(f64::total_cmp);
    let at = |share: f64| delays_s[((delays_s.len() - 1) as f64 * share) as usize];
    Ok(Figures {
        cores,
        mib: peak_mib(pid)?,
        worst_s: at(1.0),
        p50_s: at(0.5),
        p99_s: at(0.99),
        readings: delays_s.len(),
        scrape_s,
        scrape_mb,
    })
}

async fn scrape(url: String) -> anyhow::Result<()> {
    loop {
        scrape_once(&url).await?;
        time::sleep(SCRAPE).await;
    }
}

async fn scrape_once(url: &str) -> anyhow::Result<(f64, f64)> {
    let began = Instant::now();
    let text = reqwest::get(url).await?.error_for_status()?.bytes().await?;
    Ok((began.elapsed().as_secs_f64(), text.len() as f64 / 1e6))
}

/// Seconds of CPU that a process took.
fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').expect("the name of a program ends");
    let ticks: Vec<f64> = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|word| word.parse().ok())
        .collect();
    // 100 ticks a second on every Linux.
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn peak_mib(pid: u32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| anyhow::anyhow!("the peak of process {pid} is unknown"))
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(0)
}

fn name(number: u64) -> String {
    format!("run-{number:04}")
}

/// Writes down runs that train.
fn record(dir: &Path, agents: u64) -> anyhow::Result<()> {
    let clock = Clock::system();
    let store = Store::open(&dir.join("spotter.db"), clock.clone())?;
    let file = dir.join("run.yaml");
    fs::write(
        &file,
        "name: made-up\nworkdir: .\nresources: {accelerators: \"H100 SXM:8\", disk: 40GB, rental: on-demand}\nimage: vastai/pytorch\n\
         run: python train.py\nlimits: {budget: 20}\n",
    )?;
    let spec = RunSpec::load(&file)?;
    for number in 0..agents {
        let now_us = clock.now_us();
        store.create_run(&RunRecord {
            name: name(number),
            spec: spec.clone(),
            created_us: now_us,
            stop_requested: false,
            outcome: None,
            reason: None,
        })?;
        store.create_attempt(&AttemptRecord {
            run: name(number),
            number: 1,
            state: State::Running,
            label: format!("made-up/{number}"),
            rental: Rental::OnDemand,
            instance: Some(number + 1),
            machine_id: Some(number + 1),
            gpu: "H100 SXM:8".to_owned(),
            gpu_usd_per_hour: 16.0,
            storage_usd_per_hour: 0.01,
            ssh: vec![SshAddress {
                host: "203.0.113.1".to_owned(),
                port: 22,
                proxy: false,
            }],
            created_us: now_us,
            state_us: now_us,
            started_us: now_us,
            gone_us: 0,
            resumed_step: None,
            last_step: None,
            reason: None,
            last_event: 0,
            exit_code: None,
            reopened_us: 0,
            old_session_us: 0,
        })?;
    }
    Ok(())
}

/// An agent that is made up: it measures once a second, from its own moment on.
struct Agent {
    offset: Duration,
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn sample() -> v1::Sample {
    let time_us = now_us();
    let second = time_us / 1_000_000;
    let gpu = |index: u32| v1::GpuSample {
        index,
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        uuid: format!("GPU-00000000-0000-0000-0000-{index:012}"),
        utilisation_percent: Some(90 + (second as u32 + index) % 10),
        memory_used_bytes: Some(70 << 30),
        memory_total_bytes: Some(80 << 30),
        power_mw: Some(650_000 + index),
        temperature_c: Some(60 + index),
        sm_clock_mhz: Some(1980),
        memory_clock_mhz: Some(2619),
        throttle_reasons: Some(0),
        energy_mj: Some(second * 650_000),
        memory_busy_percent: Some(40),
        memory_temperature_c: Some(70),
        performance_state: Some(0),
        sm_active_percent: Some(85.0),
        sm_occupancy_percent: Some(30.0),
        tensor_active_percent: Some(45.0),
        dram_active_percent: Some(50.0),
        power_limit_mw: Some(700_000),
        pcie_tx_bytes_per_s: Some(1 << 30),
        pcie_rx_bytes_per_s: Some(1 << 30),
        pcie_replays: Some(0),
        pcie_generation: Some(5),
        pcie_width: Some(16),
        nvlink_tx_bytes_per_s: Some(100 << 30),
        nvlink_rx_bytes_per_s: Some(100 << 30),
        nvlinks_up: Some(18),
        ecc_corrected: Some(0),
        ecc_uncorrected: Some(0),
        ..v1::GpuSample::default()
    };
    v1::Sample {
        time_us,
        gpus: (0..GPUS).map(gpu).collect(),
        host: Some(v1::HostSample {
            cpu_percent: Some(1200.0),
            cpu_limit_cores: Some(96.0),
            memory_used_bytes: Some(200 << 30),
            memory_limit_bytes: Some(960 << 30),
            disk_free_bytes: Some(1 << 40),
            disk_total_bytes: Some(2 << 40),
            network_rx_bytes: Some(second << 20),
            network_tx_bytes: Some(second << 20),
            ..v1::HostSample::default()
        }),
        span_s: 0,
        processes: Vec::new(),
    }
}

/// A call that nobody makes who only looks.
macro_rules! not_here {
    ($($call:ident($request:ident) -> $response:ident;)*) => {$(
        // As the attribute below writes it, which does not see into a macro.
        fn $call<'l, 'a>(
            &'l self,
            _: Request<v1::$request>,
        ) -> Pin<Box<dyn Future<Output = Answer<v1::$response>> + Send + 'a>>
        where
            'l: 'a,
            Self: 'a,
        {
            Box::pin(async { Err(Status::unimplemented("this agent is made up")) })
        }
    )*};
}

#[tonic::async_trait]
impl agent_server::Agent for Agent {
    type EventsStream = Answers<v1::Event>;
    type SamplesStream = Answers<v1::Sample>;
    type LogsStream = Answers<v1::LogChunk>;
    type RestoreStream = Answers<v1::RestoreProgress>;

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let now_us = now_us();
        Ok(Response::new(v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now_us,
            attempt: 1,
            sessions: vec![v1::Session {
                name: "train".to_owned(),
                state: v1::SessionState::Running.into(),
                ..v1::Session::default()
            }],
            training: Some(v1::TrainingRecord {
                time_us: now_us,
                step: Some(now_us / 1_000_000 % 100_000),
                total_steps: Some(100_000),
                loss: Some(2.5),
                tokens_per_s: Some(400_000.0),
                ..v1::TrainingRecord::default()
            }),
            sample: Some(sample()),
            ..v1::StatusResponse::default()
        }))
    }

    async fn samples(&self, _: Request<v1::SamplesRequest>) -> Answer<Self::SamplesStream> {
        let mut ticks = time::interval(Duration::from_secs(1));
        ticks.reset_after(self.offset);
        let samples = stream::unfold(ticks, |mut ticks| async move {
            ticks.tick().await;
            Some((Ok(sample()), ticks))
        });
        Ok(Response::new(samples.boxed()))
    }

    async fn events(&self, _: Request<v1::EventsRequest>) -> Answer<Self::EventsStream> {
        Ok(Response::new(stream::pending().boxed()))
    }

    async fn logs(&self, _: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        Ok(Response::new(stream::pending().boxed()))
    }

    async fn restore(&self, _: Request<v1::RestoreRequest>) -> Answer<Self::RestoreStream> {
        Err(Status::unimplemented("this agent is made up"))
    }

    not_here! {
        configure(ConfigureRequest) -> ConfigureResponse;
        acknowledge_events(AcknowledgeEventsRequest) -> AcknowledgeEventsResponse;
        start_session(StartSessionRequest) -> StartSessionResponse;
        list_sessions(ListSessionsRequest) -> ListSessionsResponse;
        end_session(EndSessionRequest) -> EndSessionResponse;
        send_line(SendLineRequest) -> SendLineResponse;
        set_credentials(SetCredentialsRequest) -> SetCredentialsResponse;
        set_webhook(SetWebhookRequest) -> SetWebhookResponse;
        prove_bucket(ProveBucketRequest) -> ProveBucketResponse;
        measure_line(MeasureLineRequest) -> MeasureLineResponse;
        backup_now(BackupNowRequest) -> BackupNowResponse;
        list_checkpoints(ListCheckpointsRequest) -> ListCheckpointsResponse;
        collect_results(CollectResultsRequest) -> CollectResultsResponse;
        hash_files(HashFilesRequest) -> HashFilesResponse;
        preflight(PreflightRequest) -> PreflightResponse;
        shutdown(ShutdownRequest) -> ShutdownResponse;
    }
}
