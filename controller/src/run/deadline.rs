//! How long each part of a bring-up may take before another box is the better choice (pure).

use std::time::Duration;

use crate::spec::IMAGE_GB;

/// Making the container, unpacking and starting, on a slow disk.
const BASE: Duration = Duration::from_secs(5 * 60);
/// Hosts measure their line when nothing else uses it, and registries give less than a line takes.
const SLOWER: f64 = 4.0;
/// A line whose speed is not known, Mb/s.
const UNKNOWN_MBPS: f64 = 100.0;
/// No registry gives more to one host, Mb/s.
const REGISTRY_MBPS: f64 = 1000.0;
/// A container that runs gets its ports within seconds.
pub(crate) const PORTS: Duration = Duration::from_secs(5 * 60);
/// Keys take minutes to arrive on some hosts; a launcher that died never lets anybody in.
pub(crate) const SSH: Duration = Duration::from_secs(10 * 60);
/// A host whose container is still coming up refuses; one that lets packets vanish for this long does not (observed in the provider's own
/// tooling).
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
/// A launcher that died is seen to stay dead; one restart of the container leaves it time enough to let us in.
pub(crate) const REBOOT: Duration = Duration::from_secs(5 * 60);
/// How long a machine that did not come up is avoided.
pub(crate) const AVOIDED: Duration = Duration::from_secs(7 * 86_400);

/// How long the image may take to arrive. `bring_up` is the user's own bound for everything.
pub(crate) fn image(image_gb: Option<f64>, inet_down_mbps: f64, bring_up: Duration) -> Duration {
    let mbps = match inet_down_mbps > 0.0 {
        true => inet_down_mbps.min(REGISTRY_MBPS),
        false => UNKNOWN_MBPS,
    };
    let transfer_s = image_gb.unwrap_or(IMAGE_GB) * 8000.0 / mbps * SLOWER;
    // A line of almost nothing is a matter of the user's bound.
    let transfer = Duration::try_from_secs_f64(transfer_s).unwrap_or(bring_up);
    BASE.saturating_add(transfer).min(bring_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(image_gb: Option<f64>, mbps: f64, expected_s: u64) {
        let bring_up = Duration::from_secs(45 * 60);
        assert_eq!(image(image_gb, mbps, bring_up).as_secs(), expected_s);
    }

    #[test]
    fn an_image_has_the_time_that_its_size_needs_on_its_hosts_line_and_no_more_than_the_users_bound()
     {
        check(None, 800.0, 300 + 480);
        check(None, 8000.0, 300 + 384);
        check(Some(3.0), 800.0, 300 + 120);
        // A healthy slow host was seen to take more than ten minutes without a sign of life.
        check(None, 200.0, 300 + 1920);
        check(None, 100.0, 2700);
        check(Some(2.0), 0.0, 300 + 640);
        check(None, 1e-300, 2700);
    }
}
