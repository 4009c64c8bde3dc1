//! What was typed and what the environment says becomes what was decided: defaults, then `config.yaml`, then the environment,
//! then flags. The only file of this crate that reads the environment, but for bucket keys.
//!
//! Files are read when something of theirs is asked for: a verb that needs no key opens no key file.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{cli::GlobalFlags, error::CommandError, provider::vast::ApiKey, ui::UiOptions};

/// Where Vast.ai's API is.
pub const VAST_URL: &str = "https://console.vast.ai";

/// The variables that spotter looks at, read once; a test makes its own.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<&'static str, OsString>);

/// Every variable that is read here. Names of the user's own, which a run file wants, are asked for one by one.
const VARIABLES: [&str; 11] = [
    "SPOTTER_HOME",
    "VAST_API_KEY",
    "VAST_URL",
    "HOME",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "NO_COLOR",
    "TERM",
    "SPOTTER_AGENT",
    "OTEL_EXPORTER_OTLP_HEADERS",
];

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        Self(
            VARIABLES
                .iter()
                .filter_map(|name| Some((*name, env::var_os(name)?)))
                .collect(),
        )
    }

    /// A made-up one.
    pub fn of(variables: &[(&'static str, &str)]) -> Self {
        Self(
            variables
                .iter()
                .map(|(name, value)| (*name, OsString::from(value)))
                .collect(),
        )
    }

    /// A variable that is set to something.
    fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(name).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }
}

/// What was decided.
#[derive(Debug)]
pub struct Config {
    flags: GlobalFlags,
    environment: Environment,
    home: PathBuf,
    file: OnceLock<File>,
}

/// `config.yaml` in spotter's home. All keys are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Base URL of Vast.ai's API.
    vast_url: Option<String>,
    /// File that holds the API key.
    api_key_file: Option<PathBuf>,
    /// Private key for ssh; without it spotter makes one of its own.
    ssh_key: Option<PathBuf>,
}

impl Config {
    /// Decides what needs no file.
    pub fn new(flags: GlobalFlags, environment: Environment) -> Result<Self, CommandError> {
        let home = match environment.path("SPOTTER_HOME") {
            Some(home) => home,
            None => {
                let data = environment
                    .path("XDG_DATA_HOME")
                    .filter(|path| path.is_absolute());
                let data = data.or_else(|| Some(environment.path("HOME")?.join(".local/share")));
                data.map(|data| data.join("spotter")).ok_or_else(|| {
                    CommandError::usage("there is no place for the run store: HOME is not set")
                        .hint("set SPOTTER_HOME to a directory")
                })?
            }
        };
        let home = std::path::absolute(&home).map_err(|err| {
            CommandError::usage(format!("SPOTTER_HOME `{}` is no path", home.display())).cause(err)
        })?;
        Ok(Self {
            flags,
            environment,
            home,
            file: OnceLock::new(),
        })
    }

    /// Directory of everything spotter keeps on this machine.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The run store.
    pub fn store_path(&self) -> PathBuf {
        self.home.join("spotter.db")
    }

    /// The user's home directory.
    pub fn user_home(&self) -> Option<PathBuf> {
        self.environment.path("HOME")
    }

    /// Where sockets may live until the user logs out.
    pub fn runtime_dir(&self) -> Option<PathBuf> {
        self.environment
            .path("XDG_RUNTIME_DIR")
            .filter(|path| path.is_absolute())
    }

    /// The private key that the user wants ssh to use.
    pub fn ssh_key(&self) -> Result<Option<PathBuf>, CommandError> {
        Ok(self
            .file()?
            .ssh_key
            .as_ref()
            .map(|path| self.home.join(path)))
    }

    /// An agent to put on boxes instead of the one inside this program.
    pub fn agent_path(&self) -> Option<PathBuf> {
        self.flags
            .agent
            .clone()
            .or_else(|| self.environment.path("SPOTTER_AGENT"))
    }

    /// Headers for a receiver of OpenTelemetry, as its own variable has them; they may hold a key.
    pub fn otlp_headers(&self) -> Option<Zeroizing<String>> {
        let headers = self.environment.get("OTEL_EXPORTER_OTLP_HEADERS")?;
        Some(Zeroizing::new(headers.to_string_lossy().into_owned()))
    }

    /// How the user wants to be spoken to.
    pub fn ui_options(&self) -> UiOptions {
        let dumb = self
            .environment
            .get("TERM")
            .is_some_and(|term| term == "dumb");
        UiOptions {
            json: self.flags.json,
            quiet: self.flags.quiet,
            colour: self.flags.color,
            no_colour_env: dumb || self.environment.get("NO_COLOR").is_some(),
        }
    }

