//! The least that must be granted for a bucket, in the words of each provider (pure).
//!
//! Sources: the service authorization reference of AWS for S3, Backblaze's list of application key capabilities, Cloudflare's
//! page on R2 API tokens, MinIO's policy-based access control (which takes AWS's documents), Google's list of storage roles.

use serde::Serialize;
use serde_json::json;
use spotter_bucket::Target;

/// Who grants, by whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Grantor {
    /// Amazon Web Services.
    Aws,
    /// Backblaze B2.
    B2,
    /// Cloudflare R2.
    R2,
    /// Google Cloud Storage, by HMAC keys.
    Gcs,
    /// MinIO, and servers that take AWS's policies.
    Minio,
}

/// Something that spotter does with a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// See which objects there are.
    List,
    /// Write an object, also in parts.
    Write,
    /// Read an object back.
    Read,
    /// See which parts have arrived, to go on after a crash.
    ListParts,
    /// Drop an upload that nobody will finish.
    AbortUpload,
    /// Find uploads that nobody will finish. Without it they stay until the server's own sweep.
    ListUploads,
    /// Delete what retention lets go.
    Delete,
}

impl Need {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 7] = [
        Self::List,
        Self::Write,
        Self::Read,
        Self::ListParts,
        Self::AbortUpload,
        Self::ListUploads,
        Self::Delete,
    ];

    /// Whether spotter works without it.
    pub fn is_optional(self) -> bool {
        self == Self::ListUploads
    }

    /// Name of the check, and of the right for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Write => "write",
            Self::Read => "read back",
            Self::ListParts => "list parts",
            Self::AbortUpload => "abort uploads",
            Self::ListUploads => "list uploads",
            Self::Delete => "delete",
        }
    }

    /// Action of AWS's policies.
    fn action(self) -> &'static str {
        match self {
            Self::List => "s3:ListBucket",
            Self::Write => "s3:PutObject",
            Self::Read => "s3:GetObject",
            Self::ListParts => "s3:ListMultipartUploadParts",
            Self::AbortUpload => "s3:AbortMultipartUpload",
            Self::ListUploads => "s3:ListBucketMultipartUploads",
            Self::Delete => "s3:DeleteObject",
        }
    }

    /// Capability of a B2 application key.
    fn capability(self) -> &'static str {
        match self {
            Self::List | Self::ListUploads => "listFiles",
            Self::Write | Self::ListParts | Self::AbortUpload => "writeFiles",
            Self::Read => "readFiles",
            Self::Delete => "deleteFiles",
        }
    }
}

impl Grantor {
    /// Who grants for a server, by its name; what is not known is taken for a server with AWS's policies.
    pub fn of(endpoint: Option<&str>) -> Self {
        let Some(endpoint) = endpoint else {
            return Self::Aws;
        };
        let rest = endpoint
            .split_once("://")
            .map_or(endpoint, |(_, rest)| rest);
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        let ends = |domain: &str| host == domain || host.ends_with(&format!(".{domain}"));
        if ends("amazonaws.com") || ends("amazonaws.com.cn") {
            Self::Aws
        } else if ends("backblazeb2.com") {
            Self::B2
        } else if ends("r2.cloudflarestorage.com") {
            Self::R2
        } else if ends("storage.googleapis.com") {
            Self::Gcs
        } else {
            Self::Minio
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aws => "AWS IAM",
            Self::B2 => "Backblaze B2",
            Self::R2 => "Cloudflare R2",
            Self::Gcs => "Google Cloud Storage",
            Self::Minio => "MinIO and servers like it",
        }
    }
}

/// What is granted, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The text: a JSON document, a command, or the choices of a web form.
    pub text: String,
    /// What to do with it, for people.
    pub how: String,
}

/// The least that spotter needs below the prefix of `target`.
pub fn policy(grantor: Grantor, target: &Target) -> Policy {
    let mut policy = granting(grantor, target, &Need::ALL);
    if grantor == Grantor::Aws {
        let mut document = document(target, &Need::ALL);
        document.statement.push(box_keys(target));
        policy.text = document.pretty();
        policy.how.push_str(
            "; SpotterBoxKeys lets each box have keys of its run alone: without it, a box gets these keys themselves (of no use to \
             keys that are temporary: name a role with `checkpoints.role`)",
        );
    }
    policy
}

/// What lets a user of AWS ask for keys that may do less than his own, under the names that spotter gives them.
fn box_keys(target: &Target) -> Statement {
    Statement {
        sid: "SpotterBoxKeys",
        effect: "Allow",
        action: vec!["sts:GetFederationToken"],
        resource: vec![format!(
            "arn:{}:sts::*:federated-user/spotter-*",
            partition(target)
        )],
        condition: None,
    }
}

/// The part of AWS that a region belongs to.
fn partition(target: &Target) -> &'static str {
    if target.region.starts_with("cn-") {
        "aws-cn"
    } else if target.region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}

