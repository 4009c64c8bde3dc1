//! Keys for a box: of its run's prefix alone and with an end, where the provider gives such; and renewed before they end.
//!
//! What is held here is in memory only. [`ways`] decides (pure); [`KeyRing`] asks, and asks again at half of a key's life.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};

use spotter_bucket::{Credentials, Target};
use tokio::sync::Mutex;

use super::{
    BucketAccess, CredentialsError, PlaceError,
    sts::{RoleWish, Service, StsError},
    web::now_us,
};
use crate::{
    authorities::AuthoritiesError,
    doctor::policy::{self, Grantor, Need},
    spec::{BucketServer, KeyMode, KeyRules},
};

/// Longest life of federated keys at AWS: a laptop may be closed over a night and a day.
const FEDERATED_S: u32 = 36 * 3600;
/// Longest life of a role's keys at AWS, where the role allows it.
const ROLE_S: u32 = 12 * 3600;
/// What every role allows, and what root gets.
const SHORT_S: u32 = 3600;
/// Keys are not asked for more often than this, microseconds, whatever the box says of them.
const MIN_AGE_US: u64 = 60_000_000;
/// How often a client that is in use looks whether there are newer keys.
const RENEW: Duration = Duration::from_secs(30);
/// Longest name of a federated user at AWS, characters.
const MAX_NAME_CHARS: usize = 32;

/// Keys that a box may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxKeys {
    /// The keys.
    pub credentials: Credentials,
    /// They reach the run's own prefix only.
    pub run_only: bool,
    /// Why they are the user's own where narrower ones were wished for.
    pub why_own: Option<String>,
}

/// Why a box gets no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// This laptop has none.
    #[error(transparent)]
    None(#[from] CredentialsError),
    /// The run file asks for what the provider does not have.
    #[error("`checkpoints.credentials: session` cannot be done: {0}")]
    NoSession(String),
    /// The provider gave none.
    #[error("the box gets no keys of its own")]
    Sts(#[from] StsError),
    /// The bucket's name is not usable, or that of a server.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The server's certificates cannot be read.
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
}

/// How a box gets its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// The user's own.
    Own,
    /// Those of a role, narrowed.
    Role(String),
    /// The user's own, narrowed.
    Federated,
    /// From the server's own token service, narrowed.
    AtServer,
}

/// Decides how a box gets its keys (pure). `temporary`: the user's own are.
fn ways(rules: &KeyRules, grantor: Grantor, temporary: bool) -> Result<Way, String> {
    let must = match rules.mode {
        KeyMode::Keys => return Ok(Way::Own),
        KeyMode::Session => true,
        KeyMode::Auto | KeyMode::Presigned => false,
    };
    match (&rules.role, grantor) {
        (Some(role), Grantor::Aws | Grantor::Minio) => Ok(Way::Role(role.clone())),
        (None, Grantor::Aws) if !temporary => Ok(Way::Federated),
        // Whether such a server has a token service only a try would tell: it is tried when it is asked for.
        (None, Grantor::Minio) if must => Ok(Way::AtServer),
        (_, Grantor::Minio) => Ok(Way::Own),
        (None, Grantor::Aws) if must => Err(
            "AWS gives keys that are temporary themselves no narrower ones: name a role with `checkpoints.role`".to_owned(),
        ),
        (None, Grantor::Aws) => Ok(Way::Own),
        (_, grantor) if must || rules.role.is_some() => Err(format!(
            "{} has no token service: narrow the key itself, as `spotter doctor bucket` prints it, and set `credentials: keys`",
            grantor.name()
        )),
        _ => Ok(Way::Own),
    }
}

/// Whether keys are better asked for anew (pure): at half of their life, but not all the time.
fn is_due(since_us: u64, expires_us: Option<u64>, now_us: u64) -> bool {
    let age_us = now_us.saturating_sub(since_us);
    match expires_us {
        Some(expires_us) if expires_us <= now_us => true,
        Some(expires_us) => age_us >= expires_us.saturating_sub(since_us) / 2,
        None => age_us >= MIN_AGE_US,
    }
}

/// What this laptop found, and what boxes were given.
#[derive(Default)]
pub struct KeyRing {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    own: Option<Own>,
    /// By the root of the run in its bucket on its server.
    sessions: HashMap<String, Session>,
}

struct Own {
    access: BucketAccess,
    since_us: u64,
}

struct Session {
    keys: Credentials,
    since_us: u64,
    /// Id of the keys that asked for it.
    by: String,
    rules: KeyRules,
}

