//! Keys for the bucket, found on this machine where the users of AWS's own tools keep them: the environment, then a profile with
//! keys, a role, a single sign-on or a program that gives keys.
//!
//! The only file besides `config` that reads the environment, because secrets stop here: they go into
//! [`spotter_bucket::Credentials`], which wipes itself and never prints. [`place`] is where they work, [`profile`] reads AWS's two files, [`process`] runs the
//! program, [`sso`] uses a login that `aws sso login` left, [`sts`] asks for keys that end,
//! [`key_ring`] gives them to boxes.

pub mod key_ring;
mod place;
pub(crate) mod process;
mod profile;
mod sso;
pub mod sts;
pub(crate) mod web;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use spotter_bucket::Credentials;
use zeroize::Zeroizing;

pub use self::place::{Place, PlaceError};
use self::{place::Endpoint, profile::Profiles, sts::StsError};

/// What keys of the environment are said to come from.
pub const ENVIRONMENT: &str = "the environment";
/// What the source of keys of a single sign-on ends with, after its profile.
pub(crate) const SIGN_ON: &str = ", single sign-on";

/// Keys and where they work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketAccess {
    /// The keys.
    pub credentials: Credentials,
    /// Where they work.
    pub place: Place,
    /// Where the keys came from, for people.
    pub source: String,
}

/// No keys were found.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Nothing anywhere.
    #[error(
        "no bucket keys: AWS_ACCESS_KEY_ID is not set and {looked} has no profile `{profile}` with keys"
    )]
    None {
        /// Files that were read.
        looked: String,
        /// Profile that was looked for.
        profile: String,
    },
    /// Half of a pair.
    #[error("{found} is set and {lacking} is not")]
    Half {
        /// What is there.
        found: &'static str,
        /// What is not.
        lacking: &'static str,
    },
    /// Keys that only another program can give.
    #[error("profile `{profile}` gets its keys by `{setting}`, which spotter does not do")]
    Elsewhere {
        /// The profile.
        profile: String,
        /// Its setting.
        setting: String,
    },
    /// A setting that is lacking beside another.
    #[error("profile `{profile}` has `{found}` and lacks `{lacking}`")]
    Incomplete {
        /// The profile.
        profile: String,
        /// What is there.
        found: &'static str,
        /// What is not.
        lacking: &'static str,
    },
    /// Roles that lead back to where they began.
    #[error("profile `{0}` gets its keys from itself, by way of `source_profile`")]
    Circle(String),
    /// The program of `credential_process` gave no keys.
    #[error("profile `{profile}`: its `credential_process` gave no keys")]
    Process {
        /// The profile.
        profile: String,
        /// Why.
        source: process::ProcessError,
    },
    /// The single sign-on gave no keys.
    #[error("profile `{profile}`: its single sign-on gave no keys")]
    Sso {
        /// The profile.
        profile: String,
        /// Why.
        source: sso::SsoError,
    },
    /// The role was not given.
    #[error("profile `{profile}`: role {role} was not given")]
    Role {
        /// The profile.
        profile: String,
        /// The role.
        role: String,
        /// Why.
        source: StsError,
    },
    /// What is named as the server that gives keys is none.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the search depends on, so that a test can make it up.
struct Surroundings<'a> {
    variable: &'a (dyn Fn(&str) -> Option<String> + Sync),
    profiles: Profiles,
    /// The two files, for people.
    looked: String,
    /// `~/.aws`.
    aws_home: PathBuf,
}

/// Finds the keys: environment first, then the profile of `AWS_PROFILE`. Programs and servers are asked only where the profile
/// says so.
///
/// # Errors
/// When there are none; says which source was tried and why it gave none.
pub async fn find() -> Result<BucketAccess, CredentialsError> {
    surroundings(&process_variable)?.find().await
}

/// Finds out which server buckets are on, without looking for keys.
///
/// # Errors
/// When a file that exists cannot be read.
pub fn place() -> Result<Place, CredentialsError> {
    Ok(surroundings(&process_variable)?.place())
}

/// Endpoint of AWS's Security Token Service, where the user names another than the usual one.
///
/// # Errors
/// When what is named is none.
pub fn sts_endpoint() -> Result<Option<String>, PlaceError> {
    const NAME: &str = "AWS_ENDPOINT_URL_STS";
    let named = process_variable(NAME).map(|endpoint| Endpoint(endpoint, NAME.to_owned()));
    named.map(Endpoint::checked).transpose()
}

