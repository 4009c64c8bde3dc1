//! Pushes all runs to a receiver of OpenTelemetry: OTLP over HTTP, protobuf. A round makes the values of now and sends them; the loop
//! around it only keeps time. What could not be sent is of the past and is not sent again: the next values are newer.

mod message;

use std::{sync::Arc, time::Duration};

use prost::Message;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeroize::Zeroizing;

use self::message::*;
use super::{
    hub::Hub,
    prometheus::{fresh, run_reading},
    readings::{GPU, HOST, Kind, RUN, Reading},
};
use crate::{credentials::web, error::CommandError, lookout::facts::Facts};

/// Between two rounds.
const PERIOD: Duration = Duration::from_secs(10);
/// Longest time for one request.
const LIMIT: Duration = Duration::from_secs(10);
/// Runs in one request: with eight GPUs each about 2 MB.
const RUNS_AT_ONCE: usize = 50;
/// Most of an answer that is read.
const MOST_ANSWER: usize = 64 << 10;

/// Where to push to. The headers may hold a key, and have no text of their own.
pub struct Receiver {
    url: reqwest::Url,
    headers: Vec<(String, Zeroizing<String>)>,
}

impl Receiver {
    /// Reads an endpoint: a base, to which `/v1/metrics` is added, as every exporter does. `headers` is a list as OpenTelemetry's variable
    /// has it: `name=value,name=value`, percent-encoded.
    ///
    /// # Errors
    /// What is wrong with either, without the values of headers.
    pub fn new(endpoint: &str, headers: Option<&str>) -> Result<Self, CommandError> {
        let wrong = || {
            CommandError::usage(format!(
                "`{endpoint}` is no OTLP endpoint: it must be like http://127.0.0.1:4318"
            ))
        };
        let mut url = reqwest::Url::parse(endpoint).map_err(|err| wrong().cause(err))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong()
                .because("a password in it would be shown in the list of processes")
                .hint("put a key into OTEL_EXPORTER_OTLP_HEADERS"));
        }
        if !url.path().ends_with("/v1/metrics") {
            let path = format!("{}/v1/metrics", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        let mut read = Vec::new();
        for pair in headers.unwrap_or_default().split(',') {
            let pair = pair.trim();
            if pair.is_empty() {
                continue;
            }
            let wrong = || {
                CommandError::usage(
                    "OTEL_EXPORTER_OTLP_HEADERS cannot be read: it must be like name=value,name=value",
                )
            };
            let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
            let value = percent_encoding::percent_decode_str(value.trim());
            let value = Zeroizing::new(value.decode_utf8().map_err(|_| wrong())?.into_owned());
            let name = name.trim().to_ascii_lowercase();
            let is_fine = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
                && http::HeaderValue::from_str(&value).is_ok();
            if !is_fine {
                return Err(wrong());
            }
            read.push((name, value));
        }
        Ok(Self { url, headers: read })
    }

    /// Where it goes, for people.
    pub fn shown(&self) -> String {
        self.url.to_string()
    }

    async fn send(&self, client: &reqwest::Client, body: Vec<u8>) -> Result<(), String> {
        let mut request = client
            .post(self.url.clone())
            .timeout(LIMIT)
            .header("content-type", "application/x-protobuf")
            .body(body);
        for (name, value) in &self.headers {
            request = request.header(name, value.as_str());
        }
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(err) if err.is_timeout() => {
                return Err(format!("no answer in {} s", LIMIT.as_secs()));
            }
            Err(err) => return Err(crate::error::chain(&err.without_url())),
        };
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("it answers with HTTP {}", status.as_u16()));
        }
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = answer.chunk().await {
            if body.len() + chunk.len() > MOST_ANSWER {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        let said = ExportResponse::decode(body.as_slice()).unwrap_or_default();
        match said.partial_success {
            Some(partly) if partly.rejected_points > 0 => Err(format!(
                "it took all but {} values: {}",
                partly.rejected_points,
                crate::ui::sanitize::line(&partly.error_message)
            )),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("url", &self.url.as_str())
            .finish_non_exhaustive()
    }
}

/// Pushes every so often until `stop`; the last values are sent before it ends.
pub async fn push_loop(
    hub: Arc<Hub>,
    receiver: Receiver,
    stop: CancellationToken,
) -> Result<(), String> {
    let client = web::client("")?;
    let mut failures = 0_u32;
    loop {
        let ends = tokio::select! {
            () = stop.cancelled() => true,
            () = time::sleep(PERIOD) => false,
        };
        match round(&hub, &receiver, &client).await {
            Ok(()) => {
                if failures > 0 {
                    info!(after_failures = failures, "values are pushed again");
                }
                failures = 0;
            }
            Err(why) => {
                failures += 1;
                // Once for a trouble, however long it lasts.
                if failures == 1 {
                    warn!(
                        to = receiver.url.as_str(),
                        why, "values could not be pushed, will go on trying"
                    );
                }
            }
        }
        if ends {
            return Ok(());
        }
    }
}

/// Sends the values of now.
async fn round(hub: &Hub, receiver: &Receiver, client: &reqwest::Client) -> Result<(), String> {
    let mut from = 0;
    loop {
        let (body, is_last) = hub.look(|board, _, now_us| {
            let runs = board.runs.get(from..).unwrap_or_default();
            let part = &runs[..runs.len().min(RUNS_AT_ONCE)];
            let request = request(part, now_us);
            (request.encode_to_vec(), part.len() == runs.len())
        });
        if !body.is_empty() {
            receiver.send(client, body).await?;
        }
        if is_last {
            return Ok(());
        }
        from += RUNS_AT_ONCE;
    }
}

/// The values of runs that go on (pure).
fn request(runs: &[Facts], now_us: i64) -> ExportRequest {
    let going = runs.iter().filter(|facts| !facts.recorded.is_over);
    ExportRequest {
        resource_metrics: going.map(|facts| resource(facts, now_us)).collect(),
    }
}

fn resource(facts: &Facts, now_us: i64) -> ResourceMetrics {
    let recorded = &facts.recorded;
    let time_unix_nano = u64::try_from(now_us).unwrap_or(0).saturating_mul(1000);
    let mut made = Metrics {
        time_unix_nano,
        metrics: Vec::new(),
    };
    made.add(RUN, &run_reading(facts, now_us), &[]);
    if let Some(sample) = fresh(facts, now_us) {
        if let Some(host) = &sample.host {
            made.add(HOST, host, &[]);
        }
        for gpu in &sample.gpus {
            let about = [
                text("hw.id", &gpu.uuid),
                text("hw.type", "gpu"),
                text("hw.model", &gpu.name),
                whole("gpu.index", gpu.index),
            ];
            made.add(GPU, gpu, &about);
        }
    }
    let mut attributes = vec![
        text("service.name", "spotter"),
        text("service.instance.id", &recorded.name),
        text("spotter.run", &recorded.name),
        whole("spotter.attempt", recorded.attempt),
        text("spotter.state", &recorded.state),
    ];
    let driver = facts.live.status.as_ref();
    if let Some(driver) = driver.and_then(|status| status.gpu_driver.as_ref()) {
        attributes.push(text("hw.driver_version", &driver.version));
    }
    ResourceMetrics {
        resource: Some(Resource { attributes }),
        scope_metrics: vec![ScopeMetrics {
            scope: Some(Scope {
                name: "spotter".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            metrics: made.metrics,
        }],
    }
}

struct Metrics {
    time_unix_nano: u64,
    metrics: Vec<Metric>,
}

impl Metrics {
    /// Adds the values of one thing, each to the metric of its name.
    fn add<T>(&mut self, table: &[Reading<T>], of: &T, about: &[KeyValue]) {
        for reading in table {
            let Some(otel) = reading.otel else { continue };
            let Some(value) = (reading.value)(of) else {
                continue;
            };
            let mut attributes = about.to_vec();
            attributes.extend(otel.attribute.map(|(key, value)| text(key, value)));
            let point = Point {
                attributes,
                time_unix_nano: self.time_unix_nano,
                value: Some(Number::Double(value * otel.factor)),
            };
            let known = self
                .metrics
                .iter_mut()
                .find(|metric| metric.name == otel.name);
            match known.and_then(|metric| metric.data.as_mut()) {
                Some(Data::Gauge(gauge)) => gauge.points.push(point),
                Some(Data::Sum(sum)) => sum.points.push(point),
                None => self.metrics.push(Metric {
                    name: otel.name.to_owned(),
                    description: reading.help.to_owned(),
                    unit: otel.unit.to_owned(),
                    data: Some(match reading.kind {
                        Kind::Gauge => Data::Gauge(Gauge {
                            points: vec![point],
                        }),
                        Kind::Counter => Data::Sum(Sum {
                            points: vec![point],
                            temporality: Temporality::Cumulative.into(),
                            is_monotonic: true,
                        }),
                    }),
                }),
            }
        }
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::Text(value.to_owned()))
}

fn whole(key: &str, value: u32) -> KeyValue {
    pair(key, Any::Whole(i64::from(value)))
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::examples::{self, NOW_US};

    #[test]
    fn an_endpoint_is_a_base_and_keys_are_in_no_text() {
        for (endpoint, expected) in [
            (
                "http://127.0.0.1:4318",
                Some("http://127.0.0.1:4318/v1/metrics"),
            ),
            ("http://h:1/base/", Some("http://h:1/base/v1/metrics")),
            ("https://h/v1/metrics", Some("https://h/v1/metrics")),
            ("grpc://h:1", None),
            ("h:4318", None),
            ("http://me:hush@h", None),
        ] {
            let found = Receiver::new(endpoint, None).ok();
            let found = found.map(|receiver| receiver.shown());
            assert_eq!(found.as_deref(), expected, "{endpoint}");
        }
        let keys = "Authorization=Bearer%20hush, x-org=1";
        let receiver = Receiver::new("http://h:1", Some(keys)).unwrap();
        let read: Vec<_> = receiver
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(read, [("authorization", "Bearer hush"), ("x-org", "1")]);
        assert!(!format!("{receiver:?}").contains("hush"));
        let err = Receiver::new("http://h:1", Some("hush")).unwrap_err();
        assert!(!err.message().contains("hush"));
    }

    #[test]
    fn a_run_is_a_resource_and_gpus_are_points_of_one_metric() {
        let made = request(&[examples::live(2), examples::over()], NOW_US);
        assert_eq!(made.resource_metrics.len(), 1, "what is over is not pushed");
        let metrics = &made.resource_metrics[0].scope_metrics[0].metrics;
        let of = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap();
        let Some(Data::Gauge(used)) = &of("hw.gpu.utilization").data else {
            panic!("a utilisation is a gauge");
        };
        assert_eq!(used.points.len(), 2);
        let Some(Number::Double(share)) = used.points[0].value else {
            panic!("a number");
        };
        assert!((0.0..=1.0).contains(&share), "{share}");
        let mut names: Vec<_> = metrics.iter().map(|metric| &metric.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "each metric once");
        // What was encoded can be read.
        let read = ExportRequest::decode(made.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read, made);
    }
}
