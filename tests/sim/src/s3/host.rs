//! Where a request names its bucket: in the path, or in the host's name, which then lies below `localhost`.

use std::borrow::Cow;

use http::{Request, header};
use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};

/// Tells the library.
pub(super) struct Hosts;

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let parsed = VirtualHost::new(host);
        Ok(match bucket_in(host) {
            Some(bucket) => parsed.with_bucket(bucket),
            None => parsed,
        })
    }
}

/// The bucket in a host's name, which may have a port.
fn bucket_in(host: &str) -> Option<&str> {
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix(".localhost")
}

/// The path as it is, or would be, with the bucket in it.
pub(super) fn path_of<B>(request: &Request<B>) -> Cow<'_, str> {
    let path = request.uri().path();
    let host = request.headers().get(header::HOST);
    let bucket = host.and_then(|host| bucket_in(host.to_str().ok()?));
    match bucket {
        Some(bucket) => Cow::Owned(format!("/{bucket}{path}")),
        None => Cow::Borrowed(path),
    }
}
