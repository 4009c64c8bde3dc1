//! One API call: who makes it, its query and body; and how errors are answered.

use std::{collections::HashMap, sync::Arc};

use axum::{
    body::Bytes,
    extract::{FromRequest, Query, Request},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    market::{InstanceId, Refused},
    vast::filter::number,
    world::World,
};

/// An error as the API words it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: u16,
    error: &'static str,
    msg: String,
    extra: Map<String, Value>,
}

impl ApiError {
    /// An error with its code and text.
    pub fn new(status: u16, error: &'static str, msg: impl Into<String>) -> Self {
        Self {
            status,
            error,
            msg: msg.into(),
            extra: Map::new(),
        }
    }

    /// The same with one more field.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(key.to_owned(), value.into());
        self
    }

    /// 400 with a text.
    pub fn invalid(msg: impl Into<String>) -> Self {
        Self::new(400, "invalid_args", msg)
    }

    /// What a key may not do.
    pub fn forbidden() -> Self {
        Self::new(
            403,
            "not_authorized",
            "This key may only act on its own instance.",
        )
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let msg = refused.to_string();
        match refused {
            Refused::NoSuchAsk(_) => {
                Self::new(404, "invalid_args", format!("error 404/3603: {msg}"))
            }
            Refused::NoSuchInstance(_) => Self::new(404, "no_such_instance", msg),
            Refused::InsufficientCredit => Self::new(400, "insufficient_credit", msg),
            Refused::Price(_) => Self::invalid(msg),
            Refused::Invalid(_) | Refused::Impossible(_) => {
                Self::invalid(format!("error 400/3467: Invalid args: {msg}"))
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = Map::new();
        body.insert("success".to_owned(), false.into());
        body.insert("error".to_owned(), self.error.into());
        body.insert("msg".to_owned(), self.msg.into());
        body.extend(self.extra);
        answer(self.status, &Value::Object(body))
    }
}

/// Answer of a handler.
pub type Answer = Result<Response, ApiError>;

/// 200 with this body.
///
/// # Errors
/// None; the type is what handlers return.
pub fn ok(body: Value) -> Answer {
    Ok(answer(200, &body))
}

/// An answer whose content type is exactly `application/json`, on which the official client insists.
pub fn answer(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status)
        .expect("statuses are literals or checked by the control interface");
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// An account, by index.
    Account(usize),
    /// An instance with its own key.
    Instance(InstanceId),
}

/// A call with a valid key.
#[derive(Debug)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// The key they showed.
    pub api_key: String,
    /// Query parameters.
    pub query: HashMap<String, String>,
    /// JSON body; empty when there was none.
    pub body: Map<String, Value>,
}

impl FromRequest<Arc<World>> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, world: &Arc<World>) -> Result<Self, ApiError> {
        let Query(query) = Query::<HashMap<String, String>>::try_from_uri(request.uri())
            .map_err(|err| ApiError::invalid(format!("error 400/101: {err}")))?;
        let api_key = shown_key(request.headers(), request.uri())
            .ok_or_else(|| ApiError::new(403, "auth_error", "This action requires login."))?;
        let caller = find_caller(world, &api_key)
            .ok_or_else(|| ApiError::new(404, "auth_error", "Invalid user key"))?;
        let bytes = Bytes::from_request(request, world)
            .await
            .map_err(|err| ApiError::invalid(format!("error 400/102: {err}")))?;
        let body = match serde_json::from_slice(&bytes) {
            Ok(Value::Object(body)) => body,
            _ if bytes.is_empty() => Map::new(),
            _ => {
                return Err(ApiError::invalid(
                    "error 400/103: the body is no JSON object",
                ));
            }
        };
        Ok(Self {
            caller,
            api_key,
            query,
            body,
        })
    }
}

/// The key that a request shows, in its header or its query.
pub(super) fn shown_key(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(|key| key.trim().to_owned());
    let by_query = || {
        let Query(mut query) = Query::<HashMap<String, String>>::try_from_uri(uri).ok()?;
        query.remove("api_key")
    };
    bearer.or_else(by_query).filter(|key| !key.is_empty())
}

fn find_caller(world: &Arc<World>, api_key: &str) -> Option<Caller> {
    world.act(|market, _| {
        let holds = |keys: &[String]| keys.iter().any(|key| key == api_key);
        let account = market
            .accounts()
            .iter()
            .position(|account| holds(&account.api_keys));
        let instance = || {
            let mut living = market
                .instances()
                .values()
                .filter(|i| i.destroyed_ms.is_none());
            living
                .find(|instance| instance.api_key == api_key)
                .map(|instance| instance.id)
        };
        account
            .map(Caller::Account)
            .or_else(|| instance().map(Caller::Instance))
    })
}

impl Call {
    /// The account; instance keys may not do this.
    ///
    /// # Errors
    /// 403 for an instance's key.
    pub fn account(&self) -> Result<usize, ApiError> {
        match self.caller {
            Caller::Account(account) => Ok(account),
            Caller::Instance(_) => Err(ApiError::forbidden()),
        }
    }

    /// The number in the path, when the caller may act on that instance.
    ///
    /// # Errors
    /// 403 for another instance's key, 404 when the account has no such instance.
    pub fn instance(&self, world: &Arc<World>, id: &str) -> Result<InstanceId, ApiError> {
        let id: InstanceId = id
            .parse()
            .map_err(|_| ApiError::new(400, "invalid_id", format!("{id} is no id")))?;
        match self.caller {
            Caller::Instance(own) if own != id => Err(ApiError::forbidden()),
            Caller::Instance(_) => Ok(id),
            Caller::Account(account) => world.act(|market, _| {
                let own = market
                    .living(id)
                    .ok()
                    .filter(|instance| instance.account == account);
                own.map(|instance| instance.id)
                    .ok_or_else(|| Refused::NoSuchInstance(id).into())
            }),
        }
    }

    /// A text of the body; null is absent.
    pub fn text(&self, key: &str) -> Option<String> {
        match self.body.get(key)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// A number of the body, also when it came as a string; null is absent.
    pub fn number(&self, key: &str) -> Option<f64> {
        number(self.body.get(key)?)
    }

    /// A truth of the body; null is absent.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.body.get(key)?.as_bool()
    }

    /// A query parameter that holds JSON.
    ///
    /// # Errors
    /// 400 when it is no JSON.
    pub fn json(&self, key: &str) -> Result<Option<Value>, ApiError> {
        self.query
            .get(key)
            .map(|text| {
                serde_json::from_str(text).map_err(|err| {
                    ApiError::new(
                        400,
                        "invalid_request",
                        format!("Error in query parameters: {key}: {err}"),
                    )
                })
            })
            .transpose()
    }
}

/// The plain success of most actions.
///
/// # Errors
/// None; the type is what handlers return.
pub fn success() -> Answer {
    ok(json!({"success": true}))
}
