//! Our client and the backup against three servers that do not know of each other: our own, ministack and `rclone serve s3`; and against
//! our own again, as it takes no more than R2, B2 and Google's do.
//!
//! What one of them does differently is what servers do: the client and the engine cope with it, no test makes an exception.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

#[path = "servers/cut.rs"]
mod cut;
#[path = "servers/damage.rs"]
mod damage;
#[path = "servers/fleet.rs"]
mod fleet;
#[path = "servers/laptop.rs"]
mod laptop;
#[path = "../../others.rs"]
mod others;
#[path = "servers/plain.rs"]
mod plain;
#[path = "servers/sidecar.rs"]
mod sidecar;
#[path = "servers/signed.rs"]
mod signed;
#[path = "../../skip.rs"]
mod skip;
#[path = "servers/trust.rs"]
mod trust;

use std::sync::Arc;

use spotter_bucket::{Bucket, contract::bucket_contract};

use fleet::{Server, on_every_server};

on_every_server!(Path in ours, ministack, rclone:
    the_client_keeps_every_promise_of_a_bucket,
    what_it_honours_is_found_out_and_used,
    a_run_is_saved_thinned_out_and_restored_on_another_box,
    an_upload_goes_on_where_a_killed_agent_left_it,
    plain_tools_see_plain_files,
    the_best_is_kept_beside_the_newest,
    a_box_without_keys_saves_and_restores_what_was_signed_for_it,
    a_laptop_pushes_compares_thins_out_and_pulls,
    the_doctor_tells_a_good_bucket_from_another,
    each_kind_of_damage_is_passed_over_and_told,
);

on_every_server!(Path like r2, b2, gcs:
    the_client_keeps_every_promise_of_a_bucket,
    what_it_honours_is_found_out_and_used,
    a_run_is_saved_thinned_out_and_restored_on_another_box,
    an_upload_goes_on_where_a_killed_agent_left_it,
    a_box_without_keys_saves_and_restores_what_was_signed_for_it,
    a_laptop_pushes_compares_thins_out_and_pulls,
    each_kind_of_damage_is_passed_over_and_told,
);

on_every_server!(Virtual in ours_by_name, ministack_by_name, rclone_by_name:
    the_client_keeps_every_promise_of_a_bucket,
    a_box_without_keys_saves_and_restores_what_was_signed_for_it,
);

async fn the_client_keeps_every_promise_of_a_bucket(server: &Server) {
    bucket_contract(Arc::new(server.client()), "p/contract").await;
}

async fn a_run_is_saved_thinned_out_and_restored_on_another_box(server: &Server) {
    sidecar::saved_thinned_out_and_restored(server).await;
}

async fn an_upload_goes_on_where_a_killed_agent_left_it(server: &Server) {
    sidecar::resumed_after_a_kill(server).await;
}

async fn what_it_honours_is_found_out_and_used(server: &Server) {
    let bucket = Arc::new(server.client());
    let found = bucket.probe("p").await.unwrap();
    println!("{found:#?}");
    assert_eq!(found, server.honours(&found.server));
    assert_eq!(
        bucket.list("p/").await.unwrap(),
        [],
        "nothing is left behind"
    );
    assert_eq!(bucket.list_uploads("p/").await.unwrap(), []);
    let verdict = found.verdict(bucket.is_private());
    bucket.set_payload(verdict.payload);
    bucket_contract(bucket, "p/contract").await;
}

async fn plain_tools_see_plain_files(server: &Server) {
    plain::read_back_by_other_tools(server).await;
}

async fn the_best_is_kept_beside_the_newest(server: &Server) {
    sidecar::best_kept(server).await;
}

async fn a_box_without_keys_saves_and_restores_what_was_signed_for_it(server: &Server) {
    signed::saved_and_restored_without_keys(server).await;
}

async fn a_laptop_pushes_compares_thins_out_and_pulls(server: &Server) {
    laptop::pushed_compared_thinned_out_and_pulled(server).await;
}

async fn the_doctor_tells_a_good_bucket_from_another(server: &Server) {
    laptop::examined(server).await;
}

async fn each_kind_of_damage_is_passed_over_and_told(server: &Server) {
    damage::each_kind_is_passed_over_and_told(server).await;
}
