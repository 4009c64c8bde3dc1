//! What opens, and everything that does not.

use proptest::prelude::*;

use super::*;

const ID: &str = "000000000012-01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn file(path: &str) -> ManifestFile {
    ManifestFile {
        path: path.to_owned(),
        mode: 0o644,
        mtime_ns: 1_700_000_000_123_456_789,
        size_bytes: 5,
        blake3: blake3::hash(b"hello").to_hex().to_string(),
        key: format!(
            "pre/run/data/{ID}/{}",
            if path.is_empty() { "ckpt.pt" } else { path }
        ),
        part_size_bytes: 0,
        parts: Vec::new(),
    }
}

fn manifest(files: Vec<ManifestFile>) -> Manifest {
    Manifest {
        v: FORMAT,
        id: ID.to_owned(),
        run: "run".to_owned(),
        attempt: 1,
        step: Some(12),
        rule: "generic".to_owned(),
        path: "checkpoint-12".to_owned(),
        directory: true,
        committed_us: 1,
        server_us: 2,
        prev: None,
        metric: None,
        files,
        encoding: None,
        self_blake3: String::new(),
    }
}

/// Seals a manifest after `spoil` and says whether it opens.
fn opens(spoil: impl FnOnce(&mut Manifest)) -> Result<Manifest, ManifestError> {
    let mut manifest = manifest(vec![file("b/c"), file("a")]);
    spoil(&mut manifest);
    Manifest::open(&manifest.seal())
}

#[test]
fn what_was_sealed_opens_again_with_its_files_sorted() {
    let opened = opens(|_| {}).unwrap();
    assert_eq!(
        opened
            .files
            .iter()
            .map(|file| file.path.as_str())
            .collect::<Vec<_>>(),
        ["a", "b/c"]
    );
    assert_eq!(opened.total_bytes(), 10);
}

