//! The screen as people see it, at the sizes that they have.

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    lookout::facts::{Facts, Reach},
    top::{examples, model},
};

fn shown(runs: &[&Facts], screen: &Screen, size: (u16, u16)) -> String {
    let now_us = examples::NOW_US;
    let rows: Vec<ListRow> = runs
        .iter()
        .map(|facts| model::list_row(facts, now_us))
        .collect();
    let facts = runs.iter().find(|facts| facts.recorded.name == screen.run);
    let view = facts.map(|facts| model::view(facts, now_us));
    let lines = |pane: Pane| {
        let filter = if pane == screen.pane {
            screen.filter.as_str()
        } else {
            ""
        };
        facts.map_or_else(Vec::new, |facts| model::lines(facts, pane, filter))
    };
    let clock = model::clock(now_us);
    let scene = Scene {
        screen,
        clock: &clock,
        rows: &rows,
        view: view.as_ref(),
        lines: &lines,
    };
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal
        .draw(|frame| {
            let area = frame.area();
            draw(frame.buffer_mut(), area, &scene, false);
        })
        .unwrap();
    terminal.backend().to_string()
}

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (140, 40);

#[test]
fn a_training_is_seen_whole_on_the_smallest_terminal_and_on_a_large_one() {
    let facts = examples::live(2);
    let screen = Screen::new("llama-7b", false);
    insta::assert_snapshot!("live_80x24", shown(&[&facts], &screen, SMALL));
    insta::assert_snapshot!("live_140x40", shown(&[&facts], &screen, LARGE));
}

#[test]
fn eight_gpus_and_what_is_wrong_fit_on_the_smallest_terminal() {
    let mut facts = examples::live(8);
    let mut sample = facts.live.sample.clone().unwrap();
    sample.gpus[3].last_xid = 79;
    facts.live.sample = Some(sample);
    facts.recorded.alerts = vec![
        "the backup is behind: a finished checkpoint has waited 601 s (step-20.pt: access denied)"
            .to_owned(),
        "nobody watches: an interruption is not recovered until `spotter up llama-7b`".to_owned(),
    ];
    facts.recorded.watched = false;
    let mut screen = Screen::new("llama-7b", false);
    screen.pane = Pane::Events;
    insta::assert_snapshot!("eight_80x24", shown(&[&facts], &screen, SMALL));
}

#[test]
fn windows_are_told_with_what_contradicts_them() {
    let facts = examples::live(1);
    let mut screen = Screen::new("llama-7b", false);
    screen.pane = Pane::Windows;
    let text = shown(&[&facts], &screen, SMALL);
    insta::assert_snapshot!("windows_80x24", text);
}

#[test]
fn a_run_that_is_over_says_how_old_all_of_it_is() {
    let facts = examples::over();
    let text = shown(&[&facts], &Screen::new("small", false), SMALL);
    assert!(text.contains("from the record: 3d0h old"), "{text}");
    insta::assert_snapshot!("over_80x24", text);
    let mut facts = examples::live(1);
    facts.reach = Reach::Lost {
        since_us: examples::NOW_US - 42_000_000,
        why: "timed out".to_owned(),
    };
    let text = shown(&[&facts], &Screen::new("llama-7b", false), LARGE);
    assert!(text.contains("! no link for 42s"), "{text}");
}

#[test]
fn all_runs_are_a_list_with_what_is_wrong_with_the_marked_one() {
    let (one, mut two, three) = (examples::live(1), examples::live(4), examples::over());
    two.recorded.name = "a-run-with-quite-a-long-name".to_owned();
    two.recorded.alerts = vec!["the backup is behind: it has waited 601 s".to_owned()];
    let screen = Screen::new("a-run-with-quite-a-long-name", true);
    insta::assert_snapshot!("list_80x24", shown(&[&one, &two, &three], &screen, SMALL));
    insta::assert_snapshot!("list_140x40", shown(&[&one, &two, &three], &screen, LARGE));
    let nothing = shown(&[], &Screen::new("", true), SMALL);
    assert!(nothing.contains("no runs so far"), "{nothing}");
}

#[test]
fn a_marked_line_is_in_sight_and_a_filter_says_how_many_are_left() {
    let facts = examples::live(1);
    let mut screen = Screen::new("llama-7b", false);
    screen.filter = "step 7".to_owned();
    let lines = model::lines(&facts, Pane::Log, &screen.filter);
    assert!(lines.len() > 100 && lines.iter().all(|line| line.text.contains("step 7")));
    for at in [0, 1, 50, lines.len() - 2] {
        screen.cursor = Some(lines[at].id);
        let text = shown(&[&facts], &screen, SMALL);
        // The scale of the screen cuts the line.
        let wanted: String = lines[at].text.chars().take(60).collect();
        assert!(text.contains(&wanted), "{at}: {wanted}\n{text}");
        assert!(text.contains("filter `step 7`: 111 lines"), "{text}");
    }
}

#[test]
fn a_screen_that_is_too_small_says_so_and_none_is_drawn_outside() {
    let facts = examples::live(8);
    let mut screen = Screen::new("llama-7b", false);
    let tiny = shown(&[&facts], &screen, (40, 10));
    assert!(tiny.contains("too small: 40 x 10, needs 60 x 16"), "{tiny}");
    // Every size that there may be, and every pane: nothing breaks.
    for width in [1, 20, 60, 61, 80, 109, 110, 200, 300] {
        for height in [1, 2, 16, 17, 24, 30, 50, 100] {
            for pane in Pane::ALL {
                (screen.pane, screen.list) = (pane, false);
                shown(&[&facts], &screen, (width, height));
                screen.list = true;
                shown(&[&facts], &screen, (width, height));
            }
        }
    }
    screen.help = true;
    let help = shown(&[&facts], &screen, SMALL);
    insta::assert_snapshot!("help_80x24", help);
}

#[test]
fn what_matters_is_said_without_colour_and_colours_are_no_pair_of_red_and_green() {
    let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 24));
    for tone in [Tone::Plain, Tone::Dim, Tone::Warn, Tone::Bad] {
        for colour in [true, false] {
            let canvas = Canvas {
                buffer: &mut buffer,
                colour,
            };
            let style = canvas.style(tone);
            for ink in [style.fg, style.bg, canvas.ink().fg].into_iter().flatten() {
                assert!(colour, "{tone:?}");
                assert!(
                    matches!(ink, Color::Yellow | Color::Cyan | Color::Black),
                    "{ink:?}"
                );
            }
        }
    }
}
