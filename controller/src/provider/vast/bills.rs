//! What instances were charged. It fails closed: a bill that cannot be read is none, not a small one.

use serde_json::json;

use super::{Vast, now_s, wire};
use crate::provider::{Charge, InstanceId, ProviderError};

/// A day, seconds.
const DAY_S: f64 = 86_400.0;

/// The days whose charges are asked for, seconds since the epoch (pure): whole ones, for a charge that began before the bound would be left
/// out otherwise; and one more on either side, for the clock here and the market's may be on two sides of midnight. What is charged to others
/// is left out by its instance.
fn days(since_s: f64, now_s: f64) -> (f64, f64) {
    let day = |time_s: f64| (time_s / DAY_S).floor() * DAY_S;
    (day(since_s) - DAY_S, day(now_s) + 2.0 * DAY_S)
}

/// Charges of a page; the server's default and maximum.
const PAGE: usize = 100;

impl Vast {
    pub(super) async fn bills(
        &self,
        since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        const OPERATION: &str = "show charges";
        let (from, to) = days(since_s, now_s());
        let filters = wire::query_value(
            &json!({"day": {"gte": from, "lte": to}, "type": {"in": ["instance"]}}),
        );
        let path = format!(
            "/api/v0/charges/?select_filters={filters}&latest_first=false&limit={PAGE}&format=tree"
        );
        let rows = self.pages(OPERATION, &path, "results").await?;
        let mut charges: Vec<Charge> = Vec::new();
        for row in &rows {
            wire::add_charge(&mut charges, row, instances).map_err(|message| {
                ProviderError::Unreachable {
                    operation: OPERATION,
                    message,
                }
            })?;
        }
        Ok(charges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_hours_off_leaves_no_charge_out() {
        // Ordered ten minutes before midnight by the market's clock, and after it by one that is an hour ahead; read with one that is behind.
        let ordered_s = 20.0 * DAY_S - 600.0;
        for (ahead_s, behind_s) in [(0.0, 0.0), (3600.0, 0.0), (0.0, 3600.0)] {
            let now_s = 21.0 * DAY_S + 600.0;
            let (from, to) = days(ordered_s + ahead_s, now_s - behind_s);
            assert!(from <= 19.0 * DAY_S && to >= 22.0 * DAY_S, "{from} {to}");
        }
    }
}
