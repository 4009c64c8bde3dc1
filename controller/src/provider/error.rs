//! Why a provider did not do what was asked, and what may be done about it.

use std::time::Duration;

use super::{InstanceId, OfferId};

/// Why the provider did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No key was given.
    #[error("no API key for {provider}")]
    NoKey {
        /// Provider's name.
        provider: &'static str,
    },
    /// The key was refused.
    #[error("{provider} refused the API key: {message}")]
    Unauthorized {
        /// Provider's name.
        provider: &'static str,
        /// Its words.
        message: String,
    },
    /// Somebody else was faster.
    #[error("offer {offer} is no longer available")]
    OfferGone {
        /// The offer.
        offer: OfferId,
        /// An instance that was made all the same and must be destroyed.
        leftover: Option<InstanceId>,
    },
    /// The bid is below what would run now.
    #[error("bid of ${bid_usd_per_hour:.4}/h is below the floor: {message}")]
    BidTooLow {
        /// What was bid.
        bid_usd_per_hour: f64,
        /// The provider's words.
        message: String,
        /// An instance that was made all the same and must be destroyed.
        leftover: Option<InstanceId>,
    },
    /// None of the user's hosts can be taken now.
    #[error("no host can be taken: {message}")]
    NoHost {
        /// Each host with its reason.
        message: String,
    },
    /// The account has no credit.
    #[error("the account lacks credit: {message}")]
    NoCredit {
        /// The provider's words.
        message: String,
    },
    /// Too many requests.
    #[error("{provider} asks to slow down for {} s", retry_after.as_secs_f64())]
    RateLimited {
        /// Provider's name.
        provider: &'static str,
        /// How long to wait.
        retry_after: Duration,
    },
    /// Anything else it said.
    #[error("{operation}: {message} (HTTP {status})")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// HTTP status.
        status: u16,
        /// The provider's words.
        message: String,
        /// An instance that was made all the same and must be destroyed.
        leftover: Option<InstanceId>,
    },
    /// No answer, or one that cannot be read: whether it was done is unknown.
    #[error("{operation}: no usable answer: {message}")]
    Unreachable {
        /// What was asked.
        operation: &'static str,
        /// The transport's words.
        message: String,
    },
}

impl ProviderError {
    /// Waiting may help: a broken network, a rate, a server in trouble.
    pub fn may_pass(&self) -> bool {
        self.is_ambiguous() || matches!(self, Self::RateLimited { .. } | Self::NoHost { .. })
    }

    /// An instance that was made all the same, bills its disk and must be destroyed.
    pub fn leftover(&self) -> Option<InstanceId> {
        match self {
            Self::OfferGone { leftover, .. }
            | Self::BidTooLow { leftover, .. }
            | Self::Refused { leftover, .. } => *leftover,
            _ => None,
        }
    }

    /// This provider has no such thing.
    pub fn cannot(operation: &'static str) -> Self {
        Self::Refused {
            operation,
            status: 405,
            message: "there is no such thing here".to_owned(),
            leftover: None,
        }
    }

    /// The request may have been carried out though no answer came.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
            || matches!(self, Self::Refused { status: 500.., .. })
    }
}
