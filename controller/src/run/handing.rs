//! Bucket keys for a box: tried from this laptop, and handed over where they are better than what the box holds. [`decide`] is pure,
//! and so is what people are told.

use std::time::Duration;

use spotter_bucket::{Credentials, credentials::NO_KEYS};
use tokio::time::Instant;

use crate::{
    agent_client::BackupInfo,
    credentials::key_ring::BoxKeys,
    doctor::diagnosis::KeyFault,
    error::CommandError,
    run::{
        State,
        boxes::{has_bucket, is_presigned},
        halt::Halt,
        lifecycle::Lifecycle,
        site::{FreshKeys, KeysGiven, Place, Site, SiteError, Trial},
    },
    store::{AttemptRecord, RunRecord},
    ui::text,
};

/// How the agent begins to say that the bucket refuses what it holds.
pub(crate) const REFUSED: &str = "the bucket refuses our keys";
/// What was found out about keys holds for this long: whoever looks more often asks the bucket no more.
const TRIAL_HOLDS: Duration = Duration::from_secs(60);
/// Keys of a box that end sooner than this count as ended.
const ENDS_SOON_US: u64 = 60_000_000;
/// Longest time for a box that another spotter acts for: an ssh login, an agent, a try of the keys.
const BESIDE: Duration = Duration::from_secs(60);

/// Begins why a box is given up from which nothing comes out.
const NO_EGRESS: &str = "its host lets nothing out to the bucket, which answers here";

/// What a box holds, as far as it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Keys that nothing is known against.
    Fine,
    /// Keys that the bucket refuses.
    Refused(KeyFault),
    /// None.
    Nothing,
}

impl Held {
    /// Read from what the agent says of its backup.
    pub(crate) fn of(backup: &BackupInfo, now_us: i64) -> Held {
        let now_us = u64::try_from(now_us).unwrap_or_default();
        let ends = |ends_us: u64| ends_us <= now_us.saturating_add(ENDS_SOON_US);
        match Self::told(backup.problem.as_deref().unwrap_or_default()) {
            Held::Fine if backup.keys_expire_us.is_some_and(ends) => {
                Held::Refused(KeyFault::Expired)
            }
            held => held,
        }
    }

    /// Read from why something does not work there. What is not about keys says nothing against them.
    pub(crate) fn told(problem: &str) -> Held {
        if problem.contains(NO_KEYS) {
            return Held::Nothing;
        }
        match KeyFault::of_answer(problem) {
            Some(fault) => Held::Refused(fault),
            None if problem.contains(REFUSED) => Held::Refused(KeyFault::Denied),
            None => Held::Fine,
        }
    }
}

/// What to do with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Hand them over.
    Hand,
    /// The box keeps what it holds.
    Keep,
}

/// Whether the box is better off with keys than with what it holds (pure). `given`: it holds these very keys, from this watch.
fn decide(held: Held, trial: &Trial, given: bool) -> Decision {
    match (held, trial) {
        (_, Trial::Works) => Decision::Hand,
        // Whatever it is, it cannot be worse; and the box may see the bucket otherwise than this laptop.
        (Held::Nothing, _) => Decision::Hand,
        // No verdict on the new ones, and one on the old.
        (Held::Refused(_), Trial::Unclear(_)) if !given => Decision::Hand,
        // Rights may be given back, and may hold at the box alone; neither mends a pair that has ended or is wrong.
        (Held::Refused(old), Trial::Refused(why))
            if !KeyFault::of_refusal(why).is_final() && (old.is_final() || !given) =>
        {
            Decision::Hand
        }
        _ => Decision::Keep,
    }
}

/// What one watch has tried, handed over and told.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    given: Option<(Stamp, KeysGiven)>,
    tried: Option<(Stamp, Trial, Instant)>,
    told: Option<String>,
    /// Whoever asks tells himself what is refused.
    quiet: bool,
}

/// Tells one set of keys from another, and opens nothing.
type Stamp = [u8; 32];

