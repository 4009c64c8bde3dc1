//! Copies between the disks of two instances, which the hosts make among themselves. Between two boxes of one machine they cost
//! nothing, else they are billed as traffic.

use reqwest::Method;
use serde_json::json;

use super::Vast;
use crate::provider::{DiskPath, InstanceId, ProviderError};

impl Vast {
    /// What is in the source is copied, not the directory itself: that is what the slash at its end means.
    pub(super) async fn copy_direct(
        &self,
        from: DiskPath<'_>,
        to: DiskPath<'_>,
    ) -> Result<(), ProviderError> {
        const OPERATION: &str = "copy";
        // Copied over, these two would lock everybody out.
        let to_path = to.path.trim_end_matches('/');
        if matches!(to_path, "" | "/root") || !to_path.starts_with('/') {
            return Err(ProviderError::Refused {
                operation: OPERATION,
                status: 400,
                message: format!("nothing is copied over `{}` of a box", to.path),
                leftover: None,
            });
        }
        let body = json!({
            "client_id": "me",
            "src_id": from.instance.to_string(),
            "dst_id": to.instance.to_string(),
            "src_path": format!("{}/", from.path.trim_end_matches('/')),
            "dst_path": format!("{to_path}/"),
        });
        let path = "/api/v0/commands/copy_direct/";
        let written = self.http.write(OPERATION, Method::PUT, path, body);
        written.await.map(drop)
    }

    pub(super) async fn cancel_copies(&self, to: InstanceId) -> Result<(), ProviderError> {
        let body = json!({"client_id": "me", "dst_id": to.to_string()});
        let path = "/api/v0/commands/copy_direct/";
        let written = self.http.write("cancel copy", Method::DELETE, path, body);
        written.await.map(drop)
    }
}
