//! Boxes: how they are reached, what is said of them, how they are taken, stopped and ended.

use serde_json::json;
use spotter::provider::{Actual, Instance, Intended, Provider, ProviderError, SshAddress};

use crate::{client, sent, support::Sim};

#[tokio::test]
async fn a_box_that_runs_before_its_ports_are_published_has_no_address_yet() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    for no_ports in ["empty", "null", "absent", "null_entry"] {
        sim.sim(
            "faults",
            json!({"ports_delay_s": 1000.0, "no_ports": no_ports}),
        )
        .await;
        let instance = client(&sim).instance(id).await.unwrap().unwrap();
        assert!(instance.ssh.is_empty(), "{no_ports}: {:?}", instance.ssh);
    }
    sim.sim("faults", json!({"ports_delay_s": 0.0})).await;
    assert!(
        !client(&sim)
            .instance(id)
            .await
            .unwrap()
            .unwrap()
            .ssh
            .is_empty()
    );
    sim.close().await;
}

#[tokio::test]
async fn ports_that_are_only_in_the_list_are_read_from_there() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    sim.sim("faults", json!({"ports_only_in_list": true})).await;
    let instance = client(&sim).instance(id).await.unwrap().unwrap();
    assert!(
        instance.ssh.iter().any(|address| !address.proxy),
        "{:?}",
        instance.ssh
    );
    sim.close().await;
}

#[tokio::test]
async fn both_ways_to_a_box_are_kept_where_one_may_be_dead() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let live = client(&sim).instance(id).await.unwrap().unwrap().ssh[0].port;
    for (route, expected) in [
        ("proxy", vec![(9, false), (live, true)]),
        ("direct", vec![(live, false), (9, true)]),
    ] {
        sim.sim("faults", json!({"ssh_route": route})).await;
        let instance = client(&sim).instance(id).await.unwrap().unwrap();
        let found: Vec<(u16, bool)> = instance
            .ssh
            .iter()
            .map(|address| (address.port, address.proxy))
            .collect();
        assert_eq!(found, expected, "{route}");
    }
    sim.close().await;
}

#[tokio::test]
async fn white_space_around_an_address_is_no_part_of_it() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    sim.sim("faults", json!({"padded_address": true})).await;
    let instance = client(&sim).instance(id).await.unwrap().unwrap();
    assert_eq!(instance.ssh[0].host, "127.0.0.1");
    sim.close().await;
}

#[tokio::test]
async fn an_interruption_shows_in_the_intention_before_the_container_is_down() {
    let sim = Sim::open().await;
    let id = sim.running(Some(0.75)).await;
    sim.sim("outbid", json!({"id": id})).await;
    let seen = client(&sim).instance(id).await.unwrap().unwrap();
    assert_eq!(seen.intended, Intended::Stopped);
    assert!(!seen.contract_running && seen.is_bid == Some(true));
    assert_eq!(seen.charged_gpu_usd_per_hour, Some(0.0));
    sim.until(id, "actual_status", "exited").await;
    sim.close().await;
}

#[tokio::test]
async fn a_start_whose_gpu_is_taken_is_queued_and_a_stop_takes_it_off_the_queue() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let vast = client(&sim);
    vast.stop(id).await.unwrap();
    sim.until(id, "actual_status", "exited").await;
    sim.sim("outbid", json!({"id": id, "on_demand": true}))
        .await;
    assert!(!vast.start(id).await.unwrap(), "queued");
    assert!(vast.instance(id).await.unwrap().unwrap().scheduling);
    vast.stop(id).await.unwrap();
    assert!(!client(&sim).instance(id).await.unwrap().unwrap().scheduling);
    sim.close().await;
}

#[tokio::test]
async fn a_key_may_be_attached_twice_and_to_an_account_without_keys() {
    let sim = Sim::open().await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBlPBq6NbAFE8Gw4YVYpvbwYlQlGuVVhTXcIhlwBaqJp me@laptop";
    let vast = client(&sim);
    vast.register_key(key).await.unwrap();
    client(&sim).register_key(key).await.unwrap();
    assert_eq!(sent(&sim, "POST /api/v0/ssh"), 1);
    let id = sim.running(None).await;
    let other = key.replace("IBlP", "IBlQ");
    vast.attach_key(id, &other).await.unwrap();
    client(&sim)
        .attach_key(id, &format!("{other}\n"))
        .await
        .unwrap();
    sim.until_told(id, "set keys").await;
    sim.close().await;
}

#[tokio::test]
async fn an_instance_that_is_slow_to_vanish_does_not_run_and_may_be_destroyed_again() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    sim.sim("faults", json!({"destroy_delay_s": 1000.0})).await;
    client(&sim).destroy(id).await.unwrap();
    let seen = client(&sim).instance(id).await.unwrap().unwrap();
    assert!(!seen.contract_running && !seen.scheduling, "{seen:?}");
    client(&sim).destroy(id).await.unwrap();
    sim.close().await;
}

