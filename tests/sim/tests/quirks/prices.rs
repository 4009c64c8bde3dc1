//! Offers and prices: what is listed, what it costs, what a bid does.

use std::collections::BTreeMap;

use serde_json::json;
use spotter::provider::{Intended, Offer, OfferQuery, Provider, ProviderError, Rental};

use crate::{asked, cheapest, client, order, query, support::Sim};

#[tokio::test]
async fn a_bid_under_the_floor_leaves_a_stopped_instance_whose_number_is_known() {
    let sim = Sim::open().await;
    let vast = client(&sim);
    let offer = cheapest(&vast).await;
    // Our own orders ask not to be left with one; an order of another client's making shows what happens then.
    let answer = vast.rent(&order(offer.id, "ours", Some(0.001))).await;
    assert!(
        matches!(answer, Err(ProviderError::OfferGone { leftover: None, .. })),
        "{answer:?}"
    );
    let body = json!({"image": "i", "disk": 20, "price": 0.001, "cancel_unavail": false});
    let (status, body) = sim
        .call("PUT", &format!("/api/v0/asks/{}/", offer.id), body)
        .await;
    assert_eq!(status, 400);
    let id = body["new_contract"].as_u64().unwrap();
    vast.destroy(id).await.unwrap();
    assert_eq!(vast.instance(id).await.unwrap(), None);
    // And it was reported of orders that ask not to be, when the price rose on their way.
    sim.sim("faults", json!({"bids_too_low": 1})).await;
    let query = asked("gpu_name=RTX_4090", Rental::Interruptible);
    let offer = vast.offers(&query).await.unwrap().remove(0);
    let floor = offer.min_bid_usd_per_hour.unwrap();
    let answer = client(&sim)
        .rent(&order(offer.id, "ours", Some(floor)))
        .await
        .unwrap_err();
    let id = answer.leftover().expect("the refusal names what it left");
    assert!(
        matches!(answer, ProviderError::BidTooLow { .. }),
        "{answer}"
    );
    let left = vast.instance(id).await.unwrap().unwrap();
    assert_eq!(left.label.as_deref(), Some("ours"));
    assert_eq!(
        (left.intended, left.contract_running),
        (Intended::Stopped, false)
    );
    assert_eq!(left.gpu_usd_per_hour, floor, "what was bid");
    let again = client(&sim).offers(&query).await.unwrap();
    let of_machine = |offers: &[Offer]| {
        let same = |row: &&Offer| row.machine_id == offer.machine_id;
        offers
            .iter()
            .find(same)
            .and_then(|row| row.min_bid_usd_per_hour)
    };
    assert!(
        of_machine(&again) > Some(floor),
        "the price rose for everybody"
    );
    sim.close().await;
}

#[tokio::test]
async fn an_offer_that_went_is_known_whatever_the_status() {
    let sim = Sim::open().await;
    for status in [404, 410, 400] {
        sim.sim(
            "faults",
            json!({"offers_gone": 1, "offers_gone_status": status}),
        )
        .await;
        let vast = client(&sim);
        let offer = cheapest(&vast).await;
        let answer = vast.rent(&order(offer.id, "ours", None)).await;
        assert!(
            matches!(answer, Err(ProviderError::OfferGone { .. })),
            "{status}: {answer:?}"
        );
    }
    sim.close().await;
}

#[tokio::test]
async fn names_with_underscores_and_filters_that_the_server_ignores_still_find_what_was_asked_for()
{
    let sim = Sim::open().await;
    let offers = client(&sim)
        .offers(&asked(
            "gpu_name=RTX_4090 reliability>0.99",
            Rental::OnDemand,
        ))
        .await
        .unwrap();
    assert!(!offers.is_empty());
    sim.sim("faults", json!({"filters_ignored": 1})).await;
    let again = client(&sim)
        .offers(&asked(
            "gpu_name=RTX_4090 reliability>0.99",
            Rental::OnDemand,
        ))
        .await
        .unwrap();
    assert!(!again.is_empty());
    for offer in again {
        assert!(
            offer.gpu_name == "RTX 4090" && offer.reliability > Some(0.99) && offer.num_gpus == 1,
            "{offer:?}"
        );
    }
    sim.close().await;
}

#[tokio::test]
async fn offers_are_priced_at_our_disk_and_a_filter_on_cuda_is_ours() {
    let sim = Sim::open().await;
    let query = asked("cuda_vers>=12.8", Rental::Interruptible);
    let offers = client(&sim).offers(&query).await.unwrap();
    assert!(!offers.is_empty() && offers.iter().all(|offer| offer.cuda >= 12.8));
    let (_, rows) = sim
        .call(
            "POST",
            "/api/v0/bundles/",
            json!({"type": "bid", "allocated_storage": 40, "num_gpus": {"eq": 1}}),
        )
        .await;
    for offer in &offers {
        let mut rows = rows["offers"].as_array().unwrap().iter();
        let row = rows.find(|row| row["id"] == offer.id).unwrap();
        let total = row["dph_total"].as_f64().unwrap();
        assert!((offer.running_usd_per_hour() - total).abs() < 1e-9);
    }
    let seen = sim.world.seen();
    let search = &seen
        .iter()
        .find(|seen| seen.path == "/api/v0/bundles/")
        .unwrap()
        .body;
    assert!(search.get("cuda_max_good").is_none(), "{search}");
    sim.close().await;
}

