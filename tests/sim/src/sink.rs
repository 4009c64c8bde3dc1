//! A bucket that forgets: it answers as S3 does and drops every body, so that a benchmark meets the client and nothing else.
//!
//! Only commits are kept, because they are read back. Nothing is checked, nobody is asked for a key. `GET /?bytes` tells how much
//! came. Start at [`serve`].

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Whenever it was: clients only want to see a date.
const LONG_AGO: &str = "2020-01-01T00:00:00.000Z";
const LONG_AGO_HTTP: &str = "Wed, 01 Jan 2020 00:00:00 GMT";

type Answer = Response<Full<Bytes>>;

/// What it remembers.
#[derive(Default)]
struct Sink {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Size by path, and the body where it is kept.
    objects: BTreeMap<String, (u64, Bytes)>,
    /// Sizes of parts by upload.
    uploads: BTreeMap<String, BTreeMap<u32, u64>>,
    begun: u64,
    /// Of all bodies.
    bytes: u64,
}

/// Answers on `listener` until this future is dropped.
pub async fn serve(listener: TcpListener) {
    let sink = Arc::new(Sink::default());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        // Answers are small; a body is not to wait for one.
        let _as_it_is = stream.set_nodelay(true);
        let sink = sink.clone();
        tokio::spawn(async move {
            let handle = service_fn(move |request| {
                let sink = sink.clone();
                async move { Ok::<_, Infallible>(sink.handle(request).await) }
            });
            let _client_left = http1::Builder::new()
                .max_buf_size(512 << 10)
                .serve_connection(TokioIo::new(stream), handle)
                .await;
        });
    }
}

/// The parts of a request that say what it is.
struct Asked {
    path: String,
    query: BTreeMap<String, String>,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let pair = |text: &str| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        Self {
            path: request.uri().path().to_owned(),
            query: query.split('&').map(pair).collect(),
        }
    }

    fn is_object(&self) -> bool {
        let mut pieces = self.path.trim_start_matches('/').splitn(2, '/');
        pieces.nth(1).is_some_and(|key| !key.is_empty())
    }
}