#[tokio::test]
async fn a_contract_that_has_ended_is_refused_for_good_and_its_end_was_known() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let told = sim
        .sim("contract-ends", json!({"id": id, "in_s": 3600}))
        .await;
    let seen = client(&sim).instance(id).await.unwrap().unwrap();
    assert_eq!(seen.end_s, told["end_date"].as_f64());
    sim.sim("contract-ends", json!({"id": id})).await;
    sim.until(id, "actual_status", "exited").await;
    let answer = client(&sim).start(id).await;
    assert!(
        matches!(&answer, Err(ProviderError::Refused { message, .. }) if message.contains("has ended")),
        "{answer:?}"
    );
    sim.close().await;
}

/// Who adds a key to the file on the box loses it hours later; one that is attached is written again with the others.
#[tokio::test]
async fn an_attached_key_is_still_there_when_the_provider_writes_the_keys_of_a_box_anew() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBlPBq6NbAFE8Gw4YVYpvbwYlQlGuVVhTXcIhlwBaqJp me@laptop";
    client(&sim).attach_key(id, key).await.unwrap();
    sim.until_told(id, "set keys").await;
    let by_hand = "ssh-ed25519 AAAAC3 appended@onstart".to_owned();
    sim.boxes
        .keys
        .lock()
        .unwrap()
        .get_mut(&id)
        .unwrap()
        .push(by_hand.clone());
    let before = sim.boxes.calls(id).len();
    sim.sim("rewrite-keys", json!({"id": id})).await;
    sim.until_calls(id, before + 1).await;
    let keys = sim.boxes.keys.lock().unwrap()[&id].clone();
    assert!(keys.iter().any(|known| known == key), "{keys:?}");
    assert!(!keys.contains(&by_hand), "{keys:?}");
    sim.close().await;
}

#[tokio::test]
async fn zeros_nulls_and_old_figures_of_its_load_say_nothing_of_a_box() {
    let sim = Sim::open().await;
    let id = sim.running(Some(0.75)).await;
    let mut seen: Vec<Instance> = Vec::new();
    for (telemetry, disk_usage) in [
        ("unknown", json!(-1.0)),
        ("zero", json!(0.0)),
        ("stale", json!(9.7)),
    ] {
        sim.sim("faults", json!({"telemetry": telemetry})).await;
        assert_eq!(
            sim.row(id).await["disk_usage"].as_f64(),
            disk_usage.as_f64(),
            "{telemetry}"
        );
        let read = client(&sim).instance(id).await.unwrap().unwrap();
        assert_eq!(
            (read.actual, read.contract_running),
            (Actual::Running, true),
            "{telemetry}"
        );
        seen.push(Instance {
            up_since_s: None,
            ..read
        });
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "{seen:#?}");
    sim.close().await;
}

#[tokio::test]
async fn the_proxy_of_an_image_with_jupyter_is_one_port_further() {
    let sim = Sim::open().await;
    // With a port of its own, a box of the simulator has it in common with its proxy.
    sim.sim("faults", json!({"ports_exhausted": true})).await;
    for (runtype, further) in [
        ("ssh_direc ssh_proxy", 0),
        ("ssh_proxy", 0),
        ("jupyter_direc ssh_direc ssh_proxy", 1),
        ("jupyter_proxy ssh_proxy", 1),
    ] {
        let offer = sim.offer(json!({"num_gpus": {"eq": 1}})).await;
        let path = format!("/api/v0/asks/{}/", offer["id"]);
        let order = json!({"image": "i:1", "disk": 10, "runtype": runtype});
        let (_, made) = sim.call("PUT", &path, order).await;
        let id = made["new_contract"].as_u64().unwrap();
        let row = sim.until(id, "actual_status", "running").await;
        let published = row["ssh_port"].as_u64().unwrap() as u16;
        let read = client(&sim).instance(id).await.unwrap().unwrap();
        let proxies: Vec<&SshAddress> = read.ssh.iter().filter(|address| address.proxy).collect();
        assert_eq!(proxies.len(), 1, "{runtype}");
        assert_eq!(proxies[0].port, published + further, "{runtype}");
    }
    sim.close().await;
}

#[tokio::test]
async fn a_host_that_misses_heartbeats_is_unknown_for_some_looks_while_its_contract_runs() {
    let sim = Sim::open().await;
    let id = sim.running(Some(0.75)).await;
    sim.sim("faults", json!({"status_flaps": 1})).await;
    let flap = client(&sim).instance(id).await.unwrap().unwrap();
    assert_eq!(
        (flap.actual, flap.intended, flap.contract_running),
        (Actual::Unknown, Intended::Running, true)
    );
    let after = client(&sim).instance(id).await.unwrap().unwrap();
    assert_eq!(after.actual, Actual::Running);
    sim.close().await;
}
