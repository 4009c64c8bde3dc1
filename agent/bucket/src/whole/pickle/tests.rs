//! Pickles as Python writes them, and bytes that are none.

use proptest::prelude::*;

use super::*;

/// `{"a": [1, (2, -3)], "b": collections.OrderedDict(x=7)}` as Python's protocol 2 writes it.
const SAMPLE: &[u8] = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01K\x02J\xfd\xff\xff\xff\x86q\x03eX\x01\x00\x00\x00bq\x04\
    ccollections\nOrderedDict\nq\x05)Rq\x06X\x01\x00\x00\x00xq\x07K\x07su.";

#[test]
fn numbers_texts_and_containers_are_read() {
    let pickle = load(SAMPLE).unwrap();
    assert_eq!(pickle.length, SAMPLE.len());
    let Node::Sequence(list) = pickle.node(pickle.get(pickle.root, "a").unwrap()) else {
        panic!("no list");
    };
    assert_eq!(pickle.number(list[0]), Some(1));
    let Node::Sequence(pair) = pickle.node(list[1]) else {
        panic!("no tuple");
    };
    assert_eq!(pickle.node(pair[1]), &Node::Int(-3));
    let Node::Object { class, state, .. } = pickle.node(pickle.get(pickle.root, "b").unwrap())
    else {
        panic!("no object");
    };
    assert!(pickle.is_class(*class, "OrderedDict"));
    let filled = pickle.get(state.unwrap(), "x").unwrap();
    assert_eq!(pickle.number(filled), Some(7));
}

#[test]
fn no_beginning_of_a_pickle_is_a_pickle() {
    for length in 0..SAMPLE.len() {
        assert_eq!(
            load(&SAMPLE[..length]).unwrap_err(),
            PickleError::Truncated,
            "cut at {length}"
        );
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let huge = b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.";
    assert_eq!(load(huge).unwrap_err(), PickleError::Truncated);
    assert_eq!(
        load(b"\x80\x02K\x01r\xff\xff\xff\xff.").unwrap_err(),
        PickleError::Unknown
    );
    assert_eq!(load(b"\x80\x02h\x05.").unwrap_err(), PickleError::Unknown);
    assert_eq!(load(b"hello").unwrap_err(), PickleError::Unknown);
}

proptest! {
    #[test]
    fn nothing_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = load(&bytes);
    }

    #[test]
    fn a_damaged_pickle_never_makes_the_reader_panic(place in 0..SAMPLE.len(), value in any::<u8>()) {
        let mut bytes = SAMPLE.to_vec();
        bytes[place] = value;
        let _ = load(&bytes);
    }
}
