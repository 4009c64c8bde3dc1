//! The servers: each started for one test, on an address of its own, and gone with it.

use std::{path::PathBuf, sync::Arc, thread};

use spotter_bucket::{
    Credentials, Findings, S3Bucket, S3Options, Target, profile::Style, verdict::Honour,
};
use spotter_sim::s3::{self, AccessKey, Like, S3Config, S3Handle};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime};

use crate::others::{Access, Certified, Other, Running, program};

pub(crate) const BUCKET: &str = "runs";
pub(crate) const ID: &str = "SIMACCESS";
pub(crate) const SECRET: &str = "sim-secret-key";
const ACCESS: Access<'static> = Access {
    bucket: BUCKET,
    id: ID,
    secret: SECRET,
};

/// Runs each story against every server, a test each, in modules of these names.
macro_rules! on_every_server {
    ($style:ident like $r2:ident, $b2:ident, $gcs:ident: $($story:ident),* $(,)?) => {
        on_every_server!(@ $r2 LikeR2 $style $($story)*);
        on_every_server!(@ $b2 LikeB2 $style $($story)*);
        on_every_server!(@ $gcs LikeGcs $style $($story)*);
    };
    ($style:ident in $ours:ident, $ministack:ident, $rclone:ident: $($story:ident),* $(,)?) => {
        on_every_server!(@ $ours Ours $style $($story)*);
        on_every_server!(@ $ministack Ministack $style $($story)*);
        on_every_server!(@ $rclone Rclone $style $($story)*);
    };
    (@ $module:ident $kind:ident $style:ident $($story:ident)*) => {
        mod $module {
            use crate::fleet::{Kind, on};
            use spotter_bucket::profile::Style;

            $( #[test] fn $story() {
                on(Kind::$kind, Style::$style, async |server| super::$story(server).await);
            } )*
        }
    };
}
pub(crate) use on_every_server;

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Checks everything, over the `s3s` library.
    Ours,
    /// Ours, that takes what Cloudflare R2 takes.
    LikeR2,
    /// Ours, that takes what Backblaze B2 takes, with a key for one prefix alone.
    LikeB2,
    /// Ours, that takes what Google Cloud Storage takes of HMAC keys.
    LikeGcs,
    /// See [`Other`].
    Ministack,
    /// See [`Other`].
    Rclone,
}

impl Kind {
    fn other(self) -> Option<Other> {
        match self {
            Kind::Ours | Kind::LikeR2 | Kind::LikeB2 | Kind::LikeGcs => None,
            Kind::Ministack => Some(Other::Ministack),
            Kind::Rclone => Some(Other::Rclone),
        }
    }
}

/// A running server with one bucket.
pub(crate) struct Server {
    /// Where it listens.
    pub url: String,
    kind: Kind,
    style: Style,
    _running: Option<Running>,
    _handle: Option<S3Handle>,
    _dir: TempDir,
}

impl Server {
    /// What it is known to honour.
    pub(crate) fn honours(&self, server: &str) -> Findings {
        let strict = Findings {
            server: server.to_owned(),
            sha256: Honour::Honoured,
            crc32: Honour::Honoured,
            crc32_uploads: true,
            conditions: Honour::Honoured,
            part_tags: Honour::Honoured,
            refusal_keeps_upload: true,
            lists_parts: true,
            lists_uploads: true,
        };
        match self.kind {
            Kind::Ours => strict,
            Kind::LikeR2 => Findings {
                crc32: Honour::Lacking,
                crc32_uploads: false,
                ..strict
            },
            // It says no to the header, whatever is in it: a right one is refused too.
            Kind::LikeB2 => Findings {
                crc32_uploads: false,
                conditions: Honour::Lacking,
                ..strict
            },
            Kind::LikeGcs => Findings {
                crc32_uploads: false,
                conditions: Honour::Ignored,
                ..strict
            },
            Kind::Ministack => Findings {
                sha256: Honour::Ignored,
                // It does not list the checksums of parts, so a resumed upload could not be ended.
                crc32_uploads: false,
                ..strict
            },
            Kind::Rclone => Findings {
                sha256: Honour::Ignored,
                crc32: Honour::Ignored,
                crc32_uploads: false,
                conditions: Honour::Ignored,
                refusal_keeps_upload: false,
                ..strict
            },
        }
    }

