//! A plan as a page: options, fit, time and cost, what to do about it.

use std::time::Duration;

use super::{
    figures::{self, hours, scenarios},
    known::Known,
    options::{Candidate, Plan},
    page::Page,
};
use crate::{
    estimate::{
        advice::Effort,
        baseline::Carried,
        outlook::{Check, Forecast, Outlook},
        playbook::SETUP_TAX,
    },
    spec::Model,
    store::ObservationRecord,
    ui::text,
};

/// Prices alone, for a run file that does not say what is trained.
pub(super) fn prices(plan: &Plan<'_>) -> Page {
    let mut page = Page::default();
    page.table(
        &[
            "OFFER>",
            "GPU",
            "WHERE",
            "REL>",
            "BID>",
            "RUNNING>",
            "STOPPED>",
            "BUDGET LASTS>",
        ],
        plan.offers
            .iter()
            .map(|option| {
                vec![
                    option.offer.to_string(),
                    option.gpu.to_owned(),
                    option.geolocation.to_owned(),
                    figures::reliability(option.reliability),
                    text::or_dash(option.bid_usd_per_hour.map(text::usd_per_hour)),
                    text::usd_per_hour(option.running_usd_per_hour),
                    text::usd_per_hour(option.stopped_usd_per_hour),
                    option.lasts(),
                ]
            })
            .collect(),
    );
    risks(&mut page, plan);
    page
}

/// The whole plan.
pub(super) fn page(plan: &Plan<'_>, model: &Model, known: &Known) -> Page {
    let mut page = Page::default();
    page.heading(format!("Plan of `{}`: {}", plan.run, trained(model)));
    page.table(&HARDWARE, plan.offers.iter().map(hardware).collect());
    page.heading(format!(
        "Time and cost by method `{}`, as optimistic / base / pessimistic",
        plan.method.name()
    ));
    page.table(&FORECAST, plan.offers.iter().map(forecast).collect());
    products(&mut page, plan);
    let Some((best, outlook)) = plan
        .offers
        .iter()
        .find_map(|option| Some((option, option.outlook.as_ref()?)))
    else {
        page.line("None of these GPUs is in spotter's table, so nothing can be said about fit, time and cost.");
        return page;
    };
    history(&mut page, plan, outlook, known);
    if outlook.runs() && model.tokens.is_none() {
        page.line("Say in `model.tokens` how long it trains, and time and cost are told.");
    }
    if outlook.runs() && outlook.methods_differ() {
        page.heading(format!(
            "The methods differ by much on offer {}",
            best.offer
        ));
        page.table(
            &METHODS,
            vec![method(&outlook.forecast), method(&outlook.other)],
        );
        page.line("A short run on the box tells which is right.");
    }
    page.heading(format!(
        "Does it fit offer {}, {} x {}?",
        best.offer, best.num_gpus, best.gpu
    ));
    page.table(&CHECKS, outlook.checks.iter().map(check).collect());
    let details = outlook
        .checks
        .iter()
        .map(|check| format!("{}: {}", check.what, check.detail));
    page.items(details.collect());
    setup(&mut page, plan, outlook);
    risks(&mut page, plan);
    if !plan.optimizations.is_empty() {
        page.heading("Worth doing first, in this order");
        page.steps(plan.optimizations.clone());
    }
    if !plan.gates.is_empty() {
        page.heading("In the first ten minutes");
        page.table(
            &["WATCH", "EXPECT", "STOP WHEN"],
            plan.gates
                .iter()
                .map(|gate| {
                    vec![
                        gate.what.to_owned(),
                        gate.expect.clone(),
                        gate.abort.clone(),
                    ]
                })
                .collect(),
        );
    }
    page.heading(verdict(plan, best, outlook));
    page
}

const HARDWARE: [&str; 9] = [
    "OFFER>", "GPU", "VRAM>", "RAM>", "TFLOPS>", "GB/S>", "$/H>", "STOPPED>", "REL>",
];

