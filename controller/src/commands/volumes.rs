//! `volumes`: disks of one machine that outlive boxes: those of the account, room for another, renting one and giving it back.

use clap::Subcommand;
use serde::Serialize;

use crate::{
    commands::Deps,
    error::CommandError,
    provider::{
        ProviderError,
        volumes::{Volume, VolumeOffer, VolumeQuery},
    },
    spec::{query, values},
    ui::{Table, Ui, text},
};

/// List, rent and give back volumes: disks of one machine that outlive its boxes
///
/// `volume: {id: ID, mount: /data}` in a run file mounts one; boxes are rented on its machine then. A volume is paid for until it is given
/// back, whether a box mounts it or not. Without a further word they are listed.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct VolumesArgs {
    #[command(subcommand)]
    verb: Option<VolumesVerb>,
}

#[derive(Debug, Subcommand)]
enum VolumesVerb {
    Ls(LsArgs),
    Offers(OffersArgs),
    Rent(RentArgs),
    Rm(RmArgs),
}

/// List the volumes of the account
#[derive(Debug, clap::Args)]
struct LsArgs {}

/// Show machines with room for a volume, cheapest first
#[derive(Debug, clap::Args)]
struct OffersArgs {
    /// Size that there must be room for and that prices are for
    #[arg(long, default_value = "50GB", value_parser = values::size_gb, allow_hyphen_values = true)]
    size: f64,
    /// At most so many
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Conditions in the market's query language, such as `reliability>0.98 geolocation=SE`
    query: Vec<String>,
}

