//! The keys `image_login`, `ports`, `docker_options`, `template` and `volume` as they are written.

use serde::Deserialize;

use super::{Scalar, at, or};
use crate::{
    provider::Filter,
    spec::{
        RunSpec, YamlError,
        container::{ContainerSpec, Login, MountSpec, PasswordFrom},
        values,
    },
};

/// Ports that a box may open in all, ssh's included.
const MOST_PORTS: usize = 64;
/// Registry of images whose names begin with none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The market's own limits are higher; nothing that is meant is longer.
const MAX_CHARS: usize = 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct LoginKeys {
    registry: Option<Scalar>,
    user: Scalar,
    password_env: Option<Scalar>,
    password_command: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct VolumeKeys {
    id: Scalar,
    mount: Scalar,
}

/// Reads and checks all of them.
pub(super) fn container(
    login: Option<&LoginKeys>,
    ports: &[Scalar],
    docker_options: Option<&Scalar>,
    template: Option<&Scalar>,
    volume: Option<&VolumeKeys>,
) -> Result<ContainerSpec, YamlError> {
    let mut opened: Vec<String> = Vec::new();
    for port in ports {
        let read = at(port, self::port(&port.value))?;
        if opened.len() + 1 >= MOST_PORTS {
            let why = format!("a box opens at most {} ports beside ssh's", MOST_PORTS - 1);
            return Err(YamlError::at(port.referenced, why));
        }
        if !opened.contains(&read) {
            opened.push(read);
        }
    }
    let text = |scalar: Option<&Scalar>, read: fn(&str) -> Result<String, String>| {
        scalar
            .map(|scalar| at(scalar, read(&scalar.value)))
            .transpose()
    };
    Ok(ContainerSpec {
        login: login.map(self::login).transpose()?,
        ports: opened,
        docker_options: text(docker_options, line)?,
        template: text(template, hash)?,
        volume: volume.map(self::volume).transpose()?,
    })
}

fn volume(keys: &VolumeKeys) -> Result<MountSpec, YamlError> {
    let id = keys.id.value.trim_start_matches("V.").parse::<u64>();
    let id = id.map_err(|_| {
        let example = "a volume is named by its number, as `spotter volumes` shows it";
        example.to_owned()
    });
    Ok(MountSpec {
        id: at(&keys.id, id)?,
        path: at(&keys.mount, mount_path(&keys.mount.value))?,
    })
}

/// A directory of its own: over one that a box needs, nobody gets in.
fn mount_path(text: &str) -> Result<String, String> {
    const TAKEN: [&str; 14] = [
        "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/opt", "/proc", "/root", "/run",
        "/sbin", "/sys", "/usr", "/var",
    ];
    let path = text.trim_end_matches('/');
    let plain = path.starts_with('/')
        && path.len() <= 255
        && path
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        && !path
            .split('/')
            .skip(1)
            .any(|part| matches!(part, "" | "." | ".."));
    if !plain {
        return Err("a volume is mounted at an absolute path, such as /data".to_owned());
    }
    match TAKEN.contains(&path) {
        true => Err(format!(
            "a box needs its own {path}: mount it elsewhere, such as at /data"
        )),
        false => Ok(path.to_owned()),
    }
}

/// Searches only for hosts that have a port for each of them and for ssh, unless the run file says something of its own about ports.
pub(super) fn need_ports(spec: &mut RunSpec) {
    const FIELD: &str = "direct_port_count";
    let filters = &mut spec.resources.filters;
    let ports = spec.container.ports.len();
    if ports > 0 && !filters.iter().any(|filter| filter.field == FIELD) {
        filters.push(Filter {
            field: FIELD.to_owned(),
            op: "gte".to_owned(),
            value: (ports + 1).into(),
        });
    }
}

fn login(keys: &LoginKeys) -> Result<Login, YamlError> {
    let password = match (&keys.password_env, &keys.password_command) {
        (Some(name), None) => {
            at(name, values::variable_name(&name.value))?;
            PasswordFrom::Variable(name.value.clone())
        }
        (None, Some(command)) => PasswordFrom::Command(at(command, line(&command.value))?),
        _ => {
            let why =
                "name where the password is: `password_env` or `password_command`, one of the two";
            return Err(YamlError::at(keys.user.referenced, why));
        }
    };
    Ok(Login {
        registry: or(keys.registry.as_ref(), DEFAULT_REGISTRY.to_owned(), word)?,
        user: at(&keys.user, word(&keys.user.value))?,
        password,
    })
}

/// `8080`, `8080/tcp` or `5000/udp`.
fn port(text: &str) -> Result<String, String> {
    let (number, kind) = match text.split_once('/') {
        Some((number, "tcp")) => (number, ""),
        Some((number, "udp")) => (number, "/udp"),
        Some(_) => return Err("a port looks like 8080 or 5000/udp".to_owned()),
        None => (text, ""),
    };
    // From 70000 on the market finds a port that has the same number inside and outside.
    let number = values::count(number, 1..=79_999)?;
    if (65_536..70_000).contains(&number) {
        return Err("a port is at most 65535, or from 70000 on".to_owned());
    }
    if number == 22 {
        return Err("port 22 is open on every box".to_owned());
    }
    Ok(format!("{number}{kind}"))
}

/// One word, which can be told from an option.
fn word(text: &str) -> Result<String, String> {
    let valid = !text.is_empty()
        && text.len() <= MAX_CHARS
        && text.chars().all(|c| c.is_ascii_graphic())
        && !text.starts_with('-');
    match valid {
        true => Ok(text.to_owned()),
        false => Err("a word without spaces is expected, that begins with no dash".to_owned()),
    }
}

fn line(text: &str) -> Result<String, String> {
    let text = text.trim();
    match !text.is_empty() && text.len() <= MAX_CHARS && !text.contains(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "one line of at most {MAX_CHARS} characters is expected"
        )),
    }
}

