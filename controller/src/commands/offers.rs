//! `offers`: what can be rented now, cheapest first, with the price of everything.

use serde::Serialize;

use crate::{
    commands::Deps,
    error::CommandError,
    provider::{Offer, OfferQuery, Rental},
    spec::{accelerators, query, values},
    ui::{Table, Ui, text},
};

/// Show what can be rented now, cheapest first
///
/// Prices are all in for the whole box: GPU and disk. STOPPED is what the disk costs while the box is stopped.
#[derive(Debug, clap::Args)]
pub struct OffersArgs {
    /// GPU and how many, such as `RTX 4090:1` [default: any]
    #[arg(long, value_name = "NAME[:COUNT]")]
    gpus: Option<String>,
    /// Disk that the price is for
    #[arg(long, default_value = "50GB", value_parser = values::size_gb)]
    disk: f64,
    /// Prices to beat for boxes that may be taken back
    #[arg(long)]
    interruptible: bool,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=64))]
    limit: u32,
    /// Further conditions in the market's query language, such as `reliability>0.95 inet_down>500`
    query: Vec<String>,
}

/// One offer, as JSON.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    offer: &'a Offer,
    /// All in while it runs, $/h.
    running_usd_per_hour: f64,
    /// While it is stopped, $/h.
    stopped_usd_per_hour: f64,
}

#[derive(Serialize)]
struct Rows<'a> {
    offers: Vec<Row<'a>>,
}

/// Runs the verb.
pub async fn offers(ui: &mut Ui, deps: &Deps, args: &OffersArgs) -> Result<(), CommandError> {
    let gpus = match &args.gpus {
        // A bare name means any number of them here: this only looks.
        Some(text) if !text.contains(':') => {
            let found = accelerators::parse(text);
            Some((
                found
                    .map_err(|why| CommandError::usage(format!("--gpus: {why}")))?
                    .gpu_name,
                None,
            ))
        }
        Some(text) => {
            let found = accelerators::parse(text)
                .map_err(|why| CommandError::usage(format!("--gpus: {why}")))?;
            Some((found.gpu_name, Some(found.num_gpus)))
        }
        None => None,
    };
    let words = args.query.join(" ");
    let filters = query::parse(&words)
        .map_err(|why| CommandError::usage(format!("query `{words}`: {why}")))?;
    let (gpu_name, num_gpus) = gpus.unzip();
    let query = OfferQuery {
        gpu_name,
        num_gpus: num_gpus.flatten(),
        rental: if args.interruptible {
            Rental::Interruptible
        } else {
            Rental::OnDemand
        },
        disk_gb: args.disk,
        filters,
        limit: args.limit,
    };
    let mut found = deps.provider()?.offers(&query).await?;
    found.truncate(args.limit as usize);

    let rows = found.iter().map(|offer| Row {
        offer,
        running_usd_per_hour: offer.running_usd_per_hour(),
        stopped_usd_per_hour: offer.storage_usd_per_hour,
    });
    ui.show(
        &Rows {
            offers: rows.collect(),
        },
        |rows| table(&rows.offers),
    );
    if found.is_empty() {
        ui.status(format_args!("Nothing matches."));
    } else if args.interruptible {
        ui.hint(format_args!(
            "RUNNING is the price to beat now; somebody may bid more at any time"
        ));
    }
    Ok(())
}

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&[
        "OFFER>", "GPU", "N>", "VRAM>", "RAM>", "DISK>", "REL>", "DOWN/UP>", "RUNNING>", "STOPPED>",
    ]);
    for row in rows {
        let offer = row.offer;
        table.row([
            offer.id.to_string(),
            offer.gpu_name.clone(),
            offer.num_gpus.to_string(),
            // Both in GB; the market's VRAM is MiB and its RAM MB.
            format!("{:.0}G", offer.vram_mib as f64 / 1024.0),
            format!("{:.0}G", offer.ram_mb as f64 / 1000.0),
            format!("{:.0}G", offer.disk_gb),
            format!("{:.1}%", offer.reliability * 100.0),
            format!("{:.0}/{:.0}", offer.inet_down_mbps, offer.inet_up_mbps),
            text::usd_per_hour(row.running_usd_per_hour),
            text::usd_per_hour(row.stopped_usd_per_hour),
        ]);
    }
    table
}
