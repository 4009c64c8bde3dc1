//! What ssh is told (pure): our options first, the user's own configuration after them, because the first value wins.

use std::path::Path;

use super::SshTarget;
use crate::provider::SshAddress;

/// The `-F` file of one instance.
///
/// Options that would break a command of ours (a `RemoteCommand`, a forced terminal, a host key database that does not
/// know instances) are set before the user's file is included; what it adds, such as a `ProxyJump`, holds.
pub(super) fn config_text(target: &SshTarget, user_config: &Path) -> String {
    let mut text =
        String::from("# Written by spotter for one instance; changes are lost.\nHost *\n");
    let key = quoted(&target.key);
    let known_hosts = quoted(&target.known_hosts);
    let options: [(&str, &str); 18] = [
        ("BatchMode", "yes"),
        ("ConnectTimeout", "15"),
        ("ServerAliveInterval", "5"),
        ("ServerAliveCountMax", "3"),
        ("TCPKeepAlive", "yes"),
        ("RemoteCommand", "none"),
        ("StdinNull", "no"),
        ("SessionType", "default"),
        ("ForkAfterAuthentication", "no"),
        ("PermitLocalCommand", "no"),
        ("ControlMaster", "no"),
        ("ControlPath", "none"),
        ("ControlPersist", "no"),
        ("ForwardAgent", "no"),
        ("ForwardX11", "no"),
        ("IdentityFile", &key),
        // The bulk connection is busy for minutes; this one is the fastest of the common ciphers.
        ("Ciphers", "^aes128-gcm@openssh.com"),
        ("LogLevel", "ERROR"),
    ];
    let rented: [(&str, &str); 9] = [
        ("IdentitiesOnly", "yes"),
        // One file and one name per instance: hosts reuse addresses and ports, and the proxy shares the pin.
        ("StrictHostKeyChecking", "accept-new"),
        ("UserKnownHostsFile", &known_hosts),
        ("HostKeyAlias", &target.alias),
        ("GlobalKnownHostsFile", "/dev/null"),
        ("HashKnownHosts", "no"),
        ("UpdateHostKeys", "no"),
        ("CheckHostIP", "no"),
        ("User", &target.user),
    ];
    // Nobody but the user can say which key a host of his own has: his known hosts are asked, and no key is taken on trust.
    let own: [(&str, &str); 2] = [
        ("StrictHostKeyChecking", "yes"),
        ("UserKnownHostsFile", &known_hosts),
    ];
    let more = if target.own { &own[..] } else { &rented[..] };
    for (name, value) in options.iter().chain(more) {
        text.push_str(&format!("  {name} {value}\n"));
    }
    for identity in &target.identities {
        text.push_str(&format!("  IdentityFile {}\n", quoted(identity)));
    }
    // Unlike the paths above, this one is not expanded: a percent sign stands for itself.
    text.push_str(&format!("Include \"{}\"\n", user_config.display()));
    text
}

/// A `Host` block for the user's own ssh.
pub(super) fn host_text(run: &str, target: &SshTarget, address: &SshAddress) -> String {
    if target.own {
        let (user, host) = match address.host.rsplit_once('@') {
            Some((user, host)) => (format!("  User {user}\n"), host),
            None => (String::new(), address.host.as_str()),
        };
        let port = address.port;
        // The first line tells whose the name is. His known hosts know the host by its own name.
        return format!(
            "# {}\nHost {run}\n  HostName {host}\n  Port {port}\n{user}  IdentityFile {}\n",
            target.alias,
            quoted(&target.key)
        );
    }
    format!(
        "Host {run}\n  HostName {}\n  Port {}\n  User {}\n  IdentityFile {}\n  IdentitiesOnly yes\n  HostKeyAlias {}\n  \
         UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking accept-new\n  CheckHostIP no\n  \
         UpdateHostKeys no\n",
        address.host,
        address.port,
        target.user,
        quoted(&target.key),
        target.alias,
        quoted(&target.known_hosts),
    )
}

/// A path as ssh_config reads it: in quotes, because homes may have spaces, and with its percent signs doubled.
pub(super) fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

/// A word for a POSIX shell.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;

    fn target() -> SshTarget {
        SshTarget {
            alias: "spotter-vast-7".to_owned(),
            addresses: vec![],
            user: "root".to_owned(),
            key: PathBuf::from("/home/a b/id"),
            own: false,
            identities: Vec::new(),
            known_hosts: PathBuf::from("/home/a b/kh"),
            config: PathBuf::from("/x"),
            runtime: Arc::from(Path::new("/tmp")),
        }
    }

    #[test]
    fn our_options_stand_before_the_users_file() {
        let text = config_text(&target(), Path::new("/home/a b/.ssh/config"));
        assert!(text.ends_with("Include \"/home/a b/.ssh/config\"\n"));
        for line in [
            "  HostKeyAlias spotter-vast-7\n",
            "  IdentityFile \"/home/a b/id\"\n",
            "  UserKnownHostsFile \"/home/a b/kh\"\n",
            "  StrictHostKeyChecking accept-new\n",
            "  BatchMode yes\n",
            "  ServerAliveInterval 5\n",
        ] {
            let at = text
                .find(line)
                .unwrap_or_else(|| panic!("{line} is missing in {text}"));
            assert!(at < text.find("Include").unwrap());
        }
    }

    #[test]
    fn words_reach_the_shell_as_they_are() {
        let check = |word: &str, expected: &str| assert_eq!(shell_word(word), expected);
        check("/root/.spotter/agent.sock", "/root/.spotter/agent.sock");
        check("it's", r"'it'\''s'");
        check("a b;c", "'a b;c'");
        check("$HOME", "'$HOME'");
        check("", "''");
        check("~", "'~'");
    }
}