#[tokio::test]
async fn a_higher_bid_may_leave_an_instance_stopped_until_it_is_started() {
    let sim = Sim::open().await;
    sim.sim("faults", json!({"no_auto_resume": true})).await;
    let id = sim.running(Some(0.75)).await;
    sim.sim("outbid", json!({"id": id})).await;
    sim.until(id, "actual_status", "exited").await;
    let vast = client(&sim);
    vast.change_bid(id, 2.0).await.unwrap();
    let seen = vast.instance(id).await.unwrap().unwrap();
    assert_eq!(seen.intended, Intended::Stopped);
    assert!(!seen.scheduling && !seen.contract_running);
    assert!(vast.start(id).await.unwrap(), "its bid is the highest");
    sim.until(id, "actual_status", "running").await;
    sim.close().await;
}

#[tokio::test]
async fn a_machine_that_is_listed_several_times_is_known_by_its_number_and_its_offers_go_together()
{
    let sim = Sim::open().await;
    let query = OfferQuery {
        num_gpus: None,
        ..asked("", Rental::OnDemand)
    };
    let offers = client(&sim).offers(&query).await.unwrap();
    let mut of_machine: BTreeMap<u64, Vec<&Offer>> = BTreeMap::new();
    for offer in &offers {
        of_machine.entry(offer.machine_id).or_default().push(offer);
    }
    let several = of_machine
        .values()
        .max_by_key(|offers| offers.len())
        .unwrap();
    assert!(several.len() >= 3, "{several:?}");
    let whole = several.iter().max_by_key(|offer| offer.num_gpus).unwrap();
    let vast = client(&sim);
    vast.rent(&order(whole.id, "ours", None)).await.unwrap();
    let left = client(&sim).offers(&query).await.unwrap();
    assert!(
        left.iter()
            .all(|offer| offer.machine_id != whole.machine_id)
    );
    let slice = several.iter().find(|offer| offer.id != whole.id).unwrap();
    let answer = client(&sim).rent(&order(slice.id, "ours/2", None)).await;
    assert!(
        matches!(answer, Err(ProviderError::OfferGone { .. })),
        "{answer:?}"
    );
    sim.close().await;
}

#[tokio::test]
async fn a_host_without_a_port_left_is_not_taken_unless_somebody_asks_for_it() {
    let sim = Sim::open().await;
    sim.sim("faults", json!({"ports_exhausted": true})).await;
    let found = client(&sim).offers(&asked("", Rental::OnDemand)).await;
    assert_eq!(found.unwrap(), []);
    for words in ["direct_port_count>=0", "direct_port_count=any"] {
        let found = client(&sim).offers(&asked(words, Rental::OnDemand)).await;
        let found = found.unwrap();
        assert!(
            !found.is_empty() && found.iter().all(|offer| offer.direct_ports == 0),
            "{words}"
        );
    }
    // Without a direct way there is the proxy.
    let id = sim.running(None).await;
    let ssh = client(&sim).instance(id).await.unwrap().unwrap().ssh;
    assert!(
        !ssh.is_empty() && ssh.iter().all(|address| address.proxy),
        "{ssh:?}"
    );
    sim.close().await;
}

/// Whatever `limit` says, 64 rows come; the rest is asked for from the price of the last of them on.
#[tokio::test]
async fn a_search_is_cut_at_64_rows_and_what_is_dearer_comes_with_the_next_one() {
    let sim = Sim::open_with(240).await;
    let vast = client(&sim);
    let mut query = asked("", Rental::OnDemand);
    query.limit = 500;
    let price = Offer::running_usd_per_hour;
    let mut seen: Vec<Offer> = Vec::new();
    for _ in 0..20 {
        let page = vast.offers(&query).await.unwrap();
        assert!(page.len() <= 64, "{}", page.len());
        assert!(page.is_sorted_by(|one, other| price(one) <= price(other)));
        let last = seen.last().map_or(0.0, price);
        // Nothing between two pages is passed over: the next begins at the price of the last.
        assert!(
            page.first()
                .is_none_or(|first| price(first) <= last + 1e-4 || seen.is_empty())
        );
        let cut = page.len() >= 60;
        let known = seen.len();
        for offer in page {
            if seen.iter().all(|known| known.id != offer.id) {
                seen.push(offer);
            }
        }
        if !cut || known == seen.len() {
            break;
        }
        query.filters = vec![query::price_at_least(price(seen.last().unwrap()))];
    }
    let listed = sim
        .call(
            "POST",
            "/api/v0/bundles/",
            json!({"num_gpus": {"eq": 1}, "limit": 500}),
        )
        .await;
    assert_eq!(listed.1["offers"].as_array().unwrap().len(), 64);
    assert!(seen.len() > 64, "{}", seen.len());
    sim.close().await;
}
