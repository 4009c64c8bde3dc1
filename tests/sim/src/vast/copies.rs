//! Copying between instances, the laptop and clouds, and snapshots: who may ask for it, and what is answered. No byte moves: the
//! hosts' own transport is no part of the simulator.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::{
    vast::call::{Answer, ApiError, Call, ok, success},
    world::World,
};

/// Where the hosts' rsync would answer: nothing listens on discard.
const TRANSPORT: (&str, u16) = ("127.0.0.1", 9);

/// An end of a copy: an instance (`555`, `C.555`), a volume, a cloud, `local`, or nothing.
fn check_end(world: &Arc<World>, call: &Call, key: &str) -> Result<Option<String>, ApiError> {
    let Some(end) = call.text(key) else {
        return Ok(None);
    };
    let number = end.strip_prefix("C.").unwrap_or(&end);
    if number.bytes().all(|byte| byte.is_ascii_digit()) {
        call.instance(world, number)?;
    }
    Ok(Some(end))
}

fn transfer(world: &Arc<World>, call: &Call) -> Answer {
    call.account()?;
    let source = check_end(world, call, "src_id")?;
    let target = check_end(world, call, "dst_id")?;
    for key in ["src_path", "dst_path"] {
        if call.text(key).is_none_or(|path| path.is_empty()) {
            return Err(ApiError::invalid(format!(
                "error 400/2601: {key} is missing"
            )));
        }
    }
    let mut answer = json!({"success": true, "msg": "Remote to Remote copy initiated."});
    let on_laptop = |end: &Option<String>| end.as_ref().is_none_or(|end| end == "local");
    if on_laptop(&target) {
        answer["src_addr"] = TRANSPORT.0.into();
        answer["src_port"] = TRANSPORT.1.into();
    }
    if on_laptop(&source) {
        answer["dst_addr"] = TRANSPORT.0.into();
        answer["dst_port"] = TRANSPORT.1.into();
    }
    ok(answer)
}

/// `PUT /api/v0/commands/copy_direct/`.
pub async fn copy(State(world): State<Arc<World>>, call: Call) -> Answer {
    transfer(&world, &call)
}

/// `PUT /api/v0/commands/rsync/`: one side is a path of the laptop.
pub async fn rsync(State(world): State<Arc<World>>, call: Call) -> Answer {
    transfer(&world, &call)
}

/// `DELETE /api/v0/commands/copy_direct/`.
pub async fn cancel(State(world): State<Arc<World>>, call: Call) -> Answer {
    call.account()?;
    check_end(&world, &call, "dst_id")?;
    success()
}

/// `POST /api/v0/commands/rclone/`: to or from a cloud that the account has connected; there is none here.
pub async fn cloud(State(world): State<Arc<World>>, call: Call) -> Answer {
    call.account()?;
    let id = call.text("instance_id").unwrap_or_default();
    call.instance(&world, &id)?;
    let known = ["Instance To Cloud", "Cloud To Instance"];
    if !call
        .text("transfer")
        .is_some_and(|kind| known.contains(&kind.as_str()))
    {
        return Err(ApiError::invalid("error 400/2602: no such transfer"));
    }
    ok(json!({"success": true, "msg": "Cloud Copy Operation Started"}))
}

/// `POST /api/v0/instances/take_snapshot/{id}/`.
pub async fn snapshot(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    call: Call,
) -> Answer {
    call.account()?;
    let id = call.instance(&world, &id)?;
    if call.body.get("personal_repo").is_none_or(Value::is_null) {
        return Err(ApiError::invalid(
            "error 400/2603: personal_repo is missing",
        ));
    }
    ok(json!({"success": true, "msg": format!("Snapshot of instance {id} requested.")}))
}
