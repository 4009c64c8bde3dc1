//! `credential_process`: the user's own program that prints keys, such as a password manager's. The only file that starts it.

use std::{process::Stdio, time::Duration};

use serde::Deserialize;
use spotter_bucket::Credentials;
use tokio::{process::Command, time};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::web::microseconds;

/// Such programs may ask somebody for a finger or a password.
const LIMIT: Duration = Duration::from_secs(120);
/// Most of its complaint that is repeated, characters.
const MAX_COMPLAINT_CHARS: usize = 300;

/// Why a program gave no keys. Never holds what it printed to stdout.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// No words, or a quote that does not end.
    #[error("its command line cannot be read: {0}")]
    Words(String),
    /// It cannot be started.
    #[error("`{program}` cannot be started")]
    Start {
        /// Its first word.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It takes too long.
    #[error("`{program}` gave no answer in {} s", LIMIT.as_secs())]
    Late {
        /// Its first word.
        program: String,
    },
    /// It failed.
    #[error("`{program}` ended with {status}{}", complaint(said))]
    Failed {
        /// Its first word.
        program: String,
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
    },
    /// It printed something else.
    #[error("`{program}` printed no {what}: {why}")]
    Printed {
        /// Its first word.
        program: String,
        /// What it should have printed.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

fn complaint(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(": {said}"),
    }
}

/// What it prints, by AWS's convention.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

/// Runs the program, without a shell, and reads the keys that it prints.
pub(super) async fn keys(command: &str) -> Result<Credentials, ProcessError> {
    let (program, stdout) = run(command).await?;
    read(&stdout).map_err(|why| ProcessError::Printed {
        program,
        what: "keys",
        why,
    })
}

/// The first line that the program prints, run without a shell: a password.
pub(crate) async fn first_line(command: &str) -> Result<Zeroizing<String>, ProcessError> {
    let (program, stdout) = run(command).await?;
    let printed = |why: &str| ProcessError::Printed {
        program: program.clone(),
        what: "password",
        why: why.to_owned(),
    };
    let text = std::str::from_utf8(&stdout).map_err(|_| printed("it is no text"))?;
    match text.lines().next().map(str::trim) {
        None | Some("") => Err(printed("its first line is empty")),
        Some(line) => Ok(Zeroizing::new(line.to_owned())),
    }
}

/// What the program printed.
async fn run(command: &str) -> Result<(String, Zeroizing<Vec<u8>>), ProcessError> {
    let words = shell_words::split(command).map_err(|err| ProcessError::Words(err.to_string()))?;
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| ProcessError::Words("it is empty".to_owned()))?;
    let program = program.clone();
    let mut process = Command::new(&program);
    process
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = match time::timeout(LIMIT, process.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => return Err(ProcessError::Start { program, source }),
        Err(_) => return Err(ProcessError::Late { program }),
    };
    let stdout = Zeroizing::new(output.stdout);
    if output.status.success() {
        return Ok((program, stdout));
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let said = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(ProcessError::Failed {
        program,
        status: output.status.to_string(),
        said: said.chars().take(MAX_COMPLAINT_CHARS).collect(),
    })
}

/// Reads what was printed (pure). The error repeats nothing of it.
fn read(stdout: &[u8]) -> Result<Credentials, String> {
    let printed: Printed = serde_json::from_slice(stdout).map_err(|err| {
        // The parser's own text may hold a value.
        format!(
            "it is no JSON with Version, AccessKeyId and SecretAccessKey (line {}, column {})",
            err.line(),
            err.column()
        )
    })?;
    if printed.version != 1 {
        return Err(format!("its Version is {}, not 1", printed.version));
    }
    let expires_us = printed
        .expiration
        .as_deref()
        .map(|text| microseconds(text).ok_or("its Expiration is no time of ISO 8601"))
        .transpose()?;
    Ok(Credentials {
        access_key_id: printed.access_key_id.clone(),
        secret_access_key: printed.secret_access_key.clone(),
        session_token: printed.session_token.clone(),
        expires_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only for what wipes itself.
    const fn is_wiped<T: ZeroizeOnDrop>() {}

    const _: () = {
        is_wiped::<Printed>();
    };

    #[test]
    fn what_is_printed_is_read_and_never_repeated() {
        let good =
            br#"{"Version": 1, "AccessKeyId": "ID", "SecretAccessKey": "hush", "SessionToken": "t",
                        "Expiration": "2027-01-15T08:00:00Z"}"#;
        let keys = read(good).unwrap();
        assert_eq!(
            (keys.access_key_id.as_str(), keys.session_token.as_deref()),
            ("ID", Some("t"))
        );
        assert_eq!(keys.expires_us, Some(1_800_000_000_000_000));
        let plain = br#"{"Version": 1, "AccessKeyId": "ID", "SecretAccessKey": "hush"}"#;
        assert_eq!(read(plain).unwrap().expires_us, None);
        for (text, why) in [
            (
                r#"{"Version": 2, "AccessKeyId": "I", "SecretAccessKey": "hush"}"#,
                "Version is 2",
            ),
            (
                r#"{"Version": 1, "SecretAccessKey": "hush"}"#,
                "no JSON with",
            ),
            (r#"{"Version": "hush"}"#, "no JSON with"),
            (
                r#"{"Version": 1, "AccessKeyId": "I", "SecretAccessKey": "hush", "Expiration": "soon"}"#,
                "ISO 8601",
            ),
            ("", "no JSON with"),
        ] {
            let err = read(text.as_bytes()).unwrap_err();
            assert!(err.contains(why) && !err.contains("hush"), "{err}");
        }
    }
}
