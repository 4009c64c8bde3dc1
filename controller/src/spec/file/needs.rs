//! The key `needs` as it is written: a list of words.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use super::{Scalar, at};
use crate::spec::{Need, YamlError};

/// Words with their places.
#[derive(Debug, Default)]
pub(in crate::spec) struct NeedsKeys(Vec<Scalar>);

impl<'de> Deserialize<'de> for NeedsKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;

        impl<'de> Visitor<'de> for Items {
            type Value = NeedsKeys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list, as in [flash-attn2, cuda>=12.8]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = items.next_element()? {
                    words.push(word);
                }
                Ok(NeedsKeys(words))
            }
        }

        deserializer.deserialize_any(Items)
    }
}

/// What is needed.
pub(super) fn needs(keys: &NeedsKeys) -> Result<Vec<Need>, YamlError> {
    keys.0
        .iter()
        .map(|word| at(word, word.value.parse()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::spec::parse;

    #[test]
    fn needs_are_a_list_whose_bad_words_are_named_with_their_place() {
        let read = |needs: &str| {
            let text =
                format!("name: a\nresources: {{accelerators: A40}}\nrun: x\nneeds: {needs}\n");
            parse(&text, "run.yaml", Path::new("/nowhere"))
                .map(|spec| spec.needs.iter().map(ToString::to_string).collect())
                .map_err(|err| err.to_string())
        };
        let words: Result<Vec<String>, String> = read("[flash-attn2, cuda>=12.8]");
        assert_eq!(words.unwrap(), ["flash-attn2", "cuda>=12.8"]);
        for (needs, expected) in [
            (
                "[bf16, flash]",
                "run.yaml:4:15: expected flash-attn2, flash-attn3, bf16, fp8 or cuda>=12.8",
            ),
            (
                "[\"cuda>=twelve\"]",
                "run.yaml:4:9: a version of CUDA looks like 12.8",
            ),
            (
                "[cuda=12.8]",
                "run.yaml:4:9: CUDA is asked for from a version upwards, as in cuda>=12.8",
            ),
        ] {
            assert_eq!(read(needs).unwrap_err(), expected);
        }
        let err = read("fp8").unwrap_err();
        assert!(
            err.contains("a list, as in [flash-attn2, cuda>=12.8]"),
            "{err}"
        );
    }
}