fn hash(text: &str) -> Result<String, String> {
    let valid = (6..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric());
    match valid {
        true => Ok(text.to_owned()),
        false => Err("a template is named by its hash, as its page shows it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spec::parse;

    fn read(keys: &str) -> Result<RunSpec, String> {
        let text = format!("name: a\nresources: {{accelerators: RTX 4090}}\nrun: true\n{keys}\n");
        parse(&text, "run.yaml", Path::new("/")).map_err(|err| err.to_string())
    }

    #[test]
    fn a_run_file_says_what_a_container_is_made_with_and_where_a_password_is() {
        let spec = read(
            "ports: [8080, 5000/udp, 8080/tcp, 72299]\ndocker_options: --shm-size=16g\ntemplate: 0a1b2c3d\n\
             image_login: {registry: ghcr.io, user: me, password_env: GHCR_TOKEN}",
        )
        .unwrap();
        let container = &spec.container;
        assert_eq!(container.ports, ["8080", "5000/udp", "72299"]);
        let filter = &spec.resources.filters[0];
        assert_eq!(
            (filter.field.as_str(), filter.op.as_str()),
            ("direct_port_count", "gte")
        );
        assert_eq!(filter.value, serde_json::json!(4), "one for ssh");
        assert_eq!(container.docker_options.as_deref(), Some("--shm-size=16g"));
        assert_eq!(container.template.as_deref(), Some("0a1b2c3d"));
        assert_eq!(spec.image, "", "it is the template's");
        let login = container.login.as_ref().unwrap();
        assert_eq!(
            (login.registry.as_str(), login.user.as_str()),
            ("ghcr.io", "me")
        );
        assert_eq!(login.password, PasswordFrom::Variable("GHCR_TOKEN".into()));

        let spec = read("image_login: {user: me, password_command: pass show hub}").unwrap();
        let login = spec.container.login.unwrap();
        assert_eq!(login.registry, "docker.io");
        assert_eq!(
            login.password,
            PasswordFrom::Command("pass show hub".into())
        );
        assert_ne!(spec.image, "");
        let volume = read("volume: {id: V.20118481, mount: /data/}").unwrap();
        let mounted = MountSpec {
            id: 20_118_481,
            path: "/data".to_owned(),
        };
        assert_eq!(volume.container.volume, Some(mounted));
        let both = read("image: mine:1\ntemplate: 0a1b2c3d").unwrap();
        assert_eq!(both.image, "mine:1");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_at_its_place() {
        for (keys, says) in [
            ("ports: [22]", "run.yaml:4:9: port 22 is open"),
            ("ports: [66000]", "at most 65535"),
            ("ports: [http]", "run.yaml:4:9: "),
            ("ports: [53/sctp]", "8080 or 5000/udp"),
            ("template: ../x", "by its hash"),
            (
                "image_login: {user: me}",
                "`password_env` or `password_command`",
            ),
            ("image_login: {user: me, password: x}", "password"),
            (
                "image_login: {user: me, password_env: A, password_command: b}",
                "one of the two",
            ),
            ("image_login: {user: -v, password_env: A}", "no dash"),
            ("image_login: me", "run.yaml:4:14: "),
            ("image_login: {password_env: A}", "user"),
            (
                "image_login: {user: me, passwort_env: A}",
                "run.yaml:4:25: unknown key `passwort_env`",
            ),
            (
                "volume: {id: data, mount: /data}",
                "run.yaml:4:14: a volume is named by its number",
            ),
            (
                "volume: {id: 5, mount: data}",
                "run.yaml:4:24: a volume is mounted at an absolute path",
            ),
            ("volume: {id: 5, mount: /data/../root}", "absolute path"),
            (
                "volume: {id: 5, mount: /root/}",
                "a box needs its own /root",
            ),
            ("volume: {id: 5}", "mount"),
        ] {
            let err = read(keys).unwrap_err();
            assert!(err.contains(says), "{keys}: {err}");
        }
    }
}
