//! Weights in several files with an index that names them, as transformers and PyTorch's safetensors storage write them.

use std::collections::BTreeMap;
use std::io;

use super::{Opinion, Silence, View, join};
use crate::whole::beside;

pub(super) fn judge(view: &View<'_>) -> io::Result<Opinion> {
    let mut found = Opinion::None;
    if view.candidate.is_flat()
        && let Some(missing) = missing_by_count(view)
    {
        return Ok(Opinion::Missing(missing));
    }
    for folder in view.folders() {
        let index = view.names(folder).find(|name| {
            name.ends_with(".safetensors.index.json") || name.ends_with(".bin.index.json")
        });
        // The index is written last: shards with a number of others are waited for together.
        let Some(index) = index else {
            if let Some(missing) = missing_by_name(view, folder) {
                return Ok(Opinion::Missing(missing));
            }
            continue;
        };
        if let Some(shard) = missing_by_index(view, folder, index)? {
            return Ok(Opinion::Missing(format!(
                "{index}: shard {shard} is not there"
            )));
        }
        found = Opinion::Done {
            rule: "sharded",
            silence: Silence::Directory,
        };
    }
    Ok(found)
}

/// The first shard that an index names and that is not among the files.
fn missing_by_index(view: &View<'_>, folder: &str, index: &str) -> io::Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = view.read(&join(folder, index))?.unwrap_or_default();
    let Ok(parsed) = serde_json::from_slice::<Index>(&text) else {
        return Ok(Some(format!("list in {index}")));
    };
    let mut shards = parsed.weight_map.into_values();
    Ok(shards.find(|shard| !view.has(&join(folder, shard))))
}

/// Of shards that lie at the top among other things, one that is missing by the count in their names.
fn missing_by_count(view: &View<'_>) -> Option<String> {
    let shards: Vec<_> = view.names("").filter_map(beside::shard).collect();
    let (prefix, _, count, ending) = *shards.first()?;
    let alike = shards
        .iter()
        .filter(|one| (one.0, one.2, one.3) == (prefix, count, ending));
    let found = alike.count() as u64;
    if found < count {
        return Some(format!(
            "of {count} shards {prefix}-K-of-{count}.{ending} {found} are there"
        ));
    }
    // Whoever writes this one writes an index last.
    let index = format!("{prefix}.{ending}.index.json");
    (prefix == "pytorch_model" && !view.has(&index)).then(|| format!("{index} is not there"))
}

/// The first of `model-00001-of-00004.safetensors` and its siblings that is not there. Whoever numbers them writes an index, too.
fn missing_by_name(view: &View<'_>, folder: &str) -> Option<String> {
    for name in view.names(folder) {
        let Some(stem) = name.strip_suffix(".safetensors") else {
            continue;
        };
        let numbered = stem.rsplit_once("-of-").and_then(|(before, count)| {
            let (prefix, number) = before.rsplit_once('-')?;
            number.parse::<u64>().ok()?;
            Some((prefix, count.parse::<u64>().ok()?))
        });
        if let Some((prefix, _)) = numbered {
            return Some(format!("{prefix}.safetensors.index.json is not there"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;

    const INDEX: &[u8] = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;

    #[test]
    fn shards_belong_to_their_index_and_the_index_to_its_shards() {
        let whole = || {
            Memory::of(&[
                ("s-9/inner/model-00001-of-00002.safetensors", 1, b"1"),
                ("s-9/inner/model-00002-of-00002.safetensors", 1, b"2"),
                ("s-9/inner/model.safetensors.index.json", 2, INDEX),
            ])
        };
        assert_eq!(whole().says("s-9"), "sharded Directory");
        let check = |missing: &str, expected: &str| {
            let found = whole().without(missing).says("s-9");
            assert!(found.contains(expected), "{missing}: {found:?}");
        };
        check(
            "s-9/inner/model-00002-of-00002.safetensors",
            "shard model-00002-of-00002.safetensors",
        );
        check(
            "s-9/inner/model.safetensors.index.json",
            "model.safetensors.index.json is not there",
        );
        let flat = |count: usize| {
            let names = ["m-1-of-2.gguf", "m-2-of-2.gguf"];
            let files: Vec<_> = names[..count]
                .iter()
                .map(|name| (*name, 1, &b"x"[..]))
                .collect();
            Memory::of(&files).says(".")
        };
        assert!(flat(1).contains("of 2 shards m-K-of-2.gguf 1 are there"));
        assert_eq!(flat(2), "nobody's");
        let cut = Memory::of(&[("s-9/model.safetensors.index.json", 1, &INDEX[..20])]);
        assert!(cut.says("s-9").contains("list in"));
    }
}