/// What grants `needs` and nothing else. For a provider that cannot grant less, the least that it can.
pub fn granting(grantor: Grantor, target: &Target, needs: &[Need]) -> Policy {
    let Target { bucket, prefix, .. } = target;
    match grantor {
        Grantor::Aws => Policy {
            text: document(target, needs).pretty(),
            how: "IAM, the user or role of these keys, Add permissions, Create inline policy, JSON"
                .to_owned(),
        },
        Grantor::Minio => Policy {
            text: document(target, needs).pretty(),
            how: format!(
                "`mc admin policy create ALIAS spotter-{bucket} policy.json`, then `mc admin policy attach ALIAS spotter-{bucket} --user USER`"
            ),
        },
        Grantor::B2 => {
            let mut capabilities: Vec<&str> = needs.iter().map(|need| need.capability()).collect();
            // A client that lists needs to find the bucket first.
            capabilities.push("listBuckets");
            capabilities.sort_unstable();
            capabilities.dedup();
            let only = match prefix.as_str() {
                "" => String::new(),
                prefix => format!(" --name-prefix '{prefix}/'"),
            };
            Policy {
                text: format!(
                    "b2 key create --bucket {bucket}{only} spotter-{bucket} {}",
                    capabilities.join(",")
                ),
                how: "the command prints the key id and the key; a key's capabilities cannot be changed, so make a new one"
                    .to_owned(),
            }
        }
        Grantor::R2 => {
            let changes = needs.iter().any(|need| {
                matches!(
                    need,
                    Need::Write | Need::Delete | Need::AbortUpload | Need::ListParts
                )
            });
            let permission = if changes {
                "Object Read & Write"
            } else {
                "Object Read only"
            };
            Policy {
                text: format!(
                    "Permissions: {permission}\nSpecify bucket(s): Apply to specific buckets only: {bucket}"
                ),
                how: "R2, Manage API tokens, Create API token; R2 limits a token to buckets, not to a prefix"
                    .to_owned(),
            }
        }
        Grantor::Gcs => Policy {
            text: google(target),
            how: "then make an HMAC key of that service account: `gcloud storage hmac create NAME@PROJECT.iam.gserviceaccount.com`"
                .to_owned(),
        },
    }
}

/// A policy document of AWS.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Document {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: &'static str,
    effect: &'static str,
    action: Vec<&'static str>,
    resource: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<serde_json::Value>,
}

impl Document {
    /// As compact as it gets: a session policy has at most 2048 characters.
    pub(crate) fn compact(&self) -> String {
        serde_json::to_string(self).expect("a document of texts is plain data")
    }

    fn pretty(&self) -> String {
        serde_json::to_string_pretty(self).expect("a document of texts is plain data")
    }
}

/// What grants `needs`: statements for the bucket, and one for its objects.
pub(crate) fn document(target: &Target, needs: &[Need]) -> Document {
    let Target { bucket, prefix, .. } = target;
    let arn = format!("arn:{}:s3:::{bucket}", partition(target));
    let allow = |sid, action: Vec<&'static str>, resource: String| Statement {
        sid,
        effect: "Allow",
        action,
        resource: vec![resource],
        condition: None,
    };
    let mut statement = Vec::new();
    if needs.contains(&Need::List) {
        let below = (!prefix.is_empty())
            .then(|| json!({"StringLike": {"s3:prefix": [format!("{}/*", literal(prefix))]}}));
        statement.push(Statement {
            condition: below,
            ..allow("SpotterList", vec![Need::List.action()], arn.clone())
        });
    }
    if needs.contains(&Need::ListUploads) {
        // This action knows no condition on the prefix.
        let action = vec![Need::ListUploads.action()];
        statement.push(allow("SpotterListUploads", action, arn.clone()));
    }
    let actions: Vec<&str> = Need::ALL
        .into_iter()
        .filter(|need| needs.contains(need))
        .filter(|need| !matches!(need, Need::List | Need::ListUploads))
        .map(Need::action)
        .collect();
    if !actions.is_empty() {
        let below = match prefix.as_str() {
            "" => format!("{arn}/*"),
            prefix => format!("{arn}/{}/*", literal(prefix)),
        };
        statement.push(allow("SpotterObjects", actions, below));
    }
    Document {
        version: "2012-10-17",
        statement,
    }
}

/// A prefix as a policy means it: `*` and `?` stand for anything there, `$` begins a variable.
fn literal(prefix: &str) -> String {
    prefix.chars().fold(String::new(), |mut text, c| {
        match c {
            '*' | '?' | '$' => text.extend(["${", &c.to_string(), "}"]),
            c => text.push(c),
        }
        text
    })
}

