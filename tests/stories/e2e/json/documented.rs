//! What `controller/docs/json.md` promises: its sections, and that each name in them is tried or known to be no key.

use std::collections::BTreeSet;

use super::{AFTERWARDS, ENDED, INTERRUPTION, LOSSES, ON_DEMAND, WAITING, WHILE_IT_RUNS};

/// Names in a section that are none of the keys that are tried here: values, keys of the run file and of other sections, and keys of
/// what does not come about in this story, such as a closed window or damage.
const NO_KEYS: &[(&str, &str)] = &[
    ("offers", "plan"),
    (
        "plan",
        "calibrated playbook interruptible med fits tight observation factor as_is",
    ),
    (
        "ps",
        "waiting failure_class parse id whole_id whole_step how text ended_us billing running disk nothing finished failed stopped interrupted",
    ),
    (
        "events",
        "agent spotter window from_us to_us samples gpu_utilisation_percent memory_percent memory_peak_gib memory_total_gib \
         tokens_per_s step_time_s eta_s eta_shift_s step steps loss actual_tokens_per_s predicted_tokens_per_s of_predicted \
         waiting_share gpu_spread_percent cpu_share network_mb_per_s log_kb_per_s bottleneck class evidence contradictions trigger \
         grave throughput gpu_idle memory metric by max_runtime no_progress contradiction backup reason fit largest_bytes \
         free_bytes full_in_s there kept behind box_wiped box_not_wiped ended outcome \
         events_gap results_fetched files size_bytes from to budget way_chosen way wait bid move text hours ways usd usd_per_hour delay_hours easy_hours delay_usd restore_hours stop_requested box_stopped box_destroyed instance \
         planned plan status checkpoint last_step uploads_wait old_box_kept old_box_let_go path storage_usd_per_hour \
         bring_up_failed bring_up_paused up container_log keys_on_disk copied_from_sibling kib rebooted bill_doubtful charged_usd metered_usd prepay_asked prepaid prepay_failed months discount box_silent since_us heard_us lost interrupted box_heard silent_s resume to_come \
         not_saved what no_answer refused fault here next problem where skipped \
         io_pressure_percent disk_blocked_share disk_read_mb_per_s self_stopped how unsaved_bytes destroyed kept_because on_done destroy self_stop \
         self_destroy notified line_measured up_mbps down_mbps own_server",
    ),
    (
        ENDED,
        "run up resume stop wait status ps events metrics limits session class failure_class parse evidence line meaning advice path",
    ),
    ("checklist", "done not_yet does_not_apply unknown"),
    (
        "cost",
        "hours usd measured optimistic base pessimistic volume machine_id size_gb",
    ),
    (
        "history",
        "add edit trained smoked typed imported workdir removed added known forgiven since_us until_us avoided reason",
    ),
    ("wait", "status"),
    ("metrics", "host_"),
    ("report", "html markdown ps"),
    (
        "checkpoints",
        "name value by since_us why show verify damage missing size expected_bytes found_bytes altered from_byte to_byte pull push pin unpin \
         prune diff added removed changed same",
    ),
    ("destroy", "checkpoint result log steps"),
    (
        "parse",
        "train bar eval failure none cuda_oom host_oom nccl disk_full driver_mismatch unsupported_gpu dataloader_shm xid \
         device_assert nan_loss network missing_module corrupt_checkpoint preempted traceback_other exit_code killed",
    ),
    ("gc", "claimed orphan volume machine_id size_gb"),
];

#[test]
fn every_name_that_the_documentation_has_is_tried_or_known_to_be_no_key() {
    let documented =
        std::fs::read_to_string(stories::workspace().join("controller/docs/json.md")).unwrap();
    let cases = WHILE_IT_RUNS.iter().chain(AFTERWARDS).chain(ON_DEMAND);
    let tried = cases.flat_map(|case| case.keys.iter().map(|(_, keys)| (case.section, *keys)));
    let elsewhere = [
        (ENDED, INTERRUPTION),
        (ENDED, WAITING),
        ("destroy", LOSSES.0),
        ("destroy", LOSSES.1),
    ];
    let known: BTreeSet<(String, &str)> = tried
        .chain(elsewhere)
        .chain(NO_KEYS.iter().copied())
        .flat_map(|(section, keys)| {
            let section = section.replace(' ', "");
            keys.split_whitespace()
                .map(move |key| (section.clone(), key))
        })
        .collect();
    let mut missing: Vec<(String, &str)> = Vec::new();
    let mut there = BTreeSet::new();
    let headings = documented.lines().filter(|line| line.starts_with("##"));
    for heading in headings.map(plain_heading) {
        for name in names(section(&documented, &heading)) {
            let name = (heading.clone(), name);
            if !known.contains(&name) {
                missing.push(name.clone());
            }
            there.insert(name);
        }
    }
    assert!(there.len() > 300, "{}", there.len());
    assert!(missing.is_empty(), "tried nowhere: {missing:?}");
    for (section, keys) in NO_KEYS {
        for key in keys.split_whitespace() {
            let name = (section.replace(' ', ""), key);
            assert!(there.contains(&name), "{name:?} is not documented any more");
        }
    }
}

/// Names in a text that could be keys: what stands alone in backticks, and what is quoted between them.
fn names(text: &str) -> Vec<&str> {
    let is_name = |word: &&str| {
        **word != *"null"
            && word.starts_with(|first: char| first.is_ascii_lowercase())
            && word
                .chars()
                .all(|char| matches!(char, 'a'..='z' | '0'..='9' | '_'))
    };
    let spans = text.split('`').skip(1).step_by(2);
    spans
        .flat_map(|span| match is_name(&span) {
            true => vec![span],
            false => span.split('"').skip(1).step_by(2).filter(is_name).collect(),
        })
        .collect()
}

fn plain_heading(line: &str) -> String {
    line.trim_start_matches('#').replace(['`', ' '], "")
}

/// Text of a section, by the verbs in its heading.
pub(super) fn section<'a>(documented: &'a str, heading: &str) -> &'a str {
    let wanted = heading.replace(' ', "");
    let mut at = 0;
    for line in documented.split_inclusive('\n') {
        at += line.len();
        if line.starts_with('#') && plain_heading(line.trim_end()) == wanted {
            let rest = &documented[at..];
            return rest.split("\n#").next().unwrap();
        }
    }
    panic!("there is no section `{heading}`");
}
