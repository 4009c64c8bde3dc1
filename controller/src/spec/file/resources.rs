//! The key `resources` as it is written.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_saphyr::Spanned;

use super::{Scalar, choice, option, or};
use crate::{
    provider::Rental,
    spec::{DEFAULT_DISK_GB, DEFAULT_HEADROOM, Resources, YamlError, accelerators, query, values},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct ResourcesKeys {
    accelerators: Spanned<AcceleratorsKey>,
    disk: Option<Scalar>,
    pub(super) rental: Option<Scalar>,
    pub(super) offers: Option<Scalar>,
    max_price: Option<Scalar>,
    pub(super) bid: Option<BidKeys>,
    pub(super) prepay: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct BidKeys {
    pub(super) headroom: Option<Scalar>,
    pub(super) max: Option<Scalar>,
}

/// `"RTX 4090:1"`, or `{RTX 4090: 1}`.
#[derive(Debug)]
enum AcceleratorsKey {
    Text(String),
    Map(String, String),
}

impl<'de> Deserialize<'de> for AcceleratorsKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = AcceleratorsKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a GPU as in \"RTX 4090:1\" or {RTX 4090: 1}")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(AcceleratorsKey::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let one = "one GPU is expected, as in {RTX 4090: 1}";
                let first: Option<(String, String)> = map.next_entry()?;
                let Some((name, count)) = first else {
                    return Err(serde::de::Error::custom(one));
                };
                if map.next_key::<String>()?.is_some() {
                    return Err(serde::de::Error::custom(one));
                }
                Ok(AcceleratorsKey::Map(name, count))
            }
        }

        deserializer.deserialize_any(Keys)
    }
}

/// Why a run names its GPU: what is predicted for it, and remembered of it, is that of one product.
const ANY: &str = "a run is written for one GPU, as in \"RTX 4090:1\"; compare several with `spotter plan --gpus \"RTX 4090,H100 SXM\"`";

/// Reads and checks it.
pub(super) fn resources(keys: &ResourcesKeys) -> Result<Resources, YamlError> {
    let gpus = match &keys.accelerators.value {
        AcceleratorsKey::Text(text) => accelerators::parse(text),
        AcceleratorsKey::Map(name, count) => accelerators::of(name, count),
    };
    let gpus = gpus.map_err(|message| YamlError::at(keys.accelerators.referenced, message))?;
    if gpus.gpu_name.eq_ignore_ascii_case("any") {
        return Err(YamlError::at(keys.accelerators.referenced, ANY));
    }
    let bid = keys.bid.as_ref();
    let (rental, prepay_usd) = rental(keys)?;
    Ok(Resources {
        gpu_name: Some(gpus.gpu_name),
        num_gpus: gpus.num_gpus,
        disk_gb: or(keys.disk.as_ref(), DEFAULT_DISK_GB, values::size_gb)?,
        rental,
        filters: or(keys.offers.as_ref(), Vec::new(), |text| {
            query::parse(text).map_err(|err| err.to_string())
        })?,
        max_price_usd_per_hour: option(keys.max_price.as_ref(), values::usd)?,
        bid_headroom: or(
            bid.and_then(|keys| keys.headroom.as_ref()),
            DEFAULT_HEADROOM,
            values::percent,
        )?,
        bid_max_usd_per_hour: option(bid.and_then(|keys| keys.max.as_ref()), values::usd)?,
        prepay_usd,
        hosts: Vec::new(),
    })
}

/// How it is rented, and what is paid in advance: a reserved box is one that is rented on demand, and then paid for.
fn rental(keys: &ResourcesKeys) -> Result<(Rental, Option<f64>), YamlError> {
    let (rental, is_reserved) = or(keys.rental.as_ref(), (Rental::OnDemand, false), |text| {
        choice(
            text,
            &[
                ("on-demand", (Rental::OnDemand, false)),
                ("interruptible", (Rental::Interruptible, false)),
                ("reserved", (Rental::OnDemand, true)),
            ],
        )
    })?;
    let refused = |scalar: &Scalar, why: &str| Err(YamlError::at(scalar.referenced, why));
    match (&keys.rental, &keys.prepay) {
        (Some(rental), None) if is_reserved => refused(
            rental,
            "a reserved box is paid for in advance: say in `prepay` with how many dollars",
        ),
        (_, Some(prepay)) if !is_reserved => refused(
            prepay,
            "nothing is paid in advance without `rental: reserved`",
        ),
        (_, prepay) => Ok((rental, option(prepay.as_ref(), values::usd)?)),
    }
}