fn stamp(keys: &Credentials) -> Stamp {
    let mut hasher = blake3::Hasher::new();
    let token = keys.session_token.as_deref().unwrap_or_default();
    for part in [&keys.access_key_id, &keys.secret_access_key, token] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// What became of keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Handed {
    /// The box has them.
    Given(KeysGiven),
    /// The box keeps what it holds, because of this; people were told.
    Kept(Trial),
}

/// What is said of keys that stay here.
struct Kept<'a> {
    run: &'a str,
    bucket: &'a str,
    source: Option<&'a str>,
    usd_per_hour: f64,
}

impl Kept<'_> {
    /// What happened, why, what it costs, and what to type next (pure).
    fn text(&self, held: Held, trial: &Trial) -> String {
        let (run, bucket) = (self.run, self.bucket);
        let price = text::usd_per_hour(self.usd_per_hour);
        let keeps = match held {
            Held::Fine => format!(
                "Its box keeps those it has, goes on saving with them, and costs {price} as before."
            ),
            _ => format!(
                "Its box keeps those it has, which are refused, too: nothing new is saved until it gets others, and it costs {price} \
                 meanwhile."
            ),
        };
        match trial {
            Trial::Refused(why) => {
                let fault = KeyFault::of_refusal(why);
                let told = fault.told(bucket, self.source);
                let look = match fault {
                    KeyFault::Denied => {
                        format!("see what is refused with `spotter doctor bucket {run}`, ")
                    }
                    _ => String::new(),
                };
                let hint = fault.hint(self.source, &format!("`spotter up {run}`"));
                format!(
                    "New bucket keys were not handed over: {told} ({why}). {keeps} Next: {look}{hint}."
                )
            }
            Trial::Unclear(why) => format!(
                "New bucket keys were not handed over yet: from here they could not be tried on {bucket} ({why}). {keeps} They are \
                 tried again every minute while somebody watches: `spotter up {run}`."
            ),
            Trial::Works => String::new(),
        }
    }
}

impl Lifecycle {
    /// Tries the keys of this laptop, and hands them to a box that is better off with them. An error is about the keys that are not
    /// there, or about the way to the box.
    pub(crate) async fn hand_over(
        &self,
        run: &RunRecord,
        site: &dyn Site,
        held: Held,
        hands: &mut Hands,
    ) -> Result<Handed, SiteError> {
        let fresh = site.fresh_keys().await?;
        let FreshKeys::Keys(keys) = &fresh else {
            return Ok(Handed::Given(site.give_credentials(&fresh).await?));
        };
        let stamp = stamp(&keys.credentials);
        let given = hands.given.as_ref().filter(|(given, _)| *given == stamp);
        if held == Held::Fine
            && let Some((_, given)) = given
        {
            return Ok(Handed::Given(given.clone()));
        }
        let given = given.is_some();
        let trial = tried(site, keys, hands).await;
        if decide(held, &trial, given) == Decision::Hand {
            let told = site.give_credentials(&fresh).await?;
            hands.given = Some((stamp, told.clone()));
            hands.told = None;
            return Ok(Handed::Given(told));
        }
        // That the box's own keys do not work any more is told as a matter of its backup.
        if !given && !hands.quiet {
            self.tell_of_keys(run, held, &trial, hands).await;
        }
        Ok(Handed::Kept(trial))
    }

    async fn tell_of_keys(&self, run: &RunRecord, held: Held, trial: &Trial, hands: &mut Hands) {
        let latest = self.store.latest_attempt(&run.name).ok().flatten();
        let source = self.sites.keys_source().await;
        let kept = Kept {
            run: &run.name,
            bucket: bucket_of(run),
            source: source.as_deref(),
            usd_per_hour: latest.map_or(0.0, |attempt| {
                attempt.gpu_usd_per_hour + attempt.storage_usd_per_hour
            }),
        };
        let class = match trial {
            Trial::Refused(why) => format!("{held:?} {:?}", KeyFault::of_refusal(why)),
            _ => format!("{held:?}"),
        };
        // Once for each class: servers put the number of a request into their words.
        if hands.told.as_ref() != Some(&class) {
            self.say(run, &kept.text(held, trial));
            hands.told = Some(class);
        }
    }

