//! `spotter serve`, apart from its arguments: one process that tells other tools, and a page, of all runs. It only reads: nothing that
//! can be asked here starts, ends or pays for anything.
//!
//! Reading order: [`hub`] is what is known, shared by all who ask; [`guard`] says who may ask (pure); [`server`] takes connections;
//! [`page`], [`prometheus`] and [`grpc`] answer, [`otlp`] pushes.

pub mod grpc;
pub mod guard;
pub mod hub;
pub mod otlp;
pub mod page;
pub mod prometheus;
mod readings;
pub mod server;

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    task::JoinError,
    time::{self, MissedTickBehavior},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::{guard::Guard, hub::Hub, otlp::Receiver};
use crate::lookout::links::Links;

/// Between two looks into the record.
const ROUND: Duration = Duration::from_secs(1);
/// How long the last values may take to be pushed.
const GOODBYE: Duration = Duration::from_secs(2);

/// Who is answered, and where.
pub struct Serving {
    /// The port.
    pub listener: TcpListener,
    /// The certificate, if there is one.
    pub tls: Option<TlsAcceptor>,
    /// Who may ask.
    pub guard: Guard,
    /// To whom values are pushed.
    pub receiver: Option<Receiver>,
}

impl Serving {
    /// Gathers and answers until `stop`.
    ///
    /// # Errors
    /// When what answers has panicked.
    pub async fn run(
        self,
        hub: Arc<Hub>,
        mut links: Links<'_>,
        stop: CancellationToken,
    ) -> Result<(), JoinError> {
        let router = server::router(Arc::clone(&hub), self.guard, stop.clone()).await;
        let answers = server::serve(self.listener, self.tls, router, stop.clone());
        let mut answering = tokio::spawn(answers);
        let pushing = self.receiver.map(|receiver| {
            tokio::spawn(otlp::push_loop(Arc::clone(&hub), receiver, stop.clone()))
        });
        let mut rounds = time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break None,
                ended = &mut answering => break Some(ended),
                _ = rounds.tick() => hub.round(&mut links),
                Some(news) = links.hear() => hub.learn(news, &mut links),
            }
        };
        stop.cancel();
        links.close().await;
        if let Some(pushing) = pushing {
            // The last values are sent, or it takes too long.
            let _ended_or_late = time::timeout(GOODBYE, pushing).await;
        }
        match ended {
            Some(ended) => ended,
            None => answering.await,
        }
    }
}
