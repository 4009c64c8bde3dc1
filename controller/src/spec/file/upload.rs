//! The keys of the bucket's server and of uploads.

use std::path::Path;

use serde::Deserialize;
use spotter_bucket::{Style, Target};

use super::{Scalar, at, choice, local_path, option, or};
use crate::{
    authorities,
    error::chain,
    spec::{BucketServer, UploadWindow, YamlError, values},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct ServerKeys {
    endpoint: Option<Scalar>,
    region: Option<Scalar>,
    style: Option<Scalar>,
    ca: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(in crate::spec) struct UploadKeys {
    pub(super) max: Option<Scalar>,
    schedule: Option<Vec<Scalar>>,
    zone: Option<Scalar>,
}

/// The windows of the schedule, in UTC.
pub(super) fn windows(upload: &UploadKeys) -> Result<Vec<UploadWindow>, YamlError> {
    let ahead_min = or(upload.zone.as_ref(), 0, values::zone)?;
    let schedule = upload.schedule.iter().flatten();
    schedule
        .map(|window| at(window, values::upload_window(&window.value, ahead_min)))
        .collect()
}

/// What the file says of the bucket's server.
pub(super) fn server(keys: &ServerKeys, dir: &Path) -> Result<BucketServer, YamlError> {
    // The bucket itself has its own key; any will do to check the rest.
    let target = |endpoint: Option<&str>, region: Option<&str>| {
        Target::parse("s3://bucket", endpoint, region).map_err(|err| chain(&err))
    };
    Ok(BucketServer {
        endpoint: option(keys.endpoint.as_ref(), |text| {
            let endpoint = target(Some(text), None)?.endpoint;
            endpoint.ok_or_else(|| "an endpoint looks like https://minio.lab:9000".to_owned())
        })?,
        region: option(keys.region.as_ref(), |text| {
            target(None, Some(text)).map(|target| target.region)
        })?,
        style: option(keys.style.as_ref(), |text| {
            choice(text, &[("path", Style::Path), ("virtual", Style::Virtual)])
        })?,
        ca: option(keys.ca.as_ref(), |text| {
            let path = local_path(dir, text)?;
            authorities::read(&path).map_err(|err| chain(&err))?;
            Ok(path)
        })?,
        settled: false,
    })
}