    /// The bucket, below a prefix.
    pub(crate) fn target(&self) -> Target {
        let url = match self.style {
            // An address has no names below it.
            Style::Virtual => self.url.replace("127.0.0.1", "localhost"),
            _ => self.url.clone(),
        };
        let target = Target::parse(&format!("s3://{BUCKET}/p"), Some(&url), None).unwrap();
        target.with_style(self.style)
    }

    /// A client of the bucket.
    pub(crate) fn client(&self) -> S3Bucket {
        self.client_with(S3Options::default())
    }

    /// The same with other limits.
    pub(crate) fn client_with(&self, options: S3Options) -> S3Bucket {
        client(self.target(), SECRET, options)
    }

    /// A client of a bucket of this name.
    pub(crate) fn client_of(&self, bucket: &str) -> S3Bucket {
        let target = Target {
            bucket: bucket.to_owned(),
            ..self.target()
        };
        client(target, SECRET, S3Options::default())
    }

    /// A client whose keys have this secret.
    pub(crate) fn client_with_secret(&self, secret: &str) -> S3Bucket {
        client(self.target(), secret, S3Options::default())
    }

    /// Whether it looks at who signed a request.
    pub(crate) fn checks_keys(&self) -> bool {
        self.kind != Kind::Ministack
    }
}

fn client(target: Target, secret: &str, options: S3Options) -> S3Bucket {
    let keys = Credentials {
        access_key_id: ID.into(),
        secret_access_key: secret.into(),
        session_token: None,
        expires_us: None,
    };
    S3Bucket::new(target, Arc::new(move || Some(keys.clone())), options).unwrap()
}

/// Runs a story against one server, on a thread and a runtime of its own. What the machine lacks is skipped loudly; where
/// everything is required it is a failure.
pub(crate) fn on(kind: Kind, style: Style, story: impl AsyncFnOnce(&Server) + Send) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let other = kind.other();
    if let Some(lacking) = other.and_then(Other::lacking) {
        return crate::skip::skip(&lacking);
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Some(other) = other {
                other.make_way();
            }
            // One thread: every socket is made in the network that this thread is in.
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = start(kind, style).await;
                println!("{kind:?} at {}, {style:?}", server.url);
                story(&server).await;
            });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A tool of other people; `None` where it is missing, and may be.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = program(name);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("SPOTTER_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{} is required",
        path.display()
    );
    println!("SKIPPED: {} is missing", path.display());
    None
}

async fn start(kind: Kind, style: Style) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let (url, running, handle) = match kind.other() {
        None => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let config = S3Config {
                buckets: vec![BUCKET.into()],
                keys: vec![AccessKey::new(ID, SECRET)],
            };
            let handle = s3::serve(dir.path().join("s3"), listener, config).unwrap();
            let board = handle.faults();
            match kind {
                Kind::LikeR2 => board.set_like(Like::R2),
                Kind::LikeB2 => {
                    board.set_like(Like::B2);
                    let mut key = AccessKey::new(ID, SECRET);
                    key.prefix = Some("p/".into());
                    board.set_key(key);
                }
                Kind::LikeGcs => board.set_like(Like::Gcs),
                Kind::Ours | Kind::Ministack | Kind::Rclone => {}
            }
            (handle.url(), None, Some(handle))
        }
        Some(other) => {
            // Rclone takes one style at a time.
            let style = format!("--force-path-style={}", style != Style::Virtual);
            let running = other.start(dir.path(), ACCESS, &[&style]);
            (running.url.clone(), Some(running), None)
        }
    };
    Server {
        url,
        kind,
        style,
        _running: running,
        _handle: handle,
        _dir: dir,
    }
}

/// `rclone serve s3` with a certificate; nothing when rclone is missing.
pub(crate) fn with_certificate(certified: &Certified) -> Option<Server> {
    if let Some(lacking) = Other::Rclone.lacking() {
        crate::skip::skip(&lacking);
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let more = certified.arguments(dir.path());
    let running = Other::Rclone.start(dir.path(), ACCESS, &more.each_ref().map(String::as_str));
    Some(Server {
        url: running.url.clone(),
        kind: Kind::Rclone,
        style: Style::Path,
        _running: Some(running),
        _handle: None,
        _dir: dir,
    })
}
