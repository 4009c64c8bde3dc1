//! The keys that the parser knows, against the schema for editors and the guide.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;
use crate::spec::file::{
    checkpoints::KeepKeys,
    resources::BidKeys,
    upload::{ServerKeys, UploadKeys},
};

/// The keys that a part of the file knows, as its own error tells them.
fn keys_of<T: DeserializeOwned>() -> BTreeSet<String> {
    let Err(err) = from_yaml::<T>("no_such_key_at_all: 1\n") else {
        panic!("an unknown key was taken");
    };
    let (_, keys) = err
        .message
        .split_once("the keys here are ")
        .expect("nothing is near to it");
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_schema_for_editors_knows_the_same_keys() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../../docs/run.schema.json")).unwrap();
    let check = |path: &str, known: BTreeSet<String>| {
        let part = schema.pointer(path).unwrap_or_else(|| panic!("no {path}"));
        let keys: BTreeSet<String> = part["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(keys, known, "{path}");
        assert_eq!(part["additionalProperties"], json!(false), "{path}");
        for (key, property) in part["properties"].as_object().unwrap() {
            assert!(
                property["description"].is_string(),
                "{path}/{key} has no description"
            );
        }
    };
    check("", keys_of::<FileKeys>());
    check("/properties/resources", keys_of::<ResourcesKeys>());
    check("/properties/resources/properties/bid", keys_of::<BidKeys>());
    check("/properties/checkpoints", keys_of::<CheckpointsKeys>());
    check(
        "/properties/checkpoints/properties/keep",
        keys_of::<KeepKeys>(),
    );
    check(
        "/properties/checkpoints/properties/upload",
        keys_of::<UploadKeys>(),
    );
    check(
        "/properties/checkpoints/properties/server",
        keys_of::<ServerKeys>(),
    );
    check("/properties/recover", keys_of::<RecoverKeys>());
    check("/properties/model", keys_of::<ModelKeys>());
    check("/properties/limits", keys_of::<LimitsKeys>());
    check("/properties/smoke", keys_of::<SmokeKeys>());
    check("/properties/progress", keys_of::<ProgressKeys>());
    check("/properties/validate", keys_of::<ValidateKeys>());
    check("/properties/results", keys_of::<ResultsKeys>());
    check("/properties/notify", keys_of::<NotifyKeys>());
    check("/properties/image_login", keys_of::<container::LoginKeys>());
    check("/properties/volume", keys_of::<container::VolumeKeys>());
    assert_eq!(schema["required"], json!(["name", "resources", "run"]));
}

#[test]
fn the_documentation_names_every_key() {
    let guide = include_str!("../../../../docs/run-file.md");
    for keys in [
        keys_of::<FileKeys>(),
        keys_of::<ResourcesKeys>(),
        keys_of::<BidKeys>(),
        keys_of::<CheckpointsKeys>(),
        keys_of::<KeepKeys>(),
        keys_of::<UploadKeys>(),
        keys_of::<ServerKeys>(),
        keys_of::<RecoverKeys>(),
        keys_of::<LimitsKeys>(),
        keys_of::<ModelKeys>(),
        keys_of::<SmokeKeys>(),
        keys_of::<ProgressKeys>(),
        keys_of::<ValidateKeys>(),
        keys_of::<ResultsKeys>(),
        keys_of::<NotifyKeys>(),
    ] {
        for key in keys {
            assert!(
                guide.contains(&format!("`{key}`")) || guide.contains(&format!(".{key}`")),
                "{key}"
            );
        }
    }
}
