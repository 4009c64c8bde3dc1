//! Verbs and what `controller/docs/json.md` promises of each: the table that [`super`] tries.

/// How much JSON a verb prints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One value on one line.
    One,
    /// One value per line.
    Lines,
}

/// A verb, and what is promised of it.
pub(super) struct Case {
    pub(super) args: &'static str,
    pub(super) form: Form,
    /// Heading of the section in the documentation, without its marks.
    pub(super) section: &'static str,
    /// Where the object (or the list of objects) lies that has the keys, as a JSON pointer; and the keys. There is at least one, but
    /// for a pointer that ends with `?`: there may be none.
    pub(super) keys: &'static [(&'static str, &'static str)],
}

const fn one(
    args: &'static str,
    section: &'static str,
    keys: &'static [(&'static str, &'static str)],
) -> Case {
    Case {
        args,
        form: Form::One,
        section,
        keys,
    }
}

const fn lines(
    args: &'static str,
    section: &'static str,
    keys: &'static [(&'static str, &'static str)],
) -> Case {
    Case {
        args,
        form: Form::Lines,
        section,
        keys,
    }
}

const OFFER: &str = "id machine_id gpu_name num_gpus vram_mib ram_mb cpu_cores disk_gb running_usd_per_hour stopped_usd_per_hour \
    gpu_usd_per_hour storage_usd_per_hour min_bid_usd_per_hour inet_down_mbps inet_up_mbps inet_down_usd_per_gb inet_up_usd_per_gb \
    reliability verified datacenter geolocation cuda compute_cap nvlink_gbps direct_ports max_duration_s go blockers outlook risks";
const PLAN: &str = "run gpu num_gpus disk_gb rental max_price_usd_per_hour budget_usd checkpoints_to model method go offers products too_dear \
    setup_hours setup_measured history optimizations rental_advice probe gates";
const PLANNED: &str = "offer machine_id gpu num_gpus geolocation reliability vram_gib ram_gb tensor_tflops memory_gb_per_s \
    bid_usd_per_hour running_usd_per_hour stopped_usd_per_hour budget_hours avoided go lacks blockers effort risks outlook";
const SUMMARY: &str = "name state outcome reason training_end step attempts steps_redone interruptions steps_lost checkpoints_committed \
    checkpoints_kept last_checkpoint_step newest_damaged cost_usd unbilled_traffic_usd ledger_usd charged_usd usd_per_hour watched";
const STATUS: &str = "backup_alarm refused waits_on_box unsaved rare_checkpoints window contradiction warnings waiting way_on plan agent market last_word_us";
const KEPT_PLAN: &str = "needed no_plan dares offer gpu num_gpus running_usd_per_hour at_most_hours at_most_usd checks forecast gates \
    blockers hardware_justified";
const ATTEMPT: &str = "number state instance gpu gpu_usd_per_hour from_step to_step steps_redone steps_lost checkpoints_committed \
    ledger charged reason diagnosis";
/// Tried where a box is taken back.
pub const INTERRUPTION: &str =
    "attempt time_us reason step saved_step resumed_by resumed_step steps_lost at_least";
/// Tried where a box is waited for.
pub const WAITING: &str =
    "instance since_us until_us bid_usd_per_hour ceiling_usd_per_hour storage_usd_per_hour why";
const MONEY: &str = "gpu_usd disk_usd bandwidth_usd";
const RUNS: &str = "run created_us state outcome reason stop_requested attempt instance gpu num_gpus rental step usd_per_hour cost_usd unbilled_traffic_usd \
    saved_step saved_us newest_damaged unsaved backup_alarm refused contradiction training_end ended_by market watched_by_pid silent_since_us last_word_us";
const OBSERVATION: &str = "id edited source run attempt observed_us code model gpu num_gpus machine_id tokens_per_s steps_per_s \
    predicted_tokens_per_s gpu_utilisation_percent peak_vram_gib peak_ram_gb setup_s debug_s trained_s down_mbps up_mbps \
    advertised_down_mbps advertised_up_mbps note";
pub(super) const ENDED: &str = "status, run, up, resume, stop";

