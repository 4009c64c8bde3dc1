//! spotter's client of the market, call by call: what it sends, what it makes of the answer, and what it does with an answer that is
//! broken. Where the simulator never answers like that, a server with canned answers does.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod support;

use std::{collections::VecDeque, sync::Arc, sync::Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use spotter::{
    provider::{
        Container, DiskLook, DiskPath, ImageLogin, OfferQuery, Provider, ProviderError,
        RentRequest, Rental,
        vast::{ApiKey, Vast},
        volumes::{Mount, VolumeQuery},
    },
    run::siblings::copy_over,
    spec::query,
};
use spotter_sim::listen;
use support::Sim;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn client(sim: &Sim) -> Vast {
    Vast::new(sim.url.clone(), Some(ApiKey::new("a")))
}

fn rtx_4090() -> OfferQuery {
    OfferQuery {
        gpu_name: None,
        num_gpus: Some(1),
        rental: Rental::OnDemand,
        disk_gb: 40.0,
        filters: query::parse("gpu_name=RTX_4090").unwrap(),
        hosts: Vec::new(),
        limit: 64,
        first: Default::default(),
    }
}

fn order(offer: u64, container: Container) -> RentRequest {
    RentRequest {
        offer,
        label: "ours/1".to_owned(),
        image: "i:1".to_owned(),
        disk_gb: 40.0,
        onstart: "echo ours".to_owned(),
        env: vec![("A".to_owned(), "1".to_owned())],
        bid_usd_per_hour: None,
        container,
    }
}

/// Bodies of the requests to a path, in order.
fn bodies(sim: &Sim, method: &str, path: &str) -> Vec<Value> {
    let seen = sim.world.seen();
    let asked = seen
        .iter()
        .filter(|seen| seen.method == method && seen.path == path);
    asked.map(|seen| seen.body.clone()).collect()
}

/// A server that gives these answers in this order, whatever it is asked, and remembers what that was.
struct Canned {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

type Answers = Arc<Mutex<VecDeque<Response>>>;

impl Canned {
    async fn open(answers: Vec<Response>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Answers = Arc::new(Mutex::new(answers.into()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let app = Router::new()
            .fallback(answer)
            .with_state((answers, asked.clone()));
        let stop = CancellationToken::new();
        let server = tokio::spawn(listen::serve(listener, app, stop.clone()));
        Self {
            url,
            asked,
            stop,
            server,
        }
    }

    fn client(&self) -> Vast {
        Vast::new(self.url.clone(), Some(ApiKey::new("a")))
    }

    /// Ends it; what it was asked, in order.
    async fn close(self) -> Vec<String> {
        self.stop.cancel();
        self.server.await.unwrap();
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    State((answers, asked)): State<(Answers, Arc<Mutex<Vec<String>>>)>,
    request: Request,
) -> Response {
    let key = match request.headers().contains_key(header::AUTHORIZATION) {
        true => "with the key",
        false => "without a key",
    };
    let line = format!("{} {} {key}", request.method(), request.uri().path());
    asked.lock().unwrap().push(line);
    let next = answers.lock().unwrap().pop_front();
    next.unwrap_or_else(|| StatusCode::IM_A_TEAPOT.into_response())
}

fn says(body: Value) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        Bytes::from(body.to_string()),
    )
        .into_response()
}

fn points_to(status: u16, to: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::LOCATION, to)]).into_response()
}

#[tokio::test]
async fn a_search_goes_by_the_other_route_where_the_usual_one_was_switched_off() {
    let sim = Sim::open().await;
    let vast = client(&sim);
    let usual = vast.offers(&rtx_4090()).await.unwrap();
    let fault = json!({
        "server_error": 1, "server_error_status": 404, "server_error_body": "json", "only": "POST /api/v0/bundles",
    });
    sim.sim("faults", fault).await;
    let other = vast.offers(&rtx_4090()).await.unwrap();
    let ids = |offers: &[spotter::provider::Offer]| -> Vec<u64> {
        offers.iter().map(|offer| offer.id).collect()
    };
    assert!(!usual.is_empty());
    assert_eq!(ids(&usual), ids(&other));
    let sent = &bodies(&sim, "PUT", "/api/v0/search/asks/")[0];
    assert_eq!(sent["select_cols"], json!(["*"]));
    assert_eq!(sent["q"], bodies(&sim, "POST", "/api/v0/bundles/")[0]);
    sim.close().await;
}