impl Sink {
    async fn handle(&self, request: Request<Incoming>) -> Answer {
        let asked = Asked::of(&request);
        let method = request.method().clone();
        // Chunked signing wraps the body; this header has the size of what is in it.
        let decoded = request.headers().get("x-amz-decoded-content-length");
        let decoded: Option<u64> = decoded.and_then(|value| value.to_str().ok()?.parse().ok());
        let keep = method == Method::PUT && asked.path.contains("/commits/");
        let (length, body) = drain(request.into_body(), keep).await;
        self.state().bytes += length;
        let length = decoded.unwrap_or(length);
        let upload = asked.query.get("uploadId");
        match (&method, asked.is_object()) {
            (&Method::PUT, true) => {
                let mut state = self.state();
                let number = asked.query.get("partNumber").and_then(|text| text.parse().ok());
                if let (Some(upload), Some(number)) = (upload, number) {
                    state.uploads.entry(upload.clone()).or_default().insert(number, length);
                } else {
                    state.objects.insert(asked.path, (length, body));
                }
                tagged(String::new())
            }
            (&Method::POST, true) if asked.query.contains_key("uploads") => {
                let mut state = self.state();
                state.begun += 1;
                let id = format!("upload-{}", state.begun);
                state.uploads.insert(id.clone(), BTreeMap::new());
                tagged(format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            (&Method::POST, true) => self.complete(&asked.path, upload),
            (&Method::GET, true) if upload.is_some() => self.parts(upload),
            (&Method::GET | &Method::HEAD, true) => self.object(&asked.path, &method),
            (&Method::DELETE, _) => {
                self.state().objects.remove(&asked.path);
                answer(StatusCode::NO_CONTENT, String::new())
            }
            (&Method::GET, false) if asked.query.contains_key("uploads") => tagged(
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>".to_owned(),
            ),
            (&Method::GET, false) if asked.query.contains_key("location") => {
                tagged("<LocationConstraint></LocationConstraint>".to_owned())
            }
            (&Method::GET, false) if asked.query.contains_key("bytes") => {
                answer(StatusCode::OK, self.state().bytes.to_string())
            }
            (&Method::GET, false) => self.listing(&asked),
            (&Method::POST, false) => tagged("<DeleteResult></DeleteResult>".to_owned()),
            _ => tagged(String::new()),
        }
    }

    fn complete(&self, path: &str, upload: Option<&String>) -> Answer {
        let mut state = self.state();
        let Some(parts) = upload.and_then(|upload| state.uploads.remove(upload)) else {
            return refused("NoSuchUpload");
        };
        let size: u64 = parts.values().sum();
        state.objects.insert(path.to_owned(), (size, Bytes::new()));
        tagged("<CompleteMultipartUploadResult><ETag>&quot;sink-1&quot;</ETag></CompleteMultipartUploadResult>".to_owned())
    }

    fn parts(&self, upload: Option<&String>) -> Answer {
        let state = self.state();
        let Some(parts) = upload.and_then(|upload| state.uploads.get(upload)) else {
            return refused("NoSuchUpload");
        };
        let row = |(number, size): (&u32, &u64)| {
            format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>&quot;sink-1&quot;</ETag><Size>{size}</Size></Part>"
            )
        };
        let rows: String = parts.iter().map(row).collect();
        tagged(format!(
            "<ListPartsResult><IsTruncated>false</IsTruncated>{rows}</ListPartsResult>"
        ))
    }

    fn object(&self, path: &str, method: &Method) -> Answer {
        let state = self.state();
        let Some((size, body)) = state.objects.get(path) else {
            return refused("NoSuchKey");
        };
        let body = if method == Method::HEAD {
            Bytes::new()
        } else {
            body.clone()
        };
        let length = if method == Method::HEAD {
            *size
        } else {
            body.len() as u64
        };
        let mut answer = tagged(String::new());
        *answer.body_mut() = Full::new(body);
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(
            header::LAST_MODIFIED,
            header::HeaderValue::from_static(LONG_AGO_HTTP),
        );
        answer
    }

    fn listing(&self, asked: &Asked) -> Answer {
        let bucket = format!("/{}/", asked.path.trim_matches('/'));
        let prefix = asked.query.get("prefix").cloned().unwrap_or_default();
        let prefix = percent_encoding::percent_decode_str(&prefix)
            .decode_utf8_lossy()
            .into_owned();
        let state = self.state();
        let row = |(path, (size, _)): (&String, &(u64, Bytes))| {
            let key = path.strip_prefix(&bucket)?;
            let decoded = percent_encoding::percent_decode_str(key).decode_utf8_lossy();
            decoded.starts_with(&prefix).then(|| {
                format!("<Contents><Key>{key}</Key><LastModified>{LONG_AGO}</LastModified><ETag>&quot;sink-1&quot;</ETag><Size>{size}</Size></Contents>")
            })
        };
        let rows: String = state.objects.iter().filter_map(row).collect();
        tagged(format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        ))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Reads a body to its end: its length, and the bytes where they are wanted.
async fn drain(mut body: Incoming, keep: bool) -> (u64, Bytes) {
    let (mut length, mut kept) = (0, Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            length += data.len() as u64;
            if keep {
                kept.extend_from_slice(data);
            }
        }
    }
    (length, kept.into())
}

/// 200 with an entity tag that is no hash of anything.
fn tagged(text: String) -> Answer {
    let mut answer = answer(StatusCode::OK, text);
    answer
        .headers_mut()
        .insert(header::ETAG, header::HeaderValue::from_static("\"sink-1\""));
    answer
}

fn refused(code: &str) -> Answer {
    answer(
        StatusCode::NOT_FOUND,
        format!("<Error><Code>{code}</Code></Error>"),
    )
}

fn answer(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer
}