/// While the training runs, in this order.
pub(super) const WHILE_IT_RUNS: &[Case] = &[
    one("init other.yaml --name other", "init", &[("", "file name")]),
    one(
        "offers --gpus any",
        "offers",
        &[("", "offers"), ("/offers", OFFER)],
    ),
    one(
        "volumes offers --size 50GB",
        "volumes",
        &[
            ("", "offers"),
            (
                "/offers",
                "id machine_id free_gb usd_per_hour reliability inet_down_mbps disk_mb_per_s geolocation",
            ),
        ],
    ),
    one(
        "volumes rent 36941860 --size 50GB --name data --yes",
        "volumes",
        &[("", "id name machine_id size_gb usd_per_hour")],
    ),
    one(
        "volumes",
        "volumes",
        &[
            ("", "volumes usd_per_hour"),
            (
                "/volumes",
                "id name machine_id size_gb instances in_use usd_per_hour start_s",
            ),
        ],
    ),
    one("volumes rm 20118481 --yes", "volumes", &[("", "removed")]),
    one(
        "plan json.yaml",
        "plan",
        &[
            ("", PLAN),
            ("/offers", PLANNED),
            ("/rental_advice?", "advice why"),
            ("/gates?", "what expect abort"),
        ],
    ),
    one(
        "plan model.yaml",
        "plan",
        &[
            ("", PLAN),
            ("/offers", PLANNED),
            ("/rental_advice", "advice why"),
            (
                "/probe",
                "here_usd probe_usd probe_first probe_usd_per_hour",
            ),
            ("/gates", "what expect abort"),
            (
                "/offers/0/outlook",
                "checks peak_vram_gib forecast other blockers",
            ),
            (
                "/offers/0/outlook/checks",
                "what needs safe_up_to risky_up_to has unit verdict detail",
            ),
            ("/offers/0/outlook/peak_vram_gib", "low base high"),
            (
                "/offers/0/outlook/forecast",
                "method baseline tokens_per_s train_hours wall_hours cost_usd setup_tax",
            ),
            ("/offers/0/outlook/forecast/tokens_per_s", "low base high"),
            (
                "/offers/0/outlook/forecast/cost_usd",
                "optimistic base pessimistic",
            ),
        ],
    ),
    one(
        "plan --evaluate published.tsv",
        "plan --evaluate",
        &[
            ("", "method rows summary"),
            (
                "/rows",
                "id source gpu not_predicted tokens_per_s tokens_per_s_per_gpu hours gpu_hours peak_vram_gib error in_range \
                 doubtful_memory verdicts",
            ),
            (
                "/summary",
                "rows not_predicted error tokens_per_s hours peak_vram transfer verdicts",
            ),
            (
                "/rows/0/tokens_per_s?",
                "low predicted high actual error in_range",
            ),
            ("/rows/0/verdicts", "card_gb verdict fits"),
            ("/summary/tokens_per_s", "rows median p90 coverage"),
            (
                "/summary/verdicts",
                "pairs fits tight does_not_fit false_fits false_does_not_fit false_fits_share false_does_not_fit_share \
                 not_said_to_fit_share",
            ),
        ],
    ),
    one(
        "ps",
        "ps",
        &[
            ("", "runs"),
            ("/runs", RUNS),
            ("/runs/0/market", "news usd_per_hour acts"),
        ],
    ),
    one(
        "events json",
        "events",
        &[
            ("", "run events"),
            ("/events", "id attempt origin seq time_us kind detail"),
        ],
    ),
    one(
        "status json",
        ENDED,
        &[
            ("", SUMMARY),
            ("", STATUS),
            ("/attempts", ATTEMPT),
            ("/attempts/0/ledger", MONEY),
            ("/plan", KEPT_PLAN),
            ("/agent", "sample"),
        ],
    ),
    one(
        "status --recorded json",
        ENDED,
        &[("", SUMMARY), ("", STATUS)],
    ),
    one(
        "checklist json",
        "checklist",
        &[
            ("", "run file wrong lines"),
            ("/lines", "section id what state evidence at_us next"),
        ],
    ),
    one(
        "cost json",
        "cost",
        &[
            (
                "",
                "credit_usd credit_hours usd_per_hour total_usd billed_usd reckoned_usd unbilled_traffic_usd runs volumes",
            ),
            (
                "/runs",
                "run outcome usd_per_hour cost total_usd unused_prepaid_usd billed_usd reckoned_usd unbilled_traffic_usd budget_usd budget_hours to_come attempts",
            ),
            (
                "/runs/0/attempts",
                "attempt state instance gpu usd_per_hour stopped_but_paid ledger charged charged_is_final billed_usd reckoned_usd unbilled_traffic_usd \
                 difference_usd",
            ),
            ("/runs/0/cost", MONEY),
        ],
    ),
    one(
        "bid --over-limits json 0.9",
        "bid",
        &[(
            "",
            "run attempt instance old_usd_per_hour new_usd_per_hour running_usd_per_hour",
        )],
    ),
    one(
        "accept json",
        "accept",
        &[("", "run attempt contradiction")],
    ),
    lines(
        "logs json",
        "logs",
        &[
            ("", "run attempt session position gap_bytes text"),
            ("/position?", "generation offset"),
        ],
    ),
    lines(
        "metrics json",
        "metrics",
        &[
            ("", "run attempt time_us span_s gpus host processes"),
            ("/processes?", "pid name cpu_percent memory_bytes"),
        ],
    ),
    one(
        "checkpoints json",
        "checkpoints",
        &[(
            "",
            "id step attempt committed_us size_bytes files path pinned damaged metric",
        )],
    ),
    one(
        "checkpoints ls json",
        "checkpoints",
        &[(
            "",
            "id step attempt committed_us size_bytes files path pinned damaged metric",
        )],
    ),
    one(
        "checkpoints show json ID",
        "checkpoints",
        &[
            (
                "",
                "id step attempt committed_us rule path prev metric damaged size_bytes files",
            ),
            ("/files", "path size_bytes mode mtime_ns blake3 key shared"),
        ],
    ),
    one(
        "checkpoints verify json",
        "checkpoints",
        &[
            ("", "whole checkpoints"),
            ("/checkpoints", "id step size_bytes commit files"),
        ],
    ),
    one(
        "checkpoints pull json ID --to pulled",
        "checkpoints",
        &[(
            "",
            "id step path size_bytes fetched_bytes reused_bytes skipped",
        )],
    ),
    one(
        "checkpoints pin json ID",
        "checkpoints",
        &[("", "id pinned")],
    ),
    one(
        "checkpoints diff json ID",
        "checkpoints",
        &[
            ("", "before after files"),
            ("/files", "path change before_bytes after_bytes"),
        ],
    ),
    one(
        "checkpoints unpin json ID",
        "checkpoints",
        &[("", "id pinned")],
    ),
    one(
        "fetch json train.sh --to fetched",
        "fetch",
        &[("", "path size_bytes blake3 to")],
    ),
    lines(
        "parse printed.log",
        "parse",
        &[(
            "",
            "line kind step total_steps epoch loss eval_loss lr grad_norm throughput throughput_unit eta",
        )],
    ),
    lines(
        "parse failed.log",
        "parse",
        &[("", "kind failure_class line evidence meaning advice")],
    ),
    one(
        "parse --summary printed.log",
        "parse --summary",
        &[(
            "",
            "step_records raw_records bar_updates first_step last_step total_steps last_epoch last_loss last_lr last_throughput \
             throughput_unit last_eta failure_class",
        )],
    ),
    one(
        "doctor bucket json.yaml --policy",
        "doctor bucket",
        &[("", "provider policy how")],
    ),
    one(
        "doctor bucket json.yaml",
        "doctor bucket",
        &[
            (
                "",
                "target endpoint region provider keys_from access_key_id ok checks clock_offset_s missing missing_policy policy \
                 left_behind",
            ),
            ("/checks", "name ok required status code detail"),
        ],
    ),
    one(
        "gc --dry-run",
        "gc",
        &[
            ("", "instances volumes"),
            (
                "/instances",
                "instance label owner age_s usd_per_hour destroyed",
            ),
        ],
    ),
    one("attach json", "attach, ssh", &[("", "run argv")]),
    one("ssh json", "attach, ssh", &[("", "run argv")]),
    one("ssh --config", "attach, ssh", &[("", "config_line")]),
    one("stop json", ENDED, &[("", SUMMARY), ("/attempts", ATTEMPT)]),
];

