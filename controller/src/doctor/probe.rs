//! Tries everything that spotter does with a bucket, each call by itself, and leaves nothing behind that it may delete.

use bytes::Bytes;
use spotter_bucket::{Bucket, BucketError, ErrorKind};
use ulid::Ulid;

use super::{diagnosis, policy::Need};

/// Size of the object that is written, bytes.
const PROBE_BYTES: usize = 4096;

/// One right and what came of trying it.
#[derive(Debug)]
pub struct Check {
    /// The right.
    pub need: Need,
    /// What came of it.
    pub result: Outcome,
}

impl Check {
    /// Whether spotter works without it here: without a right that it can do without, and where the server has no such call.
    pub fn is_optional(&self) -> bool {
        let lacking = matches!(&self.result, Outcome::Fails(err) if err.is_lacking());
        self.need.is_optional() || (self.need == Need::ListParts && lacking)
    }
}

/// What came of trying something.
#[derive(Debug)]
pub enum Outcome {
    /// It works.
    Works,
    /// It does not.
    Fails(BucketError),
    /// It could not be told, since something before it failed.
    Untried(&'static str),
}

/// All checks, and what is left behind.
#[derive(Debug)]
pub struct Findings {
    /// In the order in which they were tried.
    pub checks: Vec<Check>,
    /// Seconds that the server's clock is ahead of ours; `None` when it never answered.
    pub clock_offset_s: Option<f64>,
    /// An object that was written and may not be deleted.
    pub left_behind: Option<String>,
}

/// Tries everything below `prefix` (without a slash at its end; may be empty). Ends early when no answer comes, or none of S3.
pub async fn probe(bucket: &dyn Bucket, prefix: &str) -> Findings {
    let name = format!(".spotter-doctor-{}", Ulid::generate());
    let key = match prefix.trim_matches('/') {
        "" => name,
        prefix => format!("{prefix}/{name}"),
    };
    let mut findings = Findings {
        checks: Vec::new(),
        clock_offset_s: None,
        left_behind: None,
    };
    // Only what this very probe wrote is listed: a bucket may hold millions of objects.
    let listed = bucket.list(&key).await.map(drop);
    let hopeless = listed.as_ref().err().and_then(diagnosis::behind_all);
    let hopeless = hopeless.and_then(|trouble| diagnosis::ends_all(&trouble));
    let may_list = listed.is_ok();
    findings.add(Need::List, listed);
    if let Some(why) = hopeless {
        for need in &Need::ALL[1..] {
            findings.skip(*need, why);
        }
        return findings;
    }

    let content = Bytes::from(vec![b's'; PROBE_BYTES]);
    let written = bucket.put(&key, content.clone()).await;
    let is_there = written.is_ok();
    findings.add(Need::Write, written.map(drop));
    findings
        .read(bucket, &key, &content, is_there, may_list)
        .await;
    findings.uploads(bucket, &key, &content).await;
    let deleted = bucket.delete(&key).await;
    if is_there && deleted.is_err() {
        findings.left_behind = Some(key.clone());
    }
    findings.add(Need::Delete, deleted);
    findings.clock_offset_s = Some(bucket.clock_offset_s());
    findings
}

impl Findings {
    fn add(&mut self, need: Need, result: Result<(), BucketError>) {
        let result = match result {
            Ok(()) => Outcome::Works,
            Err(err) => Outcome::Fails(err),
        };
        self.checks.push(Check { need, result });
    }

    fn skip(&mut self, need: Need, why: &'static str) {
        let result = Outcome::Untried(why);
        self.checks.push(Check { need, result });
    }

    async fn read(
        &mut self,
        bucket: &dyn Bucket,
        key: &str,
        content: &Bytes,
        is_there: bool,
        may_list: bool,
    ) {
        let read = match bucket.get(key, None).await {
            Ok(read) if read == content => bucket.get(key, Some(1000..2000)).await,
            Ok(_) => Err(wrong(
                key,
                "the object reads back other than it was written",
            )),
            Err(err) => Err(err),
        };
        match read {
            Ok(_) => self.add(Need::Read, Ok(())),
            // What may be read and is not there is not found; who may not list is told that it is forbidden.
            Err(err) if !is_there && may_list && err.kind == ErrorKind::NotFound => {
                self.add(Need::Read, Ok(()));
            }
            Err(_) if !is_there && !may_list => {
                self.skip(Need::Read, "nothing could be written to read back");
            }
            Err(err) => self.add(Need::Read, Err(err)),
        }
    }