/// Rent a volume; its size is fixed for its life
#[derive(Debug, clap::Args)]
struct RentArgs {
    /// Number of an offer, from `volumes offers`
    offer: u64,
    /// Its size
    #[arg(long, value_parser = values::size_gb, allow_hyphen_values = true)]
    size: f64,
    /// What it is called
    #[arg(long, value_parser = name)]
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Give a volume back, and with it what lies on it
#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Its number
    #[arg(value_parser = number)]
    id: u64,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct Volumes {
    volumes: Vec<Volume>,
    /// What all of them cost, $/h; null where the provider does not say.
    usd_per_hour: Option<f64>,
}

#[derive(Serialize)]
struct Offers {
    offers: Vec<VolumeOffer>,
}

/// A volume that was rented.
#[derive(Serialize)]
struct Rented {
    id: u64,
    name: String,
    machine_id: u64,
    size_gb: f64,
    usd_per_hour: f64,
}

#[derive(Serialize)]
struct Removed {
    removed: u64,
}

/// Hours of a month, as storage is billed.
const MONTH_HOURS: f64 = 720.0;

/// Runs the verb.
pub async fn volumes(ui: &mut Ui, deps: &Deps, args: &VolumesArgs) -> Result<(), CommandError> {
    match &args.verb {
        None | Some(VolumesVerb::Ls(_)) => ls(ui, deps).await,
        Some(VolumesVerb::Offers(args)) => offers(ui, deps, args).await,
        Some(VolumesVerb::Rent(args)) => rent(ui, deps, args).await,
        Some(VolumesVerb::Rm(args)) => rm(ui, deps, args).await,
    }
}

async fn ls(ui: &mut Ui, deps: &Deps) -> Result<(), CommandError> {
    let volumes = deps.provider()?.volumes().await?;
    // A sum of which a part is not known is not known.
    let prices: Option<Vec<f64>> = volumes.iter().map(|volume| volume.usd_per_hour).collect();
    let usd_per_hour = prices.map(|prices| prices.iter().fold(0.0, |sum, price| sum + price));
    if volumes.is_empty() {
        ui.status(format_args!("The account has no volumes."));
    }
    let volumes = Volumes {
        volumes,
        usd_per_hour,
    };
    if ui.is_json() || !volumes.volumes.is_empty() {
        ui.show(&volumes, |volumes| table(&volumes.volumes));
    }
    for idle in volumes.volumes.iter().filter(|volume| !volume.in_use) {
        ui.hint(format_args!(
            "volume {} is mounted by no box and paid for all the same: give it back with `spotter volumes rm {}`",
            idle.id, idle.id
        ));
    }
    Ok(())
}

fn table(volumes: &[Volume]) -> Table {
    let mut table = Table::new(&[
        "VOLUME>",
        "NAME",
        "MACHINE>",
        "SIZE>",
        "$/MONTH>",
        "MOUNTED BY",
    ]);
    for volume in volumes {
        let boxes: Vec<String> = volume.instances.iter().map(u64::to_string).collect();
        table.row([
            volume.id.to_string(),
            text::or_dash(volume.name.as_ref()),
            volume.machine_id.to_string(),
            format!("{:.0} GB", volume.size_gb),
            text::or_dash(volume.usd_per_hour.map(month)),
            match (boxes.is_empty(), volume.in_use) {
                (true, true) => "a box".to_owned(),
                (true, false) => "none".to_owned(),
                (false, _) => boxes.join(", "),
            },
        ]);
    }
    table
}

async fn offers(ui: &mut Ui, deps: &Deps, args: &OffersArgs) -> Result<(), CommandError> {
    let words = args.query.join(" ");
    let filters = query::parse(&words)
        .map_err(|why| CommandError::usage(format!("query `{words}`: {why}")))?;
    let asked = VolumeQuery {
        size_gb: args.size,
        filters,
    };
    let mut offers = deps.provider()?.volume_offers(&asked).await?;
    offers.truncate(args.limit);
    if offers.is_empty() {
        ui.status(format_args!(
            "No machine that matches has room for {:.0} GB.",
            args.size
        ));
    }
    ui.show(&Offers { offers }, |found| {
        let columns = [
            "OFFER>",
            "MACHINE>",
            "$/MONTH>",
            "FREE>",
            "RELIABILITY>",
            "DOWN>",
            "DISK>",
            "WHERE",
        ];
        let mut table = Table::new(&columns);
        for offer in &found.offers {
            table.row([
                offer.id.to_string(),
                offer.machine_id.to_string(),
                month(offer.usd_per_hour),
                format!("{:.0} GB", offer.free_gb),
                format!("{:.2}%", offer.reliability * 100.0),
                format!("{:.0} Mb/s", offer.inet_down_mbps),
                format!("{:.0} MB/s", offer.disk_mb_per_s),
                offer.geolocation.clone(),
            ]);
        }
        table
    });
    Ok(())
}

async fn rent(ui: &mut Ui, deps: &Deps, args: &RentArgs) -> Result<(), CommandError> {
    let refused = || CommandError::new("no volume was rented");
    let provider = deps.provider()?;
    let asked = VolumeQuery {
        size_gb: args.size,
        filters: Vec::new(),
    };
    let offers = provider.volume_offers(&asked).await?;
    let Some(offer) = offers.into_iter().find(|offer| offer.id == args.offer) else {
        let why = format!(
            "there is no offer {} with room for {:.0} GB",
            args.offer, args.size
        );
        return Err(refused().because(why).hint(format!(
            "see what there is with `spotter volumes offers --size {}GB`",
            args.size
        )));
    };
    let price = month(offer.usd_per_hour);
    let question = format!(
        "Rent {:.0} GB on machine {} for {price} a month, until it is given back?",
        args.size, offer.machine_id
    );
    agreed(ui, args.yes, &question, refused)?;
    let id = match provider.rent_volume(offer.id, args.size, &args.name).await {
        Ok(id) => id,
        Err(err) if err.is_ambiguous() => {
            return Err(CommandError::new(format!(
                "whether volume `{}` was rented is not known",
                args.name
            ))
            .cause(err)
            .hint("look whether it is there with `spotter volumes` before you rent another"));
        }
        Err(err) => return Err(refused().cause(err)),
    };
    ui.status(format_args!(
        "Volume {id} costs {price} a month until `spotter volumes rm {id}`; mount it with `volume: {{id: {id}, mount: /data}}`."
    ));
    if ui.is_json() {
        ui.json(&Rented {
            id,
            name: args.name.clone(),
            machine_id: offer.machine_id,
            size_gb: args.size,
            usd_per_hour: offer.usd_per_hour,
        });
    }
    Ok(())
}

async fn rm(ui: &mut Ui, deps: &Deps, args: &RmArgs) -> Result<(), CommandError> {
    let id = args.id;
    let refused = || CommandError::new(format!("volume {id} was not given back"));
    let provider = deps.provider()?;
    let volumes = provider.volumes().await?;
    let Some(volume) = volumes.iter().find(|volume| volume.id == id) else {
        return Err(
            CommandError::usage(format!("the account has no volume {id}"))
                .hint("see what it has with `spotter volumes`"),
        );
    };
    if let Some(instance) = volume.instances.first() {
        return Err(refused()
            .because(format!("instance {instance} mounts it"))
            .hint("end the run of that box first, with `spotter destroy`"));
    }
    let question = format!(
        "Give volume {id} back, and with it all of what lies on its {:.0} GB?",
        volume.size_gb
    );
    agreed(ui, args.yes, &question, refused)?;
    match provider.end_volume(id).await {
        Ok(()) => {}
        Err(err @ ProviderError::Refused { .. }) => {
            return Err(refused().cause(err).hint(
                "a box that was just destroyed frees it half a minute later: try again then",
            ));
        }
        Err(err) => return Err(refused().cause(err)),
    }
    ui.status(format_args!("Volume {id} is given back."));
    if ui.is_json() {
        ui.json(&Removed { removed: id });
    }
    Ok(())
}

fn agreed(
    ui: &mut Ui,
    yes: bool,
    question: &str,
    refused: impl Fn() -> CommandError,
) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    match ui.confirm(question) {
        Some(true) => Ok(()),
        Some(false) => Err(refused().because("you said no")),
        None => Err(refused()
            .because("nobody can be asked here")
            .hint("add `--yes` if you are sure")),
    }
}

fn month(usd_per_hour: f64) -> String {
    text::usd(usd_per_hour * MONTH_HOURS)
}

/// A name by which it is found again.
fn name(text: &str) -> Result<String, String> {
    values::run_name(text).map(|()| text.to_owned())
}

/// The number of a volume, which is what the market knows it by.
fn number(text: &str) -> Result<u64, String> {
    let refused = |_| "a volume is named by its number: `spotter volumes` shows it".to_owned();
    text.parse().map_err(refused)
}
