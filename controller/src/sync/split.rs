//! Which of several copies at once brings which file (pure).

/// A file that has to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    /// Relative to both sides.
    pub(super) path: Vec<u8>,
    pub(super) size_bytes: u64,
    /// Bytes of it that are not here yet, as far as that can be seen.
    pub(super) left_bytes: u64,
}

/// Deals files out such that the copies end at about the same time: the largest first, each to the copy that has least to bring.
/// At most `most` copies, and not more than there are pieces of `floor_bytes`.
pub(super) fn split(mut files: Vec<Left>, most: usize, floor_bytes: u64) -> Vec<Vec<Left>> {
    let bytes: u64 = files.iter().map(|file| file.left_bytes).sum();
    let worth = usize::try_from(bytes.div_ceil(floor_bytes)).unwrap_or(usize::MAX);
    let streams = worth.clamp(1, most).min(files.len());
    files.sort_by(|a, b| (b.left_bytes, &a.path).cmp(&(a.left_bytes, &b.path)));
    let mut lists: Vec<(u64, Vec<Left>)> = vec![(0, Vec::new()); streams];
    for file in files {
        let lightest = lists
            .iter_mut()
            .min_by_key(|(bytes, list)| (*bytes, list.len()))
            .expect("a file is there, and so is a list");
        lightest.0 += file.left_bytes;
        lightest.1.push(file);
    }
    lists.into_iter().map(|(_, list)| list).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_dealt_out_by_what_is_left_of_them() {
        let check = |left: &[u64], most: usize, expected: &[&[u64]]| {
            let files = left.iter().enumerate().map(|(number, left_bytes)| Left {
                path: vec![b'a' + number as u8],
                size_bytes: 100,
                left_bytes: *left_bytes,
            });
            let lists: Vec<Vec<u64>> = split(files.collect(), most, 10)
                .iter()
                .map(|list| list.iter().map(|file| file.left_bytes).collect())
                .collect();
            assert_eq!(lists, expected, "{left:?}");
        };
        check(&[], 4, &[]);
        check(&[7], 4, &[&[7]]);
        // One file is never cut.
        check(&[100], 4, &[&[100]]);
        check(&[50, 50, 50, 50], 4, &[&[50], &[50], &[50], &[50]]);
        check(&[10, 20, 30, 40, 50], 2, &[&[50, 20, 10], &[40, 30]]);
        // Not worth a second connection.
        check(&[3, 3, 3], 4, &[&[3, 3, 3]]);
        check(&[5, 5, 5], 4, &[&[5, 5], &[5]]);
        // Those of which all is here go along, evenly.
        check(&[30, 0, 0, 0, 30], 2, &[&[30, 0, 0], &[30, 0]]);
    }
}
