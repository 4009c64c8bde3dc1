//! `spotter history machines` and `forgive`: machines with a past.

use serde::Serialize;

use crate::{
    commands::Deps,
    error::CommandError,
    run::machines::{self as known, BadMachine},
    ui::{Table, Ui, text},
};

/// List machines of which something bad is known; they are avoided for a week while there are others
#[derive(Debug, clap::Args)]
pub(super) struct MachinesArgs {}

/// Forget what a machine did, so that it is taken again
#[derive(Debug, clap::Args)]
pub(super) struct ForgiveArgs {
    /// Its number, as `history machines` and `offers --json` show it
    machine: u64,
}

/// Of what a machine did, so much is in the table; `--json` has all of it.
const WHY_CHARS: usize = 100;

#[derive(Serialize)]
struct Machines {
    machines: Vec<BadMachine>,
}

#[derive(Serialize)]
struct Forgiven {
    forgiven: u64,
}

pub(super) fn machines(ui: &mut Ui, deps: &Deps, _: &MachinesArgs) -> Result<(), CommandError> {
    let machines = match deps.existing_store()? {
        Some(store) => known::all(&store, deps.clock.now_us())?,
        None => Vec::new(),
    };
    if machines.is_empty() {
        ui.status(format_args!("Nothing bad is known of any machine."));
    }
    let machines = Machines { machines };
    if ui.is_json() || !machines.machines.is_empty() {
        ui.show(&machines, |machines| table(&machines.machines));
    }
    Ok(())
}

fn table(machines: &[BadMachine]) -> Table {
    let mut table = Table::new(&["MACHINE>", "SINCE", "AVOIDED UNTIL", "WHY"]);
    for machine in machines {
        table.row([
            machine.machine_id.to_string(),
            text::time(machine.since_us),
            match machine.avoided {
                true => text::time(machine.until_us),
                false => "no more".to_owned(),
            },
            text::short(&machine.reason, WHY_CHARS),
        ]);
    }
    table
}

pub(super) fn forgive(ui: &mut Ui, deps: &Deps, args: &ForgiveArgs) -> Result<(), CommandError> {
    let machine = args.machine;
    let forgiven = match deps.existing_store()? {
        Some(store) => known::forgive(&store, machine)?,
        None => false,
    };
    if !forgiven {
        return Err(
            CommandError::usage(format!("nothing bad is known of machine {machine}"))
                .hint("see of which something is: `spotter history machines`"),
        );
    }
    ui.status(format_args!("Machine {machine} is taken again."));
    if ui.is_json() {
        ui.json(&Forgiven { forgiven: machine });
    }
    Ok(())
}
