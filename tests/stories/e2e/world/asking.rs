//! What a story asks of its world: how runs stand, what is rented, what it cost, and waiting for any of it.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, World};

impl World {
    /// The run as `status --recorded` has it; null when there is none.
    pub fn status(&self, run: &str) -> Value {
        let said = self.say(&["status", "--recorded", "--json", run]);
        // It is not written down yet.
        if said.stderr.contains("there is no run") {
            return Value::Null;
        }
        assert_eq!(said.code, 0, "{}", said.out);
        serde_json::from_str(&said.stdout).unwrap()
    }

    /// Waits until `seen` answers with something.
    pub fn until<T>(&self, what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = seen() {
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "waited {PATIENCE:?} for {what}\n{}",
                self.sim_log()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether something comes true in time; for whoever can say more than [`Self::until`] of what there is instead.
    pub fn try_until(&self, mut seen: impl FnMut() -> bool) -> bool {
        let start = Instant::now();
        while !seen() {
            if start.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        true
    }

    /// Waits until the newest attempt of a run is this one and has printed at least this step; returns its instance.
    pub fn until_step(&self, run: &str, attempt: u64, step: u64) -> u64 {
        self.until(
            &format!("attempt {attempt} of {run} at step {step}"),
            || {
                let status = self.status(run);
                let last = status["attempts"].as_array()?.last()?.clone();
                let there =
                    last["number"] == attempt && last["to_step"].as_u64().unwrap_or(0) >= step;
                if there {
                    last["instance"].as_u64()
                } else {
                    None
                }
            },
        )
    }

    /// Instances that exist, as the simulator has them.
    pub fn alive(&self) -> Vec<Value> {
        let state = self.ctl(&["state"]);
        state["instances"]
            .as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter()
            .filter(|row| !is_gone(row))
            .collect()
    }

    /// Everything that an instance ever cost, by the simulator's own account.
    pub fn bill(&self, instance: u64) -> Value {
        self.ctl(&["bill", &instance.to_string()])
    }

    /// Bills of all instances that were ever rented for a run.
    pub fn bills_of(&self, run: &str) -> Vec<Value> {
        let bills = self.ctl(&["bill"]);
        let of_run = |bill: &&Value| {
            let label = bill["label"].as_str().unwrap_or_default();
            label.split('/').nth(2) == Some(run)
        };
        bills["instances"]
            .as_array()
            .expect("bills are a list")
            .iter()
            .filter(of_run)
            .cloned()
            .collect()
    }

    /// Nothing may be rented any more.
    pub fn assert_nothing_rented(&self) {
        let alive = self.alive();
        assert!(alive.is_empty(), "still rented: {alive:?}");
    }
}

/// Whether at any moment two of these bills charged a GPU.
pub fn gpus_charged_at_once(bills: &[Value]) -> bool {
    let mut charged: Vec<(u64, u64)> = Vec::new();
    for bill in bills {
        for interval in bill["intervals"].as_array().expect("a bill has intervals") {
            if interval["gpu_usd_per_hour"].as_f64().unwrap_or_default() > 0.0 {
                let start = interval["start_ms"].as_u64().expect("a start");
                charged.push((start, interval["end_ms"].as_u64().unwrap_or(u64::MAX)));
            }
        }
    }
    charged.sort_unstable();
    charged.windows(2).any(|pair| pair[1].0 < pair[0].1)
}

fn is_gone(row: &Value) -> bool {
    !row["destroyed_ms"].is_null()
}