    /// Keys for a box that comes up, which says itself whether they do. It may hold some that work, from before.
    pub(crate) async fn hand_over_first(
        &self,
        run: &RunRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        let mut hands = Hands::default();
        let works = match site.fresh_keys().await {
            Ok(FreshKeys::Keys(keys)) => tried(site, &keys, &mut hands).await == Trial::Works,
            Ok(_) => true,
            Err(_) => false,
        };
        // What a box holds only counts where there is nothing better.
        let held = match works {
            true => Held::Nothing,
            false => match site.prove_bucket().await {
                Ok(()) => Held::Fine,
                Err(SiteError::Refused(why)) => Held::told(&why),
                Err(err) => return Err(self.bucket_refused(run, err).await?),
            },
        };
        // One that does not go on says why by its error.
        hands.quiet = held != Held::Fine;
        let handed = match self.hand_over(run, site, held, &mut hands).await {
            Ok(handed) => handed,
            Err(SiteError::Local(why)) if held == Held::Fine => {
                self.say(run, &lacking(&why));
                return Ok(());
            }
            Err(err) => return Err(self.bucket_refused(run, err).await?),
        };
        if let Handed::Given(given) = &handed
            && let Some(text) = given.text()
        {
            self.say(run, &text);
        }
        crate::fault::point("agent.credentials.after");
        if let Err(err) = site.prove_bucket().await {
            // What the user brought is what he can mend.
            let err = match (handed, err) {
                (Handed::Kept(Trial::Refused(why)), SiteError::Refused(_)) => {
                    SiteError::Refused(why)
                }
                (_, err) => err,
            };
            // The bucket took these keys from here a moment ago: where nothing comes back on the box, its host lets nothing out.
            if works
                && let SiteError::Refused(why) = &err
                && is_silence(why)
                && !self.was_without_egress(run)?
            {
                return Err(Halt::BadBox(format!("{NO_EGRESS}: {why}")));
            }
            return Err(self.bucket_refused(run, err).await?);
        }
        Ok(())
    }

    /// Keys for a box that saves the last of a training: with what it holds, where this laptop has nothing better.
    pub(crate) async fn hand_over_last(
        &self,
        run: &RunRecord,
        attempt: u32,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        let lost = |err| self.not_saved(run, attempt, "last checkpoints", err);
        let status = site.status().await.map_err(lost)?;
        let held = Held::of(&status.backup.unwrap_or_default(), self.clock.now_us());
        match self.hand_over(run, site, held, &mut Hands::default()).await {
            Ok(_) => Ok(()),
            Err(SiteError::Local(why)) if held == Held::Fine => {
                self.say(run, &lacking(&why));
                Ok(())
            }
            Err(err) => Err(lost(err)),
        }
    }

