//! Ssh keys of accounts and of instances.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::{
    market::keys::{Attached, SshKey},
    vast::call::{Answer, ApiError, Call, ok, success},
    world::World,
};

/// What public keys begin with.
const KINDS: [&str; 3] = ["ssh-", "ecdsa-", "sk-"];

fn key_text(call: &Call) -> Result<String, ApiError> {
    let text = call.text("ssh_key").unwrap_or_default();
    let text = text.trim();
    if text.is_empty() {
        return Err(ApiError::new(400, "no_ssh_key", "There is no ssh_key."));
    }
    if text.lines().count() != 1 || !KINDS.iter().any(|kind| text.starts_with(kind)) {
        return Err(ApiError::invalid(
            "error 400/2501: Invalid args: ssh_key is no public key",
        ));
    }
    Ok(text.to_owned())
}

fn row(key: &SshKey, user: u64) -> Value {
    let created = key.created_ms as f64 / 1000.0;
    json!({"id": key.id, "user_id": user, "key": key.text, "created_at": created, "deleted_at": null})
}

/// `GET /api/v0/ssh/`: a bare list, and 404 when there are none.
pub async fn list(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let rows: Vec<Value> = world.act(|market, _| {
        let account = &market.accounts()[account];
        account
            .ssh_keys
            .iter()
            .map(|key| row(key, account.id))
            .collect()
    });
    if rows.is_empty() {
        return Err(ApiError::new(404, "not_found", "No ssh keys found."));
    }
    ok(Value::Array(rows))
}

/// `POST /api/v0/ssh/`: reaches the instances created afterwards.
pub async fn create(State(world): State<Arc<World>>, call: Call) -> Answer {
    let account = call.account()?;
    let text = key_text(&call)?;
    let (key, user) = world.act(|market, now| {
        (
            market.add_account_key(now, account, &text),
            market.accounts()[account].id,
        )
    });
    let created = key.created_ms as f64 / 1000.0;
    ok(json!({"success": true, "key": {
        "id": key.id, "user_id": user, "public_key": key.text, "created_at": created, "deleted_at": null,
    }}))
}

/// `DELETE /api/v0/ssh/{id}/`.
pub async fn delete(
    State(world): State<Arc<World>>,
    Path(key): Path<String>,
    call: Call,
) -> Answer {
    let account = call.account()?;
    let found = key
        .parse()
        .is_ok_and(|key| world.act(|market, _| market.remove_account_key(account, key)));
    if !found {
        return Err(ApiError::new(
            404,
            "no_such_ssh_key",
            format!("no_such_ssh_key {key}"),
        ));
    }
    success()
}

/// `GET /api/v0/instances/{id}/ssh/`: the list as a JSON string, as documented.
pub async fn of_instance(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Answer {
    call.account()?;
    let id = call.instance(&world, &id)?;
    let rows: Vec<Value> = world.act(|market, _| {
        let instance = market.living(id)?;
        let user = market.accounts()[instance.account].id;
        Ok::<_, ApiError>(instance.ssh_keys.iter().map(|key| row(key, user)).collect())
    })?;
    ok(json!({"success": true, "ssh_keys": Value::Array(rows).to_string()}))
}

/// `POST /api/v0/instances/{id}/ssh/`: lets a key in, while it runs too.
pub async fn attach(State(world): State<Arc<World>>, Path(id): Path<String>, call: Call) -> Answer {
    call.account()?;
    let id = call.instance(&world, &id)?;
    let text = key_text(&call)?;
    match world.act(|market, now| market.attach_key(now, id, &text))? {
        Attached::Added => ok(json!({"success": true, "msg": "SSH key added to instance."})),
        Attached::Already => Err(ApiError::invalid(
            "SSH key already associated with instance.",
        )),
    }
}

/// `DELETE /api/v0/instances/{id}/ssh/{key}/`.
pub async fn detach(
    State(world): State<Arc<World>>,
    Path((id, key)): Path<(String, String)>,
    call: Call,
) -> Answer {
    call.account()?;
    let id = call.instance(&world, &id)?;
    let gone = || ApiError::new(404, "no_such_ssh_key", format!("no_such_ssh_key {key}"));
    let number: u64 = key.parse().map_err(|_| gone())?;
    if !world.act(|market, now| market.detach_key(now, id, number))? {
        return Err(gone());
    }
    success()
}