    /// How much of the log is shown: 0 warnings, 1 what is done, 2 details, 3 everything.
    pub fn verbosity(&self) -> u8 {
        self.flags.verbose
    }

    /// Base URL of Vast.ai's API.
    pub fn vast_url(&self) -> Result<String, CommandError> {
        if let Some(url) = self.environment.get("VAST_URL") {
            let url = url.to_str();
            let url = url.ok_or_else(|| CommandError::usage("VAST_URL is not valid UTF-8"))?;
            return market_url(url, "VAST_URL");
        }
        match &self.file()?.vast_url {
            Some(url) => market_url(url, "`vast_url` of config.yaml"),
            None => Ok(VAST_URL.to_owned()),
        }
    }

    /// The API key: `--api-key-file`, `VAST_API_KEY`, `api_key_file` of `config.yaml`, then the official client's files.
    pub fn api_key(&self) -> Result<Option<ApiKey>, CommandError> {
        Ok(self.key_text()?.map(|text| ApiKey::new(&text)))
    }

    fn key_text(&self) -> Result<Option<Zeroizing<String>>, CommandError> {
        if let Some(path) = &self.flags.api_key_file {
            return read_key(path)?
                .map(Some)
                .ok_or_else(|| no_such_key(path, "--api-key-file"));
        }
        if let Some(key) = self.environment.get("VAST_API_KEY") {
            let key = key
                .to_str()
                .ok_or_else(|| CommandError::usage("VAST_API_KEY is not valid UTF-8"))?;
            return Ok(Some(Zeroizing::new(key.to_owned())));
        }
        if let Some(path) = &self.file()?.api_key_file {
            let path = self.home.join(path);
            return read_key(&path)?
                .map(Some)
                .ok_or_else(|| no_such_key(&path, "`api_key_file`"));
        }
        // A session key of two-factor login beats the long-lived one, as in the official client.
        let home = self.user_home();
        let official = self
            .environment
            .path("XDG_CONFIG_HOME")
            .or_else(|| Some(home.as_ref()?.join(".config")))
            .map(|dir| dir.join("vastai"));
        let mut places = Vec::new();
        if let Some(dir) = official {
            places.extend([dir.join("vast_tfa_key"), dir.join("vast_api_key")]);
        }
        places.extend(home.map(|home| home.join(".vast_api_key")));
        for place in places {
            if let Some(key) = read_key(&place)? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// A variable of the user's shell that a run file asks for by name.
    pub fn shell_variable(name: &str) -> Option<String> {
        env::var(name).ok()
    }

    fn file(&self) -> Result<&File, CommandError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let path = self.home.join("config.yaml");
        let file = match fs::read_to_string(&path) {
            Ok(text) => parse_file(&text, &path)?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => File::default(),
            Err(err) => {
                let what = format!("`{}` cannot be read", path.display());
                return Err(CommandError::usage(what).cause(err));
            }
        };
        Ok(self.file.get_or_init(|| file))
    }
}

fn parse_file(text: &str, path: &Path) -> Result<File, CommandError> {
    if text.trim().is_empty() {
        return Ok(File::default());
    }
    crate::spec::from_yaml(text).map_err(|err| {
        CommandError::usage(format!("{}:{}", path.display(), err))
            .hint("the keys are `vast_url`, `api_key_file` and `ssh_key`")
    })
}

/// Longest key file that is read: a key has 64 characters, and a wrong path may lead to anything.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// The key in a file; `None` when there is no such file or nothing in it.
fn read_key(path: &Path) -> Result<Option<Zeroizing<String>>, CommandError> {
    let failed = |err: io::Error| {
        CommandError::usage(format!(
            "the API key in `{}` cannot be read",
            path.display()
        ))
        .cause(err)
    };
    let size = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(err)
            if matches!(
                err.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(err) => return Err(failed(err)),
    };
    if size > MAX_KEY_FILE_BYTES {
        let why = format!("it has {size} bytes; a key file has at most {MAX_KEY_FILE_BYTES}");
        return Err(failed(io::Error::other(why)));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
    let key = text.trim();
    Ok((!key.is_empty()).then(|| Zeroizing::new(key.to_owned())))
}

fn no_such_key(path: &Path, named_by: &str) -> CommandError {
    CommandError::usage(format!(
        "there is no API key in `{}`, named by {named_by}",
        path.display()
    ))
}

/// Room on the disk of a folder, or of the nearest one above it that exists; `None`: it does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let disk = nix::sys::statvfs::statvfs(there).ok()?;
    // Types differ between systems.
    #[allow(
        clippy::useless_conversion,
        reason = "these are not 64 bits everywhere"
    )]
    let (blocks, size) = (
        u64::from(disk.blocks_available()),
        u64::from(disk.fragment_size()),
    );
    Some(blocks.saturating_mul(size))
}

