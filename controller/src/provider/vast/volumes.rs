//! Volumes of the market: room for one, one of the account's own, and its end. An order for a box names the one that it mounts.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Vast, http::Repeat, wire};
use crate::{
    provider::{
        InstanceId, ProviderError,
        volumes::{Volume, VolumeId, VolumeOffer, VolumeQuery},
    },
    spec::query,
};

/// Both lists and both writes are one path, and so one rate.
const PATH: &str = "/api/v0/volumes/";

impl Vast {
    pub(super) async fn list_volumes(&self) -> Result<Vec<Volume>, ProviderError> {
        const OPERATION: &str = "list volumes";
        let path = format!("{PATH}?owner=me&type=all_volume");
        let body = self.http.get(OPERATION, &path).await?;
        let rows = list(OPERATION, &body, "volumes")?;
        // One that is left out is paid for and known to nobody.
        rows.iter()
            .map(|row| volume(row).ok_or_else(|| unreadable(OPERATION, "a volume has no id")))
            .collect()
    }

    pub(super) async fn room_for_volumes(
        &self,
        asked: &VolumeQuery,
    ) -> Result<Vec<VolumeOffer>, ProviderError> {
        const OPERATION: &str = "search volumes";
        let mut body = query::conditions(&asked.filters);
        // A condition on boxes, which is there by default.
        body.remove("rentable");
        body.insert("disk_space".to_owned(), json!({"gte": asked.size_gb}));
        body.insert("order".to_owned(), json!([["storage_cost", "asc"]]));
        body.insert("allocated_storage".to_owned(), json!(asked.size_gb));
        let path = format!("{PATH}search/");
        let found = self.http.write(OPERATION, Method::POST, &path, body.into());
        let body = found.await?;
        let mut offers: Vec<VolumeOffer> = list(OPERATION, &body, "offers")?
            .iter()
            .filter_map(|row| offer(row, asked.size_gb))
            // The server does not always apply its filters faithfully.
            .filter(|offer| offer.free_gb >= asked.size_gb)
            .collect();
        offers.sort_by(|a, b| a.usd_per_hour.total_cmp(&b.usd_per_hour));
        Ok(offers)
    }

    /// Sent once, unless the answer proves that nothing was done: two volumes are paid for twice.
    pub(super) async fn order_volume(
        &self,
        offer: u64,
        size_gb: f64,
        name: &str,
    ) -> Result<VolumeId, ProviderError> {
        const OPERATION: &str = "create volume";
        let body = json!({"size": size_gb, "id": offer, "name": name});
        let answer = self
            .http
            .call(
                OPERATION,
                Method::PUT,
                PATH,
                Some(body),
                Repeat::OnlyIfRefused,
            )
            .await?;
        let message = wire::message(&answer.body, &answer.text);
        if message.contains("no_such_ask") || answer.body["error"] == "no_such_ask" {
            let leftover = None;
            return Err(ProviderError::OfferGone { offer, leftover });
        }
        let body = self.http.accept(OPERATION, answer)?;
        let named = body.get("volume_name").and_then(Value::as_str);
        let number = named.and_then(|name| name.trim_start_matches("V.").parse().ok());
        number.ok_or_else(|| unreadable(OPERATION, "the answer names no volume"))
    }

    pub(super) async fn delete_volume(&self, id: VolumeId) -> Result<(), ProviderError> {
        const OPERATION: &str = "delete volume";
        // The number stands where the official client writes it, and where the documentation has it.
        let path = format!("{PATH}?id={id}");
        let body = Some(json!({ "id": id }));
        let answer = self
            .http
            .call(OPERATION, Method::DELETE, &path, body, Repeat::Safe)
            .await?;
        self.http.gone_or_done(OPERATION, answer)
    }
}

fn unreadable(operation: &'static str, message: &str) -> ProviderError {
    ProviderError::Unreachable {
        operation,
        message: message.to_owned(),
    }
}

fn list<'a>(
    operation: &'static str,
    body: &'a Value,
    key: &str,
) -> Result<&'a Vec<Value>, ProviderError> {
    let rows = body.get(key).and_then(Value::as_array);
    rows.ok_or_else(|| unreadable(operation, &format!("the answer holds no list of {key}")))
}

/// A volume; `None` when it has no number.
fn volume(row: &Value) -> Option<Volume> {
    let instances: Vec<InstanceId> = row
        .get("instances")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        // Numbers, or rows that have one.
        .filter_map(|box_| box_.as_u64().or_else(|| box_.get("id")?.as_u64()))
        .collect();
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
    let positive = |key: &str| Some(wire::float(row, key)).filter(|number| *number > 0.0);
    let size_gb = wire::float(row, "disk_space");
    Some(Volume {
        id: row.get("id").and_then(Value::as_u64)?,
        name: text("label").or_else(|| text("name")),
        machine_id: wire::uint(row, "machine_id"),
        size_gb,
        in_use: !instances.is_empty() || text("status").is_some_and(|word| word == "in-use"),
        instances,
        usd_per_hour: positive("storage_total_cost")
            .or_else(|| Some(wire::per_hour(positive("storage_cost")?, size_gb))),
        start_s: positive("start_date"),
    })
}

/// Room for a volume; `None` when its number or its price is missing.
fn offer(row: &Value, size_gb: f64) -> Option<VolumeOffer> {
    let month = wire::optional_float(row, "storage_cost")?;
    let geolocation = row.get("geolocation").and_then(Value::as_str);
    Some(VolumeOffer {
        id: row.get("id").and_then(Value::as_u64)?,
        machine_id: wire::uint(row, "machine_id"),
        free_gb: wire::float(row, "disk_space"),
        usd_per_hour: wire::per_hour(month, size_gb),
        reliability: wire::optional_float(row, "reliability2")
            .unwrap_or_else(|| wire::float(row, "reliability")),
        inet_down_mbps: wire::float(row, "inet_down"),
        disk_mb_per_s: wire::float(row, "disk_bw"),
        geolocation: geolocation.unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_read_whatever_the_row_leaves_out_and_one_without_a_number_is_none() {
        let row = json!({
            "id": 5, "status": "in-use", "machine_id": 41873, "disk_space": "720", "label": "data", "storage_cost": 0.1,
            "instances": [7, {"id": 8}, "?"], "start_date": 1e9,
        });
        let read = volume(&row).unwrap();
        assert_eq!((read.id, read.machine_id, read.size_gb), (5, 41873, 720.0));
        assert_eq!(
            (read.instances.as_slice(), read.in_use),
            ([7, 8].as_slice(), true)
        );
        assert!((read.usd_per_hour.unwrap() - 0.1).abs() < 1e-12);
        let bare = volume(&json!({"id": 6, "status": "created", "instances": null})).unwrap();
        assert!(!bare.in_use && bare.usd_per_hour.is_none() && bare.name.is_none());
        assert!(
            volume(&json!({"id": 6, "status": "in-use"}))
                .unwrap()
                .in_use
        );
        assert_eq!(volume(&json!({"status": "created"})), None);
        assert_eq!(offer(&json!({"id": 1, "disk_space": 500.0}), 10.0), None);
    }
}
