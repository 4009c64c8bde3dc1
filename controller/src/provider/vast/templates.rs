//! Templates: an image with its environment and set-up under a hash of its content, which an order may name.

use serde_json::json;

use super::{Vast, wire};
use crate::provider::ProviderError;

impl Vast {
    /// The template with this hash. Asked before an order, which would put its own set-up in the place of the template's.
    pub(super) async fn template(&self, hash: &str) -> Result<wire::Template, ProviderError> {
        const OPERATION: &str = "search templates";
        let columns = wire::query_value(&json!(["*"]));
        let filters = wire::query_value(&json!({"hash_id": {"eq": hash}}));
        let path = format!("/api/v0/template/?select_cols={columns}&select_filters={filters}");
        let body = self.http.get(OPERATION, &path).await?;
        wire::template(&body, hash).ok_or_else(|| ProviderError::Refused {
            operation: OPERATION,
            status: 404,
            message: format!("there is no template {hash}"),
            leftover: None,
        })
    }
}
