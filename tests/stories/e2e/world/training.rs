//! The run file of a small training, and the training itself.

/// A training of plain shell: one step every tenth of a second, a checkpoint every ten, resumed by its number. It ends
/// earlier when a file in its home says that it is enough.
pub(super) const TRAIN: &str = r#"
total=$1
step=0
if [ -n "${SPOTTER_CHECKPOINT:-}" ]; then step=$(cat "$SPOTTER_CHECKPOINT"); echo "resumed from step $step"; fi
mkdir -p "$SPOTTER_CHECKPOINT_DIR" out
while [ "$step" -lt "$total" ] && [ ! -e "$HOME/enough" ]; do
  step=$((step + 1))
  sleep 0.1
  echo "step $step/$total | loss $((1000 - step)).5 | lr 1.00e-03 | 100.0 ms/step | 1,000 tok/s"
  if [ $((step % 10)) = 0 ]; then
    echo "$step" > "$SPOTTER_CHECKPOINT_DIR/.new"
    sleep 0.01 # the kernel's clock ticks: that it was renamed when it was whole can be seen
    mv "$SPOTTER_CHECKPOINT_DIR/.new" "$SPOTTER_CHECKPOINT_DIR/step-$step.txt"
  fi
done
echo "final $step" > out/final.txt
"#;

/// A run file.
#[derive(Debug, Clone)]
pub struct Training {
    /// Name of the run, and of its file.
    pub name: &'static str,
    /// Steps.
    pub steps: u64,
    /// `on-demand` or `interruptible`.
    pub rental: &'static str,
    /// Whether checkpoints go to the bucket.
    pub bucket: bool,
    /// `limits.bring_up`.
    pub bring_up: &'static str,
    /// `setup`.
    pub setup: Option<&'static str>,
    /// Command instead of the usual training.
    pub command: Option<&'static str>,
    /// What happens to the box at the end.
    pub on_done: &'static str,
}

impl Training {
    /// An interruptible run with a bucket.
    pub fn interruptible(name: &'static str, steps: u64) -> Training {
        Training {
            name,
            steps,
            rental: "interruptible",
            bucket: true,
            bring_up: "3m",
            setup: None,
            command: None,
            on_done: "destroy",
        }
    }

    pub(super) fn yaml(&self, bucket: &str) -> String {
        let run = self
            .command
            .map_or_else(|| format!("bash train.sh {}", self.steps), str::to_owned);
        let to = if self.bucket {
            format!("  to: s3://{bucket}/runs\n")
        } else {
            String::new()
        };
        let setup = self
            .setup
            .map_or_else(String::new, |setup| format!("setup: {setup}\n"));
        format!(
            "name: {name}\n\
             workdir: .\n\
             resources: {{accelerators: \"RTX 4090:1\", disk: 20GB, rental: {rental}}}\n\
             image: vastai/pytorch\n\
             {setup}\
             run: {run}\n\
             checkpoints:\n  dir: checkpoints\n{to}  every: 1m\n  keep: {{last: 3}}\n  settle: 300ms\n\
             recover: {{policy: elsewhere, attempts: 5}}\n\
             limits: {{bring_up: {bring_up}, max_runtime: 1h}}\n\
             results: {{fetch: [out/final.txt], to: ./results-{name}}}\n\
             on_done: {on_done}\n",
            name = self.name,
            rental = self.rental,
            bring_up = self.bring_up,
            on_done = self.on_done,
        )
    }
}
