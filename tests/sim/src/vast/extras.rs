//! What an account keeps beside instances and keys: variables for every new container, API keys, templates, volumes, jobs.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::{Map, Value, json};

use crate::{
    market::catalogue,
    vast::{
        call::{Answer, ApiError, Call, ok, success},
        templates::Template,
        volumes::Volume,
    },
    world::World,
};

/// Accounts hold few of anything; each entry says whose it is.
#[derive(Debug, Default)]
pub struct Extras {
    secrets: Vec<(usize, String, String)>,
    api_keys: Vec<(usize, Value)>,
    jobs: Vec<(usize, Value)>,
    pub(super) templates: Vec<(usize, Template)>,
    pub(super) volumes: Vec<(usize, Volume)>,
    numbers: u64,
}

impl Extras {
    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        20_118_480 + self.numbers
    }

    /// The variables of an account, for a new container.
    pub fn secrets(&self, account: usize) -> Vec<(String, String)> {
        let own = self.secrets.iter().filter(|(owner, ..)| *owner == account);
        own.map(|(_, name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// A template by its hash.
    pub fn template(&self, account: usize, hash: &str) -> Option<Template> {
        let mut own = self.templates.iter().filter(|(owner, _)| *owner == account);
        own.find(|(_, template)| template.hash_id == hash)
            .map(|(_, template)| template.clone())
    }
}

/// `GET /api/v0/secrets/`.
pub async fn secrets(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let secrets: Map<String, Value> = world
        .extras()
        .secrets(account)
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    ok(json!({"success": true, "secrets": secrets}))
}

fn secret(call: &Call) -> Result<(String, String), ApiError> {
    let name = call.text("key").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| ApiError::new(400, "missing_input", "key is missing"))?;
    Ok((name, call.text("value").unwrap_or_default()))
}

/// `POST /api/v0/secrets/`.
pub async fn add_secret(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let (name, value) = secret(&call)?;
    let mut extras = world.extras();
    if extras
        .secrets(account)
        .iter()
        .any(|(known, _)| *known == name)
    {
        return Err(ApiError::new(400, "existing_key", format!("{name} exists")));
    }
    extras.secrets.push((account, name, value));
    success()
}

/// `PUT /api/v0/secrets/`.
pub async fn change_secret(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let (name, value) = secret(&call)?;
    let mut extras = world.extras();
    let mut own = extras
        .secrets
        .iter_mut()
        .filter(|(owner, known, _)| *owner == account && *known == name);
    let entry = own
        .next()
        .ok_or_else(|| ApiError::new(400, "missing_input", format!("there is no {name}")))?;
    entry.2 = value;
    success()
}

/// `DELETE /api/v0/secrets/`.
pub async fn remove_secret(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let (name, _) = secret(&call)?;
    world
        .extras()
        .secrets
        .retain(|(owner, known, _)| *owner != account || *known != name);
    success()
}

fn of(entries: &[(usize, Value)], account: usize) -> Vec<Value> {
    let own = entries.iter().filter(|(owner, _)| *owner == account);
    own.map(|(_, value)| value.clone()).collect()
}

/// `GET /api/v0/auth/apikeys/`.
pub async fn api_keys(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let keys = of(&world.extras().api_keys, account);
    ok(json!({"apikeys": keys}))
}

/// `POST /api/v0/auth/apikeys/`: the new key may do everything; permissions are only remembered.
pub async fn add_api_key(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let id = world.extras().number();
    let key = catalogue::secret(id, "made api key", account as u64);
    let permissions = call.body.get("permissions").cloned().unwrap_or(json!({}));
    world.act(|market, _| market.add_api_key(account, &key));
    let row = json!({"id": id, "name": call.text("name"), "permissions": permissions});
    world.extras().api_keys.push((account, row));
    ok(json!({"id": id, "key": key, "permissions": permissions}))
}

/// `GET /api/v0/commands/schedule_job/`.
pub async fn jobs(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let jobs = of(&world.extras().jobs, account);
    ok(Value::Array(jobs))
}

/// `POST /api/v0/commands/schedule_job/`: remembered, and 422 the second time; nothing carries jobs out here.
pub async fn add_job(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let mut extras = world.extras();
    let endpoint = call
        .body
        .get("api_endpoint")
        .cloned()
        .unwrap_or(Value::Null);
    let known = of(&extras.jobs, account);
    if let Some(known) = known.iter().find(|job| job["api_endpoint"] == endpoint) {
        let text = "A job for this endpoint exists.";
        return Err(
            ApiError::new(422, "existing_job", text).with("scheduled_job_id", known["id"].clone())
        );
    }
    let mut job = call.body.clone();
    job.insert("id".to_owned(), extras.number().into());
    extras.jobs.push((account, Value::Object(job)));
    success()
}

/// `GET /api/v0/users/cloud_integrations/`: none.
pub async fn cloud_integrations(call: Call) -> Answer {
    call.account()?;
    ok(json!([]))
}

/// `GET /api/v0/machines/{id}/reports/`: nobody complains here.
pub async fn reports(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Answer {
    call.account()?;
    let known = world.act(|market, _| {
        let ids = market.machines().iter().map(|machine| machine.spec.id);
        ids.map(|id| id.to_string()).any(|known| known == id)
    });
    if !known {
        return Err(ApiError::new(404, "not_found", format!("no machine {id}")));
    }
    ok(json!([]))
}
