//! Pieces of a log put together, and what of it is asked for.

use super::*;

#[test]
fn a_character_that_is_cut_between_two_pieces_is_whole() {
    let at = |offset| {
        Some(LogPosition {
            generation: 0,
            offset,
        })
    };
    // Every cut of a text with characters of 1 to 4 bytes.
    let text = "a\u{e4}\u{20ac}\u{1f600}z".as_bytes();
    for cut in 0..=text.len() {
        for positions in [(at(7), at(7 + cut as u64)), (None, None)] {
            let mut joined = Joined::default();
            let (first, from) = joined.text(&text[..cut], positions.0, 0);
            let (second, then) = joined.text(&text[cut..], positions.1, 0);
            assert_eq!(format!("{first}{second}").as_bytes(), text, "{cut}");
            assert_eq!(from, positions.0);
            let expected = positions.0.map(|_| 7 + first.len() as u64);
            assert_eq!(then.map(|then| then.offset), expected, "{cut}");
            assert_eq!(joined.rest().0, "");
        }
    }
    // What does not follow does not complete it.
    for (position, gap_bytes) in [(at(90), 0), (at(2), 5)] {
        let mut joined = Joined::default();
        assert_eq!(joined.text(b"a\xe2", at(0), 0).0, "a");
        let (found, from) = joined.text(b"bc", position, gap_bytes);
        assert_eq!((found.as_str(), from), ("\u{fffd}bc", position));
    }
    // No text at all, and one that ends too early.
    let mut joined = Joined::default();
    assert_eq!(joined.text(b"\xff\xfe", at(0), 0).0, "\u{fffd}\u{fffd}");
    assert_eq!(joined.text(b"a\xf0\x9f", at(2), 0).0, "a");
    assert_eq!(joined.rest(), ("\u{fffd}".to_owned(), at(3)));
}

#[test]
fn the_last_lines_are_whole_lines() {
    let check = |text: &str, lines: Option<u64>, expected: &str| {
        assert_eq!(
            last_lines(text.as_bytes(), lines),
            expected.as_bytes(),
            "{text:?} {lines:?}"
        );
    };
    check("a\nb\nc\n", Some(2), "b\nc\n");
    check("a\nb\nc", Some(2), "b\nc");
    check("a\nb\nc\n", Some(9), "a\nb\nc\n");
    check("a\nb\nc\n", Some(0), "");
    check("a\n\n\n", Some(2), "\n\n");
    check("", Some(3), "");
    check("a\nb\n", None, "a\nb\n");
}