#[tokio::test]
async fn an_order_says_everything_that_a_container_is_made_with() {
    let sim = Sim::open().await;
    let vast = client(&sim);
    let template = json!({"name": "t", "image": "theirs:1", "onstart": "echo theirs", "env": "-e B=2", "ssh_direct": true});
    let (_, made) = sim.call("POST", "/api/v0/template/", template).await;
    let hash = made["template"]["hash_id"].as_str().unwrap().to_owned();
    let offer = vast.offers(&rtx_4090()).await.unwrap().remove(0);
    let container = Container {
        login: Some(ImageLogin {
            registry: "ghcr.io".to_owned(),
            user: "me".to_owned(),
            password: "hunter2".to_owned(),
        }),
        ports: vec!["8080".to_owned(), "5000/udp".to_owned()],
        docker_options: Some("--shm-size=16g".to_owned()),
        template: Some(hash.clone()),
        volume: None,
    };
    let mut request = order(offer.id, container);
    request.image = String::new();
    assert!(!format!("{request:?}").contains("hunter2"));
    let id = vast.rent(&request).await.unwrap();
    let path = format!("/api/v0/asks/{}/", offer.id);
    let sent = &bodies(&sim, "PUT", &path)[0];
    assert_eq!(sent["image"], Value::Null, "the template's");
    assert_eq!(sent["template_hash_id"], json!(hash));
    assert_eq!(sent["image_login"], "-u me -p hunter2 ghcr.io");
    assert_eq!(sent["extra"], "--shm-size=16g");
    assert_eq!(sent["onstart"], "echo theirs\necho ours");
    assert_eq!(sent["runtype"], "ssh_direc ssh_proxy");
    assert_eq!(
        sent["env"],
        json!({"A": "1", "-p 8080:8080": "1", "-p 5000:5000/udp": "1"})
    );
    let row = sim.row(id).await;
    assert_eq!(row["image_uuid"], "theirs:1");

    let mut unknown = order(offer.id, Container::default());
    unknown.container.template = Some("0000000000".to_owned());
    let before = bodies(&sim, "PUT", &path).len();
    let err = client(&sim).rent(&unknown).await.unwrap_err();
    assert!(err.to_string().contains("no template 0000000000"), "{err}");
    assert_eq!(
        bodies(&sim, "PUT", &path).len(),
        before,
        "nothing was ordered"
    );
    sim.close().await;
}

#[tokio::test]
async fn a_refusal_that_repeats_a_password_is_told_without_it() {
    let refused = json!({"success": false, "error": "invalid_args", "msg": "Invalid args: -u me -p hunter2 ghcr.io"});
    let refusal = (StatusCode::BAD_REQUEST, says(refused)).into_response();
    let canned = Canned::open(vec![refusal]).await;
    let container = Container {
        login: Some(ImageLogin {
            registry: "ghcr.io".to_owned(),
            user: "me".to_owned(),
            password: "hunter2".to_owned(),
        }),
        ..Container::default()
    };
    let err = canned
        .client()
        .rent(&order(1, container))
        .await
        .unwrap_err();
    let text = format!("{err} {err:?}");
    assert!(
        text.contains("Invalid args") && !text.contains("hunter2"),
        "{text}"
    );
    canned.close().await;
}

#[tokio::test]
async fn a_box_that_lost_its_label_gets_it_back() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let vast = client(&sim);
    assert_eq!(vast.instance(id).await.unwrap().unwrap().label, None);
    vast.set_label(id, "spotter/x/1").await.unwrap();
    let seen = vast.instances().await.unwrap().remove(0);
    assert_eq!(seen.label.as_deref(), Some("spotter/x/1"));
    let long = vast.set_label(id, &"x".repeat(1025)).await.unwrap_err();
    assert!(long.to_string().contains("at most 1024"), "{long}");
    sim.close().await;
}