impl KeyRing {
    /// The user's own keys and where they work; asked for again at half of their life, and after a minute where they have no end.
    ///
    /// # Errors
    /// When there are none.
    pub async fn access(&self) -> Result<BucketAccess, CredentialsError> {
        self.held.lock().await.access().await
    }

    /// The user's own keys for a client that may be used for hours: asked for again while anybody holds them, where they have an
    /// end. `found` are what [`KeyRing::access`] gave.
    pub fn newest(self: &Arc<Self>, found: Credentials) -> Arc<Newest> {
        let ends = found.expires_us.is_some();
        let newest = Arc::new(Newest(RwLock::new(found)));
        if ends {
            tokio::spawn(renew(Arc::clone(self), Arc::downgrade(&newest)));
        }
        newest
    }

    /// Keys for the box of a run whose checkpoints go to `to` on a server.
    ///
    /// # Errors
    /// When this laptop has none, or the rules ask for narrower ones than the provider gives.
    pub async fn for_box(
        &self,
        rules: &KeyRules,
        to: &str,
        server: &BucketServer,
        run: &str,
    ) -> Result<BoxKeys, KeysError> {
        let mut held = self.held.lock().await;
        let mut access = held.access().await?;
        access.place = access.place.at(server);
        let mut target = access.place.target(to)?;
        // What is granted is the run's part alone.
        target.prefix = match target.prefix.as_str() {
            "" => run.to_owned(),
            prefix => format!("{prefix}/{run}"),
        };
        let own = |why_own| BoxKeys {
            credentials: access.credentials.clone(),
            run_only: false,
            why_own,
        };
        let grantor = Grantor::of(access.place.endpoint.as_deref());
        let temporary = access.credentials.session_token.is_some();
        let way = ways(rules, grantor, temporary).map_err(KeysError::NoSession)?;
        if way == Way::Own {
            return Ok(own(None));
        }
        let by = access.credentials.access_key_id.clone();
        let endpoint = access.place.endpoint.as_deref().unwrap_or_default();
        let root = format!("{endpoint} {}", target.url());
        let now = now_us();
        let known = held
            .sessions
            .get(&root)
            .filter(|known| known.by == by && known.rules == *rules);
        if let Some(known) = known
            && !is_due(known.since_us, known.keys.expires_us, now)
        {
            return Ok(narrow(known.keys.clone()));
        }
        let authorities = access.place.authorities()?;
        let named = super::sts_endpoint()?;
        // AWS has its token service elsewhere, servers like MinIO at the same place as the buckets.
        let endpoint = match grantor {
            Grantor::Minio => named.as_deref().or(access.place.endpoint.as_deref()),
            _ => named.as_deref(),
        };
        let service = Service::new(endpoint, Some(&target.region)).trusting(authorities);
        match ask(&way, &access, &service, &target, run).await {
            Ok(keys) => {
                let session = Session {
                    keys: keys.clone(),
                    since_us: now,
                    by,
                    rules: rules.clone(),
                };
                held.sessions.insert(root, session);
                Ok(narrow(keys))
            }
            Err(err) => match known {
                // Half of its life is left: there will be another chance.
                Some(known) if known.keys.expires_us > Some(now) => {
                    tracing::warn!(error = %err, "the keys of the box were not renewed, will retry");
                    Ok(narrow(known.keys.clone()))
                }
                _ if way == Way::Federated && rules.mode == KeyMode::Auto && err.is_refusal() => {
                    Ok(own(Some(err.to_string())))
                }
                _ => Err(err.into()),
            },
        }
    }
}

/// The user's own keys as they were found last.
#[derive(Debug)]
pub struct Newest(RwLock<Credentials>);