    /// Gives the box of a run that another spotter acts for the keys of this shell, and says what came of it. That one hands its own
    /// over again only where they work.
    pub async fn hand_over_beside(&self, name: &str) -> Result<(), CommandError> {
        let run = &self.store.run(name)?;
        let attempt = self.store.latest_attempt(name)?;
        let attempt = attempt.filter(|attempt| {
            matches!(attempt.state, State::Running | State::Finishing)
                && has_bucket(run)
                && !is_presigned(run)
                && run.outcome.is_none()
        });
        let Some(place) = attempt.and_then(|attempt| self.place_of(&attempt)) else {
            return Ok(());
        };
        let handed = tokio::time::timeout(BESIDE, self.give_beside(run, &place)).await;
        let why = match handed {
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(text))) => {
                self.say(run, &text);
                return Ok(());
            }
            Ok(Err(err)) => err.to_string(),
            Err(_) => format!("no answer in {} s", BESIDE.as_secs()),
        };
        self.say(
            run,
            &format!(
                "Another spotter acts for this run; the bucket keys of this shell were not given to its box, which keeps those it has: \
                 {why}. Try again with `spotter up {name}`."
            ),
        );
        Ok(())
    }

    fn place_of(&self, attempt: &AttemptRecord) -> Option<Place> {
        Some(self.place(attempt, attempt.instance?))
    }

    /// What to say of it; `None`: it was said.
    async fn give_beside(
        &self,
        run: &RunRecord,
        place: &Place,
    ) -> Result<Option<String>, SiteError> {
        let site = self.sites.open(place, &run.spec, &|_, _| {}).await?;
        let status = site.status().await?;
        let held = Held::of(&status.backup.unwrap_or_default(), self.clock.now_us());
        let mut hands = Hands::default();
        let handed = self.hand_over(run, site.as_ref(), held, &mut hands).await?;
        let Handed::Given(given) = handed else {
            return Ok(None);
        };
        let source = self.sites.keys_source().await;
        let from = source.map_or_else(String::new, |source| format!(" from {source}"));
        let tried = match &hands.tried {
            Some((_, Trial::Works, _)) => "They were tried first, and work.",
            _ => "They could not be tried from here.",
        };
        let more = given
            .text()
            .map_or_else(String::new, |text| format!(" {text}"));
        Ok(Some(format!(
            "Another spotter acts for this run; its box was given the bucket keys{from} of this shell. {tried}{more}"
        )))
    }

    /// Whether a box of this run was given up for that already: at the second one it is not the host, such as with a bucket that only
    /// this laptop's network has.
    fn was_without_egress(&self, run: &RunRecord) -> Result<bool, CommandError> {
        let attempts = self.store.attempts(&run.name)?;
        let mut reasons = attempts
            .iter()
            .filter_map(|attempt| attempt.reason.as_ref());
        Ok(reasons.any(|reason| reason.contains(NO_EGRESS)))
    }

    /// Why a box does not come to its bucket, as what is done about it.
    async fn bucket_refused(&self, run: &RunRecord, err: SiteError) -> Result<Halt, CommandError> {
        let (to, up) = (bucket_of(run), format!("`spotter up {}`", run.name));
        if let SiteError::Refused(why) | SiteError::Local(why) = &err
            && let Some(fault) = KeyFault::of(why)
        {
            let source = self.sites.keys_source().await;
            let told = fault.told(to, source.as_deref());
            return Ok(Halt::Pause(
                CommandError::new(format!("run `{}` does not go on: {told}", run.name))
                    .because(why)
                    .hint(fault.hint(source.as_deref(), &up)),
            ));
        }
        Ok(match err {
            SiteError::Unreachable(why) | SiteError::NoAnswer(why) => Halt::Again(why),
            SiteError::Local(why) => Halt::Pause(
                CommandError::new(format!("run `{}` has no keys for its bucket", run.name))
                    .because(why)
                    .hint(format!(
                        "see which keys are found, and what they may do: `spotter doctor bucket {to}`"
                    )),
            ),
            err => {
                let again = match self.has_trained(run)? {
                    true => up,
                    false => format!("`spotter resume {}`", run.name),
                };
                Halt::Fatal(
                    CommandError::new(format!(
                        "run `{}` did not start: `{to}` cannot be used from the box",
                        run.name
                    ))
                    .cause(err)
                    .hint(format!(
                        "see what is refused and what to grant: `spotter doctor bucket {to}`; then {again}"
                    )),
                )
            }
        })
    }
}

/// Whether what an agent tells of its bucket is that nothing came back: no server says either of these.
fn is_silence(why: &str) -> bool {
    ["no answer in ", "error sending request"]
        .iter()
        .any(|words| why.contains(words))
}

/// What the bucket says of keys, as it was found out lately or is now.
async fn tried(site: &dyn Site, keys: &BoxKeys, hands: &mut Hands) -> Trial {
    let stamp = stamp(&keys.credentials);
    if let Some((known, trial, at)) = &hands.tried
        && *known == stamp
        && at.elapsed() < TRIAL_HOLDS
    {
        return trial.clone();
    }
    let trial = site.try_keys(keys).await;
    hands.tried = Some((stamp, trial.clone(), Instant::now()));
    trial
}

/// What is said where this laptop has no keys, and a box some that work.
fn lacking(why: &str) -> String {
    format!("There are no bucket keys here ({why}): its box goes on with those it has.")
}

/// The bucket of a run, as its file names it.
fn bucket_of(run: &RunRecord) -> &str {
    let kept = run.spec.checkpoints.as_ref();
    kept.and_then(|kept| kept.to.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
