//! What is measured, by the names that the readers of DCGM and of OpenTelemetry know (pure): one table for both.

mod gpu;
mod host;
mod run;

pub(super) use gpu::GPU;
pub(super) use host::HOST;
pub(super) use run::{RUN, RunReading};

/// How a value behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It rises and falls.
    Gauge,
    /// It only rises, but for a restart.
    Counter,
}

/// The name in OpenTelemetry: `hw.*` where there is a convention, else our own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Otel {
    pub(super) name: &'static str,
    /// In the notation of UCUM.
    pub(super) unit: &'static str,
    /// What the value of [`Reading`] is multiplied by.
    pub(super) factor: f64,
    /// An attribute that tells it from others of the same name.
    pub(super) attribute: Option<(&'static str, &'static str)>,
}

/// A value of a `T`.
pub(super) struct Reading<T> {
    /// For Prometheus.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) otel: Option<Otel>,
    pub(super) value: fn(&T) -> Option<f64>,
}

const MIB: f64 = 1_048_576.0;

const fn otel(name: &'static str, unit: &'static str, factor: f64) -> Option<Otel> {
    Some(Otel {
        name,
        unit,
        factor,
        attribute: None,
    })
}

const fn told_by(
    name: &'static str,
    unit: &'static str,
    factor: f64,
    attribute: (&'static str, &'static str),
) -> Option<Otel> {
    Some(Otel {
        name,
        unit,
        factor,
        attribute: Some(attribute),
    })
}

/// Shorthand for a row.
const fn row<T>(
    name: &'static str,
    help: &'static str,
    kind: Kind,
    otel: Option<Otel>,
    value: fn(&T) -> Option<f64>,
) -> Reading<T> {
    Reading {
        name,
        help,
        kind,
        otel,
        value,
    }
}

fn wide(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn plain(value: Option<impl Into<f64>>) -> Option<f64> {
    value.map(Into::into)
}

/// Of a percentage, the share.
fn share(value: Option<f32>) -> Option<f64> {
    value.map(|percent| f64::from(percent) / 100.0)
}
