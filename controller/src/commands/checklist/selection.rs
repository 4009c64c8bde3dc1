//! Lines of the checklist about the box that is chosen (pure).

use super::{facts::Facts, line::Told};
use crate::{
    provider::{Filter, Rental},
    ui::text,
};

pub(super) fn search(facts: &Facts) -> Told {
    if facts.is_on_hosts() {
        return Told::does_not_apply("a host of yours: no market is searched");
    }
    let filters = &facts.spec.resources.filters;
    let mut shown: Vec<String> = filters.iter().map(words).collect();
    if let Some(usd) = facts.spec.resources.max_price_usd_per_hour {
        shown.push(format!("at most {}", text::usd_per_hour(usd)));
    }
    let told = match shown.as_slice() {
        [] => "`resources.offers` asks for nothing".to_owned(),
        shown => shown.join(", "),
    };
    let cuda = match facts.promised.cuda {
        cuda if cuda > 0.0 => format!("; its driver runs CUDA {cuda:.1}"),
        _ => String::new(),
    };
    let by_reliability = filters
        .iter()
        .any(|filter| filter.field.starts_with("reliability"));
    let rented = facts
        .newest()
        .is_some_and(|attempt| attempt.instance.is_some());
    match (by_reliability, rented) {
        (true, true) => Told::done(format!("taken by {told}{cuda}")),
        (true, false) => Told::not_yet(format!("asks for {told}"), &facts.onward),
        (false, true) => Told::unknown(
            format!("{told}: how reliable its host is was not asked{cuda}"),
            format!(
                "add `offers: \"reliability>0.95\"` to `resources` of {}",
                facts.run_file()
            ),
        ),
        (false, false) => Told::not_yet(
            format!("{told}: a host of any reliability is taken"),
            format!(
                "add `offers: \"reliability>0.95\"` to `resources` of {}",
                facts.run_file()
            ),
        ),
    }
}

/// `reliability gte 0.95` as it is typed.
fn words(filter: &Filter) -> String {
    let sign = match filter.op.as_str() {
        "eq" => "=",
        "neq" => "!=",
        "gt" => ">",
        "gte" => ">=",
        "lt" => "<",
        "lte" => "<=",
        other => return format!("{} {other} {}", filter.field, filter.value),
    };
    format!("{}{sign}{}", filter.field, filter.value)
}

pub(super) fn gpu(facts: &Facts) -> Told {
    let resources = &facts.spec.resources;
    let Some(newest) = facts.newest().filter(|newest| newest.instance.is_some()) else {
        let asked = resources.gpu_name.as_deref().unwrap_or("any GPU");
        let told = format!("asks for {} x {asked}", resources.num_gpus);
        return match &facts.file {
            Some(file) => Told::not_yet(told, format!("spotter plan {file}")),
            None => Told::not_yet(told, &facts.onward),
        };
    };
    let ordered = newest.gpu.as_str();
    let cards = facts.driver.iter().flat_map(|driver| &driver.gpus);
    let card = cards.map(|card| {
        let capability = f64::from(card.compute_capability) / 10.0;
        format!("{} ({capability:.1})", card.name)
    });
    let read = facts.reading.iter().flat_map(|reading| &reading.gpus);
    let seen = card
        .clone()
        .next()
        .or(read.clone().next().map(|gpu| gpu.name.clone()));
    let count = card.count().max(read.count());
    match seen {
        // It was held against the order before any code was copied to it.
        Some(seen) if has_passed(facts) => Told::done(format!(
            "ordered {ordered}, its driver says {count} x {seen}"
        ))
        .at(facts
            .reading
            .as_ref()
            .map(|reading| reading.time_us.cast_signed())),
        None if has_passed(facts) => Told::done(format!(
            "ordered {ordered}, held against what its box says before anything was started on it"
        ))
        .at(newest.started_us),
        _ => Told::not_yet(
            format!("ordered {ordered}, and its box has not told what it is"),
            &facts.onward,
        ),
    }
}

/// The box of the newest attempt was found to be what was ordered: nothing is started on it before.
fn has_passed(facts: &Facts) -> bool {
    facts.trains_here() || facts.setup.is_some() || facts.smoke.is_some()
}

pub(super) fn rental(facts: &Facts) -> Told {
    if facts.is_on_hosts() {
        return Told::does_not_apply("a host of yours: nothing is rented");
    }
    let resources = &facts.spec.resources;
    match facts.newest().filter(|newest| newest.instance.is_some()) {
        Some(newest) => Told::done(format!(
            "{}, {} for its GPUs",
            newest.rental.name(),
            text::usd_per_hour(newest.gpu_usd_per_hour)
        ))
        .at(newest.created_us),
        None => {
            let most = match (resources.rental, resources.bid_max_usd_per_hour) {
                (Rental::Interruptible, Some(usd)) => {
                    format!(", a bid of {} at most", text::usd_per_hour(usd))
                }
                _ => String::new(),
            };
            Told::done(format!("{}{most}", resources.rental.name()))
        }
    }
}

pub(super) fn instance(facts: &Facts) -> Told {
    let Some((newest, id)) = facts
        .newest()
        .and_then(|newest| Some((newest, newest.instance?)))
    else {
        return facts.to_come();
    };
    Told::done(format!("instance {id} of attempt {}", newest.number)).at(newest.created_us)
}
