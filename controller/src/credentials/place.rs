//! Which server a bucket is on, and who says so (pure, but for the certificates that are read).

use std::path::PathBuf;

use spotter_bucket::{Style, Target, TargetError};

use crate::{
    authorities::{self, AuthoritiesError},
    spec::BucketServer,
};

/// Which server buckets are on, whoever has keys for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Endpoint of an S3-compatible server; `None`: AWS.
    pub endpoint: Option<String>,
    /// Who names it, for people.
    pub named_by: Option<String>,
    /// Region for signing; `None`: nothing says which.
    pub region: Option<String>,
    /// Where the bucket's name stands in URLs.
    pub style: Style,
    /// File of certificates that the server is trusted by.
    pub ca: Option<PathBuf>,
}

/// A server or a bucket that no request can be sent to.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The bucket is none, or the region.
    #[error(transparent)]
    Target(TargetError),
    /// What somebody names as an endpoint is none.
    #[error("{named_by} names no server")]
    Endpoint {
        /// Variable or setting.
        named_by: String,
        /// What is wrong with it.
        source: TargetError,
    },
}

impl Place {
    /// The server that a run file names: what it says counts over the environment and AWS's files, and what the record of a run says
    /// counts alone, but for a region that it lacks.
    pub fn at(self, server: &BucketServer) -> Self {
        if server.settled {
            return Self {
                endpoint: server.endpoint.clone(),
                named_by: server
                    .endpoint
                    .as_ref()
                    .map(|_| "the record of the run".to_owned()),
                region: server.region.clone().or(self.region),
                style: server.style.unwrap_or_default(),
                ca: server.ca.clone(),
            };
        }
        let (endpoint, named_by) = match &server.endpoint {
            Some(endpoint) => {
                let named_by = "`checkpoints.server.endpoint` of the run file".to_owned();
                (Some(endpoint.clone()), Some(named_by))
            }
            None => (self.endpoint, self.named_by),
        };
        Self {
            endpoint,
            named_by,
            region: server.region.clone().or(self.region),
            style: server.style.unwrap_or(self.style),
            ca: server.ca.clone().or(self.ca),
        }
    }

    /// The same as a run's record keeps it, so that a shell that names no server, or another one, finds the run's bucket.
    pub fn kept(self) -> BucketServer {
        BucketServer {
            endpoint: self.endpoint,
            region: self.region,
            style: (self.style != Style::Auto).then_some(self.style),
            ca: self.ca,
            settled: true,
        }
    }

    /// A bucket there; `to` is `s3://bucket/prefix`.
    ///
    /// # Errors
    /// When it is none, or the server's name is not usable.
    pub fn target(&self, to: &str) -> Result<Target, PlaceError> {
        let target = Target::parse(to, self.endpoint.as_deref(), self.region.as_deref());
        let target = target.map_err(|source| match (&source, &self.named_by) {
            (TargetError::Endpoint { .. }, Some(named_by)) => PlaceError::Endpoint {
                named_by: named_by.clone(),
                source,
            },
            _ => PlaceError::Target(source),
        })?;
        Ok(target.with_style(self.style))
    }

    /// The certificates (PEM) that the server is trusted by besides those that everybody trusts; empty: those alone.
    ///
    /// # Errors
    /// When the file cannot be read or holds none.
    pub fn authorities(&self) -> Result<String, AuthoritiesError> {
        self.ca
            .as_deref()
            .map_or(Ok(String::new()), authorities::read)
    }
}

/// An endpoint, and who names it.
pub(super) struct Endpoint(pub(super) String, pub(super) String);

impl Endpoint {
    /// The endpoint, which a request can be sent to.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn checked(self) -> Result<String, PlaceError> {
        let Self(endpoint, named_by) = self;
        // Only the endpoint is looked at; any bucket will do.
        match Target::parse("s3://bucket", Some(&endpoint), None) {
            Ok(_) => Ok(endpoint),
            Err(source) => Err(PlaceError::Endpoint { named_by, source }),
        }
    }
}
