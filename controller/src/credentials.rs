//! Keys for the bucket, found on this machine the way AWS's own tools find them: environment, then a profile.
//!
//! The only file besides `config` that reads the environment, because secrets stop here: they go into
//! [`spotter_bucket::Credentials`], which wipes itself and never prints.

mod profile;

use std::{env, fs, path::PathBuf};

use spotter_bucket::Credentials;

use profile::Profiles;

/// Keys and where they work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketAccess {
    /// The keys.
    pub credentials: Credentials,
    /// Endpoint of an S3-compatible server; `None`: AWS.
    pub endpoint: Option<String>,
    /// Region for signing; `None`: nothing says which.
    pub region: Option<String>,
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
        setting: &'static str,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Finds the keys in the environment and in `~/.aws`.
///
/// # Errors
/// When there are none, or a file that exists cannot be read.
pub fn find() -> Result<BucketAccess, CredentialsError> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |variable: &str, default: &str| {
        env::var_os(variable).map_or_else(|| home.join(".aws").join(default), PathBuf::from)
    };
    let read = |path: &PathBuf| match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(CredentialsError::Read {
            path: path.clone(),
            source,
        }),
    };
    let keys = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = file("AWS_CONFIG_FILE", "config");
    let profiles = Profiles::parse(&read(&keys)?, &read(&config)?);
    let looked = format!("{} or {}", keys.display(), config.display());
    choose(
        &|name| env::var(name).ok().filter(|value| !value.is_empty()),
        &profiles,
        &looked,
    )
}

/// The decision, with the environment as an argument.
fn choose(
    environment: &dyn Fn(&str) -> Option<String>,
    profiles: &Profiles,
    looked: &str,
) -> Result<BucketAccess, CredentialsError> {
    let name = environment("AWS_PROFILE").or_else(|| environment("AWS_DEFAULT_PROFILE"));
    let name = name.unwrap_or_else(|| "default".to_owned());
    let profile = |key: &str| profiles.get(&name, key);
    let endpoint = environment("AWS_ENDPOINT_URL_S3")
        .or_else(|| environment("AWS_ENDPOINT_URL"))
        .or_else(|| profiles.service_endpoint(&name))
        .or_else(|| profile("endpoint_url"));
    let region = environment("AWS_REGION")
        .or_else(|| environment("AWS_DEFAULT_REGION"))
        .or_else(|| profile("region"));
    let found = |credentials, source: &str| BucketAccess {
        credentials,
        endpoint: endpoint.clone(),
        region: region.clone(),
        source: source.to_owned(),
    };
    let keys = |id: String, secret: String, token: Option<String>| Credentials {
        access_key_id: id,
        secret_access_key: secret,
        session_token: token,
        expires_us: None,
    };
    match (
        environment("AWS_ACCESS_KEY_ID"),
        environment("AWS_SECRET_ACCESS_KEY"),
    ) {
        (Some(id), Some(secret)) => {
            return Ok(found(
                keys(id, secret, environment("AWS_SESSION_TOKEN")),
                "environment",
            ));
        }
        (Some(_), None) => {
            return Err(CredentialsError::Half {
                found: "AWS_ACCESS_KEY_ID",
                lacking: "AWS_SECRET_ACCESS_KEY",
            });
        }
        (None, Some(_)) => {
            return Err(CredentialsError::Half {
                found: "AWS_SECRET_ACCESS_KEY",
                lacking: "AWS_ACCESS_KEY_ID",
            });
        }
        (None, None) => {}
    }
    if let (Some(id), Some(secret)) = (
        profile("aws_access_key_id"),
        profile("aws_secret_access_key"),
    ) {
        return Ok(found(
            keys(id, secret, profile("aws_session_token")),
            &format!("profile `{name}`"),
        ));
    }
    for setting in [
        "credential_process",
        "sso_session",
        "sso_start_url",
        "role_arn",
        "web_identity_token_file",
    ] {
        if profile(setting).is_some() {
            return Err(CredentialsError::Elsewhere {
                profile: name,
                setting,
            });
        }
    }
    Err(CredentialsError::None {
        looked: looked.to_owned(),
        profile: name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = s0\n\n\
                        [lab]\naws_access_key_id=LAB\naws_secret_access_key=s1\naws_session_token=t1\n";
    const CONFIG: &str = "[default]\nregion = eu-west-1\n[profile lab]\nregion=us-west-2\nservices = local\n\
                          [services local]\ns3 =\n  endpoint_url = http://127.0.0.1:9000\n\
                          [profile sso]\nsso_session = corp\n[profile plain]\nendpoint_url = https://s3.example\n";

    fn choice(environment: &[(&str, &str)]) -> Result<BucketAccess, String> {
        let lookup = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        choose(
            &lookup,
            &Profiles::parse(KEYS, CONFIG),
            "~/.aws/credentials",
        )
        .map_err(|err| err.to_string())
    }

    #[test]
    fn the_environment_wins_over_profiles() {
        let check = |environment: &[(&str, &str)],
                     key: &str,
                     endpoint: Option<&str>,
                     region: Option<&str>| {
            let access = choice(environment).unwrap();
            assert_eq!(access.credentials.access_key_id, key);
            assert_eq!(
                (access.endpoint.as_deref(), access.region.as_deref()),
                (endpoint, region)
            );
        };
        check(&[], "DEFAULT", None, Some("eu-west-1"));
        check(
            &[("AWS_PROFILE", "lab")],
            "LAB",
            Some("http://127.0.0.1:9000"),
            Some("us-west-2"),
        );
        check(
            &[
                ("AWS_ACCESS_KEY_ID", "ENV"),
                ("AWS_SECRET_ACCESS_KEY", "x"),
                ("AWS_PROFILE", "lab"),
                ("AWS_REGION", "r"),
            ],
            "ENV",
            Some("http://127.0.0.1:9000"),
            Some("r"),
        );
        check(
            &[
                ("AWS_ENDPOINT_URL", "http://a"),
                ("AWS_ENDPOINT_URL_S3", "http://b"),
            ],
            "DEFAULT",
            Some("http://b"),
            Some("eu-west-1"),
        );
    }

    #[test]
    fn what_is_lacking_is_named() {
        let check = |environment: &[(&str, &str)], expected: &str| {
            assert_eq!(choice(environment).unwrap_err(), expected)
        };
        check(
            &[("AWS_ACCESS_KEY_ID", "x")],
            "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not",
        );
        check(
            &[("AWS_PROFILE", "sso")],
            "profile `sso` gets its keys by `sso_session`, which spotter does not do",
        );
        check(
            &[("AWS_PROFILE", "nobody")],
            "no bucket keys: AWS_ACCESS_KEY_ID is not set and ~/.aws/credentials has no profile `nobody` with keys",
        );
    }
}
