//! Orbax: everything is written under a temporary name, and the directory renamed when it is whole.

use std::io;

use super::{Opinion, Silence, View};

pub(super) fn judge(view: &View<'_>) -> io::Result<Opinion> {
    let is_orbaxs = |path: &str| {
        matches!(
            super::split(path).1,
            "_CHECKPOINT_METADATA" | "manifest.ocdbt" | "_METADATA"
        )
    };
    if !view
        .candidate
        .files
        .iter()
        .any(|file| is_orbaxs(&file.path))
    {
        return Ok(Opinion::None);
    }
    // Where directories cannot be renamed a file is put last instead; then every item has one, or none has.
    let committed: Vec<&str> = view
        .folders()
        .into_iter()
        .filter(|folder| view.names(folder).any(|name| name == "commit_success.txt"))
        .collect();
    if !committed.is_empty() && !committed.contains(&"") && view.has("_CHECKPOINT_METADATA") {
        return Ok(Opinion::Missing(
            "commit_success.txt is not there".to_owned(),
        ));
    }
    Ok(Opinion::Done {
        rule: "orbax",
        silence: Silence::File,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;

    #[test]
    fn the_final_name_speaks_for_itself_unless_markers_are_used() {
        let plain = || {
            Memory::of(&[
                ("10/_CHECKPOINT_METADATA", 1, b"{}"),
                ("10/default/manifest.ocdbt", 1, b"m"),
                ("10/default/d/0f3a", 1, b"d"),
            ])
        };
        assert_eq!(plain().says("10"), "orbax File");
        let with = |mut files: Memory, path: &str| {
            files.0.insert(path.into(), (2, Vec::new()));
            files
        };
        let item = with(plain(), "10/default/commit_success.txt");
        assert_eq!(item.says("10"), "commit_success.txt is not there");
        assert_eq!(with(item, "10/commit_success.txt").says("10"), "orbax File");
    }
}