fn process_variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reads AWS's two files.
fn surroundings(
    variable: &(dyn Fn(&str) -> Option<String> + Sync),
) -> Result<Surroundings<'_>, CredentialsError> {
    let aws_home = variable("HOME")
        .map(PathBuf::from)
        .unwrap_or_default()
        .join(".aws");
    let file = |name: &str, default: &str| {
        variable(name).map_or_else(|| aws_home.join(default), PathBuf::from)
    };
    let keys = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = file("AWS_CONFIG_FILE", "config");
    Ok(Surroundings {
        variable,
        profiles: Profiles::parse(&read(&keys)?, &read(&config)?),
        looked: format!("{} or {}", keys.display(), config.display()),
        aws_home,
    })
}

fn read(path: &Path) -> Result<Zeroizing<String>, CredentialsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Zeroizing::default()),
        Err(source) => Err(CredentialsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A pair of keys that never end by themselves, as far as anybody says.
fn pair(id: String, secret: String, token: Option<String>) -> Credentials {
    Credentials {
        access_key_id: id,
        secret_access_key: secret,
        session_token: token,
        expires_us: None,
    }
}

impl Surroundings<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }

    fn profile_name(&self) -> String {
        self.variable("AWS_PROFILE")
            .or_else(|| self.variable("AWS_DEFAULT_PROFILE"))
            .unwrap_or_else(|| "default".to_owned())
    }

    /// Endpoint of one of AWS's services: from the first of these variables, or the services section that a profile names.
    fn endpoint(&self, variables: &[&str], profile: &str, service: &str) -> Option<Endpoint> {
        let named = variables
            .iter()
            .find_map(|name| Some(Endpoint(self.variable(name)?, (*name).to_owned())));
        named.or_else(|| {
            let endpoint = self.profiles.service_endpoint(profile, service)?;
            let named_by = format!("`endpoint_url` of {service} for profile `{profile}`");
            Some(Endpoint(endpoint, named_by))
        })
    }

    fn place(&self) -> Place {
        let name = self.profile_name();
        let named = self
            .endpoint(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"], &name, "s3")
            .or_else(|| {
                let endpoint = self.profiles.get(&name, "endpoint_url")?;
                let named_by = format!("`endpoint_url` of profile `{name}`");
                Some(Endpoint(endpoint, named_by))
            });
        let (endpoint, named_by) = named.map(|Endpoint(url, by)| (url, by)).unzip();
        Place {
            endpoint,
            named_by,
            region: self.region(&name),
            // There is no variable for it.
            style: self
                .profiles
                .get(&name, "s3.addressing_style")
                .and_then(|word| word.parse().ok())
                .unwrap_or_default(),
            ca: self
                .variable("AWS_CA_BUNDLE")
                .or_else(|| self.profiles.get(&name, "ca_bundle"))
                .map(PathBuf::from),
        }
    }

    fn region(&self, profile: &str) -> Option<String> {
        self.variable("AWS_REGION")
            .or_else(|| self.variable("AWS_DEFAULT_REGION"))
            .or_else(|| self.profiles.get(profile, "region"))
    }

    async fn find(&self) -> Result<BucketAccess, CredentialsError> {
        let (credentials, source) = match self.of_environment()? {
            Some(keys) => (keys, ENVIRONMENT.to_owned()),
            None => {
                let name = self.profile_name();
                self.of_profile(&name, &mut Vec::new()).await?
            }
        };
        Ok(BucketAccess {
            credentials,
            place: self.place(),
            source,
        })
    }

    fn of_environment(&self) -> Result<Option<Credentials>, CredentialsError> {
        const ID: &str = "AWS_ACCESS_KEY_ID";
        const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
        let half = |found, lacking| Err(CredentialsError::Half { found, lacking });
        match (self.variable(ID), self.variable(SECRET)) {
            (Some(id), Some(secret)) => {
                Ok(Some(pair(id, secret, self.variable("AWS_SESSION_TOKEN"))))
            }
            (Some(_), None) => half(ID, SECRET),
            (None, Some(_)) => half(SECRET, ID),
            (None, None) => Ok(None),
        }
    }

    /// Keys of a profile, and where they came from. `above`: profiles that get theirs from this one.
    async fn of_profile(
        &self,
        name: &str,
        above: &mut Vec<String>,
    ) -> Result<(Credentials, String), CredentialsError> {
        let setting = |key: &str| self.profiles.get(name, key);
        if let Some(role) = setting("role_arn") {
            let keys = Box::pin(self.of_role(name, &role, above)).await?;
            return Ok((keys, format!("profile `{name}`, role {role}")));
        }
        if setting("sso_session").is_some() || setting("sso_start_url").is_some() {
            let keys = self.of_sso(name).await?;
            return Ok((keys, format!("profile `{name}`{SIGN_ON}")));
        }
        if let Some(keys) = self.static_keys(name) {
            return Ok((keys, format!("profile `{name}`")));
        }
        if let Some(command) = setting("credential_process") {
            let keys =
                process::keys(&command)
                    .await
                    .map_err(|source| CredentialsError::Process {
                        profile: name.to_owned(),
                        source,
                    })?;
            return Ok((keys, format!("profile `{name}`, its credential_process")));
        }
        if setting("web_identity_token_file").is_some() {
            return Err(CredentialsError::Incomplete {
                profile: name.to_owned(),
                found: "web_identity_token_file",
                lacking: "role_arn",
            });
        }
        Err(CredentialsError::None {
            looked: self.looked.clone(),
            profile: name.to_owned(),
        })
    }

    fn static_keys(&self, profile: &str) -> Option<Credentials> {
        let setting = |key: &str| self.profiles.get(profile, key);
        let (id, secret) = (
            setting("aws_access_key_id")?,
            setting("aws_secret_access_key")?,
        );
        Some(pair(id, secret, setting("aws_session_token")))
    }

    async fn of_role(
        &self,
        name: &str,
        role: &str,
        above: &mut Vec<String>,
    ) -> Result<Credentials, CredentialsError> {
        let setting = |key: &str| self.profiles.get(name, key);
        let incomplete = |found, lacking| CredentialsError::Incomplete {
            profile: name.to_owned(),
            found,
            lacking,
        };
        if setting("mfa_serial").is_some() {
            return Err(CredentialsError::Elsewhere {
                profile: name.to_owned(),
                setting: "mfa_serial".to_owned(),
            });
        }
        let region = self.region(name);
        let variables = ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"];
        let endpoint = self.endpoint(&variables, name, "sts");
        let endpoint = endpoint.map(Endpoint::checked).transpose()?;
        let service = sts::Service::new(endpoint.as_deref(), region.as_deref());
        let mut wish = sts::RoleWish {
            role: role.to_owned(),
            session: setting("role_session_name").unwrap_or_else(|| "spotter".to_owned()),
            external_id: setting("external_id"),
            duration_s: setting("duration_seconds").and_then(|text| text.parse().ok()),
            policy: None,
        };
        let given = if let Some(file) = setting("web_identity_token_file") {
            let path = PathBuf::from(file);
            let token = read(&path)?;
            wish.policy = None;
            service
                .assume_role_with_web_identity(&wish, token.trim())
                .await
        } else {
            let base = match (setting("source_profile"), setting("credential_source")) {
                (Some(source), _) if source == name => self
                    .static_keys(name)
                    .ok_or_else(|| incomplete("source_profile", "aws_access_key_id"))?,
                (Some(source), _) => {
                    above.push(name.to_owned());
                    if above.contains(&source) {
                        return Err(CredentialsError::Circle(source));
                    }
                    self.of_profile(&source, above).await?.0
                }
                (None, Some(source)) if source == "Environment" => self
                    .of_environment()?
                    .ok_or_else(|| incomplete("credential_source", "AWS_ACCESS_KEY_ID"))?,
                (None, Some(source)) => {
                    return Err(CredentialsError::Elsewhere {
                        profile: name.to_owned(),
                        setting: format!("credential_source = {source}"),
                    });
                }
                (None, None) => return Err(incomplete("role_arn", "source_profile")),
            };
            service.assume_role(&wish, &base).await
        };
        given.map_err(|source| CredentialsError::Role {
            profile: name.to_owned(),
            role: role.to_owned(),
            source,
        })
    }

    async fn of_sso(&self, name: &str) -> Result<Credentials, CredentialsError> {
        let session = self.profiles.get(name, "sso_session");
        // A profile names a session, or says itself what a session would.
        let of_session = |key: &str| match &session {
            Some(session) => self.profiles.sso_session(session, key),
            None => self.profiles.get(name, key),
        };
        let needed = |found: Option<String>, lacking| {
            found.ok_or_else(|| CredentialsError::Incomplete {
                profile: name.to_owned(),
                found: if session.is_some() {
                    "sso_session"
                } else {
                    "sso_start_url"
                },
                lacking,
            })
        };
        let start_url = needed(of_session("sso_start_url"), "sso_start_url")?;
        let region = needed(of_session("sso_region"), "sso_region")?;
        let account = needed(self.profiles.get(name, "sso_account_id"), "sso_account_id")?;
        let role = needed(self.profiles.get(name, "sso_role_name"), "sso_role_name")?;
        let login = sso::Login {
            cache: self.aws_home.join("sso/cache"),
            name: session.clone().unwrap_or(start_url),
            endpoint: self
                .endpoint(&["AWS_ENDPOINT_URL_SSO"], name, "sso")
                .map(Endpoint::checked)
                .transpose()?,
            profile: name.to_owned(),
            region,
            account,
            role,
        };
        login.keys().await.map_err(|source| CredentialsError::Sso {
            profile: name.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests;
