//! The key `notify` as it is written. The URL of a webhook is read where it is used, and kept nowhere else.

use std::{fs, path::Path};

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::{FileKeys, Scalar, at};
use crate::{
    notify::webhook::Url,
    spec::{Notify, WebhookFrom, YamlError, from_yaml},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct NotifyKeys {
    command: Option<Scalar>,
    #[serde(default, deserialize_with = "written")]
    webhook: Option<Webhook>,
    from_box: Option<Scalar>,
}

/// A URL, or nothing, which leaves it to the shell.
struct Webhook(Option<Scalar>);

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Webhook(..)")
    }
}

/// A key that is there without a value is not one that is absent.
fn written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Webhook>, D::Error> {
    Option::<Scalar>::deserialize(deserializer).map(|url| Some(Webhook(url)))
}

/// Reads and checks the key of the run file at `path`.
pub(super) fn notify(keys: &NotifyKeys, path: &Path) -> Result<Notify, YamlError> {
    let webhook = match &keys.webhook {
        Some(Webhook(Some(url))) => {
            at(url, Url::parse(&url.value))?;
            Some(WebhookFrom::File(path.to_owned()))
        }
        Some(Webhook(None)) => Some(WebhookFrom::Shell),
        None => None,
    };
    let command = keys.command.as_ref().map(|command| {
        let text = command.value.trim();
        let empty = "there is nothing to run".to_owned();
        let given = if text.is_empty() {
            Err(empty)
        } else {
            Ok(text.to_owned())
        };
        at(command, given)
    });
    let from_box = match &keys.from_box {
        Some(key) => at(key, from_box(&key.value, webhook.is_some()))?,
        None => false,
    };
    Ok(Notify {
        command: command.transpose()?,
        webhook,
        from_box,
    })
}

fn from_box(text: &str, has_webhook: bool) -> Result<bool, String> {
    match (text, has_webhook) {
        ("false", _) => Ok(false),
        ("true", true) => Ok(true),
        ("true", false) => Err(
            "a box tells by `webhook` alone, and none is given: a command runs on your machine"
                .to_owned(),
        ),
        _ => Err("either true or false".to_owned()),
    }
}

/// The URL of the webhook in a run file.
///
/// # Errors
/// When the file or the key is not there any more; the text never holds a piece of the file.
pub fn webhook_in(path: &Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|err| {
            format!("its URL is in the run file {shown}, which cannot be read: {err}")
        })?;
    let keys: FileKeys =
        from_yaml(&text).map_err(|err| format!("its URL is in the run file {shown}:{err}"))?;
    let url = keys.notify.and_then(|keys| keys.webhook?.0);
    url.map(|url| Zeroizing::new(url.value))
        .ok_or_else(|| format!("its URL was in the run file {shown} and is not there any more"))
}
