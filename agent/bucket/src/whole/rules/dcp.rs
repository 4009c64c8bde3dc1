//! PyTorch's distributed checkpoints (also torchtitan, FSDP, Megatron): `.distcp` files of each rank and, last, `.metadata`.
//!
//! Saving again into the same directory truncates the files while the old `.metadata` still stands, so it must be the newest; and it
//! names every file with what must lie in it.

use std::collections::HashMap;
use std::io;

use super::super::pickle::{self, Node, Pickle};
use super::super::structure::{self, MAX_INDEX_BYTES};
use super::{Opinion, Silence, View, join};

pub(super) fn judge(view: &View<'_>) -> io::Result<Opinion> {
    let mut found = Opinion::None;
    for folder in view.folders() {
        if !view.names(folder).any(|name| name.ends_with(".distcp")) {
            continue;
        }
        if let Some(missing) = missing_in(view, folder)? {
            return Ok(Opinion::Missing(missing));
        }
        found = Opinion::Done {
            rule: "dcp",
            silence: Silence::File,
        };
    }
    Ok(found)
}

fn missing_in(view: &View<'_>, folder: &str) -> io::Result<Option<String>> {
    let path = join(folder, ".metadata");
    let Some(metadata) = view.file(&path) else {
        return Ok(Some(format!("{path} is not there")));
    };
    let shards = view.names(folder).filter(|name| name.ends_with(".distcp"));
    for shard in shards {
        let file = view.file(&join(folder, shard));
        if file.is_some_and(|file| file.mtime_ns > metadata.mtime_ns) {
            return Ok(Some(format!(
                "{shard} is newer than {path}, which is written last"
            )));
        }
    }
    let Some(file) = view.open(&path)? else {
        return Ok(Some(format!("{path} is not there")));
    };
    let bytes = structure::head(&*file, MAX_INDEX_BYTES)?;
    let read = match pickle::load(&bytes) {
        Ok(read) => read,
        Err(pickle::PickleError::Truncated) => return Ok(Some(format!("{path} is cut off"))),
        // Another version's: its place in the order still speaks for it.
        Err(pickle::PickleError::Unknown) => return Ok(None),
    };
    for (name, needed_bytes) in needed(&read) {
        let size = view.file(&join(folder, name)).map(|file| file.size_bytes);
        match size {
            None => return Ok(Some(format!("{name} is named in {path} and not there"))),
            Some(size) if size < needed_bytes => {
                return Ok(Some(format!(
                    "{name} has {size} of the {needed_bytes} bytes that {path} speaks of"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(None)
}

/// How long each file must be at least, by the places of what is stored in it.
fn needed(metadata: &Pickle) -> HashMap<&str, u64> {
    let mut needed = HashMap::new();
    for node in &metadata.nodes {
        let Node::Object {
            class,
            state: Some(state),
            ..
        } = node
        else {
            continue;
        };
        if !metadata.is_class(*class, "_StorageInfo") {
            continue;
        }
        let field = |name| metadata.get(*state, name);
        let name = field("relative_path").and_then(|id| metadata.text(id));
        let offset = field("offset").and_then(|id| metadata.number(id));
        let length = field("length").and_then(|id| metadata.number(id));
        if let (Some(name), Some(offset), Some(length)) = (name, offset, length) {
            let end = needed.entry(name).or_insert(0);
            *end = (*end).max(offset.saturating_add(length));
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;

    /// Metadata that speaks of 40 bytes in `__0_0.distcp`, in the way that Python pickles it.
    const METADATA: &[u8] = b"\x80\x02ctorch.distributed.checkpoint.filesystem\n_StorageInfo\n)\x81}(X\x0d\x00\x00\x00relative_path\
        X\x0c\x00\x00\x00__0_0.distcpX\x06\x00\x00\x00offsetK\x0aX\x06\x00\x00\x00lengthK\x1eub.";

    fn whole() -> Memory {
        Memory::of(&[
            ("step-5/__0_0.distcp", 1, &[7; 40]),
            ("step-5/.metadata", 2, METADATA),
        ])
    }

    #[test]
    fn metadata_is_last_and_names_what_must_be_there() {
        let check = |files: Memory, expected: &str| {
            let found = files.says("step-5");
            assert!(found.contains(expected), "{found:?}, expected {expected:?}");
        };
        check(whole(), "dcp File");
        check(
            whole().without("step-5/.metadata"),
            ".metadata is not there",
        );
        let with = |path: &str, time: i64, bytes: &[u8]| {
            let mut files = whole();
            files.0.insert(path.into(), (time, bytes.to_vec()));
            files
        };
        check(
            with("step-5/__0_0.distcp", 3, &[7; 40]),
            "__0_0.distcp is newer",
        );
        check(
            with("step-5/__0_0.distcp", 1, &[7; 39]),
            "39 of the 40 bytes",
        );
        check(with("step-5/.metadata", 2, &METADATA[..60]), "cut off");
        check(
            with("step-5/__1_0.distcp", 1, b"x").without("step-5/__0_0.distcp"),
            "__0_0.distcp is named",
        );
        check(with("step-5/.metadata", 2, b"of another kind"), "dcp File");
    }
}