/// An address that requests can be sent to; `origin` is for the error.
fn market_url(url: &str, origin: &str) -> Result<String, CommandError> {
    let parsed = url.parse::<http::Uri>().ok();
    let whole = parsed.is_some_and(|uri| {
        uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
    });
    match whole {
        true => Ok(url.to_owned()),
        false => Err(
            CommandError::usage(format!("{origin} is no web address: `{url}`")).hint(format!(
                "it looks like `{VAST_URL}`; leave it out for that one"
            )),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: GlobalFlags, variables: &[(&'static str, &str)]) -> Config {
        Config::new(flags, Environment::of(variables)).unwrap()
    }

    #[track_caller]
    fn check_key(config: &Config, expected: Option<&str>) {
        let key = config.key_text().unwrap();
        assert_eq!(key.as_ref().map(|text| text.as_str()), expected);
    }

    #[test]
    fn home_is_where_the_environment_says() {
        let cases: [(&[(&'static str, &str)], &str); 4] = [
            (&[("SPOTTER_HOME", "/a/b"), ("HOME", "/h")], "/a/b"),
            (&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")], "/x/spotter"),
            (
                &[("XDG_DATA_HOME", "relative"), ("HOME", "/h")],
                "/h/.local/share/spotter",
            ),
            (
                &[("SPOTTER_HOME", ""), ("HOME", "/h")],
                "/h/.local/share/spotter",
            ),
        ];
        for (variables, expected) in cases {
            assert_eq!(
                config(GlobalFlags::default(), variables).home(),
                Path::new(expected)
            );
        }
        let nowhere = Config::new(GlobalFlags::default(), Environment::default()).unwrap_err();
        assert_eq!(nowhere.exit_code(), 2);
    }

    #[test]
    fn the_key_is_taken_from_the_first_place_that_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let base = [("HOME", path), ("SPOTTER_HOME", path)];
        check_key(&config(GlobalFlags::default(), &base), None);
        write(".vast_api_key", "legacy\n");
        check_key(&config(GlobalFlags::default(), &base), Some("legacy"));
        write(".config/vastai/vast_api_key", " long-lived ");
        check_key(&config(GlobalFlags::default(), &base), Some("long-lived"));
        write(".config/vastai/vast_tfa_key", "session");
        check_key(&config(GlobalFlags::default(), &base), Some("session"));
        write("config.yaml", "api_key_file: mine\n");
        write("mine", "configured");
        check_key(&config(GlobalFlags::default(), &base), Some("configured"));
        let with_env = [base[0], base[1], ("VAST_API_KEY", "environment")];
        check_key(
            &config(GlobalFlags::default(), &with_env),
            Some("environment"),
        );
        let flags = GlobalFlags {
            api_key_file: Some(write("flag", "flagged")),
            ..GlobalFlags::default()
        };
        check_key(&config(flags, &with_env), Some("flagged"));
    }

    #[test]
    fn a_key_file_that_was_named_must_hold_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let flags = GlobalFlags {
            api_key_file: Some(dir.path().join("none")),
            ..GlobalFlags::default()
        };
        let err = config(flags, &[("HOME", "/nowhere")])
            .api_key()
            .unwrap_err();
        assert_eq!(err.exit_code(), 2);
        assert!(err.message().contains("--api-key-file"), "{err}");
    }

    #[test]
    fn a_wrong_key_in_the_file_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("config.yaml"),
            "vast_url: x\napi_keyfile: y\n",
        )
        .unwrap();
        let path = dir.path().to_str().unwrap();
        let err = config(GlobalFlags::default(), &[("SPOTTER_HOME", path)])
            .vast_url()
            .unwrap_err();
        let text = err.message();
        assert!(
            text.contains(
                "config.yaml:2:1: unknown key `api_keyfile`, did you mean `api_key_file`?"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_url_is_the_environments_then_the_files_then_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let base = ("SPOTTER_HOME", path);
        assert_eq!(
            config(GlobalFlags::default(), &[base]).vast_url().unwrap(),
            VAST_URL
        );
        fs::write(dir.path().join("config.yaml"), "vast_url: http://file\n").unwrap();
        assert_eq!(
            config(GlobalFlags::default(), &[base]).vast_url().unwrap(),
            "http://file"
        );
        let both = [base, ("VAST_URL", "http://env")];
        assert_eq!(
            config(GlobalFlags::default(), &both).vast_url().unwrap(),
            "http://env"
        );
    }
}
