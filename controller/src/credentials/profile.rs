//! AWS's two files, read (pure): sections, `key = value`, indented lines as parts of the key above them.

use std::collections::HashMap;

use zeroize::Zeroizing;

/// All profiles of `~/.aws/credentials` and `~/.aws/config`; the first file wins.
///
/// Values may be secrets, so there is no `Debug`, and they are wiped when they are dropped.
#[derive(Default)]
pub(super) struct Profiles {
    /// By `profile x`, `services x` or `sso-session x`, then by key; keys of indented lines are `outer.inner`.
    sections: HashMap<String, HashMap<String, Zeroizing<String>>>,
}

impl Profiles {
    pub(super) fn parse(credentials: &str, config: &str) -> Profiles {
        let mut profiles = Profiles::default();
        // In the one file a section is a bare profile name, in the other all but `default` say what they are.
        profiles.add(credentials, |name| format!("profile {name}"));
        profiles.add(config, |name| {
            if name == "default" {
                "profile default".to_owned()
            } else {
                name.to_owned()
            }
        });
        profiles
    }

    fn add(&mut self, text: &str, section_name: impl Fn(&str) -> String) {
        let mut section = None;
        let mut outer = String::new();
        for line in text.lines() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = trimmed
                .strip_prefix('[')
                .and_then(|rest| rest.split_once(']'))
                .map(|(name, _)| name)
            {
                let words: Vec<&str> = name
                    .split_whitespace()
                    .map(|word| word.trim_matches('"'))
                    .collect();
                section = Some(section_name(&words.join(" ")));
                continue;
            }
            let (Some(section), Some((key, value))) = (&section, trimmed.split_once('=')) else {
                continue;
            };
            let (key, value) = (key.trim().to_lowercase(), value.trim());
            let key = if line.starts_with([' ', '\t']) {
                format!("{outer}.{key}")
            } else {
                outer = key.clone();
                key
            };
            let values = self.sections.entry(section.clone()).or_default();
            values
                .entry(key)
                .or_insert_with(|| Zeroizing::new(value.to_owned()));
        }
    }

    fn value(&self, section: &str, key: &str) -> Option<String> {
        self.sections
            .get(section)?
            .get(key)
            .filter(|value| !value.is_empty())
            .map(|value| value.as_str().to_owned())
    }

    /// A setting of a profile.
    pub(super) fn get(&self, profile: &str, key: &str) -> Option<String> {
        self.value(&format!("profile {profile}"), key)
    }

    /// Endpoint of a service, such as `s3`, in the services section that a profile names.
    pub(super) fn service_endpoint(&self, profile: &str, service: &str) -> Option<String> {
        let services = self.get(profile, "services")?;
        self.value(
            &format!("services {services}"),
            &format!("{service}.endpoint_url"),
        )
    }

    /// A setting of a single sign-on that several profiles share.
    pub(super) fn sso_session(&self, session: &str, key: &str) -> Option<String> {
        self.value(&format!("sso-session {session}"), key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read_and_the_first_wins() {
        let profiles = Profiles::parse(
            "# comment\n[a]\nAWS_ACCESS_KEY_ID = one\naws_secret_access_key = has=equals=\n",
            "[profile a]\naws_access_key_id = two\nregion = r\ns3 =\n  max_concurrent_requests = 20\n[profile \"b c\"]\nregion=q\n[a]\nregion = wrong\n",
        );
        let check = |profile: &str, key: &str, expected: Option<&str>| {
            assert_eq!(
                profiles.get(profile, key).as_deref(),
                expected,
                "{profile} {key}"
            );
        };
        check("a", "aws_access_key_id", Some("one"));
        check("a", "aws_secret_access_key", Some("has=equals="));
        check("a", "region", Some("r"));
        check("a", "max_concurrent_requests", None);
        check("b c", "region", Some("q"));
        check("nobody", "region", None);
    }
}
