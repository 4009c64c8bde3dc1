//! What instances were charged. It fails closed: a bill that cannot be read is none, not a small one.

use serde_json::json;

use super::{Vast, now_s, wire};
use crate::provider::{Charge, InstanceId, ProviderError};

/// Charges of a page; the server's default and maximum.
const PAGE: usize = 100;

impl Vast {
    pub(super) async fn bills(
        &self,
        since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        const OPERATION: &str = "show charges";
        // Whole days: a charge that began before the bound would be left out otherwise.
        let from = (since_s / 86_400.0).floor() * 86_400.0;
        let to = (now_s() / 86_400.0).floor() * 86_400.0 + 86_400.0;
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