#[test]
fn the_canonical_bytes_never_change() {
    // A changed hash here means that every manifest in every bucket has become unreadable.
    let bytes = manifest(vec![file("a")]).seal();
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(text.starts_with(r#"{"v":1,"id":"000000000012-01ARZ3NDEKTSV4RRFFQ69G5FAV","run":"run","attempt":1,"step":12,"#), "{text}");
    assert!(!text.contains("encoding"), "{text}");
    assert_eq!(
        blake3::hash(&bytes).to_hex().as_str(),
        "903fcc05cd80ffa1623b14d74a43b2ae5ddfaedadece843ae4921d6a9d164669"
    );
}

#[test]
fn a_metric_is_a_finite_number_of_the_newer_format() {
    let with = |v: u32, name: &str, value: &str| {
        opens(|m| {
            m.v = v;
            m.metric = Some(Metric {
                name: name.to_owned(),
                value: value.to_owned(),
            });
        })
    };
    for value in [2.5, -1e-300, 1e300, 0.1 + 0.2, 3.0] {
        let metric = Metric::new("val_loss", value).unwrap();
        let opened = with(FORMAT_WITH_METRIC, &metric.name, &metric.value).unwrap();
        assert_eq!(opened.metric.unwrap().value(), value);
    }
    assert_eq!(Metric::new("val_loss", f64::NAN), None);
    for (v, name, value) in [
        (FORMAT, "val_loss", "2.5"),
        (FORMAT_WITH_METRIC, "", "2.5"),
        (FORMAT_WITH_METRIC, "val_loss", "2.50"),
        (FORMAT_WITH_METRIC, "val_loss", "NaN"),
        (FORMAT_WITH_METRIC, "val_loss", "inf"),
        (FORMAT_WITH_METRIC, "val_loss", ""),
        (FORMAT_WITH_METRIC, "\u{1b}[2J", "2.5"),
    ] {
        assert!(with(v, name, value).is_err(), "{v} {name} {value}");
    }
    assert!(opens(|m| m.v = FORMAT_WITH_METRIC).is_ok());
    let newer = with(4, "val_loss", "2.5").unwrap_err();
    assert!(matches!(newer, ManifestError::Version(4)), "{newer}");
}

#[test]
fn a_single_file_has_an_empty_path() {
    assert!(opens(|m| (m.directory, m.files) = (false, vec![file("")])).is_ok());
    assert!(opens(|m| m.directory = false).is_err());
    assert!(opens(|m| m.files = vec![file("")]).is_err());
}

#[test]
fn names_that_lead_elsewhere_are_refused_even_with_a_right_hash() {
    for path in [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "a\0",
        "./a",
        "a/",
    ] {
        let err = opens(|m| m.files[0].path = path.to_owned()).unwrap_err();
        assert!(matches!(err, ManifestError::Name(_)), "{path}: {err:?}");
    }
    for key in [
        "",
        "/x",
        "other/data/x",
        "pre/run/commits/x",
        "pre/run/data/../x",
        "run",
    ] {
        assert!(opens(|m| m.files[0].key = key.to_owned()).is_err(), "{key}");
    }
    assert!(opens(|m| m.path = "../..".to_owned()).is_err());
    assert!(opens(|m| m.run = "a/b".to_owned()).is_err());
}

#[test]
fn contradictions_are_refused() {
    assert!(opens(|m| m.files[1].path = m.files[0].path.clone()).is_err());
    assert!(
        opens(|m| m.files[1].path = "b".to_owned()).is_err(),
        "file and directory"
    );
    assert!(opens(|m| m.id = "12".to_owned()).is_err());
    assert!(opens(|m| m.step = Some(13)).is_err());
    assert!(opens(|m| m.prev = Some("x".to_owned())).is_err());
    assert!(opens(|m| m.encoding = Some("zstd".to_owned())).is_err());
    assert!(opens(|m| m.files[0].mode = 0o100_644).is_err());
    assert!(opens(|m| m.files[0].blake3.push('0')).is_err());
    assert!(
        opens(|m| m.files[0].part_size_bytes = 3).is_err(),
        "two parts, no hashes"
    );
    assert!(
        opens(|m| {
            m.files[0].part_size_bytes = 3;
            m.files[0].parts = vec![m.files[0].blake3.clone(); 2];
        })
        .is_ok()
    );
}

#[test]
fn parts_that_are_subtrees_make_the_files_hash_in_the_newest_format() {
    let bytes = [7_u8; 2500];
    let part = |at: usize, size: usize| {
        let mut hasher = hashes::RangeHasher::part(at as u64);
        hasher.update(&bytes[at..(at + size).min(bytes.len())]);
        hasher.finish()
    };
    let parts: Vec<String> = (0..3).map(|number| part(number * 1024, 1024)).collect();
    let with = |v: u32, part_size_bytes: u64, parts: &[String]| {
        opens(|m| {
            m.v = v;
            let file = &mut m.files[0];
            file.size_bytes = 2500;
            file.blake3 = blake3::hash(&bytes).to_hex().to_string();
            (file.part_size_bytes, file.parts) = (part_size_bytes, parts.to_vec());
        })
    };
    let opened = with(FORMAT_WITH_SUBTREES, 1024, &parts).unwrap();
    assert_eq!(Manifest::format(None, &opened.files), FORMAT_WITH_SUBTREES);
    assert!(with(FORMAT_WITH_METRIC, 1024, &parts).is_err());
    assert!(
        with(FORMAT_WITH_SUBTREES, 1000, &parts).is_err(),
        "no subtrees"
    );
    let mut mixed = parts.clone();
    mixed[1] = blake3::hash(&bytes[1024..2048]).to_hex().to_string();
    assert!(with(FORMAT_WITH_SUBTREES, 1024, &mixed).is_err());
    let mut swapped = parts;
    swapped.swap(0, 1);
    assert!(with(FORMAT_WITH_SUBTREES, 1024, &swapped).is_err());
    assert!(opens(|m| m.files[0].blake3.insert_str(0, "tree-")).is_err());
}

#[test]
fn a_newer_format_is_named_as_such() {
    assert!(matches!(opens(|m| m.v = 4), Err(ManifestError::Version(4))));
    assert!(matches!(
        Manifest::open(br#"{"v":7,"all":"else differs"}"#),
        Err(ManifestError::Version(7))
    ));
    assert!(matches!(Manifest::open(b""), Err(ManifestError::Json(_))));
}

proptest! {
    #[test]
    fn any_changed_byte_is_noticed(at in 0_usize..10_000, value in any::<u8>()) {
        let mut bytes = manifest(vec![file("b/c"), file("a")]).seal().to_vec();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != value);
        bytes[at] = value;
        prop_assert!(Manifest::open(&bytes).is_err());
    }

    #[test]
    fn any_cut_or_addition_is_noticed(cut in 0_usize..10_000, tail in proptest::collection::vec(any::<u8>(), 1..20)) {
        let bytes = manifest(vec![file("a")]).seal().to_vec();
        prop_assert!(Manifest::open(&bytes[..cut % bytes.len()]).is_err());
        prop_assert!(Manifest::open(&[bytes.as_slice(), tail.as_slice()].concat()).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Manifest::open(&bytes).is_err());
    }

    #[test]
    fn whatever_opens_stays_inside(path in "[a-c./\\x00]{0,12}") {
        if let Ok(opened) = opens(|m| m.files[0].path = path.clone()) {
            for file in &opened.files {
                let inside = std::path::Path::new(&file.path)
                    .components()
                    .all(|component| matches!(component, std::path::Component::Normal(_)));
                prop_assert!(inside && !file.path.contains('\0'), "{:?}", file.path);
            }
        }
    }
}
