//! Offers as tables: with their prices, and for a run with what it would do on each (pure).

use super::Row;
use crate::{
    commands::plan::figures,
    provider::Offer,
    ui::{Table, text},
};

/// Columns of the table of prices in the order in which they are left out of a narrow one.
pub(super) const MARKET_LEAST_FIRST: &[&str] = &[
    "NVLINK", "HOST", "MAX", "CUDA", "$/TB", "DISK", "RAM", "REL", "DOWN/UP", "STOPPED",
];
/// The same of the table of forecasts.
pub(super) const FORECASTS_LEAST_FIRST: &[&str] = &[
    "NVLINK", "HOST", "CUDA", "$/TB", "DISK", "RAM", "VRAM", "STOPPED", "MAX", "DOWN/UP", "REL",
    "RANGE", "TOKENS/S", "RUNNING", "RISKS",
];

/// `for_run`: what it could not take is marked.
pub(super) fn market(rows: &[Row<'_>], for_run: bool) -> Table {
    let mut columns = vec!["OFFER>", "GPU"];
    columns.extend(for_run.then_some("FIT"));
    columns.extend([
        "VRAM>", "RAM>", "DISK>", "REL>", "DOWN/UP>", "NVLINK>", "CUDA>", "HOST", "MAX>", "$/TB>",
        "RUNNING>", "STOPPED>",
    ]);
    let mut table = Table::new(&columns);
    for row in rows {
        let offer = row.offer;
        let mut cells = vec![offer.id.to_string(), gpus(offer)];
        cells.extend(for_run.then(|| match row.go {
            Some(false) => "no go".to_owned(),
            _ => "-".to_owned(),
        }));
        let [vram, ram, disk, nvlink, cuda, host, traffic, stopped] = machine(row);
        cells.extend([
            vram,
            ram,
            disk,
            figures::reliability(offer.reliability),
            format!("{:.0}/{:.0}", offer.inet_down_mbps, offer.inet_up_mbps),
            nvlink,
            cuda,
            host,
            rental_span(offer),
            traffic,
            text::usd_per_hour(row.running_usd_per_hour),
            stopped,
        ]);
        table.row(cells);
    }
    table
}

pub(super) fn forecasts(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&[
        "OFFER>",
        "GPU",
        "FIT",
        "TOKENS/S>",
        "HOURS>",
        "COST>",
        "RANGE>",
        "RUNNING>",
        "REL>",
        "DOWN/UP>",
        "MAX>",
        "RISKS>",
        "VRAM>",
        "RAM>",
        "DISK>",
        "NVLINK>",
        "CUDA>",
        "HOST",
        "$/TB>",
        "STOPPED>",
    ]);
    for row in rows {
        let offer = row.offer;
        let outlook = row.outlook.as_ref();
        // A speed at which it cannot run is none.
        let forecast = outlook
            .filter(|outlook| outlook.runs())
            .map(|outlook| &outlook.forecast);
        let cost = forecast.and_then(|forecast| forecast.cost_usd);
        let mut cells = vec![
            offer.id.to_string(),
            gpus(offer),
            fit(row).to_owned(),
            text::or_dash(forecast.map(|forecast| figures::count(forecast.tokens_per_s.base))),
            text::or_dash(
                forecast.and_then(|forecast| Some(figures::hours(forecast.wall_hours?.base))),
            ),
            text::or_dash(cost.map(|cost| figures::dollars(cost.base))),
            text::or_dash(cost.map(|cost| {
                format!(
                    "{}-{}",
                    figures::dollars(cost.optimistic),
                    figures::dollars(cost.pessimistic)
                )
            })),
            text::usd_per_hour(row.running_usd_per_hour),
            figures::reliability(offer.reliability),
            format!("{:.0}/{:.0}", offer.inet_down_mbps, offer.inet_up_mbps),
            rental_span(offer),
            row.risks.len().to_string(),
        ];
        cells.extend(machine(row));
        table.row(cells);
    }
    table
}

/// What both tables tell of a machine: VRAM, RAM, DISK, NVLINK, CUDA, HOST, $/TB, STOPPED.
fn machine(row: &Row<'_>) -> [String; 8] {
    let offer = row.offer;
    [
        // All in GB; the market's VRAM is MiB and its RAM MB.
        format!("{:.0}G", offer.vram_mib as f64 / 1024.0),
        format!("{:.0}G", offer.ram_mb as f64 / 1000.0),
        format!("{:.0}G", offer.disk_gb),
        text::or_dash((offer.nvlink_gbps > 0.0).then(|| format!("{:.0}", offer.nvlink_gbps))),
        text::or_dash((offer.cuda > 0.0).then(|| format!("{:.1}", offer.cuda))),
        host(offer).to_owned(),
        traffic(offer),
        text::usd_per_hour(row.stopped_usd_per_hour),
    ]
}

/// How an offer is marked.
pub(super) fn fit(row: &Row<'_>) -> &'static str {
    match &row.outlook {
        _ if row.go == Some(false) => "no go",
        None => "unknown",
        Some(outlook) => outlook.fit().word(),
    }
}

fn gpus(offer: &Offer) -> String {
    format!("{} x {}", offer.num_gpus, offer.gpu_name)
}

fn host(offer: &Offer) -> &'static str {
    match (offer.datacenter, offer.verified) {
        (true, _) => "datacenter",
        (false, true) => "verified",
        (false, false) => "unverified",
    }
}

/// Longest rental: `12h`, `30d`; `-`: it is not known.
fn rental_span(offer: &Offer) -> String {
    let Some(seconds) = offer.max_duration_s else {
        return "-".to_owned();
    };
    let hours = seconds / 3600.0;
    if hours < 48.0 {
        format!("{hours:.0}h")
    } else {
        format!("{:.0}d", hours / 24.0)
    }
}

/// Price of a terabyte down and up, dollars.
fn traffic(offer: &Offer) -> String {
    format!(
        "{:.0}/{:.0}",
        offer.inet_down_usd_per_gb * 1000.0,
        offer.inet_up_usd_per_gb * 1000.0
    )
}
