//! What a box's container is made with beside its image, as a run file says it. A password is no part of it: only where it is found.

use serde::{Deserialize, Serialize};

/// What the container is made with beside its image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Login for the registry of the image.
    pub login: Option<Login>,
    /// Ports that are opened beside ssh's, as `8080` or `5000/udp`.
    pub ports: Vec<String>,
    /// Further options of docker.
    pub docker_options: Option<String>,
    /// Template of the market, by its hash.
    pub template: Option<String>,
    /// Volume that its boxes mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<MountSpec>,
}

/// A volume of the account, and where boxes have it. It lies on one machine, so they are rented there and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Its number.
    pub id: u64,
    /// Directory on the box, absolute.
    pub path: String,
}

/// Login for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Host of the registry.
    pub registry: String,
    /// User there.
    pub user: String,
    /// Where the password is.
    pub password: PasswordFrom,
}

/// Where a password is found when it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PasswordFrom {
    /// In this variable of the caller's shell.
    Variable(String),
    /// In the first line that this program prints.
    Command(String),
}
