//! The search for a run whose boxes mount a volume: that lies on one machine, and so do they.

use serde_json::json;

use crate::{
    provider::{Filter, OfferQuery, Provider, ProviderError},
    run::pricing,
    spec::RunSpec,
};

/// What is searched for a run, of at most `limit` offers.
///
/// # Errors
/// The provider's; or there is no such volume.
pub async fn query(
    provider: &dyn Provider,
    spec: &RunSpec,
    limit: u32,
) -> Result<OfferQuery, ProviderError> {
    let mut query = pricing::query(&spec.resources, limit);
    let Some(mount) = &spec.container.volume else {
        return Ok(query);
    };
    let refused = |message: String| ProviderError::Refused {
        operation: "mount a volume",
        status: 404,
        message,
        leftover: None,
    };
    if !query.hosts.is_empty() {
        let why = "hosts of yours have no volume of the market: leave `volume` out";
        return Err(refused(why.to_owned()));
    }
    let all = provider.volumes().await?;
    let Some(volume) = all.iter().find(|volume| volume.id == mount.id) else {
        let id = mount.id;
        return Err(refused(format!(
            "the account has no volume {id}; `spotter volumes` lists those that it has"
        )));
    };
    query.filters.push(Filter {
        field: "machine_id".to_owned(),
        op: "eq".to_owned(),
        value: json!(volume.machine_id),
    });
    Ok(query)
}