#[tokio::test]
async fn a_reboot_keeps_the_disk_and_a_recycle_makes_a_new_one() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let vast = client(&sim);
    vast.reboot(id).await.unwrap();
    sim.until(id, "actual_status", "running").await;
    assert!(!sim.boxes.calls(id).iter().any(|call| call == "remake"));
    vast.recycle(id).await.unwrap();
    sim.until_told(id, "remake").await;
    let unknown = vast.reboot(4).await.unwrap_err();
    assert!(
        matches!(unknown, ProviderError::Refused { status: 404, .. }),
        "{unknown}"
    );
    sim.close().await;
}

#[tokio::test]
async fn money_in_advance_is_sent_once_and_says_for_how_long_it_lasts() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let vast = client(&sim);
    let before = vast.account().await.unwrap().credit_usd;
    let bought = vast.prepay(id, 10.0).await.unwrap();
    assert!(bought.months.unwrap() > 0.0, "{bought:?}");
    let left = client(&sim).account().await.unwrap().credit_usd;
    assert!((before - left - 10.0).abs() < 0.1, "{before} {left}");
    let poor = client(&sim).prepay(id, 1000.0).await.unwrap_err();
    assert!(matches!(poor, ProviderError::NoCredit { .. }), "{poor}");
    // An answer that got lost is no reason to pay again.
    let route = format!("/api/v0/instances/prepay/{id}/");
    let sent = bodies(&sim, "PUT", &route).len();
    let fault = json!({"server_error": 1, "only": format!("PUT {route}")});
    sim.sim("faults", fault).await;
    let lost = client(&sim).prepay(id, 1.0).await.unwrap_err();
    assert!(lost.is_ambiguous(), "{lost}");
    assert_eq!(bodies(&sim, "PUT", &route).len(), sent + 1);
    sim.close().await;
}

#[tokio::test]
async fn a_disk_is_looked_at_past_its_box_and_the_result_waited_for() {
    let sim = Sim::open().await;
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".ssh")).unwrap();
    std::fs::write(home.path().join(".ssh/authorized_keys"), "key").unwrap();
    *sim.boxes.home.lock().unwrap() = Some(home.path().to_owned());
    let id = sim.running(None).await;
    sim.sim("faults", json!({"result_delay_s": 1.5})).await;
    let vast = client(&sim);
    let listed = vast
        .look_at_disk(id, DiskLook::List, "/root/.ssh")
        .await
        .unwrap();
    assert_eq!(listed, "authorized_keys\n");
    vast.stop(id).await.unwrap();
    let size = client(&sim)
        .look_at_disk(id, DiskLook::Size, "/root/.ssh")
        .await
        .unwrap();
    assert_eq!(size, "1\t.ssh\n", "the host's own place is not shown");
    for path in ["relative", "/a b", "/a;rm", "/$HOME"] {
        let err = vast.look_at_disk(id, DiskLook::List, path).await;
        assert!(err.is_err(), "{path}");
    }
    assert_eq!(
        bodies(&sim, "PUT", &format!("/api/v0/instances/command/{id}/")).len(),
        2
    );
    sim.close().await;
}

#[tokio::test]
async fn a_copy_between_boxes_names_directories_and_never_lands_on_what_lets_us_in() {
    let sim = Sim::open().await;
    let (one, other) = (sim.running(None).await, sim.running(None).await);
    let vast = client(&sim);
    let at = |instance, path| DiskPath { instance, path };
    vast.copy(
        at(one, "/root/run/checkpoints"),
        at(other, "/root/run/checkpoints/"),
    )
    .await
    .unwrap();
    let route = "/api/v0/commands/copy_direct/";
    assert_eq!(
        bodies(&sim, "PUT", route),
        [json!({
            "client_id": "me", "src_id": one.to_string(), "dst_id": other.to_string(),
            "src_path": "/root/run/checkpoints/", "dst_path": "/root/run/checkpoints/",
        })]
    );
    for path in ["/", "/root", "/root/", "", "checkpoints"] {
        assert!(
            vast.copy(at(one, "/root/a"), at(other, path))
                .await
                .is_err(),
            "{path}"
        );
    }
    assert_eq!(bodies(&sim, "PUT", route).len(), 1);
    vast.cancel_copy(other).await.unwrap();
    assert_eq!(
        bodies(&sim, "DELETE", route),
        [json!({"client_id": "me", "dst_id": other.to_string()})]
    );
    sim.close().await;
}

