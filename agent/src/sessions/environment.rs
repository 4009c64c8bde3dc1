//! The environment of a job: the container's own, the image's Python environment, then what the run asks for.
//!
//! On Vast.ai an ssh shell lacks what the container was started with; `onstart` saves it, PID 1 has it.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use zeroize::Zeroizing;

use crate::config::{DEFAULT_PATH, Home};

/// Python environment that Vast.ai's images prepare.
pub const IMAGE_VENV: &str = "/venv/main";

/// Variables of the provider that end the instance or open its services: no business of the job.
const PROVIDER_SECRETS: [&str; 5] = [
    "CONTAINER_API_KEY",
    "VAST_API_KEY",
    "VAST_CONTAINER_API_KEY",
    "JUPYTER_TOKEN",
    "OPEN_BUTTON_TOKEN",
];
/// What belonged to the shell that saved the environment.
const SHELL_STATE: [&str; 6] = ["PWD", "OLDPWD", "SHLVL", "_", "TMUX", "TMUX_PANE"];

/// Variables by name.
pub type Environment = BTreeMap<OsString, OsString>;

/// The container's environment: as `onstart` saved it, else PID 1's; empty where neither can be read.
pub fn container_environment(home: &Home) -> Environment {
    for path in [home.container_env().as_path(), Path::new("/proc/1/environ")] {
        match fs::read(path).map(Zeroizing::new) {
            Ok(bytes) => return parse(&bytes),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => {
                tracing::warn!(path = %path.display(), error = %err, "the container's environment cannot be read")
            }
        }
    }
    Environment::new()
}

/// Parses NUL-separated `NAME=value`; what has no name is dropped.
pub fn parse(bytes: &[u8]) -> Environment {
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|pair| {
            let equals = pair
                .iter()
                .position(|byte| *byte == b'=')
                .filter(|at| *at > 0)?;
            Some((
                OsString::from_vec(pair[..equals].to_vec()),
                OsString::from_vec(pair[equals + 1..].to_vec()),
            ))
        })
        .collect()
}

/// What the job sees. `venv` is the image's Python environment when there is one; `user_home` the agent's own HOME.
pub fn job_environment(
    container: Environment,
    venv: Option<&Path>,
    user_home: Option<&OsStr>,
    requested: Environment,
) -> Environment {
    let mut env = container;
    for name in PROVIDER_SECRETS.iter().chain(&SHELL_STATE) {
        env.remove(OsStr::new(name));
    }
    if let Some(home) = user_home {
        env.insert("HOME".into(), home.to_owned());
    }
    env.entry("PATH".into())
        .or_insert_with(|| DEFAULT_PATH.into());
    env.entry("TERM".into())
        .or_insert_with(|| "xterm-256color".into());
    env.entry("LC_ALL".into())
        .or_insert_with(|| "C.UTF-8".into());
    env.entry("SHELL".into())
        .or_insert_with(|| "/bin/bash".into());
    if let Some(venv) = venv {
        activate(&mut env, venv);
    }
    env.extend(requested);
    env
}

/// What the venv's own `activate` does.
fn activate(env: &mut Environment, venv: &Path) {
    let mut path = venv.join("bin").into_os_string();
    if let Some(rest) = env.get(OsStr::new("PATH")).filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    env.insert("PATH".into(), path);
    env.insert("VIRTUAL_ENV".into(), venv.as_os_str().to_owned());
    env.remove(OsStr::new("PYTHONHOME"));
}

/// `NAME=value` for each, NUL after each: the form of `environ`.
pub fn encode(env: &Environment) -> Zeroizing<Vec<u8>> {
    // The exact size at once: a buffer that grew would leave copies of secrets behind.
    let size = env
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    for (name, value) in env {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Whether a variable can be set at all: a name without `=` or NUL, a value without NUL.
pub fn is_valid(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect()
    }

    fn get<'a>(env: &'a Environment, name: &str) -> Option<&'a str> {
        env.get(OsStr::new(name)).and_then(|value| value.to_str())
    }

    #[test]
    fn values_keep_newlines_and_equals_signs() {
        let parsed = parse(b"A=1\0B=x=y\nz\0=C:=odd\0junk\0EMPTY=\0");
        assert_eq!(parsed, env(&[("A", "1"), ("B", "x=y\nz"), ("EMPTY", "")]));
        assert_eq!(parse(&encode(&parsed)), parsed);
    }

    #[test]
    fn the_request_wins_over_the_venv_and_the_venv_over_the_container() {
        let container = env(&[
            ("PATH", "/usr/bin"),
            ("PYTHONHOME", "/x"),
            ("HOME", "/elsewhere"),
            ("A", "container"),
            ("B", "container"),
        ]);
        let requested = env(&[("A", "request"), ("VIRTUAL_ENV", "/mine")]);
        let job = job_environment(
            container,
            Some(Path::new("/venv/main")),
            Some(OsStr::new("/root")),
            requested,
        );

        assert_eq!(get(&job, "PATH"), Some("/venv/main/bin:/usr/bin"));
        assert_eq!(get(&job, "VIRTUAL_ENV"), Some("/mine"));
        assert_eq!(get(&job, "PYTHONHOME"), None);
        assert_eq!(
            (get(&job, "A"), get(&job, "B")),
            (Some("request"), Some("container"))
        );
        assert_eq!(get(&job, "HOME"), Some("/root"));
    }

    #[test]
    fn the_providers_keys_and_the_shells_state_stay_out() {
        let container = env(&[
            ("CONTAINER_API_KEY", "k"),
            ("JUPYTER_TOKEN", "t"),
            ("PWD", "/"),
            ("CONTAINER_ID", "7"),
        ]);
        let job = job_environment(container, None, None, Environment::new());
        assert_eq!(
            (
                get(&job, "CONTAINER_API_KEY"),
                get(&job, "JUPYTER_TOKEN"),
                get(&job, "PWD")
            ),
            (None, None, None)
        );
        assert_eq!(get(&job, "CONTAINER_ID"), Some("7"));
        assert_eq!(get(&job, "PATH"), Some(DEFAULT_PATH));
    }
}
