//! Orbax: everything is written under a temporary name, and the directory renamed when it is whole.
//!
//! Where directories cannot be renamed it is written in place, and `commit_success.txt` is put last: into each item, then into the
//! whole. Newer versions put it there before they rename, older ones only rename: so without one a rename must be seen.

use std::io;

use super::{Opinion, Silence, View, join};

const MARKER: &str = "commit_success.txt";
/// What tells a directory of Orbax. The first lies at the top of a checkpoint, the others in its items.
const SIGNS: [&str; 3] = ["_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA"];

pub(super) fn judge(view: &View<'_>) -> io::Result<Opinion> {
    let has = |folder: &str, name: &str| view.names(folder).any(|one| one == name);
    let folders = view.folders();
    let is_orbaxs = |folder: &&str| SIGNS.iter().any(|sign| has(folder, sign));
    let signed: Vec<&str> = folders.iter().copied().filter(is_orbaxs).collect();
    let is_inside = |folder: &str, of: &str| folder.starts_with(&join(of, "")) && folder != of;
    let any_marker = folders.iter().any(|folder| has(folder, MARKER));
    let unmarked_before = view
        .finished
        .iter()
        .any(|before| before.holds(&SIGNS) && !before.holds(&[MARKER]));
    for top in &signed {
        if signed.iter().any(|other| is_inside(top, other)) || has(top, MARKER) {
            continue;
        }
        if any_marker || !(unmarked_before || was_renamed(view, top)?) {
            let path = join(top, MARKER);
            return Ok(Opinion::Missing(format!("{path} is not there")));
        }
    }
    if signed.is_empty() {
        return Ok(Opinion::None);
    }
    Ok(Opinion::Done {
        rule: "orbax",
        silence: Silence::File,
    })
}

/// Whether a directory has another name than when something was last put into it: only its inode's own time tells of that.
fn was_renamed(view: &View<'_>, folder: &str) -> io::Result<bool> {
    let stat = view.stat(folder)?;
    Ok(stat.is_some_and(|stat| stat.ctime_ns > stat.mtime_ns))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;

    #[test]
    fn the_final_name_speaks_for_itself_when_it_came_by_a_rename_and_a_marker_otherwise() {
        let in_place = || {
            Memory::of(&[
                ("10/_CHECKPOINT_METADATA", 1, b"{}"),
                ("10/default/manifest.ocdbt", 1, b"m"),
                ("10/default/ocdbt.process_0/manifest.ocdbt", 1, b"m"),
                ("10/default/d/0f3a", 1, b"d"),
            ])
        };
        let with = |mut files: Memory, path: &str| {
            files.0.insert(path.into(), (2, Vec::new()));
            files
        };
        let missing = "commit_success.txt is not there";
        assert_eq!(in_place().says("10"), missing);
        let item = with(in_place(), "10/default/commit_success.txt");
        assert_eq!(item.says("10"), missing);
        assert_eq!(with(item, "10/commit_success.txt").says("10"), "orbax File");
        // Its name with a slash: renamed after all that is in it was written.
        assert_eq!(with(in_place(), "10/").says("10"), "orbax File");
    }

    #[test]
    fn items_in_a_directory_of_somebody_elses_are_renamed_each_by_itself() {
        let mut files = Memory::of(&[
            ("10/params/manifest.ocdbt", 1, b"m"),
            ("10/params/", 2, b""),
            ("10/state/_METADATA", 1, b"m"),
        ]);
        assert_eq!(files.says("10"), "state/commit_success.txt is not there");
        files.0.insert("10/state/".into(), (2, Vec::new()));
        assert_eq!(files.says("10"), "orbax File");
    }
}
