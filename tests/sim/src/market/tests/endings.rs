//! Contracts that end with their machine's listing, hosts that are lost unnoticed, instances that vanish late.

use super::*;

#[test]
fn at_the_end_of_its_contract_an_instance_stops_for_good_and_is_deleted_two_days_later() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    let now = up(&mut market, id);
    let end = now + HOUR;
    assert_eq!(market.end_term(now, id, HOUR), Ok(end));
    market.advance(end - 1);
    assert_eq!(words(&market, id), ("running", "running", "running"));
    assert!(!sizes(&market).is_empty());

    market.advance(end);
    assert_eq!(market.take_effects(), [Effect::Stop(id)]);
    market.box_stopped(end, id);
    assert_eq!(words(&market, id), ("stopped", "stopped", "exited"));
    assert!(sizes(&market).is_empty(), "nothing is offered any more");
    assert!(
        matches!(market.start(end, id), Err(Refused::Invalid(text)) if text.contains("has ended"))
    );
    assert!(matches!(
        market.end_term(end, id, HOUR),
        Err(Refused::Impossible(_))
    ));
    assert_eq!(market.instances[&id].bill.gpu_millis(end + HOUR), HOUR);

    let deletion = end + 48 * HOUR;
    market.advance(deletion - 1);
    assert!(market.living(id).is_ok());
    market.advance(deletion);
    assert_eq!(market.living(id), Err(Refused::NoSuchInstance(id)));
    assert_eq!(market.take_effects(), [Effect::Destroy(id)]);
    let bill = &market.instances[&id].bill;
    assert_eq!(
        bill.total_usd(deletion),
        bill.total_usd(deletion + 10 * HOUR)
    );
}

#[test]
fn every_listing_has_an_end_and_what_waits_for_gpus_then_waits_no_more() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(Some(0.2))).unwrap().id;
    let now = up(&mut market, id);
    market.outbid(now, id, Intruder::default()).unwrap();
    market.box_stopped(now, id);
    assert!(market.instances[&id].waits());
    let end = market.machines[0].spec.end_ms;
    assert_eq!(end, T0 + 90 * 24 * HOUR);
    market.deposit(now, 0, 1000.0);
    market.advance(end);
    assert!(!market.instances[&id].waits());
    market.tenant_leaves(end, id).unwrap();
    market.advance(end + HOUR);
    assert_eq!(words(&market, id), ("stopped", "stopped", "exited"));
}

#[test]
fn a_host_that_is_lost_unnoticed_is_called_running_and_charged_until_it_is_back() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    let now = up(&mut market, id);
    assert_eq!(market.lose_host_unnoticed(now, id), Ok(vec![id]));
    assert_eq!(market.take_effects(), [Effect::LosePower(id)]);
    market.advance(now + HOUR);
    assert_eq!(words(&market, id), ("running", "running", "running"));
    let instance = &market.instances[&id];
    assert_eq!(instance.address, Some(address()), "it is still published");
    assert_eq!(instance.bill.gpu_millis(now + HOUR), HOUR);
    assert!(matches!(
        market.lose_host(now + HOUR, id),
        Err(Refused::Impossible(_))
    ));

    market.host_back(now + HOUR, id).unwrap();
    assert_eq!(words(&market, id).2, "loading");
    assert_eq!(market.instances[&id].address, None);
    assert_eq!(up(&mut market, id), now + HOUR + 8_000);
    assert_eq!(words(&market, id), ("running", "running", "running"));
}

#[test]
fn a_destroyed_instance_is_shown_for_as_long_as_it_takes_and_costs_nothing() {
    let mut market = market();
    let one = offer(&market, 1);
    let id = market.rent(T0, 0, one, order(None)).unwrap().id;
    let now = up(&mut market, id);
    assert!(market.instances[&id].is_shown(now));
    market.set_destroy_delay(5_000);
    market.destroy(now, id).unwrap();
    let instance = &market.instances[&id];
    assert!(instance.is_shown(now + 4_999) && !instance.is_shown(now + 5_000));
    assert_eq!(words(&market, id), ("stopped", "unloaded", "running"));
    let bill = &instance.bill;
    assert_eq!(bill.total_usd(now), bill.total_usd(now + HOUR));
    assert_eq!(market.destroy(now, id), Err(Refused::NoSuchInstance(id)));
}
