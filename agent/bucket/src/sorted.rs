//! Sorting, as the standard library does it but once in the program: each type that is sorted by its own sort takes 4 KB, and the agent
//! has 5 MB to fit in.

use std::{cmp::Ordering, mem};

/// Sorts by `compare`; equal items keep their order.
pub fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let mut places: Vec<usize> = (0..items.len()).collect();
    sort_places(&mut places, &|one, other| {
        compare(&items[one], &items[other])
    });
    // Each round of places is walked once: what stands at its beginning is carried along to its end.
    for first in 0..places.len() {
        let mut at = first;
        loop {
            let from = mem::replace(&mut places[at], at);
            if from == first {
                break;
            }
            items.swap(at, from);
            at = from;
        }
    }
}

#[inline(never)]
fn sort_places(places: &mut [usize], compare: &dyn Fn(usize, usize) -> Ordering) {
    places.sort_by(|one, other| compare(*one, *other));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_differs_from_the_standard_sort(keys in prop::collection::vec(0_u8..20, 0..200)) {
            // The second half tells equal keys apart.
            let numbered = keys.iter().copied().zip(0_usize..);
            let (mut ours, mut theirs): (Vec<_>, Vec<_>) = numbered.map(|pair| (pair, pair)).unzip();
            sort_by(&mut ours, |(one, _), (other, _)| one.cmp(other));
            theirs.sort_by_key(|(one, _)| *one);
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn a_long_round_takes_no_longer_than_its_length() {
        let mut turned: Vec<usize> = (1..300_000).chain([0]).collect();
        sort_by(&mut turned, usize::cmp);
        assert!(turned.is_sorted());
    }
}
