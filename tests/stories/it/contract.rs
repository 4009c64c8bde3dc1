//! The contract explains itself: another tool has nothing else to go by.

use std::fs;

use regex::Regex;
use stories::workspace;

/// Ends of names that are units, and words of which one must stand in the comment. Times in microseconds are explained once, at the head.
const UNITS: &[(&str, &str)] = &[
    ("s", "second"),
    ("ms", "millisecond"),
    ("bytes", "byte"),
    ("percent", "percent|%"),
    ("mhz", "MHz"),
    ("mw", "mW|milliwatt"),
    ("mj", "mJ|millijoule"),
    ("c", "°C|Celsius"),
];

#[test]
fn every_field_of_the_contract_is_explained_with_its_unit() {
    let folder = workspace().join("proto/spotter/v1");
    let field = Regex::new(
        r"^(?:repeated |optional )?(?:map<.+>|[\w.]+) ([a-z][a-z0-9_]*) = \d+\s*(?:\[.*\])?;(.*)$",
    )
    .unwrap();
    let value = Regex::new(r"^([A-Z][A-Z0-9_]*) = \d+;(.*)$").unwrap();
    let call = Regex::new(r"^rpc (\w+)\(").unwrap();
    let (mut fields, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("microseconds since the Unix epoch"),
            "{} says once what `_us` counts from",
            path.display()
        );
        let mut comment = String::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with("//") {
                comment.push_str(line);
                continue;
            }
            let found = [&field, &value]
                .into_iter()
                .find_map(|kind| kind.captures(line))
                .map(|found| (found[1].to_owned(), format!("{comment}{}", &found[2])))
                .or_else(|| Some((call.captures(line)?[1].to_owned(), comment.clone())));
            comment.clear();
            let Some((name, told)) = found else { continue };
            fields += 1;
            let told = told.trim_matches(['/', ' ']);
            if told.is_empty() {
                wrong.push(format!("{}: `{name}` has no comment", number + 1));
            }
            let unit = UNITS
                .iter()
                .find(|(end, _)| name.ends_with(&format!("_{end}")));
            if let Some((_, words)) = unit
                && !Regex::new(&format!("(?i){words}")).unwrap().is_match(told)
            {
                wrong.push(format!(
                    "{}: `{name}` does not say {words}: {told}",
                    number + 1
                ));
            }
        }
    }
    assert!(fields > 200, "{fields} fields were found");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
