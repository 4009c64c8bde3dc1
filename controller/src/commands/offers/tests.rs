//! Orders and tables over a few offers.

use std::{collections::BTreeMap, path::Path};

use super::{tables::fit, *};
use crate::{
    provider::Provider as _,
    provider::memory::MemoryMarket,
    spec::parse,
    ui::{Table, paper::Paper},
};

const RUN: &str = "name: a\nrun: train\nresources: {accelerators: RTX 4090, disk: 200GB}\nmodel: {params: 350M, tokens: 1B}\n";

/// Three machines: one RTX 4090, four of them on a slow network, and an H100; the second has a slice of one GPU too.
async fn offers() -> Vec<Offer> {
    let query = OfferQuery {
        gpu_name: None,
        num_gpus: None,
        rental: Rental::OnDemand,
        disk_gb: 50.0,
        filters: Vec::new(),
        hosts: Vec::new(),
        limit: 9,
        first: Default::default(),
    };
    let found = MemoryMarket::new(1).offers(&query).await.unwrap();
    let one = found.into_iter().next().unwrap();
    let four = Offer {
        id: 2,
        machine_id: 2,
        num_gpus: 4,
        gpu_usd_per_hour: 1.2,
        inet_down_mbps: 1.4,
        ..one.clone()
    };
    let slice = Offer {
        id: 3,
        num_gpus: 1,
        gpu_usd_per_hour: 0.3,
        ..four.clone()
    };
    let h100 = Offer {
        id: 4,
        machine_id: 3,
        gpu_name: "H100 SXM".to_owned(),
        vram_mib: 81_559,
        gpu_usd_per_hour: 2.0,
        ..one.clone()
    };
    vec![one, four, slice, h100]
}

async fn order(sort: Sort, run: bool) -> Vec<u64> {
    let found = offers().await;
    let spec = run.then(|| parse(RUN, "run.yaml", Path::new("/nowhere")).unwrap());
    let (rows, _) = judged(&found, spec.as_ref(), &Known::default());
    sorted(rows, sort).iter().map(|row| row.offer.id).collect()
}

#[tokio::test]
async fn what_comes_first_is_what_was_asked_for() {
    let first = offers().await[0].id;
    assert_eq!(order(Sort::Price, false).await, [3, first, 2, 4]);
    // Peak for a dollar: 165 for 0.31 and for 0.41, four times that for 1.21, 989 for 2.01.
    assert_eq!(order(Sort::Value, false).await, [2, 3, 4, first]);
    // With a run, what cannot be set up over 1.4 Mb/s comes last whatever it costs.
    assert_eq!(order(Sort::Time, true).await[0], 4);
    let by_cost = order(Sort::Cost, true).await;
    assert_eq!(
        by_cost[2..].iter().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([2, 3])
    );
}

#[tokio::test]
async fn both_tables_fit_80_columns_and_tell_all_in_120() {
    let found = offers().await;
    let spec = parse(RUN, "run.yaml", Path::new("/nowhere")).unwrap();
    let (rows, too_dear) = judged(&found, Some(&spec), &Known::default());
    assert_eq!(too_dear, 0);
    let paper = |table: Table| {
        let text = Paper::default();
        let mut ui = Ui::to(
            Box::new(text.clone()),
            Box::new(std::io::sink()),
            crate::ui::UiOptions::default(),
        );
        ui.table(&table);
        text.text()
    };
    let narrow = |width| {
        let mut tables = [market(&rows, false), forecasts(&rows)];
        let left_out = [MARKET_LEAST_FIRST, FORECASTS_LEAST_FIRST];
        for (table, least_first) in tables.iter_mut().zip(left_out) {
            let left_out = table.fit(width, least_first);
            // What a machine has beside its speed and its price gives way first.
            let matters = left_out
                .iter()
                .any(|name| !MARKET_LEAST_FIRST.contains(name) && *name != "VRAM");
            assert!(width < 120 || !matters, "{left_out:?}");
            assert!(width < 240 || left_out.is_empty(), "{left_out:?}");
        }
        tables.map(paper)
    };
    let texts = BTreeMap::from([
        (80, narrow(80)),
        (100, narrow(100)),
        (120, narrow(120)),
        (240, narrow(240)),
    ]);
    for (width, texts) in texts {
        for text in texts {
            assert!(
                text.lines().all(|line| line.chars().count() <= width),
                "{text}"
            );
        }
    }
    assert!(rows.iter().any(|row| row.go == Some(false)));
}

#[tokio::test]
async fn a_note_says_why_a_row_is_marked_and_of_which_offers() {
    let found = offers().await;
    let spec = parse(RUN, "run.yaml", Path::new("/nowhere")).unwrap();
    let (rows, _) = judged(&found, Some(&spec), &Known::default());
    let told = marks(&rows);
    let slow = told
        .iter()
        .find(|mark| mark.starts_with("no go: downloads would take"));
    assert!(
        slow.is_some_and(|mark| mark.contains('2') && mark.contains('3')),
        "{told:?}"
    );
    // Each mark of a row has its reason.
    for row in &rows {
        let word = fit(row);
        let is_told = |mark: &String| mark.starts_with(&format!("{word}: "));
        assert!(
            word == "fits" || told.iter().any(is_told),
            "{word}: {told:?}"
        );
    }
    assert!(told.len() <= MARKS + 1);
    // Without `model`, facts are told all the same.
    let text = RUN.replace("model: {params: 350M, tokens: 1B}", "needs: [flash-attn3]");
    let spec = parse(&text, "run.yaml", Path::new("/nowhere")).unwrap();
    let (rows, _) = judged(&found[..1], Some(&spec), &Known::default());
    assert_eq!(fit(&rows[0]), "no go");
    assert!(marks(&rows)[0].starts_with("no go: FlashAttention 3 needs"));
}
