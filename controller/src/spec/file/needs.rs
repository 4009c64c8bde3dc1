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