fn hardware(option: &Candidate<'_>) -> Vec<String> {
    vec![
        option.offer.to_string(),
        format!("{} x {}", option.num_gpus, option.gpu),
        format!("{:.0}G", option.vram_gib),
        format!("{:.0}G", option.ram_gb),
        text::or_dash(option.tensor_tflops.map(|tflops| format!("{tflops:.0}"))),
        text::or_dash(option.memory_gb_per_s.map(|speed| format!("{speed:.0}"))),
        text::usd_per_hour(option.running_usd_per_hour),
        text::usd_per_hour(option.stopped_usd_per_hour),
        figures::reliability(option.reliability),
    ]
}

const FORECAST: [&str; 7] = [
    "OFFER>",
    "FIT",
    "TOKENS/S>",
    "HOURS>",
    "COST>",
    "TAX>",
    "EFFORT",
];

fn forecast(option: &Candidate<'_>) -> Vec<String> {
    let Some(outlook) = &option.outlook else {
        let unknown = "GPU not in the table".to_owned();
        let dash = || "-".to_owned();
        return vec![
            option.offer.to_string(),
            unknown,
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
        ];
    };
    let forecast = &outlook.forecast;
    // A speed at which it cannot run is none.
    let runs = outlook.runs();
    let fit = match option.go {
        true => outlook.fit().word(),
        false => "no go",
    };
    let span = forecast.wall_hours.filter(|_| runs);
    let cost = forecast.cost_usd.filter(|_| runs);
    let tax = forecast.setup_tax.filter(|_| runs);
    vec![
        option.offer.to_string(),
        fit.to_owned(),
        text::or_dash(runs.then(|| figures::count(forecast.tokens_per_s.base))),
        text::or_dash(span.map(|span| scenarios(span, hours))),
        text::or_dash(cost.map(|cost| scenarios(cost, figures::dollars))),
        text::or_dash(tax.map(|tax| format!("{:.0}%", tax * 100.0))),
        text::or_dash(option.effort.map(Effort::word)),
    ]
}

const PRODUCTS: [&str; 7] = [
    "GPU",
    "OFFER>",
    "FIT",
    "TOKENS/S>",
    "HOURS>",
    "COST>",
    "$/H>",
];

/// The best offer of each other product: where the run might be cheaper.
fn products(page: &mut Page, plan: &Plan<'_>) {
    if plan.products.is_empty() {
        return;
    }
    page.heading("Other GPUs, the best offer of each, by what the whole run would cost");
    let row = |option: &Candidate<'_>| {
        let [offer, fit, speed, hours, cost, ..]: [String; 7] =
            forecast(option).try_into().expect("a row has every column");
        let gpu = format!("{} x {}", option.num_gpus, option.gpu);
        vec![
            gpu,
            offer,
            fit,
            speed,
            hours,
            cost,
            text::usd_per_hour(option.running_usd_per_hour),
        ]
    };
    page.table(&PRODUCTS, plan.products.iter().map(row).collect());
    let cost = |option: &Candidate<'_>| Some(option.outlook.as_ref()?.forecast.cost_usd?.base);
    let own = plan.offers.first().and_then(cost);
    if let Some((best, other)) = plan
        .products
        .first()
        .and_then(|best| Some((best, cost(best)?)))
        && own.is_none_or(|own| other < own)
    {
        page.line(format!(
            "To take the first of these, write `accelerators: \"{}:{}\"` in the run file",
            best.gpu, best.num_gpus
        ));
    }
}

const HISTORY: [&str; 8] = [
    "ID>",
    "RUN",
    "TRY>",
    "GPU",
    "TOKENS/S>",
    "PREDICTED>",
    "GPU%>",
    "SETUP>",
];
/// Observations that a plan shows; `history` has all.
const HISTORY_ROWS: usize = 5;

