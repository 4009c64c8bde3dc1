//! The shell text that a box runs by itself at every start of its container (pure).
//!
//! It keeps the container's environment for the agent, starts the dead-man's switch, and an agent that is there whenever none
//! runs; then comes the user's own part. POSIX sh; nothing but curl, python3 or wget is needed to stop the box.

use std::time::Duration;

/// Most characters that Vast.ai takes.
pub const ONSTART_LIMIT_CHARS: usize = 4096;

/// Between two looks whether the agent runs, in steps of the switch: a minute for most boxes. A running agent holds its lock, and
/// a second one leaves at once.
const KEEP_STEPS: u64 = 6;

/// The text would be too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "onstart has {user_chars} characters, and only {room_chars} of the provider's {ONSTART_LIMIT_CHARS} are left beside spotter's own part"
)]
pub struct OnstartError {
    /// What the user's part has.
    pub user_chars: usize,
    /// What it may have.
    pub room_chars: usize,
}

/// Ours. The key goes through stdin, a file of ours or the environment, never an argument list. The switch counts its own
/// pauses: a clock that is set while the box starts must not end it.
const OURS: &str = r#"umask 077
S=$HOME/.spotter
mkdir -p "$S/bin"
if env -0 >"$S/env.new" 2>/dev/null; then mv -f "$S/env.new" "$S/container.env"; else rm -f "$S/env.new"; fi
touch "$HOME/.no_auto_tmux"
rm -f "$S/started"
(
# Dead-man's switch: nothing started in time, so this box stops itself.
U=${VAST_URL:-@BASE@}/api/v0/instances/$CONTAINER_ID/
B='{"state":"stopped"}'
K=${CONTAINER_API_KEY:-}
stop_by_curl() {
printf 'header = "Authorization: Bearer %s"\n' "$K" |
curl -fsS -m 60 -K - -X PUT -H 'Content-Type: application/json' -d "$B" "$U"
}
stop_by_python() {
U=$U B=$B K=$K python3 -c 'import os,urllib.request as r
e=os.environ
r.urlopen(r.Request(e["U"],e["B"].encode(),{"Authorization":"Bearer "+e["K"],"Content-Type":"application/json"},method="PUT"),timeout=60)'
}
stop_by_wget() {
printf 'header = Authorization: Bearer %s\nheader = Content-Type: application/json\n' "$K" >"$S/wgetrc"
WGETRC=$S/wgetrc wget -q -T 60 -t 1 -O - --method=PUT --body-data="$B" "$U"
R=$?
rm -f "$S/wgetrc"
return $R
}
T=0
while [ ! -e "$S/started" ]; do
if [ "$T" -lt @BRING_UP_S@ ]; then sleep @STEP_S@ || exit; T=$((T+@STEP_S@)); continue; fi
[ -n "$K" ] && [ -n "$CONTAINER_ID" ] || exit
echo "spotter: no session within @BRING_UP_S@ s, stopping instance $CONTAINER_ID" >>"$S/switch.log"
for P in curl python3:python wget; do
command -v "${P%:*}" >/dev/null && stop_by_"${P#*:}" >>"$S/switch.log" 2>&1 && break
done
sleep 30 || exit
done
) </dev/null >/dev/null 2>&1 &
[ ! -x "$S/bin/agent" ] || "$S/bin/agent" daemon --detach </dev/null >/dev/null 2>&1
(
# Whatever ends the agent, it is the last to guard this box: it is started again.
while sleep @KEEP_S@ && [ -d "$S" ]; do
[ ! -x "$S/bin/agent" ] || "$S/bin/agent" daemon --detach
done
) </dev/null >/dev/null 2>&1 &
umask 022
"#;

/// The text for a box that stops itself when no session has started `bring_up` after a start of its container.
///
/// `api_base` is the provider's API; the box's own `VAST_URL` wins over it. `user` is the user's own part, run last.
///
/// # Errors
/// When the user's part does not fit.
pub fn onstart(
    bring_up: Duration,
    api_base: &str,
    user: Option<&str>,
) -> Result<String, OnstartError> {
    let bring_up_s = bring_up.as_secs().max(1);
    // A twentieth of the time is precise enough, and short times are for tests.
    let step_s = (bring_up_s / 20).clamp(1, 10);
    // It stands inside `${VAST_URL:-…}`: only what a URL needs gets in.
    let base: String = api_base
        .trim_end_matches('/')
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-._:/[]".contains(*c))
        .collect();
    let mut text = OURS
        .replace("@BASE@", &base)
        .replace("@BRING_UP_S@", &bring_up_s.to_string())
        .replace("@STEP_S@", &step_s.to_string())
        .replace("@KEEP_S@", &(step_s * KEEP_STEPS).to_string());
    let user = user.unwrap_or_default();
    let room_chars = ONSTART_LIMIT_CHARS - text.chars().count();
    let user_chars = user.chars().count();
    if user_chars > room_chars {
        return Err(OnstartError {
            user_chars,
            room_chars,
        });
    }
    text.push_str(user);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "https://console.vast.ai";

    #[test]
    fn the_users_part_comes_last_and_may_be_long() {
        let text = onstart(Duration::from_secs(2700), BASE, Some("echo mine")).unwrap();
        assert!(text.ends_with("umask 022\necho mine"), "{text}");
        assert!(text.contains("-lt 2700"));
        let ours = onstart(Duration::from_secs(2700), BASE, None)
            .unwrap()
            .chars()
            .count();
        assert!(
            ours < 2400,
            "our part has {ours} characters; the user needs the rest"
        );
    }

    #[test]
    fn a_part_that_does_not_fit_is_refused_with_the_room_there_is() {
        let room = ONSTART_LIMIT_CHARS
            - onstart(Duration::from_secs(60), BASE, None)
                .unwrap()
                .chars()
                .count();
        let fits = "é".repeat(room);
        assert_eq!(
            onstart(Duration::from_secs(60), BASE, Some(&fits))
                .unwrap()
                .chars()
                .count(),
            ONSTART_LIMIT_CHARS
        );
        let err = onstart(Duration::from_secs(60), BASE, Some(&"x".repeat(room + 1))).unwrap_err();
        assert_eq!(
            err,
            OnstartError {
                user_chars: room + 1,
                room_chars: room
            }
        );
    }

    #[test]
    fn an_address_cannot_smuggle_commands_in() {
        let text = onstart(
            Duration::from_secs(60),
            "http://127.0.0.1:8080/$(reboot)`x`}",
            None,
        )
        .unwrap();
        assert!(
            text.contains("${VAST_URL:-http://127.0.0.1:8080/rebootx}/api/v0/"),
            "{text}"
        );
    }
}