impl Newest {
    /// The keys.
    pub fn credentials(&self) -> Credentials {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Ends when nobody holds the keys any more.
async fn renew(ring: Arc<KeyRing>, held: Weak<Newest>) {
    loop {
        tokio::time::sleep(RENEW).await;
        let Some(newest) = held.upgrade() else { return };
        match ring.access().await {
            Ok(access) => {
                *newest.0.write().unwrap_or_else(PoisonError::into_inner) = access.credentials;
            }
            Err(err) => tracing::warn!(%err, "bucket keys were not renewed, will try again"),
        }
    }
}

impl Held {
    async fn access(&mut self) -> Result<BucketAccess, CredentialsError> {
        if let Some(own) = &self.own
            && !is_due(own.since_us, own.access.credentials.expires_us, now_us())
        {
            return Ok(own.access.clone());
        }
        let access = super::find().await?;
        self.own = Some(Own {
            access: access.clone(),
            since_us: now_us(),
        });
        Ok(access)
    }
}

fn narrow(credentials: Credentials) -> BoxKeys {
    BoxKeys {
        credentials,
        run_only: true,
        why_own: None,
    }
}

/// Asks a token service for keys that reach `target` alone, for as long as it gives them.
async fn ask(
    way: &Way,
    access: &BucketAccess,
    service: &Service,
    target: &Target,
    run: &str,
) -> Result<Credentials, StsError> {
    let policy = policy::document(target, &Need::ALL).compact();
    let name = name(run);
    let by = &access.credentials;
    let longest = match way {
        Way::Role(_) => ROLE_S,
        _ => FEDERATED_S,
    };
    let mut duration_s = longest;
    loop {
        let asked = match way {
            Way::Federated => {
                service
                    .federation_token(&name, &policy, duration_s, by)
                    .await
            }
            Way::Role(_) | Way::AtServer | Way::Own => {
                let role = match way {
                    Way::Role(role) => role.clone(),
                    // MinIO wants the fields and does not look at them.
                    _ => "arn:aws:iam::000000000000:role/spotter".to_owned(),
                };
                let wish = RoleWish {
                    role,
                    session: name.clone(),
                    external_id: None,
                    duration_s: Some(duration_s),
                    policy: Some(policy.clone()),
                };
                service.assume_role(&wish, by).await
            }
        };
        match asked {
            // A role allows less than the longest life there is, and so does root.
            Err(StsError::Refused { code, .. })
                if code == "ValidationError" && duration_s > SHORT_S =>
            {
                duration_s = SHORT_S;
            }
            other => return other,
        }
    }
}

/// Name of the session in the logs of the account: letters, digits and `=,.@-_`.
fn name(run: &str) -> String {
    format!("spotter-{run}")
        .chars()
        .take(MAX_NAME_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use zeroize::ZeroizeOnDrop;

    use super::*;

    /// Compiles only for what wipes itself.
    fn is_wiped<T: ZeroizeOnDrop>(_: &T) {}

    /// Whatever holds keys here holds them as what wipes itself.
    #[allow(dead_code, reason = "that it compiles is the test")]
    fn every_holder_of_keys_wipes_them(own: &Own, session: &Session, given: &BoxKeys) {
        is_wiped(&own.access.credentials);
        is_wiped(&session.keys);
        is_wiped(&given.credentials);
    }

    fn rules(mode: KeyMode, role: Option<&str>) -> KeyRules {
        KeyRules {
            mode,
            role: role.map(str::to_owned),
            persist: false,
        }
    }

    #[test]
    fn a_box_gets_the_narrowest_keys_that_the_provider_gives() {
        use KeyMode::{Auto, Keys, Session};
        let check = |mode, role, grantor, temporary, expected: Option<Way>| {
            let found = ways(&rules(mode, role), grantor, temporary);
            assert_eq!(
                found.ok(),
                expected,
                "{mode:?} {role:?} {grantor:?} {temporary}"
            );
        };
        let role = || Some(Way::Role("r".to_owned()));
        check(Keys, Some("r"), Grantor::Aws, false, Some(Way::Own));
        check(Auto, None, Grantor::Aws, false, Some(Way::Federated));
        check(Auto, None, Grantor::Aws, true, Some(Way::Own));
        check(Auto, Some("r"), Grantor::Aws, true, role());
        check(Auto, None, Grantor::Minio, false, Some(Way::Own));
        check(Auto, None, Grantor::B2, false, Some(Way::Own));
        check(Auto, Some("r"), Grantor::R2, false, None);
        check(Session, None, Grantor::Aws, false, Some(Way::Federated));
        check(Session, None, Grantor::Aws, true, None);
        check(Session, None, Grantor::Minio, true, Some(Way::AtServer));
        check(Session, Some("r"), Grantor::Minio, false, role());
        check(Session, None, Grantor::B2, false, None);
    }

    #[test]
    fn keys_are_renewed_at_half_of_their_life_and_not_all_the_time() {
        let check = |since, expires, now, expected| {
            assert_eq!(
                is_due(since, expires, now),
                expected,
                "{since} {expires:?} {now}"
            );
        };
        check(100, Some(200), 149, false);
        check(100, Some(200), 150, true);
        check(100, Some(200), 300, true);
        check(100, None, 100 + MIN_AGE_US - 1, false);
        check(100, None, 100 + MIN_AGE_US, true);
    }

    #[test]
    fn a_name_fits_the_logs_of_the_account() {
        assert_eq!(name("a"), "spotter-a");
        assert_eq!(name(&"x".repeat(63)).len(), MAX_NAME_CHARS);
    }
}