#[tokio::test]
async fn what_an_old_box_on_the_same_machine_has_is_copied_until_it_is_all_there() {
    let sim = Sim::open().await;
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("run/checkpoints")).unwrap();
    std::fs::write(home.path().join("run/checkpoints/step-5.pt"), [7; 9000]).unwrap();
    *sim.boxes.home.lock().unwrap() = Some(home.path().to_owned());
    let (old, new) = (sim.running(None).await, sim.running(None).await);
    let vast = client(&sim);
    vast.stop(old).await.unwrap();
    let at = |instance, path| DiskPath { instance, path };
    // Both boxes have one home here, so it is all there at the first look.
    let path = "/root/run/checkpoints";
    let copied = copy_over(&vast, at(old, path), at(new, path))
        .await
        .unwrap();
    assert!(copied.is_some_and(|kib| kib >= 8), "{copied:?}");
    let sent = bodies(&sim, "PUT", "/api/v0/commands/copy_direct/");
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (&sent[0]["src_id"], &sent[0]["dst_id"]),
        (&json!(old.to_string()), &json!(new.to_string()))
    );
    // Where there is nothing, nothing is asked for.
    let path = "/root/run/other";
    assert_eq!(
        copy_over(&vast, at(old, path), at(new, path))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        bodies(&sim, "PUT", "/api/v0/commands/copy_direct/").len(),
        1
    );
    sim.close().await;
}

#[tokio::test]
async fn a_volume_is_rented_where_there_is_room_mounted_on_its_own_machine_and_given_back_when_no_box_has_it()
 {
    let sim = Sim::open().await;
    let vast = client(&sim);
    assert_eq!(vast.volumes().await.unwrap(), []);
    let asked = VolumeQuery {
        size_gb: 72.0,
        filters: Vec::new(),
    };
    let offers = vast.volume_offers(&asked).await.unwrap();
    let dearest = offers.last().unwrap();
    assert!(offers[0].usd_per_hour < dearest.usd_per_hour);
    let box_offer = vast.offers(&rtx_4090()).await.unwrap().remove(0);
    let machine = box_offer.machine_id;
    let room = offers.iter().find(|offer| offer.machine_id == machine);
    let id = vast
        .rent_volume(room.unwrap().id, 72.0, "data")
        .await
        .unwrap();
    let sent = &bodies(&sim, "PUT", "/api/v0/volumes/")[0];
    assert_eq!(sent["size"], 72.0);
    let found = vast.volumes().await.unwrap().remove(0);
    assert_eq!(
        (found.id, found.machine_id, found.size_gb),
        (id, machine, 72.0)
    );
    assert_eq!(found.name.as_deref(), Some("data"));
    assert_eq!(found.usd_per_hour, Some(room.unwrap().usd_per_hour));
    assert!(!found.in_use && found.start_s.is_some());

    let mounted = |volume| Container {
        volume: Some(Mount {
            volume,
            path: "/data".to_owned(),
        }),
        ..Container::default()
    };
    let err = vast
        .rent(&order(box_offer.id, mounted(5)))
        .await
        .unwrap_err();
    assert!(err.to_string().contains("no such volume"), "{err}");
    let instance = vast.rent(&order(box_offer.id, mounted(id))).await.unwrap();
    let path = format!("/api/v0/asks/{}/", box_offer.id);
    let sent = bodies(&sim, "PUT", &path).pop().unwrap();
    let expected = json!({"mount_path": "/data", "create_new": false, "volume_id": id});
    assert_eq!(sent["volume_info"], expected);
    let used = vast.volumes().await.unwrap().remove(0);
    assert_eq!((used.in_use, used.instances), (true, vec![instance]));
    let err = vast.end_volume(id).await.unwrap_err();
    assert!(err.to_string().contains("in use"), "{err}");

    vast.destroy(instance).await.unwrap();
    vast.end_volume(id).await.unwrap();
    assert_eq!(vast.volumes().await.unwrap(), []);
    vast.end_volume(id).await.unwrap();
    let err = vast.rent_volume(5, 72.0, "data").await.unwrap_err();
    assert!(
        matches!(err, ProviderError::OfferGone { offer: 5, .. }),
        "{err}"
    );
    sim.close().await;
}

