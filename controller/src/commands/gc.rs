//! `spotter gc`: boxes that cost money and belong to no record.

use std::time::Duration;

use serde::Serialize;

use crate::{
    commands::{
        Deps,
        cost::{self, VolumeCost},
        watching::ConsoleReport,
    },
    error::CommandError,
    ledger,
    provider::{Instance, InstanceId, Provider},
    run::{State, claims, label},
    store::{AttemptRecord, Store},
    ui::{Table, Ui, text},
};

/// Find boxes of this laptop that no run claims, and destroy them; list those of others
///
/// Boxes of other stores (another laptop, a colleague on the account) and boxes without a label of spotter's are only listed;
/// name one with `--instance` to destroy it.
#[derive(Debug, clap::Args)]
pub struct GcArgs {
    /// Only list; destroy nothing
    #[arg(long)]
    dry_run: bool,
    /// Destroy this instance, whoever rented it
    #[arg(long, value_name = "ID")]
    instance: Option<u64>,
}

/// Looks at a destroyed instance, and the pause between two.
const LOOKS: u32 = 20;
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// One instance of the account.
#[derive(Debug, Serialize)]
struct Found {
    instance: u64,
    label: Option<String>,
    /// `claimed`, `orphan`, `other store` or `not spotter's`.
    owner: &'static str,
    age_s: u64,
    usd_per_hour: f64,
    /// It is gone, by the provider's word.
    destroyed: bool,
}

/// What is paid for on the account, as JSON.
#[derive(Serialize)]
struct Account {
    instances: Vec<Found>,
    /// Disks that outlive boxes; none of them is destroyed here.
    volumes: Vec<VolumeCost>,
}

/// Compares the account with the record.
pub async fn gc(ui: &mut Ui, deps: &Deps, args: &GcArgs) -> Result<(), CommandError> {
    let store = deps.store()?;
    let provider = deps.provider()?;
    // The account first: what is rented in between is in the record, and not yet in the list.
    let instances = provider.instances().await?;
    let claimed: Vec<AttemptRecord> = store
        .all_attempts()?
        .into_iter()
        .filter(|attempt| attempt.state != State::Gone)
        .collect();
    let now_s = deps.clock.now_us() as f64 / 1e6;
    let mut found: Vec<Found> = instances
        .iter()
        .map(|instance| look(instance, &store, &claimed, now_s))
        .collect::<Result<_, _>>()?;
    if let Some(id) = args.instance
        && !found.iter().any(|row| row.instance == id)
    {
        return Err(CommandError::usage(format!(
            "the account has no instance {id}"
        )));
    }
    for row in &mut found {
        let chosen = match args.instance {
            Some(id) => row.instance == id,
            None => row.owner == "orphan",
        };
        if chosen && row.owner == "claimed" {
            return Err(CommandError::new(format!(
                "instance {} belongs to a run of this laptop",
                row.instance
            ))
            .hint("end it with `spotter destroy`, which looks first at what would be lost"));
        }
        if chosen && !args.dry_run {
            if let Some(instance) = instances.iter().find(|found| found.id == row.instance) {
                let lifecycle = deps.lifecycle(ConsoleReport::new(ui))?;
                lifecycle.wipe_unclaimed(instance).await;
            }
            row.destroyed = end(ui, provider.as_ref(), row.instance).await?;
        }
    }
    // The provider goes on with the bills of boxes for hours after their end.
    for run in store.runs()? {
        if let Err(err) = cost::read_charges(deps, &store, &run).await {
            ui.warning(format_args!(
                "the bill of `{}` was not read: {err}",
                run.name
            ));
            break;
        }
    }
    if found.is_empty() {
        ui.status(format_args!("The account has no instances."));
    }
    // Data that somebody wanted to outlive its boxes is not swept up; that it costs is said.
    let account = Account {
        instances: found,
        volumes: cost::volumes(ui, provider.as_ref()).await,
    };
    for disk in &account.volumes {
        ui.warning(format_args!("{}", disk.text()));
    }
    ui.show(&account, |account| {
        let mut table = Table::new(&["INSTANCE>", "OWNER", "AGE", "$/H>", "DESTROYED", "LABEL"]);
        for row in &account.instances {
            table.row([
                row.instance.to_string(),
                row.owner.to_owned(),
                text::duration(Duration::from_secs(row.age_s)),
                format!("{:.3}", row.usd_per_hour),
                if row.destroyed { "yes" } else { "no" }.to_owned(),
                row.label.clone().unwrap_or_default(),
            ]);
        }
        table
    });
    Ok(())
}

/// Destroys an instance, and looks until the provider does not know it any more. False: it still does.
async fn end(ui: &mut Ui, provider: &dyn Provider, id: InstanceId) -> Result<bool, CommandError> {
    provider.destroy(id).await?;
    for look in 1..=LOOKS {
        if provider.instance(id).await?.is_none() {
            return Ok(true);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        // An order that was accepted is not always carried out.
        if look % 5 == 0 {
            provider.destroy(id).await?;
        }
    }
    ui.warning(format_args!(
        "instance {id} still exists {} s after the order to destroy it was accepted, and is paid for: try again",
        (LOOK_AGAIN * LOOKS).as_secs()
    ));
    Ok(false)
}

fn look(
    instance: &Instance,
    store: &Store,
    claimed: &[AttemptRecord],
    now_s: f64,
) -> Result<Found, CommandError> {
    let claim = claims::owner(claimed, instance);
    let owner = match instance.label.as_deref().and_then(label::parse) {
        _ if claim.is_some() => "claimed",
        None => "not spotter's",
        Some(label) if label.store != store.id() => "other store",
        Some(_) => "orphan",
    };
    Ok(Found {
        instance: instance.id,
        label: instance.label.clone(),
        owner,
        age_s: (now_s - instance.start_s).max(0.0) as u64,
        usd_per_hour: match claim {
            // What `ps` says of it.
            Some(attempt) => {
                ledger::rate_usd_per_hour(&store.intervals(&attempt.run)?, Some(attempt.number))
            }
            None => ledger::rates(instance).total(),
        },
        destroyed: false,
    })
}
