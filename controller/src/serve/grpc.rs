//! All runs by gRPC: a door of the contract. Health and reflection come with it, so that any tool can read it without our files.

mod convert;

use std::{pin::Pin, sync::Arc};

use axum::Router;
use futures::{Stream, StreamExt, stream};
use spotter_proto::v1::{
    self, RUNS_DESCRIPTORS,
    runs_server::{Runs, RunsServer},
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};

use super::hub::Hub;

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The services.
pub async fn routes(hub: Arc<Hub>, stop: CancellationToken) -> Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<RunsServer<Handlers>>().await;
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(RUNS_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The agent's service is in the same files, and is not here.
            .with_service_name("spotter.v1.Runs")
            .with_service_name("grpc.health.v1.Health")
    };
    let generated = "the descriptors were generated with this program";
    Routes::new(RunsServer::new(Handlers { hub, stop }))
        .add_service(health)
        // Most tools still ask for the older version of reflection.
        .add_service(descriptors().build_v1().expect(generated))
        .add_service(descriptors().build_v1alpha().expect(generated))
        .prepare()
        .into_axum_router()
}

/// The contract, answered from what is known.
struct Handlers {
    hub: Arc<Hub>,
    stop: CancellationToken,
}

impl Handlers {
    /// A run that is asked for by its name must be there.
    fn known(&self, run: &str) -> Result<(), Status> {
        let is_known = self
            .hub
            .look(|board, _, _| run.is_empty() || board.find(run).is_some());
        match is_known {
            true => Ok(()),
            false => Err(Status::not_found(format!("there is no run `{run}`"))),
        }
    }

    /// What there is, then what comes, until this server stops or the caller is too slow.
    fn answers<T, M>(
        &self,
        there: Vec<T>,
        coming: Option<broadcast::Receiver<Arc<T>>>,
        run: String,
        of: impl Fn(&T) -> &str + Send + Sync + Copy + 'static,
        encode: impl Fn(&T) -> M + Send + Sync + Copy + 'static,
    ) -> Response<Answers<M>>
    where
        T: Send + Sync + 'static,
        M: Send + 'static,
    {
        let wanted = move |one: &T, run: &str| run.is_empty() || of(one) == run;
        let first: Vec<T> = there.into_iter().filter(|one| wanted(one, &run)).collect();
        let first = stream::iter(first).map(move |one| Ok(encode(&one)));
        let Some(coming) = coming else {
            return Response::new(first.boxed());
        };
        let coming = BroadcastStream::new(coming).filter_map(move |told| {
            let told = match told {
                Ok(one) => wanted(&one, &run).then(|| Ok(encode(&one))),
                Err(BroadcastStreamRecvError::Lagged(missed)) => Some(Err(
                    Status::resource_exhausted(format!("{missed} were missed: read faster")),
                )),
            };
            std::future::ready(told)
        });
        let stop = self.stop.clone().cancelled_owned();
        Response::new(first.chain(coming).take_until(stop).boxed())
    }
}

#[tonic::async_trait]
impl Runs for Handlers {
    type RunSamplesStream = Answers<v1::RunSample>;
    type RunEventsStream = Answers<v1::RunEvent>;

    async fn list_runs(&self, _: Request<v1::ListRunsRequest>) -> Answer<v1::ListRunsResponse> {
        Ok(Response::new(self.hub.look(|board, _, now_us| {
            v1::ListRunsResponse {
                runs: board
                    .runs
                    .iter()
                    .map(|facts| convert::run(facts, now_us))
                    .collect(),
                now_us: convert::unsigned(now_us),
            }
        })))
    }

    async fn run_samples(
        &self,
        request: Request<v1::RunSamplesRequest>,
    ) -> Answer<Self::RunSamplesStream> {
        let request = request.into_inner();
        self.known(&request.run)?;
        let (there, coming) = self.hub.samples();
        let coming = request.follow.then_some(coming);
        Ok(self.answers(
            there,
            coming,
            request.run,
            |told| &told.run,
            convert::run_sample,
        ))
    }

    async fn run_events(
        &self,
        request: Request<v1::RunEventsRequest>,
    ) -> Answer<Self::RunEventsStream> {
        let request = request.into_inner();
        self.known(&request.run)?;
        let after_id = i64::try_from(request.after_id).unwrap_or(i64::MAX);
        let wanted = |run: &str| request.run.is_empty() || run == request.run;
        let (there, coming) = self.hub.events(wanted, after_id);
        let coming = request.follow.then_some(coming);
        Ok(self.answers(
            there,
            coming,
            request.run,
            |told| &told.run,
            convert::run_event,
        ))
    }
}
