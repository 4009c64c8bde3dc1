//! One option per GPU product and count, for a plan over several of them: those that somebody names, or the best of the market.

use std::collections::BTreeSet;

use serde_json::json;

use crate::{
    error::CommandError,
    estimate::gpus::Gpus,
    provider::{Filter, First, Offer, OfferQuery, Provider, ProviderError},
    run::{
        judge::Judged,
        pricing,
        searching::{self, Breadth},
    },
    spec::{RunSpec, accelerators},
};

/// Other products that a plan shows beside the one that the run file names.
pub(super) const SHOWN: usize = 5;

/// Products that somebody wants compared, under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What was typed, without its count.
    pub(super) typed: String,
    /// Names that the market has for it.
    names: Vec<String>,
    num_gpus: u32,
}

impl Wanted {
    fn is(&self, offer: &Offer) -> bool {
        let named = |name: &String| name.eq_ignore_ascii_case(&offer.gpu_name);
        offer.num_gpus == self.num_gpus && self.names.iter().any(named)
    }
}

/// Reads `RTX 4090,A100,H100 SXM:2`: names, or the first word of several names. Without a count it is the run file's (pure).
pub(super) fn wanted(text: &str, num_gpus: u32) -> Result<Vec<Wanted>, CommandError> {
    let one = |typed: &str| {
        let found = accelerators::parse(typed)
            .map_err(|why| CommandError::usage(format!("--gpus: {why}")))?;
        let family = format!("{} ", found.gpu_name.to_lowercase());
        let known = || Gpus::shipped().iter().map(|gpu| gpu.name.clone());
        let is_known = known().any(|name| name.eq_ignore_ascii_case(&found.gpu_name));
        let mut names = vec![found.gpu_name.clone()];
        if !is_known {
            names.extend(known().filter(|name| name.to_lowercase().starts_with(&family)));
        }
        Ok(Wanted {
            typed: found.gpu_name,
            names,
            num_gpus: match typed.contains(':') {
                true => found.num_gpus,
                false => num_gpus,
            },
        })
    };
    text.split(',')
        .filter(|typed| !typed.trim().is_empty())
        .map(one)
        .collect()
}

/// Offers of the products that somebody named, and the names of those of which the market has none.
///
/// # Errors
/// The provider's.
pub(super) async fn of(
    provider: &dyn Provider,
    spec: &RunSpec,
    wanted: &[Wanted],
) -> Result<(Vec<Offer>, Vec<String>), ProviderError> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut none = Vec::new();
    for product in wanted {
        let mut query = pricing::query(&spec.resources, searching::PAGE);
        query.gpu_name = None;
        query.num_gpus = Some(product.num_gpus);
        query.filters.push(Filter {
            field: "gpu_name".to_owned(),
            op: "in".to_owned(),
            value: json!(product.names),
        });
        let found = provider.offers(&query).await?;
        let found: Vec<Offer> = found
            .into_iter()
            .filter(|found| product.is(found))
            .collect();
        if found.is_empty() {
            none.push(format!("{} x {}", product.num_gpus, product.typed));
        }
        let known: BTreeSet<u64> = offers.iter().map(|offer| offer.id).collect();
        offers.extend(found.into_iter().filter(|found| !known.contains(&found.id)));
    }
    Ok((offers, none))
}

/// Offers of all products and counts, for the best of them.
///
/// # Errors
/// The provider's.
pub(super) async fn any(
    provider: &dyn Provider,
    spec: &RunSpec,
) -> Result<Vec<Offer>, ProviderError> {
    let query = OfferQuery {
        gpu_name: None,
        num_gpus: None,
        first: First::Cheapest,
        ..pricing::query(&spec.resources, searching::PAGE)
    };
    Ok(searching::look(provider, &query, Breadth::Best)
        .await?
        .offers)
}

/// The best option of each product and count, in the judge's order (pure).
pub(super) fn one_each(mut offers: Vec<Judged<'_>>) -> Vec<Judged<'_>> {
    let mut products = BTreeSet::new();
    offers.retain(|judged| products.insert((judged.offer.gpu_name.clone(), judged.offer.num_gpus)));
    offers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::memory;

    #[test]
    fn a_family_is_all_its_products_and_a_product_is_itself() {
        let named = |text: &str| -> Vec<(Vec<String>, u32)> {
            let found = wanted(text, 4).unwrap();
            found
                .into_iter()
                .map(|found| (found.names, found.num_gpus))
                .collect()
        };
        let found = named("RTX 3060, A100:2");
        assert_eq!(found[0], (vec!["RTX 3060".to_owned()], 4));
        assert_eq!(found[1].1, 2);
        for name in ["A100", "A100 PCIE", "A100 SXM4"] {
            assert!(found[1].0.iter().any(|known| known == name), "{found:?}");
        }
        assert!(wanted("RTX 4090:0", 1).is_err());
        let h100 = &wanted("H100", 1).unwrap()[0];
        let offer = |gpu_name: &str, num_gpus| Offer {
            gpu_name: gpu_name.to_owned(),
            num_gpus,
            ..memory::offer(1)
        };
        assert!(h100.is(&offer("H100 SXM", 1)));
        assert!(!h100.is(&offer("H100 SXM", 2)));
        assert!(!h100.is(&offer("H200", 1)));
    }
}