    /// The same right as for a whole object: told once, unless only this failed.
    fn write_fails(&mut self, err: BucketError) {
        let write = self
            .checks
            .iter_mut()
            .find(|check| check.need == Need::Write && matches!(check.result, Outcome::Works));
        if let Some(write) = write {
            write.result = Outcome::Fails(err);
        }
    }

    async fn uploads(&mut self, bucket: &dyn Bucket, key: &str, content: &Bytes) {
        const NONE: &str = "no upload in parts could be begun";
        let begun = bucket.create_upload(key).await;
        let upload_id = match begun {
            Ok(upload_id) => Some(upload_id),
            Err(err) => {
                self.write_fails(err);
                None
            }
        };
        match &upload_id {
            Some(upload_id) => {
                let sent = bucket.upload_part(key, upload_id, 1, content.clone()).await;
                match sent {
                    Ok(_) => {
                        let listed = bucket.list_parts(key, upload_id).await.map(drop);
                        self.add(Need::ListParts, listed);
                    }
                    Err(err) => {
                        self.write_fails(err);
                        self.skip(Need::ListParts, "no part could be sent");
                    }
                }
            }
            None => self.skip(Need::ListParts, NONE),
        }
        self.add(Need::ListUploads, bucket.list_uploads(key).await.map(drop));
        match &upload_id {
            Some(upload_id) => {
                let aborted = bucket.abort_upload(key, upload_id).await;
                self.add(Need::AbortUpload, aborted);
            }
            None => self.skip(Need::AbortUpload, NONE),
        }
    }
}

fn wrong(key: &str, message: &str) -> BucketError {
    BucketError {
        operation: "GetObject",
        key: key.to_owned(),
        kind: ErrorKind::Refused,
        status: 0,
        code: None,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use spotter_bucket::memory::MemoryBucket;

    use super::*;

    fn failed(findings: &Findings) -> Vec<Need> {
        let failed = findings
            .checks
            .iter()
            .filter(|check| matches!(check.result, Outcome::Fails(_)));
        failed.map(|check| check.need).collect()
    }

    #[tokio::test]
    async fn a_good_bucket_passes_everything_and_is_left_as_it_was() {
        let bucket = MemoryBucket::new();
        bucket.set_clock_offset_s(-3.5);
        let findings = probe(&bucket, "runs/a").await;
        assert!(failed(&findings).is_empty(), "{findings:?}");
        assert_eq!(findings.checks.len(), Need::ALL.len());
        assert_eq!(findings.clock_offset_s, Some(-3.5));
        assert!(bucket.keys().is_empty() && bucket.open_uploads().is_empty());
    }

    #[tokio::test]
    async fn a_server_without_list_parts_is_good_enough_and_keys_without_it_are_not() {
        for (kind, is_optional) in [
            (ErrorKind::Refused, true),
            (ErrorKind::NotFound, true),
            (ErrorKind::Denied, false),
            (ErrorKind::Transient, false),
        ] {
            let bucket = MemoryBucket::new();
            bucket.fail_next("ListParts", 9, kind);
            let findings = probe(&bucket, "").await;
            let check = findings
                .checks
                .iter()
                .find(|check| check.need == Need::ListParts);
            assert_eq!(check.unwrap().is_optional(), is_optional, "{kind:?}");
            let diagnosis = diagnosis::diagnose(&findings);
            assert_eq!(diagnosis.is_none(), is_optional, "{kind:?}: {diagnosis:?}");
        }
    }

    #[tokio::test]
    async fn each_call_that_is_refused_is_the_right_that_is_missing() {
        for (operation, need) in [
            ("ListObjectsV2", Need::List),
            ("PutObject", Need::Write),
            ("GetObject", Need::Read),
            ("CreateMultipartUpload", Need::Write),
            ("UploadPart", Need::Write),
            ("ListParts", Need::ListParts),
            ("AbortMultipartUpload", Need::AbortUpload),
            ("ListMultipartUploads", Need::ListUploads),
            ("DeleteObject", Need::Delete),
        ] {
            let bucket = MemoryBucket::new();
            bucket.fail_next(operation, 9, ErrorKind::Denied);
            let findings = probe(&bucket, "").await;
            assert_eq!(failed(&findings), [need], "{operation}: {findings:?}");
            let left = operation == "DeleteObject";
            assert_eq!(findings.left_behind.is_some(), left, "{operation}");
            assert_eq!(!bucket.keys().is_empty(), left, "{operation}");
        }
    }
}
