//! The search for keys, with made-up files, a scripted program and a small server in the place of AWS's.

use std::{collections::HashMap, os::unix::fs::PermissionsExt, sync::Arc, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use spotter_bucket::Style;

use super::*;
use crate::spec::BucketServer;

const KEYS: &str = "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = s0\n\n\
                    [lab]\naws_access_key_id=LAB\naws_secret_access_key=s1\naws_session_token=t1\n";
const CONFIG: &str = "[default]\nregion = eu-west-1\n[profile lab]\nregion=us-west-2\nservices = local\nca_bundle = /lab.pem\n\
                      s3 =\n  addressing_style = virtual\n\
                      [services local]\ns3 =\n  endpoint_url = http://127.0.0.1:9000\n\
                      [profile plain]\nendpoint_url = https://s3.example\n\
                      [profile half]\nrole_arn = arn:aws:iam::1:role/train\n\
                      [profile round]\nrole_arn = r1\nsource_profile = about\n\
                      [profile about]\nrole_arn = r2\nsource_profile = round\n\
                      [profile instance]\nrole_arn = r3\ncredential_source = Ec2InstanceMetadata\n\
                      [profile finger]\nrole_arn = r4\nsource_profile = lab\nmfa_serial = arn:aws:iam::1:mfa/me\n";

/// A laptop with these two files; what is appended to the config knows the home directory as `HOME`.
struct Laptop {
    home: tempfile::TempDir,
    variables: HashMap<String, String>,
}

impl Laptop {
    fn new(config: &str, variables: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().display().to_string();
        fs::create_dir_all(home.path().join(".aws/sso/cache")).unwrap();
        fs::write(home.path().join(".aws/credentials"), KEYS).unwrap();
        let config = format!("{CONFIG}{}", config.replace("HOME", &path));
        fs::write(home.path().join(".aws/config"), config).unwrap();
        let mut all: HashMap<String, String> = variables
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        all.insert("HOME".into(), path);
        Self {
            home,
            variables: all,
        }
    }

    /// A program in the home directory.
    fn program(&self, name: &str, text: &str) {
        let path = self.home.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    async fn find(&self) -> Result<BucketAccess, String> {
        let variable = |name: &str| self.variables.get(name).cloned();
        let found = surroundings(&variable).unwrap().find().await;
        found.map_err(|err| {
            crate::error::chain(&err).replace(&self.home.path().display().to_string(), "~")
        })
    }
}

/// Answers each request with the next text of a list and keeps what was asked.
async fn server(answers: Vec<(u16, String)>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            loop {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).await.unwrap();
                request.extend_from_slice(&piece[..read]);
                if read == 0 || is_whole(&request) {
                    break;
                }
            }
            kept.lock()
                .unwrap()
                .push(String::from_utf8_lossy(&request).into_owned());
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.trim().parse().unwrap());
    body.len() >= length
}

