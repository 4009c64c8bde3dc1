//! What is told of a run.

use super::{Kind::Gauge, Reading, otel, row, wide};

/// What is known of a run itself.
#[derive(Debug, Clone, Default)]
pub(in crate::serve) struct RunReading {
    pub(in crate::serve) over: bool,
    pub(in crate::serve) reachable: bool,
    pub(in crate::serve) watched: bool,
    pub(in crate::serve) step: Option<u64>,
    pub(in crate::serve) total_steps: Option<u64>,
    pub(in crate::serve) loss: Option<f64>,
    pub(in crate::serve) eval_loss: Option<f64>,
    pub(in crate::serve) learning_rate: Option<f64>,
    pub(in crate::serve) grad_norm: Option<f64>,
    pub(in crate::serve) tokens_per_s: Option<f64>,
    pub(in crate::serve) samples_per_s: Option<f64>,
    pub(in crate::serve) step_time_s: Option<f64>,
    pub(in crate::serve) usd_per_hour: f64,
    pub(in crate::serve) cost_usd: f64,
    pub(in crate::serve) budget_usd: Option<f64>,
    pub(in crate::serve) committed: u64,
    pub(in crate::serve) last_checkpoint_us: Option<i64>,
    pub(in crate::serve) alerts: usize,
}

fn truth(value: bool) -> Option<f64> {
    Some(f64::from(u8::from(value)))
}

/// Everything of a run.
pub(in crate::serve) const RUN: &[Reading<RunReading>] = &[
    row(
        "spotter_run_over",
        "The run has ended",
        Gauge,
        None,
        |run| truth(run.over),
    ),
    row(
        "spotter_run_reachable",
        "The agent on its box answers",
        Gauge,
        otel("spotter.run.reachable", "1", 1.0),
        |run| truth(run.reachable),
    ),
    row(
        "spotter_run_watched",
        "Somebody acts for it: interruptions are recovered",
        Gauge,
        otel("spotter.run.watched", "1", 1.0),
        |run| truth(run.watched),
    ),
    row(
        "spotter_run_step",
        "Newest step",
        Gauge,
        otel("spotter.run.step", "{step}", 1.0),
        |run| wide(run.step),
    ),
    row(
        "spotter_run_planned_steps",
        "Steps in all",
        Gauge,
        otel("spotter.run.planned_steps", "{step}", 1.0),
        |run| wide(run.total_steps),
    ),
    row(
        "spotter_run_loss",
        "Newest training loss",
        Gauge,
        otel("spotter.run.loss", "1", 1.0),
        |run| run.loss,
    ),
    row(
        "spotter_run_eval_loss",
        "Newest evaluation loss",
        Gauge,
        otel("spotter.run.eval_loss", "1", 1.0),
        |run| run.eval_loss,
    ),
    row(
        "spotter_run_learning_rate",
        "Newest learning rate",
        Gauge,
        otel("spotter.run.learning_rate", "1", 1.0),
        |run| run.learning_rate,
    ),
    row(
        "spotter_run_grad_norm",
        "Newest norm of the gradient",
        Gauge,
        otel("spotter.run.grad_norm", "1", 1.0),
        |run| run.grad_norm,
    ),
    row(
        "spotter_run_tokens_per_second",
        "Newest speed, tokens per second",
        Gauge,
        otel("spotter.run.tokens_per_second", "{token}/s", 1.0),
        |run| run.tokens_per_s,
    ),
    row(
        "spotter_run_samples_per_second",
        "Newest speed, samples per second",
        Gauge,
        otel("spotter.run.samples_per_second", "{sample}/s", 1.0),
        |run| run.samples_per_s,
    ),
    row(
        "spotter_run_step_seconds",
        "Newest time of a step",
        Gauge,
        otel("spotter.run.step_time", "s", 1.0),
        |run| run.step_time_s,
    ),
    row(
        "spotter_run_usd_per_hour",
        "What it costs now, US dollars per hour",
        Gauge,
        otel("spotter.run.usd_per_hour", "{USD}/h", 1.0),
        |run| Some(run.usd_per_hour),
    ),
    row(
        "spotter_run_cost_usd",
        "What it cost so far, US dollars",
        Gauge,
        otel("spotter.run.cost", "{USD}", 1.0),
        |run| Some(run.cost_usd),
    ),
    row(
        "spotter_run_budget_usd",
        "What it may cost, US dollars",
        Gauge,
        otel("spotter.run.budget", "{USD}", 1.0),
        |run| run.budget_usd,
    ),
    row(
        "spotter_run_checkpoints_committed",
        "Checkpoints in its bucket",
        Gauge,
        otel("spotter.run.checkpoints_committed", "{checkpoint}", 1.0),
        |run| Some(run.committed as f64),
    ),
    row(
        "spotter_run_last_checkpoint_timestamp_seconds",
        "When the newest checkpoint was complete in the bucket",
        Gauge,
        otel("spotter.run.last_checkpoint", "s", 1.0),
        |run| run.last_checkpoint_us.map(|us| us as f64 / 1e6),
    ),
    row(
        "spotter_run_alerts",
        "Sentences about what is wrong or must be known",
        Gauge,
        otel("spotter.run.alerts", "1", 1.0),
        |run| Some(run.alerts as f64),
    ),
];
