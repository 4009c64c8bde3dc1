//! What stands before the words of a line.

use memchr::memchr;

/// Whether a number may be there. Digits within words, as those of `LOSS TOK2VEC`, are none.
pub(super) fn has_number(line: &[u8]) -> bool {
    let mut before = b' ';
    line.iter().any(|byte| {
        let starts = byte.is_ascii_digit() && !before.is_ascii_alphabetic();
        before = *byte;
        starts
    })
}

/// The rank that a launcher put before a line: `[rank3]:`, `[default3]:`, `3: `, `(Worker pid=812)`, `[1,3]<stdout>:`.
pub(super) fn rank(line: &[u8]) -> Option<u32> {
    let line = line.trim_ascii_start();
    let number = |text: &[u8]| {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let value = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
        Some((value, digits))
    };
    for open in [&b"[rank"[..], b"[default", b"[Rank ", b"[local_rank"] {
        if let Some(rest) = line.strip_prefix(open) {
            return number(rest).map(|(rank, _)| rank);
        }
    }
    // mpirun: `[1,3]<stdout>:`
    if let Some(rest) = line.strip_prefix(b"[1,")
        && let Some((rank, digits)) = number(rest)
    {
        return rest[digits..].starts_with(b"]<std").then_some(rank);
    }
    if line.first() == Some(&b'(') {
        let end = memchr(b')', line)?;
        let at = memchr::memmem::find(&line[..end], b"pid=")?;
        return number(&line[at + 4..]).map(|(rank, _)| rank);
    }
    // `srun --label`: at most four digits, then a colon and a space.
    let (rank, digits) = number(line)?;
    (digits <= 4 && line[digits..].starts_with(b": ")).then_some(rank)
}
