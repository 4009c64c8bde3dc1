//! YAML with errors in our words (pure): the place, what is wrong, the nearest known key. Never a piece of the file itself,
//! which could show a token.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Location};

/// What is wrong with a YAML text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlError {
    /// Line, from 1; 0: no place.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

impl YamlError {
    /// Says it at a place.
    pub fn at(location: Location, message: impl Into<String>) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
            message: message.into(),
        }
    }
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for YamlError {}

/// Reads a YAML text.
pub fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|err| {
        let mut problem = explain(&err);
        if problem.message.starts_with("expected ")
            && let Some(key) = key_before(text, problem.line, problem.column)
        {
            problem.message = format!("`{key}`: {}", problem.message);
        }
        problem
    })
}

/// The key whose value begins at a place, if there is one that looks like ours: lower case and short.
fn key_before(text: &str, line: u64, column: u64) -> Option<&str> {
    let line = text
        .lines()
        .nth(usize::try_from(line.checked_sub(1)?).ok()?)?;
    // Columns are characters.
    let column = usize::try_from(column.checked_sub(1)?).ok()?;
    let end = line
        .char_indices()
        .nth(column)
        .map_or(line.len(), |(at, _)| at);
    let key = line[..end].trim_end().strip_suffix(':')?;
    let key = key
        .rsplit(|c: char| !(c.is_ascii_lowercase() || c == '_'))
        .next()?;
    (1..=20).contains(&key.len()).then_some(key)
}

/// The parser's names of YAML's constructs, as people call them.
fn construct(name: &str) -> &str {
    match name {
        "mapping start" => "a map, as in {key: value}",
        "sequence start" => "a list, as in [one, two]",
        "string scalar" | "scalar" => "a single value",
        other => other,
    }
}

/// Our words for a parser's error. Values are left out: a token may be among them.
fn explain(err: &Error) -> YamlError {
    let err = err.without_snippet();
    let location = err.location().unwrap_or(Location::UNKNOWN);
    let message = match err {
        Error::SerdeUnknownField {
            field, expected, ..
        } => unknown_key(field, expected),
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } if is_word(key) => {
            format!("the key `{key}` is there twice")
        }
        Error::DuplicateMappingKey { .. } => "a key is there twice".to_owned(),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            format!("expected {expected}")
        }
        Error::InvalidScalar { ty, .. } => format!("expected {ty}"),
        Error::Unexpected { expected, .. } => format!("expected {}", construct(expected)),
        Error::NullIntoString { .. } => "a value is missing here".to_owned(),
        Error::Eof { .. } => "the text is empty or ends too early".to_owned(),
        Error::MultipleDocuments { .. } => "only one document is allowed: remove `---`".to_owned(),
        Error::UnknownAnchor { .. } => "the alias names no anchor".to_owned(),
        Error::Budget { .. } => "the text is too large or too deep".to_owned(),
        Error::AliasError { error, .. } => return explain(error),
        // The parser's words name the construct that it met, not what is in it.
        Error::ExternalMessage { msg, .. } => format!("this is not valid YAML: {msg}"),
        Error::Message { msg, .. } => msg.clone(),
        _ => "this is not valid here".to_owned(),
    };
    YamlError::at(location, message)
}

fn unknown_key(key: &str, known: &[&'static str]) -> String {
    // A value may have slipped into its place, and values may be secrets.
    let shown = match is_word(key) {
        true => format!("`{key}`"),
        false => "here, which is no word".to_owned(),
    };
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown key {shown}, did you mean `{near}`?"),
        None => format!(
            "unknown key {shown}; the keys here are {}",
            known.join(", ")
        ),
    }
}

/// Whether it looks like a key.
fn is_word(key: &str) -> bool {
    (1..=24).contains(&key.len())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// The known word that somebody meant by `word`, if one is near enough.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known
        .into_iter()
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(word, candidate),
                candidate,
            )
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    // Two letters of six, as in `chekpoint`; less is a guess.
    (near.0 >= 0.65).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its errors matter")]
    struct Sample {
        name: String,
        #[serde(default)]
        count: u32,
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(from_yaml::<Sample>(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn the_key_before_a_value_is_found_among_letters_of_any_length() {
        assert_eq!(key_before("&ڑname: tiny", 1, 9), Some("name"));
        assert_eq!(key_before("éé: 1, name: [", 1, 14), Some("name"));
        assert_eq!(key_before("name:", 1, 9), Some("name"));
        assert_eq!(key_before("ڑ: x", 1, 4), None);
    }

    #[test]
    fn errors_have_a_place_and_our_words() {
        check(
            "name: a\ncuont: 1\n",
            "2:1: unknown key `cuont`, did you mean `count`?",
        );
        check(
            "name: a\nzebra: 1\n",
            "2:1: unknown key `zebra`; the keys here are name, count",
        );
        check("name: a\nname: b\n", "2:1: the key `name` is there twice");
        check("name:\n", "1:5: a value is missing here");
        check("name: [\n", "1:7: `name`: expected a single value");
        check(
            "{count: 1, name: {}}",
            "1:18: `name`: expected a single value",
        );
        check(
            "name: a\n---\nname: b\n",
            "3:1: only one document is allowed: remove `---`",
        );
    }

    #[test]
    fn no_value_is_ever_shown() {
        for text in [
            "name: a\ncount: hf_SECRET\n",
            "name: a\ncount: [hf_SECRET]\n",
            "name: {hf_SECRET: 1}\n",
            "name: \"hf_SECRET\n",
            "name: a\n  hf_SECRET: b\n- c\n",
            "name: *hf_SECRET\n",
            "name: !hf_SECRET x\ncount: hf_SECRET\n",
            "%hf_SECRET\nname: a",
            "name: a\ncount: !!binary hf_SECRET\n",
            "hf_SECRET\n",
            "- hf_SECRET\n",
        ] {
            let err = from_yaml::<Sample>(text).unwrap_err().to_string();
            assert!(
                !err.contains("hf_SECRET") && !err.contains('\n'),
                "{text}: {err}"
            );
        }
    }

    #[test]
    fn only_near_words_are_offered() {
        let known = ["checkpoints", "resources", "run", "resume"];
        assert_eq!(nearest("chekpoints", known), Some("checkpoints"));
        assert_eq!(nearest("checkpoint", known), Some("checkpoints"));
        assert_eq!(nearest("notify", known), None);
        assert_eq!(nearest("", known), None);
    }
}