/// What earlier runs of the same code did against what was predicted of them, and which of them the figures go by.
fn history(page: &mut Page, plan: &Plan<'_>, outlook: &Outlook, known: &Known) {
    if plan.history.is_empty() {
        return;
    }
    page.heading("What this code did before, against what was predicted of it");
    let newest = plan.history.len().saturating_sub(HISTORY_ROWS);
    let row = |record: &ObservationRecord| {
        let seen = &record.seen;
        let predicted = seen.predicted_tokens_per_s.map(|predicted| {
            let share = seen.tokens_per_s.map(|speed| speed / predicted);
            let share = share.map_or_else(String::new, |share| format!(" ({:.0}%)", share * 100.0));
            format!("{}{share}", figures::count(predicted))
        });
        let used = seen.gpu_utilisation_percent;
        vec![
            record.id.to_string(),
            seen.run.clone(),
            text::or_dash(seen.attempt),
            seen.gpus(),
            text::or_dash(seen.tokens_per_s.map(figures::count)),
            text::or_dash(predicted),
            text::or_dash(used.map(|used| format!("{used:.0}"))),
            text::or_dash(
                seen.setup_s
                    .map(|setup_s| hours_and_minutes(setup_s / 3600.0)),
            ),
        ]
    };
    page.table(&HISTORY, plan.history[newest..].iter().map(row).collect());
    let carried = outlook.forecast.baseline;
    page.line(
        match carried.and_then(|carried| Some((carried, known.find(carried.observation)?))) {
            Some((carried, record)) => carried_words(carried, record),
            None => {
                "none of it tells a speed on a GPU that is known, so the estimate is a cold one"
                    .to_owned()
            }
        },
    );
}

/// By which observation a speed goes, and how.
fn carried_words(carried: Carried, record: &ObservationRecord) -> String {
    let seen = &record.seen;
    let from = format!("{} ({}) on {}", record.id, seen.whose(), seen.gpus());
    match carried.as_is {
        true => format!("the first offer's speed is that of {from}, as it is"),
        false => format!(
            "the first offer's speed is that of {from}, carried over by peak and bandwidth: each GPU x {:.2}",
            carried.factor
        ),
    }
}

const METHODS: [&str; 5] = ["METHOD", "TOKENS/S>", "RANGE>", "HOURS>", "COST>"];

fn method(forecast: &Forecast) -> Vec<String> {
    let speed = forecast.tokens_per_s;
    vec![
        forecast.method.name().to_owned(),
        figures::count(speed.base),
        format!(
            "{} to {}",
            figures::count(speed.low),
            figures::count(speed.high)
        ),
        text::or_dash(forecast.wall_hours.map(|span| scenarios(span, hours))),
        text::or_dash(
            forecast
                .cost_usd
                .map(|cost| scenarios(cost, figures::dollars)),
        ),
    ]
}

const CHECKS: [&str; 6] = [
    "CHECK",
    "NEEDS>",
    "SAFE TO>",
    "RISKY TO>",
    "THERE>",
    "VERDICT",
];

fn check(check: &Check) -> Vec<String> {
    let amount = |value: f64| format!("{value:.1} {}", check.unit);
    let there = match check.what {
        "network" => format!("{:.0} Mb/s", check.has),
        _ => amount(check.has),
    };
    vec![
        check.what.to_owned(),
        amount(check.needs),
        amount(check.safe_up_to),
        amount(check.risky_up_to),
        there,
        check.verdict.word().to_owned(),
    ]
}

