//! `attach`: the terminal of a run's session, as it is on the box.

use crate::{
    commands::{Deps, ssh},
    error::CommandError,
    tunnel,
    ui::Ui,
};

/// Look at a run's session in its tmux window
///
/// What you type goes to the training. Ctrl-b d leaves; the training goes on.
#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// The run [default: the only one that goes on]
    run: Option<String>,
    /// Session to look at [default: train, before that smoke, before that setup]
    #[arg(long, value_name = "NAME", value_parser = session_name)]
    session: Option<String>,
}

/// A name as the agent takes it.
pub(super) fn session_name(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a name has letters, digits, `-` and `_`, at most 63".to_owned())
    }
}

/// ssh with tmux at the other end.
pub async fn attach(ui: &mut Ui, deps: &Deps, args: &AttachArgs) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    let target = deps.ssh_target(&run.name).await?;
    if !ui.is_json() {
        ui.status(format_args!(
            "Attaching to `{}`: Ctrl-b d leaves, the training goes on.",
            run.name
        ));
    }
    let script = format!(
        "exec sh -c {}",
        tunnel::shell_word(&window(args.session.as_deref()))
    );
    ssh::go(ui, &run.name, &target, true, Some(&script))
}

/// What opens the window on the box (pure). A terminal that the box has never heard of becomes a common one.
fn window(session: Option<&str>) -> String {
    let sessions = session.unwrap_or("train smoke setup");
    format!(
        r#"sock=$HOME/.spotter/tmux.sock
if ! command -v tmux >/dev/null; then
echo "this box has no tmux: follow the log with spotter logs -f" >&2
exit 1
fi
if command -v infocmp >/dev/null && ! infocmp "$TERM" >/dev/null 2>&1; then export TERM=xterm-256color; fi
for name in {sessions}; do
tmux -u -S "$sock" has-session -t "=$name" 2>/dev/null && exec tmux -u -S "$sock" attach-session -t "=$name"
done
echo "no session has a window here: see how it ended with spotter logs" >&2
exit 1"#
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    #[test]
    fn the_training_is_shown_and_before_it_the_setup() {
        let dir = tempfile::tempdir().unwrap();
        let tmux = dir.path().join("tmux");
        let text = "#!/bin/sh\ncase \"$*\" in *has-session*) case \" $ALIVE \" in *\" ${6#=} \"*) exit 0;; *) exit 1;; esac;; esac\necho \"$@\"\n";
        fs::write(&tmux, text).unwrap();
        fs::set_permissions(&tmux, fs::Permissions::from_mode(0o755)).unwrap();
        let check = |alive: &str, session: Option<&str>, expected: Option<&str>| {
            let path = format!("{}:/usr/bin:/bin", dir.path().display());
            let output = Command::new("sh")
                .args(["-c", &window(session)])
                .env("PATH", path)
                .env("HOME", "/h")
                .env("TERM", "xterm")
                .env("ALIVE", alive)
                .output()
                .unwrap();
            let shown = String::from_utf8(output.stdout).unwrap();
            let expected = expected
                .map(|name| format!("-u -S /h/.spotter/tmux.sock attach-session -t ={name}\n"));
            assert_eq!(
                (output.status.success(), shown),
                (expected.is_some(), expected.unwrap_or_default()),
                "{alive}"
            );
        };
        check("train setup", None, Some("train"));
        check("setup", None, Some("setup"));
        check("smoke setup", None, Some("smoke"));
        check("setup train", Some("setup"), Some("setup"));
        check("", None, None);
        check("train", Some("setup"), None);
    }

    #[test]
    fn a_session_name_cannot_carry_shell_text() {
        assert!(session_name("train-2_b").is_ok());
        for bad in ["", "a b", "$(x)", "a;b", "=a", &"x".repeat(64)] {
            assert!(session_name(bad).is_err(), "{bad}");
        }
    }
}
