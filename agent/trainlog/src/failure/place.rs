//! Which file a message about a full disk is about (pure).

/// What programs say when there is no space, in small letters.
const FULL: [&str; 3] = ["no space left on device", "disk quota exceeded", "enospc"];

/// The path that a line names which tells that a disk is full: quoted as Python does (of two the one that was written to), else before or after
/// the message. `None`: it names none, as PyTorch's own writer does not.
pub fn refused_path(line: &str) -> Option<&str> {
    let lower = line.to_ascii_lowercase();
    let (at, sign) = FULL
        .iter()
        .find_map(|sign| Some((lower.find(sign)?, *sign)))?;
    let (before, after) = (&line[..at], &line[at + sign.len()..]);
    if let Some(quoted) = last_quoted(after) {
        return Some(quoted);
    }
    let is_path = |word: &&str| word.len() > 1 && (word.starts_with('/') || word.starts_with("./"));
    let words = before
        .split_whitespace()
        .rev()
        .chain(after.split_whitespace());
    words.map(|word| word.trim_matches(BRACKETS)).find(is_path)
}

/// What stands around a path in a sentence.
const BRACKETS: [char; 10] = ['\'', '"', '`', ':', ',', ';', '(', ')', '[', ']'];

fn last_quoted(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|quote| {
        let (before, _) = text.rsplit_once(*quote)?;
        let (_, quoted) = before.rsplit_once(*quote)?;
        (!quoted.is_empty()).then_some(quoted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_that_of_the_file_that_is_named() {
        for (line, expected) in [
            (
                "OSError: [Errno 28] No space left on device: 'checkpoints/step_5.pt'",
                Some("checkpoints/step_5.pt"),
            ),
            (
                "OSError: [Errno 28] No space left on device: '/workspace/a.pt' -> '/mnt/big/a b.pt'",
                Some("/mnt/big/a b.pt"),
            ),
            (
                "[rank0]: OSError: [Errno 122] Disk quota exceeded: \"/home/u/x\"",
                Some("/home/u/x"),
            ),
            (
                "tee: /mnt/logs/train.log: No space left on device",
                Some("/mnt/logs/train.log"),
            ),
            (
                "write /root/.cache/blob: no space left on device",
                Some("/root/.cache/blob"),
            ),
            (
                "cp: error writing './out/final.bin': No space left on device",
                Some("./out/final.bin"),
            ),
            ("ENOSPC while writing (/tmp/x)", Some("/tmp/x")),
            ("OSError: [Errno 28] No space left on device", None),
            (
                "RuntimeError: [enforce fail at inline_container.cc:595] unexpected pos 64 vs 0",
                None,
            ),
            ("", None),
            ("no space left on device: ''", None),
        ] {
            assert_eq!(refused_path(line), expected, "{line}");
        }
    }
}