fn setup(page: &mut Page, plan: &Plan<'_>, outlook: &Outlook) {
    let (Some(setup_hours), Some(probe)) = (plan.setup_hours, &plan.probe) else {
        return;
    };
    page.heading("Setup and debugging");
    if let Some(tax) = outlook.forecast.setup_tax {
        let judged = match tax > SETUP_TAX {
            true => "more than 25%: not ready for dear hardware",
            false => "within the 25% that are worth it",
        };
        let known = match plan.setup_measured {
            true => ", as earlier runs of this code took,",
            false => "",
        };
        page.line(format!(
            "{} of setup and downloads{known} are {:.0}% of the wall time: {judged}",
            hours_and_minutes(
                outlook
                    .forecast
                    .wall_hours
                    .map_or(setup_hours, |span| span.base * tax)
            ),
            tax * 100.0
        ));
    }
    let here = text::usd(probe.here_usd);
    let there = text::usd(probe.probe_usd);
    page.line(match probe.probe_first {
        true => format!(
            "debugging here costs {here}, on the cheapest that fits ({}) {there} with moving: debug there first",
            text::usd_per_hour(probe.probe_usd_per_hour)
        ),
        false => format!("debugging here costs {here}, a cheap probe and moving {there}: debug where it trains"),
    });
    if let Some(rental) = &plan.rental_advice {
        page.line(format!("rent {}: {}", rental.advice, rental.why));
    }
}

/// Each risk once, with the offers that it concerns: those that differ in their figures alone are one.
fn risks(page: &mut Page, plan: &Plan<'_>) {
    let mut found: Vec<(String, Vec<(u64, &str)>)> = Vec::new();
    for option in &plan.offers {
        for risk in option.blockers.iter().chain(&option.risks) {
            let kind: String = risk.chars().filter(|c| !c.is_ascii_digit()).collect();
            match found.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, offers)) => offers.push((option.offer, risk)),
                None => found.push((kind, vec![(option.offer, risk)])),
            }
        }
    }
    if found.is_empty() {
        return;
    }
    page.heading("Risks");
    let line = |(_, offers): &(String, Vec<(u64, &str)>)| {
        let (first, risk) = offers[0];
        let is_one = offers.iter().all(|(_, other)| *other == risk);
        let numbers = |offers: &[(u64, &str)]| {
            let numbers: Vec<String> = offers.iter().map(|(id, _)| id.to_string()).collect();
            numbers.join(", ")
        };
        match (is_one, offers.len() == plan.offers.len()) {
            (true, true) => format!("all: {risk}"),
            (true, false) => format!("{}: {risk}", numbers(offers)),
            (false, true) => format!("{first}, and much the same for all others: {risk}"),
            (false, false) => format!(
                "{first}, and much the same for {}: {risk}",
                numbers(&offers[1..])
            ),
        }
    };
    page.items(found.iter().map(line).collect());
}

fn verdict(plan: &Plan<'_>, best: &Candidate<'_>, outlook: &Outlook) -> String {
    if !plan.go {
        return "No go.".to_owned();
    }
    match (outlook.forecast.wall_hours, outlook.forecast.cost_usd) {
        (Some(span), Some(cost)) => format!(
            "Go: offer {}, about {} and {} ({} if it goes badly).",
            best.offer,
            hours_and_minutes(span.base),
            text::usd(cost.base),
            text::usd(cost.pessimistic)
        ),
        _ => format!(
            "Go: offer {}, {} all in.",
            best.offer,
            text::usd_per_hour(best.running_usd_per_hour)
        ),
    }
}

fn trained(model: &Model) -> String {
    let method = match model.method {
        crate::estimate::job::Method::Full => "all weights",
        crate::estimate::job::Method::Lora => "LoRA",
        crate::estimate::job::Method::Qlora => "QLoRA",
    };
    let name = model
        .name
        .as_ref()
        .map_or_else(String::new, |name| format!("{name}, "));
    let tokens = model.tokens.map_or_else(String::new, |tokens| {
        format!(", {} tokens", figures::count(tokens))
    });
    format!(
        "{name}{} parameters, {method}{tokens}",
        figures::count(model.params)
    )
}

fn hours_and_minutes(hours: f64) -> String {
    let seconds = (hours * 60.0).round().max(0.0) * 60.0;
    // What somebody noted by hand may be beyond any clock.
    text::duration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}
