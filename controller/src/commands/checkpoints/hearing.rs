//! Tells a person who waits for bytes of a bucket that none come: it is asked again, which looks like nothing at all.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::ui::{Console, text};

/// Between two looks at whether anything came.
const LOOK: Duration = Duration::from_secs(1);
/// So long a silence is told: a server that is only busy has answered by then.
const SILENCE: Duration = Duration::from_secs(10);

/// When bytes came last.
pub(in crate::commands) struct Hearing {
    came: Mutex<Instant>,
}

impl Hearing {
    /// They came just now.
    pub(in crate::commands) fn new() -> Self {
        Self {
            came: Mutex::new(Instant::now()),
        }
    }

    /// Something came.
    pub(in crate::commands) fn came(&self) {
        *self.last() = Instant::now();
    }

    fn last(&self) -> MutexGuard<'_, Instant> {
        // An instant: whatever a panic left there is as good as before.
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work that tells what came. Each silence is told once, and its end.
    pub(in crate::commands) async fn attend<T>(
        &self,
        console: &Console,
        url: &str,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        let mut told = false;
        loop {
            if let Ok(done) = tokio::time::timeout(LOOK, &mut work).await {
                return done;
            }
            let silent = self.last().elapsed();
            if silent >= SILENCE && !told {
                told = true;
                console.status(format_args!(
                    "Nothing has come from {url} for {}: it is asked again and again for some minutes. What came is kept.",
                    text::duration(silent)
                ));
            } else if silent < SILENCE && told {
                told = false;
                console.status(format_args!("{url} answers again."));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::{Ui, UiOptions, paper::Paper};

    #[tokio::test(start_paused = true)]
    async fn each_silence_is_told_once_and_so_is_its_end() {
        let check = async |waits_s: &[u64], expected: &[&str]| {
            let paper = Paper::default();
            let ui = Ui::to(
                Box::new(Paper::default()),
                Box::new(paper.clone()),
                UiOptions::default(),
            );
            let hearing = Hearing::new();
            let work = async {
                for wait_s in waits_s {
                    tokio::time::sleep(Duration::from_secs(*wait_s)).await;
                    hearing.came();
                }
                7
            };
            assert_eq!(hearing.attend(ui.console(), "s3://b/r", work).await, 7);
            let told = paper.text();
            let told: Vec<&str> = told.lines().collect();
            assert_eq!(told.len(), expected.len(), "{waits_s:?}: {told:?}");
            for (line, expected) in told.iter().zip(expected) {
                assert!(line.contains(expected), "{line}");
            }
        };
        let (silent, back) = ("from s3://b/r for 10 s: it is asked again", "answers again");
        check(&[1, 9, 9], &[]).await;
        check(&[1, 60], &[silent]).await;
        check(&[30, 2, 2], &[silent, back]).await;
        check(&[30, 5, 30], &[silent, back, silent]).await;
    }
}