fn sts_keys(id: &str) -> String {
    format!(
        "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
         <SessionToken>t</SessionToken><Expiration>2027-01-15T08:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
}

#[test]
fn style_and_authorities_are_found_and_the_run_file_counts_over_them() {
    let found = |variables: &[(&str, &str)]| {
        let laptop = Laptop::new("", variables);
        let variable = |name: &str| laptop.variables.get(name).cloned();
        surroundings(&variable).unwrap().place()
    };
    let check = |variables: &[(&str, &str)], style: Style, ca: Option<&str>| {
        let place = found(variables);
        assert_eq!(
            (place.style, place.ca),
            (style, ca.map(PathBuf::from)),
            "{variables:?}"
        );
    };
    check(&[], Style::Auto, None);
    let lab = ("AWS_PROFILE", "lab");
    check(&[lab], Style::Virtual, Some("/lab.pem"));
    check(
        &[lab, ("AWS_CA_BUNDLE", "/env.pem")],
        Style::Virtual,
        Some("/env.pem"),
    );
    let place = found(&[lab]);
    assert_eq!(place.clone().at(&BucketServer::default()), place);
    let server = BucketServer {
        endpoint: Some("https://minio.lab".into()),
        region: None,
        style: Some(Style::Path),
        ca: Some("/run.pem".into()),
        settled: false,
    };
    let there = place.at(&server);
    assert_eq!(
        (there.endpoint.as_deref(), there.region.as_deref()),
        (Some("https://minio.lab"), Some("us-west-2"))
    );
    assert_eq!((there.style, there.ca), (Style::Path, server.ca));
}

#[test]
fn what_the_record_of_a_run_keeps_is_not_changed_by_another_shell() {
    let place = |variables: &[(&str, &str)]| {
        let laptop = Laptop::new("", variables);
        let variable = |name: &str| laptop.variables.get(name).cloned();
        surroundings(&variable).unwrap().place()
    };
    let lab = [
        ("AWS_ENDPOINT_URL_S3", "https://minio.lab"),
        ("AWS_REGION", "lab-1"),
    ];
    let other = [
        ("AWS_ENDPOINT_URL_S3", "https://other.lab"),
        ("AWS_REGION", "other-1"),
    ];
    for first in [&lab[..], &[("AWS_REGION", "eu-west-1")], &[]] {
        let began = place(first);
        let kept = began.clone().at(&BucketServer::default()).kept();
        for later in [&[][..], &other[..], first] {
            let found = place(later).at(&kept);
            assert_eq!(found.endpoint, began.endpoint, "{first:?}, {later:?}");
            if began.region.is_some() {
                assert_eq!(found.region, began.region, "{first:?}, {later:?}");
            }
            assert_eq!(
                found.named_by.as_deref(),
                began.endpoint.as_ref().map(|_| "the record of the run")
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_is_none_is_refused_with_who_names_it() {
    let check = |variables: &[(&str, &str)], expected: &str| {
        let laptop = Laptop::new(
            "[profile bare]\nendpoint_url = lab:9000\n[profile bare2]\nservices = bare\n[services bare]\ns3 =\n  endpoint_url = lab\n",
            variables,
        );
        let variable = |name: &str| laptop.variables.get(name).cloned();
        let place = surroundings(&variable).unwrap().place();
        let err = place.target("s3://runs").unwrap_err();
        assert_eq!(crate::error::chain(&err), expected);
        // What a run file names counts over it.
        let server = BucketServer {
            endpoint: Some("https://minio.lab".into()),
            ..BucketServer::default()
        };
        assert!(place.at(&server).target("s3://runs").is_ok());
    };
    let why = "is not usable: it must begin with http:// or https://, as in";
    check(
        &[("AWS_ENDPOINT_URL_S3", "minio.lab:9000")],
        &format!(
            "AWS_ENDPOINT_URL_S3 names no server: endpoint \"minio.lab:9000\" {why} https://minio.lab:9000"
        ),
    );
    check(
        &[("AWS_ENDPOINT_URL", "127.0.0.1:9000")],
        &format!(
            "AWS_ENDPOINT_URL names no server: endpoint \"127.0.0.1:9000\" {why} http://127.0.0.1:9000"
        ),
    );
    check(
        &[("AWS_PROFILE", "bare")],
        &format!(
            "`endpoint_url` of profile `bare` names no server: endpoint \"lab:9000\" {why} https://lab:9000"
        ),
    );
    check(
        &[("AWS_PROFILE", "bare2")],
        &format!(
            "`endpoint_url` of s3 for profile `bare2` names no server: endpoint \"lab\" {why} https://lab"
        ),
    );
    // Where keys come from a server, that one too is named before anything is asked of it.
    let role = Laptop::new(
        "[profile role]\nrole_arn = r\nsource_profile = lab\n",
        &[("AWS_PROFILE", "role"), ("AWS_ENDPOINT_URL_STS", "sts.lab")],
    );
    let err = role.find().await.unwrap_err();
    assert!(
        err.starts_with("AWS_ENDPOINT_URL_STS names no server: endpoint \"sts.lab\""),
        "{err}"
    );
}

#[tokio::test]
async fn the_environment_wins_over_profiles() {
    let check = async |variables: &[(&str, &str)],
                       key: &str,
                       source: &str,
                       endpoint: Option<&str>,
                       region: Option<&str>| {
        let access = Laptop::new("", variables).find().await.unwrap();
        assert_eq!(access.credentials.access_key_id, key);
        assert_eq!(access.source, source);
        assert_eq!(
            (
                access.place.endpoint.as_deref(),
                access.place.region.as_deref()
            ),
            (endpoint, region)
        );
    };
    check(&[], "DEFAULT", "profile `default`", None, Some("eu-west-1")).await;
    check(
        &[("AWS_PROFILE", "lab")],
        "LAB",
        "profile `lab`",
        Some("http://127.0.0.1:9000"),
        Some("us-west-2"),
    )
    .await;
    check(
        &[
            ("AWS_ACCESS_KEY_ID", "ENV"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("AWS_PROFILE", "lab"),
            ("AWS_REGION", "r"),
        ],
        "ENV",
        "the environment",
        Some("http://127.0.0.1:9000"),
        Some("r"),
    )
    .await;
    check(
        &[
            ("AWS_ENDPOINT_URL", "http://a"),
            ("AWS_ENDPOINT_URL_S3", "http://b"),
        ],
        "DEFAULT",
        "profile `default`",
        Some("http://b"),
        Some("eu-west-1"),
    )
    .await;
}

#[tokio::test]
async fn what_is_lacking_is_named() {
    let check = async |variables: &[(&str, &str)], expected: &str| {
        let err = Laptop::new("", variables).find().await.unwrap_err();
        assert_eq!(err, expected);
    };
    check(
        &[("AWS_ACCESS_KEY_ID", "x")],
        "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not",
    )
    .await;
    check(
        &[("AWS_PROFILE", "nobody")],
        "no bucket keys: AWS_ACCESS_KEY_ID is not set and ~/.aws/credentials or ~/.aws/config has no profile `nobody` with keys",
    )
    .await;
    check(
        &[("AWS_PROFILE", "half")],
        "profile `half` has `role_arn` and lacks `source_profile`",
    )
    .await;
    check(
        &[("AWS_PROFILE", "round")],
        "profile `round` gets its keys from itself, by way of `source_profile`",
    )
    .await;
    check(
        &[("AWS_PROFILE", "instance")],
        "profile `instance` gets its keys by `credential_source = Ec2InstanceMetadata`, which spotter does not do",
    )
    .await;
    check(
        &[("AWS_PROFILE", "finger")],
        "profile `finger` gets its keys by `mfa_serial`, which spotter does not do",
    )
    .await;
}

#[tokio::test]
async fn a_program_of_the_user_gives_keys() {
    let laptop = Laptop::new(
        "[profile vault]\ncredential_process = \"HOME/my vault\" --item 'train keys'\n",
        &[("AWS_PROFILE", "vault")],
    );
    laptop.program(
        "my vault",
        "#!/bin/sh\necho \"{\\\"Version\\\": 1, \\\"AccessKeyId\\\": \\\"$1 $2\\\", \\\"SecretAccessKey\\\": \\\"hush\\\"}\"\n",
    );
    let access = laptop.find().await.unwrap();
    assert_eq!(access.credentials.access_key_id, "--item train keys");
    assert_eq!(access.source, "profile `vault`, its credential_process");

    laptop.program(
        "my vault",
        "#!/bin/sh\necho hush\necho the vault   is locked >&2\nexit 3\n",
    );
    assert_eq!(
        laptop.find().await.unwrap_err(),
        "profile `vault`: its `credential_process` gave no keys: `~/my vault` ended with exit status: 3: the vault is locked"
    );
    laptop.program("my vault", "#!/bin/sh\necho hush\n");
    let err = laptop.find().await.unwrap_err();
    assert!(
        err.contains("printed no keys") && !err.contains("hush"),
        "{err}"
    );
    fs::remove_file(laptop.home.path().join("my vault")).unwrap();
    let err = laptop.find().await.unwrap_err();
    assert!(err.contains("`~/my vault` cannot be started"), "{err}");
}

#[tokio::test]
async fn a_single_sign_on_gives_keys_while_its_login_lasts() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keys = r#"{"roleCredentials": {"accessKeyId": "SSO", "secretAccessKey": "s", "sessionToken": "t", "expiration": 1800000000000}}"#;
    let (url, asked) = server(vec![
        (200, keys.to_owned()),
        (401, "{}".to_owned()),
        (403, r#"{"message": "No access"}"#.to_owned()),
    ])
    .await;
    let laptop = Laptop::new(
        "[profile corp]\nsso_session = work\nsso_account_id = 123\nsso_role_name = Train\n\
         [sso-session work]\nsso_region = eu-west-1\nsso_start_url = https://corp.example/start\n",
        &[("AWS_PROFILE", "corp"), ("AWS_ENDPOINT_URL_SSO", &url)],
    );
    // AWS's tool names the file by the SHA-1 of `work`.
    let cache = laptop
        .home
        .path()
        .join(".aws/sso/cache/e274eeff768c6396088ec6eb091f4bf4d47ab1e0.json");
    let err = laptop.find().await.unwrap_err();
    assert!(
        err.contains("log in with `aws sso login --profile corp`"),
        "{err}"
    );
    fs::write(
        &cache,
        r#"{"accessToken": "hush", "expiresAt": "2020-01-01T00:00:00UTC"}"#,
    )
    .unwrap();
    assert_eq!(
        laptop.find().await.unwrap_err(),
        "profile `corp`: its single sign-on gave no keys: the login is over: log in again with `aws sso login --profile corp`"
    );
    fs::write(
        &cache,
        r#"{"accessToken": "hush", "expiresAt": "2200-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    let access = laptop.find().await.unwrap();
    assert_eq!(access.credentials.access_key_id, "SSO");
    assert_eq!(access.credentials.expires_us, Some(1_800_000_000_000_000));
    assert_eq!(access.source, "profile `corp`, single sign-on");
    let request = asked.lock().unwrap()[0].clone();
    assert!(
        request.starts_with("GET /federation/credentials?role_name=Train&account_id=123 "),
        "{request}"
    );
    assert!(
        request.contains("x-amz-sso_bearer_token: hush"),
        "{request}"
    );
    // The portal has its own mind about logins and roles.
    assert!(laptop.find().await.unwrap_err().contains("log in again"));
    assert!(
        laptop
            .find()
            .await
            .unwrap_err()
            .ends_with("the portal refused role Train of account 123: No access")
    );
}

#[tokio::test]
async fn a_role_is_taken_on_with_the_keys_of_the_profile_it_names() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let denied = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not for you</Message></Error></ErrorResponse>";
    let (url, asked) = server(vec![
        (200, sts_keys("FIRST")),
        (200, sts_keys("SECOND")),
        (200, sts_keys("VOUCHED")),
        (403, denied.to_owned()),
    ])
    .await;
    let laptop = Laptop::new(
        "[profile deep]\nrole_arn = arn:deep\nsource_profile = mid\nexternal_id = x 1\n\
         [profile mid]\nrole_arn = arn:mid\nsource_profile = lab\nrole_session_name = me\n\
         [profile ci]\nrole_arn = arn:ci\nweb_identity_token_file = HOME/token\n",
        &[("AWS_PROFILE", "deep"), ("AWS_ENDPOINT_URL_STS", &url)],
    );
    fs::write(laptop.home.path().join("token"), "vouched\n").unwrap();
    let access = laptop.find().await.unwrap();
    assert_eq!(access.credentials.access_key_id, "SECOND");
    assert_eq!(access.source, "profile `deep`, role arn:deep");
    let requests = asked.lock().unwrap().clone();
    assert!(
        requests[0].contains("Credential=LAB/")
            && requests[0].contains("RoleArn=arn%3Amid&RoleSessionName=me"),
        "{}",
        requests[0]
    );
    assert!(
        requests[1].contains("Credential=FIRST/") && requests[1].contains("ExternalId=x%201"),
        "{}",
        requests[1]
    );
    let ci = Laptop {
        variables: [
            laptop.variables.clone(),
            HashMap::from([("AWS_PROFILE".to_owned(), "ci".to_owned())]),
        ]
        .into_iter()
        .flatten()
        .collect(),
        home: laptop.home,
    };
    assert_eq!(
        ci.find().await.unwrap().credentials.access_key_id,
        "VOUCHED"
    );
    let request = asked.lock().unwrap()[2].clone();
    assert!(
        request.contains("WebIdentityToken=vouched") && !request.contains("authorization"),
        "{request}"
    );
    assert_eq!(
        ci.find().await.unwrap_err(),
        "profile `ci`: role arn:ci was not given: AssumeRoleWithWebIdentity: not for you (AccessDenied)"
    );
}
