//! Templates: images with their set-up under a hash of their content, which an order may name instead.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::{
    vast::{
        call::{Answer, ApiError, Call, ok, success},
        filter::Filters,
    },
    world::World,
};

/// A template.
#[derive(Debug, Clone)]
pub struct Template {
    /// Hash of its content.
    pub(super) hash_id: String,
    row: Map<String, Value>,
}

impl Template {
    /// One of its texts.
    pub fn text(&self, key: &str) -> Option<String> {
        let key = match key {
            "runtype" if self.row.get("ssh_direct") == Some(&Value::Bool(true)) => {
                return Some("ssh_direc ssh_proxy".to_owned());
            }
            key => key,
        };
        self.row.get(key)?.as_str().map(str::to_owned)
    }

    /// Its environment: templates keep docker's own words.
    pub fn env(&self) -> Vec<(String, String)> {
        let text = self.text("env").unwrap_or_default();
        let mut words = text.split_whitespace();
        let mut env = Vec::new();
        while let Some(flag) = words.next() {
            let value = words.next().unwrap_or_default();
            match (flag, value.split_once('=')) {
                ("-e", Some((name, value))) => env.push((name.to_owned(), value.to_owned())),
                ("-p" | "-v" | "-n", _) => env.push((format!("{flag} {value}"), "1".to_owned())),
                _ => {}
            }
        }
        env
    }
}

/// `GET /api/v0/template/`.
pub async fn list(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let query = match call.json("select_filters")? {
        Some(Value::Object(query)) => query,
        _ => Map::new(),
    };
    let filters = Filters::parse(&query).map_err(ApiError::invalid)?;
    let extras = world.extras();
    let own = extras
        .templates
        .iter()
        .filter(|(owner, _)| *owner == account);
    let rows: Vec<&Map<String, Value>> = own
        .map(|(_, template)| &template.row)
        .filter(|row| filters.accept_row(row))
        .collect();
    ok(json!({"success": true, "templates_found": rows.len(), "templates": rows}))
}

/// `POST /api/v0/template/`.
pub async fn create(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    if call.text("name").is_none() || call.text("image").is_none() {
        return Err(ApiError::invalid(
            "error 400/2701: name and image are needed",
        ));
    }
    let mut extras = world.extras();
    let id = extras.number();
    let content = Value::Object(call.body.clone()).to_string();
    let hash_id = blake3::hash(content.as_bytes()).to_hex()[..32].to_owned();
    let mut row = call.body.clone();
    for (key, value) in [
        ("id", json!(id)),
        ("hash_id", json!(hash_id)),
        ("creator_id", json!(501 + account)),
        ("count_created", json!(0)),
        ("created_at", json!(world.now_ms() as f64 / 1000.0)),
        ("recommended", json!(false)),
    ] {
        row.insert(key.to_owned(), value);
    }
    let answer = json!({"id": id, "hash_id": hash_id, "name": row["name"]});
    extras.templates.push((account, Template { hash_id, row }));
    ok(json!({"success": true, "template": answer}))
}

/// `DELETE /api/v0/template/`: by number or by hash.
pub async fn delete(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let (id, hash) = (call.number("template_id"), call.text("hash_id"));
    let mut extras = world.extras();
    let before = extras.templates.len();
    extras.templates.retain(|(owner, template)| {
        let named = Some(&template.hash_id) == hash.as_ref()
            || (id.is_some() && template.row["id"].as_f64() == id);
        *owner != account || !named
    });
    if extras.templates.len() == before {
        return Err(ApiError::new(404, "not_found", "no such template"));
    }
    success()
}