/// After it was stopped, its box kept on its disk.
pub(super) const AFTERWARDS: &[Case] = &[
    one(
        "wait json",
        "wait",
        &[(
            "",
            "run outcome reason diagnosis interruptions steps_lost error usd_per_hour",
        )],
    ),
    one(
        "checkpoints push json step-900.txt",
        "checkpoints",
        &[("", "id step path size_bytes files reused_bytes")],
    ),
    one(
        "checkpoints prune json --keep-last 2",
        "checkpoints",
        &[
            (
                "",
                "dry_run deleted purged waiting orphans orphan_bytes aborted_uploads newer",
            ),
            ("/deleted", "id step size_bytes"),
            ("/purged?", "id objects size_bytes"),
            ("/waiting", "id due_us"),
        ],
    ),
    one(
        "history",
        "history",
        &[("", "observations"), ("/observations", OBSERVATION)],
    ),
    one("history machines", "history", &[("", "machines")]),
    one(
        "destroy --lose-data json",
        "destroy",
        &[("", "run attempt instance")],
    ),
    one(
        "report json",
        "report",
        &[(
            "",
            "run path format state outcome training_end step total_steps last_loss last_loss_step attempts interruptions steps_lost wall_hours trained_hours \
             silent_hours cost_usd unbilled_traffic_usd usd_per_hour tokens_per_s gpu_utilisation_percent energy_kwh predicted_wall_hours predicted_train_hours \
             predicted_cost_usd predicted_tokens_per_s measured_until_us",
        )],
    ),
    lines(
        "metrics --recorded json",
        "metrics",
        &[("", "run attempt time_us span_s gpus host processes")],
    ),
    one(
        "resume --elsewhere json",
        ENDED,
        &[("", SUMMARY), ("/attempts", ATTEMPT)],
    ),
    one("up json", ENDED, &[("", SUMMARY), ("/attempts", ATTEMPT)]),
];

/// Of a box that nobody can take back.
pub(super) const ON_DEMAND: &[Case] = &[one(
    "prepay --yes demand 5",
    "prepay",
    &[("", "run attempt instance usd months discount")],
)];

/// Of a refusal to destroy, and of what would be lost.
pub(super) const LOSSES: (&str, &str) = (
    "run attempt instance reason would_lose",
    "what name size_bytes",
);
