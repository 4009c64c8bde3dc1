//! Who may ask (pure). On this machine alone whoever reaches the port may, as long as no foreign page asks through a browser; with a
//! token, whoever has it.

use std::{net::IpAddr, path::Path};

use http::{HeaderMap, Uri, header, uri::Authority};

use crate::error::CommandError;

/// Least length of a token, bytes: what can be guessed is no token.
const LEAST_TOKEN: usize = 16;
/// Most that is read of a file of one.
const MOST_TOKEN: u64 = 4096;

/// What must be shown to be answered.
#[derive(Clone)]
pub struct Guard {
    /// Hash of the token; hashes are compared in constant time, and the token itself is kept nowhere.
    token: Option<blake3::Hash>,
}

/// Why somebody is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Under this name only a foreign page would ask: DNS rebinding.
    Host,
    /// A page from elsewhere asks.
    Origin,
    /// The token is missing or wrong.
    Token,
}

impl Refusal {
    /// What the answer says.
    pub fn text(self) -> &'static str {
        match self {
            Self::Host => {
                "this server answers to localhost and loopback addresses only; start it with --tls-cert, --tls-key and --token-file to \
                 reach it by another name\n"
            }
            Self::Origin => "a page from elsewhere may not ask here\n",
            Self::Token => "the token is missing or wrong: send `Authorization: Bearer TOKEN`\n",
        }
    }
}

impl Guard {
    /// With a token, whoever has it is answered; without, whoever asks for this machine by name.
    pub fn new(token: Option<&str>) -> Self {
        let token = token.map(|token| blake3::hash(token.as_bytes()));
        Self { token }
    }

    /// Whether a token is needed.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Judges a request. `is_open`: it is for the page without any data, by which a token can be typed.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge(&self, uri: &Uri, headers: &HeaderMap, is_open: bool) -> Result<(), Refusal> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // HTTP/2 names it in the address.
        let host = match uri.authority() {
            Some(authority) => Some(authority.clone()),
            None => text(header::HOST).and_then(|host| host.parse().ok()),
        };
        let host = host.ok_or(Refusal::Host)?;
        if self.token.is_none() && !is_loopback(&host) {
            return Err(Refusal::Host);
        }
        if headers.contains_key(header::ORIGIN) {
            let origin = text(header::ORIGIN).and_then(|origin| origin.parse::<Uri>().ok());
            let origin = origin.as_ref().and_then(Uri::authority);
            if origin != Some(&host) {
                return Err(Refusal::Origin);
            }
        }
        let Some(token) = self.token.filter(|_| !is_open) else {
            return Ok(());
        };
        let shown = text(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        match shown.map(|shown| blake3::hash(shown.as_bytes())) {
            Some(shown) if shown == token => Ok(()),
            _ => Err(Refusal::Token),
        }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("has_token", &self.has_token())
            .finish()
    }
}

fn is_loopback(host: &Authority) -> bool {
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Reads a token from a file that nobody else can read.
///
/// # Errors
/// When it cannot be read, others can read it, or it is no token.
pub fn read_token(path: &Path) -> Result<zeroize::Zeroizing<String>, CommandError> {
    use std::{
        fs,
        io::{self, Read},
        os::unix::fs::PermissionsExt,
    };
    let shown = path.display();
    let failed = |err: io::Error| {
        CommandError::usage(format!("the token in `{shown}` cannot be read")).cause(err)
    };
    let file = fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(CommandError::usage(format!(
            "the token in `{shown}` can be read by other users of this machine (mode {:o})",
            mode & 0o777
        ))
        .hint(format!("keep it to yourself with `chmod 600 {shown}`")));
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(MOST_TOKEN)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let token = zeroize::Zeroizing::new(text.trim().to_owned());
    let is_plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.len() < LEAST_TOKEN || !is_plain {
        return Err(CommandError::usage(format!(
            "`{shown}` holds no token: it must be at least {LEAST_TOKEN} visible characters on one line"
        ))
        .hint(format!(
            "make one with `(umask 077; openssl rand -hex 32 > {shown})`"
        )));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn check(token: Option<&str>, uri: &str, sent: &[(&str, &str)], expected: Result<(), Refusal>) {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            let name: header::HeaderName = name.parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        let is_open = uri == "/";
        let found = Guard::new(token).judge(&uri.parse().unwrap(), &headers, is_open);
        assert_eq!(found, expected, "{token:?} {uri} {sent:?}");
    }

    #[test]
    fn without_a_token_only_who_asks_for_this_machine_is_answered() {
        for host in [
            "localhost:9",
            "LOCALHOST",
            "127.0.0.1:9",
            "[::1]:9",
            "127.9.9.9",
        ] {
            check(None, "/metrics", &[("host", host)], Ok(()));
        }
        for host in [
            "evil.example:9",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "a b",
        ] {
            check(None, "/metrics", &[("host", host)], Err(Refusal::Host));
        }
        check(None, "/metrics", &[], Err(Refusal::Host));
        // As HTTP/2 has it.
        check(None, "http://127.0.0.1:9/x", &[], Ok(()));
        check(None, "http://evil.example/x", &[], Err(Refusal::Host));
        check(
            None,
            "http://evil.example/x",
            &[("host", "localhost")],
            Err(Refusal::Host),
        );
    }

    #[test]
    fn a_page_from_elsewhere_is_refused() {
        let host = ("host", "localhost:9");
        let from = |origin, expected| check(None, "/", &[host, ("origin", origin)], expected);
        from("http://localhost:9", Ok(()));
        from("http://localhost:8", Err(Refusal::Origin));
        from("https://evil.example", Err(Refusal::Origin));
        from("null", Err(Refusal::Origin));
        check(
            Some("0123456789abcdef"),
            "/",
            &[("host", "gpu.example"), ("origin", "https://evil.example")],
            Err(Refusal::Origin),
        );
    }

    #[test]
    fn whoever_has_the_token_is_answered_under_any_name() {
        let token = Some("0123456789abcdef");
        let host = ("host", "gpu.example:9");
        let with = |value, expected| {
            check(
                token,
                "/metrics",
                &[host, ("authorization", value)],
                expected,
            );
        };
        with("Bearer 0123456789abcdef", Ok(()));
        with("bearer 0123456789abcdef", Ok(()));
        with("Bearer 0123456789abcdeF", Err(Refusal::Token));
        with("Bearer 0123456789abcde", Err(Refusal::Token));
        with("Basic 0123456789abcdef", Err(Refusal::Token));
        check(token, "/metrics", &[host], Err(Refusal::Token));
        // The page holds no data.
        check(token, "/", &[host], Ok(()));
    }

    #[test]
    fn a_token_that_others_can_read_or_guess_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let with = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_token(&path).map_err(|err| err.message().to_owned())
        };
        let good = "0123456789abcdef0123\n";
        assert_eq!(with(good, 0o600).unwrap().as_str(), good.trim());
        assert!(with(good, 0o640).unwrap_err().contains("mode 640"));
        assert!(with("short\n", 0o600).unwrap_err().contains("no token"));
        assert!(with("0123456789 abcdef0123", 0o600).is_err());
        assert!(!format!("{:?}", Guard::new(Some(good))).contains("0123"));
    }
}
