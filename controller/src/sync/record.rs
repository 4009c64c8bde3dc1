//! What earlier copies brought, kept on the box, and the removal of what vanished since.

use std::{collections::BTreeSet, time::Duration};

use super::{SyncError, list};
use crate::tunnel::{Lane, Tunnel, shell_word};

/// Longest time for a command that only lists or deletes files.
const HOUSEKEEPING_LIMIT: Duration = Duration::from_secs(300);

/// Makes the target directory and reads what earlier copies brought.
pub(super) async fn begin(
    tunnel: &Tunnel,
    to: &str,
    record: &str,
) -> Result<(BTreeSet<Vec<u8>>, bool), SyncError> {
    let script = format!(
        "umask 022; mkdir -p -- {to} || exit 1; umask 077; mkdir -p \"$HOME/.spotter/sync\" || exit 1\n\
         if command -v rsync >/dev/null; then printf 'rsync\\0'; else printf 'none\\0'; fi\n\
         cat \"$HOME/\"{record} 2>/dev/null || :",
        to = shell_word(to),
    );
    let output = tunnel
        .exec_within(Lane::Bulk, &script, &[], HOUSEKEEPING_LIMIT)
        .await?;
    if !output.ok() {
        return Err(SyncError::Program {
            program: "mkdir",
            code: output.code,
            words: output.words,
        });
    }
    let mut parts = output.stdout.split(|byte| *byte == 0);
    let rsync = parts.next() == Some(b"rsync");
    // What leads out of the directory is not ours, whoever wrote it there.
    Ok((parts.filter_map(list::inside).collect(), rsync))
}

pub(super) async fn write_record(
    tunnel: &Tunnel,
    record: &str,
    paths: &BTreeSet<Vec<u8>>,
) -> Result<(), SyncError> {
    let script = format!("cd \"$HOME\" && cat >{record}.new && mv -f {record}.new {record}");
    expect(tunnel, "cat", &script, &joined(paths.iter())).await
}

pub(super) async fn remove(tunnel: &Tunnel, to: &str, paths: &[&Vec<u8>]) -> Result<(), SyncError> {
    let script = format!("cd {} && xargs -0 rm -f --", shell_word(to));
    expect(tunnel, "rm", &script, &joined(paths.iter().copied())).await?;
    // Directories that became empty, deepest first; those with anything else in them stay.
    let mut parents: BTreeSet<Vec<u8>> = BTreeSet::new();
    for path in paths {
        let mut path = path.as_slice();
        while let Some(at) = path.iter().rposition(|byte| *byte == b'/') {
            path = &path[..at];
            parents.insert(path.to_vec());
        }
    }
    if parents.is_empty() {
        return Ok(());
    }
    let script = format!(
        "cd {} && {{ xargs -0 rmdir -- 2>/dev/null; :; }}",
        shell_word(to)
    );
    expect(tunnel, "rmdir", &script, &joined(parents.iter().rev())).await
}

async fn expect(
    tunnel: &Tunnel,
    program: &'static str,
    script: &str,
    stdin: &[u8],
) -> Result<(), SyncError> {
    let output = tunnel
        .exec_within(Lane::Bulk, script, stdin, HOUSEKEEPING_LIMIT)
        .await?;
    if output.ok() {
        Ok(())
    } else {
        Err(SyncError::Program {
            program,
            code: output.code,
            words: output.words,
        })
    }
}

/// Which of the paths exist on the box.
pub(super) async fn existing(
    tunnel: &Tunnel,
    from: &str,
    paths: &BTreeSet<Vec<u8>>,
) -> Result<BTreeSet<Vec<u8>>, SyncError> {
    let script = format!(
        "cd {} || exit 1\nxargs -0 sh -c 'for path; do [ -e \"$path\" ] && printf \"%s\\0\" \"$path\"; done; :' sh",
        shell_word(from)
    );
    let output = tunnel
        .exec_within(
            Lane::Bulk,
            &script,
            &joined(paths.iter()),
            HOUSEKEEPING_LIMIT,
        )
        .await?;
    if !output.ok() {
        return Err(SyncError::Program {
            program: "cd",
            code: output.code,
            words: output.words,
        });
    }
    Ok(output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|path| paths.contains(*path))
        .map(<[u8]>::to_vec)
        .collect())
}

pub(super) fn joined<'a>(paths: impl Iterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut all = Vec::new();
    for path in paths {
        all.extend_from_slice(path);
        all.push(0);
    }
    all
}