#[tokio::test]
async fn a_key_that_was_replaced_is_taken_from_the_box_and_from_the_account() {
    let sim = Sim::open().await;
    let vast = client(&sim);
    let (old, new) = ("ssh-ed25519 AAAAOLD me@x", "ssh-ed25519 AAAANEW me@x");
    vast.register_key(old).await.unwrap();
    let id = sim.running(None).await;
    vast.attach_key(id, old).await.unwrap();
    vast.attach_key(id, new).await.unwrap();
    assert_eq!(vast.forget_keys(id, &|key| key == old).await.unwrap(), 2);
    assert_eq!(vast.forget_keys(id, &|key| key == old).await.unwrap(), 0);
    let of_box = sim.boxes.keys.lock().unwrap()[&id].clone();
    assert!(of_box.iter().any(|key| key == new), "{of_box:?}");
    assert!(!of_box.iter().any(|key| key == old), "{of_box:?}");
    let (_, of_account) = sim.call("GET", "/api/v0/ssh/", Value::Null).await;
    assert!(!of_account.to_string().contains("AAAAOLD"), "{of_account}");
    sim.close().await;
}

#[tokio::test]
async fn a_bill_without_a_list_is_no_empty_bill_on_whichever_page() {
    let row = json!({"source": "instance-7", "amount": 1.0});
    let page = json!({"success": true, "results": [row], "next_token": "more"});
    let cases = [
        vec![says(json!({"success": true}))],
        vec![says(json!({"success": true, "results": null}))],
        vec![says(page.clone()), says(json!({"success": true}))],
        vec![
            says(page.clone()),
            says(json!({"success": true, "results": [{"source": "instance-7"}]})),
        ],
    ];
    for answers in cases {
        let canned = Canned::open(answers).await;
        let err = canned.client().charges(0.0, &[7]).await.unwrap_err();
        assert!(err.is_ambiguous(), "{err}");
        canned.close().await;
    }
    let canned = Canned::open(vec![
        says(page),
        says(json!({"success": true, "results": []})),
    ])
    .await;
    let bill = canned.client().charges(0.0, &[7]).await.unwrap();
    assert_eq!(bill[0].total_usd(), 1.0);
    canned.close().await;
}

#[tokio::test]
async fn a_fleet_with_a_box_that_has_no_number_is_an_error_and_not_a_smaller_fleet() {
    let rows = json!({"success": true, "instances": [{"id": 7, "label": "a"}, {"label": "b"}], "next_token": null});
    let canned = Canned::open(vec![says(rows)]).await;
    let err = canned.client().instances().await.unwrap_err();
    assert!(
        err.is_ambiguous() && err.to_string().contains("no id"),
        "{err}"
    );
    canned.close().await;
}

#[tokio::test]
async fn the_key_follows_to_the_same_host_and_to_no_other() {
    let credit = json!({"id": 1, "credit": 5.0});
    let canned = Canned::open(vec![
        points_to(302, "/api/v1/users/me/"),
        says(credit.clone()),
    ])
    .await;
    assert_eq!(canned.client().account().await.unwrap().credit_usd, 5.0);
    assert_eq!(
        canned.close().await,
        [
            "GET /api/v0/users/current/ with the key",
            "GET /api/v1/users/me/ with the key"
        ]
    );

    let stranger = Canned::open(vec![says(credit)]).await;
    let elsewhere = (0..6).map(|_| points_to(307, &format!("{}/take", stranger.url)));
    let canned = Canned::open(elsewhere.collect()).await;
    let err = canned.client().account().await.unwrap_err();
    assert!(err.to_string().contains("does not get the key"), "{err}");
    canned.close().await;
    assert!(stranger.close().await.is_empty(), "it was asked nothing");

    // In circles.
    let circle = (0..60).map(|_| points_to(307, "/again"));
    let canned = Canned::open(circle.collect()).await;
    let err = canned.client().account().await.unwrap_err();
    assert!(err.to_string().contains("pointed elsewhere"), "{err}");
    canned.close().await;
}
