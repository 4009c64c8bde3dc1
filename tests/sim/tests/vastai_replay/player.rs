//! Plays the recorded log: each command is run, and its request, the request's body as it stood on the wire, and what it printed are held
//! against the line.

use percent_encoding::percent_decode_str;
use spotter_sim::world::SeenRequest;

use crate::support::vastai::{Client, Ran};

/// The log; its own first lines say how it is written.
const LOG: &str = include_str!("log.txt");

/// One command of the log.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub command: String,
    /// `None`: it sends nothing.
    pub request: Option<String>,
    pub body: Option<String>,
    pub prints: Vec<String>,
    pub stdout: Option<String>,
    pub code: i32,
}

/// Numbers by the names that stand for them in the log.
pub type Numbers = Vec<(&'static str, String)>;

/// The commands under a heading.
pub fn lines(heading: &str) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    let mut here = false;
    for text in LOG.lines() {
        if let Some(name) = text.strip_prefix('[') {
            here = name.strip_suffix(']') == Some(heading);
            continue;
        }
        let Some((kind, rest)) = text.split_once(' ').filter(|_| here) else {
            continue;
        };
        let rest = rest.to_owned();
        if kind == "$" {
            found.push(Line {
                command: rest,
                ..Line::default()
            });
            continue;
        }
        if kind == "#" {
            continue;
        }
        let line = found.last_mut().expect("a command comes first");
        match kind {
            ">" if line.request.is_none() => line.request = Some(rest),
            ">" => line.body = Some(rest),
            "<" => line.prints.push(rest),
            "=" => {
                let before = line.stdout.take().map_or(String::new(), |text| text + "\n");
                line.stdout = Some(before + &rest);
            }
            "!" => line.code = rest.parse().unwrap(),
            other => panic!("{other:?} is no mark of a line"),
        }
    }
    assert!(!found.is_empty(), "the log has no heading {heading:?}");
    for line in &found {
        let says = !line.prints.is_empty() || line.stdout.is_some();
        assert!(says, "{}: nothing is said of what it prints", line.command);
    }
    found
}

/// Method, path and query as people write them.
pub fn spoken(seen: &SeenRequest) -> String {
    let query = seen.query.replace('+', " ");
    let query = percent_decode_str(&query).decode_utf8().unwrap();
    match query.is_empty() {
        true => format!("{} {}", seen.method, seen.path),
        false => format!("{} {}?{query}", seen.method, seen.path),
    }
}

/// A text in which numbers stand for names; `"#NAME"`, with its quotes, is the bare number.
fn with_numbers(text: &str, numbers: &Numbers) -> String {
    numbers
        .iter()
        .fold(text.to_owned(), |text, (name, number)| {
            text.replace(&format!("\"#{name}\""), number)
                .replace(name, number)
        })
}

/// JSON without the spaces between its parts: everything else is as it came, the order of keys too.
fn compact(text: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    text.chars()
        .filter(|letter| {
            let kept = quoted || !letter.is_whitespace();
            match letter {
                '"' if !escaped => quoted = !quoted,
                _ => {}
            }
            escaped = *letter == '\\' && !escaped;
            kept
        })
        .collect()
}

/// Runs a command in which names stand for numbers.
pub async fn run(client: &Client<'_>, command: &str, numbers: &Numbers) -> Ran {
    let command = with_numbers(command, numbers);
    let words = shell_words::split(&command).unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    client.run(&words).await
}

/// Plays every command under a heading.
pub async fn play(client: &Client<'_>, heading: &str, numbers: &Numbers) -> Vec<Ran> {
    let mut all = Vec::new();
    let mut wrong = Vec::new();
    for line in lines(heading) {
        let ran = run(client, &line.command, numbers).await;
        wrong.extend(differences(&line, &ran, numbers));
        all.push(ran);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    all
}

/// What a run did otherwise than its line says.
pub fn differences(line: &Line, ran: &Ran, numbers: &Numbers) -> Vec<String> {
    let wanted = |text: &str| with_numbers(text, numbers);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    let made: Vec<String> = ran.seen.iter().map(spoken).collect();
    let mut wrong = Vec::new();
    let mut note = |what: String| wrong.push(format!("{}: {what}\n{said}", line.command));
    match &line.request {
        None if !made.is_empty() => note(format!("it sends {made:#?}")),
        None => {}
        Some(request) => match made.iter().position(|made| *made == wanted(request)) {
            None => note(format!("not {request}, but {made:#?}")),
            Some(place) => {
                let seen = &ran.seen[place];
                let body = line.body.as_deref().map_or(String::new(), wanted);
                let sent = compact(&seen.body_text);
                if sent != compact(&body) {
                    note(format!("its body\n{sent}\nis not\n{body}"));
                }
                if !seen.with_key || seen.user_agent != "vastai-cli/1.9.1" {
                    note(format!("it calls itself {}", seen.user_agent));
                }
            }
        },
    }
    for prints in &line.prints {
        if !said.contains(&wanted(prints)) {
            note(format!("it does not print {prints:?}"));
        }
    }
    if let Some(stdout) = &line.stdout
        && ran.stdout.trim_end_matches('\n') != wanted(stdout)
    {
        note(format!("stdout is not {stdout:?}"));
    }
    if ran.code != line.code {
        note(format!(
            "it exits with {} instead of {}",
            ran.code, line.code
        ));
    }
    wrong
}