fn google(target: &Target) -> String {
    let Target { bucket, prefix, .. } = target;
    let mut command = format!(
        "gcloud storage buckets add-iam-policy-binding gs://{bucket} \\\n  \
         --member=serviceAccount:NAME@PROJECT.iam.gserviceaccount.com \\\n  \
         --role=roles/storage.objectUser"
    );
    if !prefix.is_empty() {
        command.push_str(&format!(
            " \\\n  --condition='title=spotter,expression=\
             resource.name.startsWith(\"projects/_/buckets/{bucket}/objects/{prefix}/\") || \
             api.getAttribute(\"storage.googleapis.com/objectListPrefix\", \"\").startsWith(\"{prefix}/\")'"
        ));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, region: &str) -> Target {
        Target::parse(url, None, Some(region)).unwrap()
    }

    #[test]
    fn whoever_grants_is_known_by_the_server() {
        let check = |endpoint: Option<&str>, expected: Grantor| {
            assert_eq!(Grantor::of(endpoint), expected, "{endpoint:?}");
        };
        check(None, Grantor::Aws);
        check(Some("https://s3.eu-west-1.amazonaws.com"), Grantor::Aws);
        check(Some("https://s3.us-west-004.backblazeb2.com"), Grantor::B2);
        check(Some("https://abc.r2.cloudflarestorage.com/"), Grantor::R2);
        check(Some("https://abc.eu.r2.cloudflarestorage.com"), Grantor::R2);
        check(Some("https://storage.googleapis.com"), Grantor::Gcs);
        check(Some("http://127.0.0.1:9000"), Grantor::Minio);
        check(Some("https://notamazonaws.com"), Grantor::Minio);
    }

    #[test]
    fn aws_is_granted_seven_actions_below_the_prefix_and_narrower_keys_and_nothing_else() {
        let text = policy(Grantor::Aws, &target("s3://lab/team/runs", "eu-west-1")).text;
        let expected = r#"{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Sid": "SpotterList",
      "Effect": "Allow",
      "Action": [
        "s3:ListBucket"
      ],
      "Resource": [
        "arn:aws:s3:::lab"
      ],
      "Condition": {
        "StringLike": {
          "s3:prefix": [
            "team/runs/*"
          ]
        }
      }
    },
    {
      "Sid": "SpotterListUploads",
      "Effect": "Allow",
      "Action": [
        "s3:ListBucketMultipartUploads"
      ],
      "Resource": [
        "arn:aws:s3:::lab"
      ]
    },
    {
      "Sid": "SpotterObjects",
      "Effect": "Allow",
      "Action": [
        "s3:PutObject",
        "s3:GetObject",
        "s3:ListMultipartUploadParts",
        "s3:AbortMultipartUpload",
        "s3:DeleteObject"
      ],
      "Resource": [
        "arn:aws:s3:::lab/team/runs/*"
      ]
    },
    {
      "Sid": "SpotterBoxKeys",
      "Effect": "Allow",
      "Action": [
        "sts:GetFederationToken"
      ],
      "Resource": [
        "arn:aws:sts::*:federated-user/spotter-*"
      ]
    }
  ]
}"#;
        assert_eq!(text, expected);
        let china = policy(Grantor::Aws, &target("s3://lab", "cn-north-1")).text;
        assert!(china.contains("\"arn:aws-cn:s3:::lab/*\"") && !china.contains("Condition"));
        assert!(china.contains("\"arn:aws-cn:sts::*:federated-user/spotter-*\""));
        // What lacks for the bucket is all that is named when something is refused there; and others have no such right.
        let some = granting(Grantor::Aws, &target("s3://lab", ""), &[Need::Delete]);
        assert!(!some.text.contains("sts:"), "{}", some.text);
        let other = policy(Grantor::Minio, &target("s3://lab", ""));
        assert!(!other.text.contains("sts:"), "{}", other.text);
    }

    #[test]
    fn only_what_is_missing_is_asked_for() {
        let one = granting(
            Grantor::Minio,
            &target("s3://lab/runs", ""),
            &[Need::Delete],
        );
        let document: serde_json::Value = serde_json::from_str(&one.text).unwrap();
        let statements = document["Statement"].as_array().unwrap();
        assert_eq!(statements.len(), 1);
        assert_eq!(statements[0]["Action"], json!(["s3:DeleteObject"]));
        assert_eq!(
            granting(Grantor::B2, &target("s3://lab/runs", ""), &[Need::Delete]).text,
            "b2 key create --bucket lab --name-prefix 'runs/' spotter-lab deleteFiles,listBuckets"
        );
    }

    #[test]
    fn the_others_are_asked_in_their_own_words() {
        let runs = target("s3://lab/runs", "");
        assert_eq!(
            policy(Grantor::B2, &runs).text,
            "b2 key create --bucket lab --name-prefix 'runs/' spotter-lab deleteFiles,listBuckets,listFiles,readFiles,writeFiles"
        );
        assert_eq!(
            policy(Grantor::R2, &runs).text,
            "Permissions: Object Read & Write\nSpecify bucket(s): Apply to specific buckets only: lab"
        );
        let google = policy(Grantor::Gcs, &runs).text;
        assert!(google.contains("buckets/lab/objects/runs/"), "{google}");
        assert!(
            !policy(Grantor::Gcs, &target("s3://lab", ""))
                .text
                .contains("condition")
        );
    }

    #[test]
    fn what_means_anything_in_a_policy_is_meant_literally() {
        let odd = document(&target("s3://lab/a*b?$c", ""), &[Need::Read]);
        assert_eq!(
            odd.statement[0].resource,
            ["arn:aws:s3:::lab/a${*}b${?}${$}c/*"]
        );
    }
}
