//! Around the `s3s` service: faults that concern the connection, the server's clock, and the counters.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use nix::sys::socket::{setsockopt, sockopt};
use s3s::service::S3Service;

use super::{
    faults::{Fault, Injected, Switchboard},
    host,
};

/// What S3 accepts between its clock and that of a request.
const MAX_SKEW: Duration = Duration::from_secs(15 * 60);

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// One client's connection.
pub struct Connection {
    /// Handles requests when nothing is to go wrong.
    pub service: S3Service,
    /// Says what goes wrong.
    pub board: Arc<Switchboard>,
    /// The socket once more, to turn its end into a reset.
    pub socket: OwnedFd,
}

impl Connection {
    /// Answers a request; an error makes hyper end the connection without an answer.
    pub async fn handle(&self, request: Request<Incoming>) -> Result<Answer, io::Error> {
        let (operation, fault) = {
            let path = host::path_of(&request);
            let operation = operation(&request, &path);
            (operation, self.board.arrived(operation, &path))
        };
        let like = self.board.like();
        let part = (operation == "UploadPart").then(|| self.board.part());
        let crowded = (part.as_ref()).is_some_and(|part| part.number > like.parts_at_once());
        let mut request = request;
        match &fault {
            Some(Fault::ResetBeforeBody) => return Err(self.reset()),
            Some(Fault::ResetAfterBody) => {
                drain(request.into_body()).await;
                return Err(self.reset());
            }
            Some(Fault::StallMs(ms)) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Some(Fault::Torn) => drop(request.extensions_mut().insert(Injected::Torn)),
            Some(Fault::NoSpace) => drop(request.extensions_mut().insert(Injected::NoSpace)),
            _ => {}
        }
        let refusal = match &fault {
            Some(Fault::SlowDown) => Some((503, "SlowDown", String::new())),
            Some(Fault::InternalError) => Some((500, "InternalError", String::new())),
            Some(Fault::Denied) => Some((403, "AccessDenied", String::new())),
            Some(Fault::ExpiredToken) => Some((400, "ExpiredToken", String::new())),
            Some(Fault::Status { status, code }) => Some((*status, code.as_str(), String::new())),
            _ if crowded => Some((503, "SlowDown", String::new())),
            _ => {
                let refused = like.refuses(operation, request.headers());
                let refused = refused.map(|(status, code)| (status, code, String::new()));
                refused.or_else(|| {
                    let server_time = self.skewed(&request)?;
                    Some((403, "RequestTimeTooSkewed", server_time))
                })
            }
        };
        if let Some((status, code, more)) = refusal {
            // Whole requests get whole answers: a client that still sends would see a broken pipe instead.
            drain(request.into_body()).await;
            return Ok(self.dated(refuse(status, code, &more)));
        }

        let rate = match fault {
            Some(Fault::BytesPerS(rate)) => Some(rate),
            _ => None,
        };
        let board = self.board.clone();
        let request = request.map(|body| {
            let size = Body::size_hint(&body);
            let body = BodyStream::new(body).map(|frame| frame.map_err(io::Error::other));
            let counted = paced(body, rate).inspect(move |frame| board.carried(length(frame), 0));
            s3s::Body::http_body_unsync(Measured {
                body: StreamBody::new(Box::pin(counted)),
                size,
            })
        });
        let response = self
            .service
            .call(request)
            .await
            .map_err(|err| io::Error::other(Into::<s3s::StdError>::into(err)))?;
        if fault == Some(Fault::LoseAnswer) {
            return Err(self.reset());
        }
        let board = self.board.clone();
        let size = Body::size_hint(response.body());
        let cut_after = (fault == Some(Fault::CutAnswer)).then_some(size.exact().unwrap_or(0) / 2);
        let response = response.map(|body| {
            let body = BodyStream::new(body).map(|frame| frame.map_err(io::Error::other));
            let counted = paced(body, rate).inspect(move |frame| board.carried(0, length(frame)));
            match cut_after {
                Some(cut_after) => Measured {
                    body: StreamBody::new(cut(counted, cut_after)),
                    size,
                }
                .boxed_unsync(),
                None => Measured {
                    body: StreamBody::new(Box::pin(counted)),
                    size,
                }
                .boxed_unsync(),
            }
        });
        Ok(self.dated(response))
    }

    /// Makes the end of this connection a reset.
    fn reset(&self) -> io::Error {
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        if let Err(err) = setsockopt(&self.socket, sockopt::Linger, &linger) {
            tracing::warn!(error = %err, "a connection ends without a reset");
        }
        io::Error::other("this connection is reset on purpose")
    }

    /// The server's time when the request's is too far from it.
    fn skewed(&self, request: &Request<Incoming>) -> Option<String> {
        let signed = parse_amz_date(request.headers().get("x-amz-date")?.to_str().ok()?)?;
        let now = self.board.clock();
        let apart = now
            .duration_since(signed)
            .unwrap_or_else(|err| err.duration());
        (apart > MAX_SKEW).then(|| {
            let now = s3s::dto::Timestamp::from(now);
            let mut text = Vec::new();
            let formatted = now.format(s3s::dto::TimestampFormat::DateTime, &mut text);
            formatted.map_or_else(
                |_| String::new(),
                |()| {
                    format!(
                        "<ServerTime>{}</ServerTime>",
                        String::from_utf8_lossy(&text)
                    )
                },
            )
        })
    }

    fn dated<B>(&self, mut response: Response<B>) -> Response<B> {
        let mut text = Vec::new();
        let date = s3s::dto::Timestamp::from(self.board.date());
        if date
            .format(s3s::dto::TimestampFormat::HttpDate, &mut text)
            .is_ok()
            && let Ok(value) = HeaderValue::from_bytes(&text)
        {
            response.headers_mut().insert(header::DATE, value);
        }
        response
    }
}

/// Name of the operation that a request with this path of bucket and key asks for, as S3 calls it.
fn operation<B>(request: &Request<B>, path: &str) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let copies = request.headers().contains_key("x-amz-copy-source");
    let mut path = path.trim_start_matches('/').splitn(2, '/');
    let bucket = path.next().is_some_and(|bucket| !bucket.is_empty());
    let object = path.next().is_some_and(|key| !key.is_empty());
    match (request.method(), bucket, object) {
        (&Method::GET, false, _) => "ListBuckets",
        (&Method::POST, false, _) => "Token",
        (&Method::PUT, true, true) if has("partNumber") => {
            if copies {
                "UploadPartCopy"
            } else {
                "UploadPart"
            }
        }
        (&Method::PUT, true, true) => {
            if copies {
                "CopyObject"
            } else {
                "PutObject"
            }
        }
        (&Method::GET, true, true) => {
            if has("uploadId") {
                "ListParts"
            } else {
                "GetObject"
            }
        }
        (&Method::HEAD, true, true) => "HeadObject",
        (&Method::DELETE, true, true) => {
            if has("uploadId") {
                "AbortMultipartUpload"
            } else {
                "DeleteObject"
            }
        }
        (&Method::POST, true, true) if has("uploads") => "CreateMultipartUpload",
        (&Method::POST, true, true) if has("uploadId") => "CompleteMultipartUpload",
        (&Method::GET, true, false) if has("uploads") => "ListMultipartUploads",
        (&Method::GET, true, false) if has("location") => "GetBucketLocation",
        (&Method::GET, true, false) if has("list-type") => "ListObjectsV2",
        (&Method::PUT, true, false) => "CreateBucket",
        (&Method::HEAD, true, false) => "HeadBucket",
        (&Method::POST, true, false) if has("delete") => "DeleteObjects",
        _ => "Unknown",
    }
}

/// An error as S3 writes it.
fn refuse(status: u16, code: &str, more: &str) -> Answer {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>ordered by a switch, or by the clock</Message>{more}</Error>"
    );
    let body = Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/xml"),
    );
    response
}

/// Reads `20130524T000000Z`.
fn parse_amz_date(text: &str) -> Option<SystemTime> {
    let digits = |range: std::ops::Range<usize>| text.get(range);
    let (date, time) = (digits(0..8)?, digits(9..15)?);
    let iso = format!(
        "{}-{}-{}T{}:{}:{}Z",
        date.get(0..4)?,
        date.get(4..6)?,
        date.get(6..8)?,
        time.get(0..2)?,
        time.get(2..4)?,
        time.get(4..6)?
    );
    let parsed = s3s::dto::Timestamp::parse(s3s::dto::TimestampFormat::DateTime, &iso).ok()?;
    let mut seconds = Vec::new();
    parsed
        .format(s3s::dto::TimestampFormat::EpochSeconds, &mut seconds)
        .ok()?;
    let seconds: f64 = String::from_utf8(seconds).ok()?.parse().ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(seconds).ok()?)
}

/// Reads a body to its end and forgets it.
async fn drain(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// The same frames, not faster than a rate.
fn paced<S>(
    frames: S,
    rate: Option<u64>,
) -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + 'static
where
    S: Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + 'static,
{
    frames.then(move |frame| async move {
        if let Some(rate) = rate {
            let seconds = length(&frame) as f64 / rate.max(1) as f64;
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        }
        frame
    })
}

fn length(frame: &Result<Frame<Bytes>, io::Error>) -> u64 {
    let data = frame.as_ref().ok().and_then(Frame::data_ref);
    data.map_or(0, |data| data.len() as u64)
}

/// A body that keeps the size it had before it was wrapped: the size becomes the `Content-Length`.
struct Measured<B> {
    body: B,
    size: SizeHint,
}

impl<B: Body + Unpin> Body for Measured<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// Passes a number of bytes on, then breaks off.
fn cut<S>(
    frames: S,
    after: u64,
) -> Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, io::Error>> + Send>>
where
    S: Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + 'static,
{
    let broken = || Err(io::Error::other("this answer is cut on purpose"));
    Box::pin(stream::unfold(
        (Box::pin(frames), Some(after)),
        move |(mut frames, left)| async move {
            let left = left?;
            match frames.next().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.len() as u64 <= left => {
                        let left = left - data.len() as u64;
                        Some((Ok(Frame::data(data)), (frames, Some(left))))
                    }
                    Ok(data) if left > 0 => Some((
                        Ok(Frame::data(data.slice(..left as usize))),
                        (frames, Some(0)),
                    )),
                    _ => Some((broken(), (frames, None))),
                },
                Some(Err(err)) => Some((Err(err), (frames, None))),
                None => Some((broken(), (frames, None))),
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_told_apart_by_method_path_and_query() {
        fn check(method: Method, uri: &str, expected: &str) {
            let request = Request::builder()
                .method(method.clone())
                .uri(uri)
                .body(())
                .unwrap();
            let path = host::path_of(&request);
            assert_eq!(operation(&request, &path), expected, "{method} {uri}");
        }
        check(Method::GET, "/", "ListBuckets");
        check(
            Method::GET,
            "/runs?list-type=2&prefix=uploads",
            "ListObjectsV2",
        );
        check(
            Method::GET,
            "/runs/?encoding-type=url&prefix=&uploads=",
            "ListMultipartUploads",
        );
        check(Method::GET, "/runs/a/b", "GetObject");
        check(Method::GET, "/runs/a?uploadId=x", "ListParts");
        check(Method::PUT, "/runs/a", "PutObject");
        check(Method::PUT, "/runs/a?partNumber=1&uploadId=x", "UploadPart");
        check(Method::POST, "/runs/a?uploads", "CreateMultipartUpload");
        check(
            Method::POST,
            "/runs/a?uploadId=x",
            "CompleteMultipartUpload",
        );
        check(Method::DELETE, "/runs/a?uploadId=x", "AbortMultipartUpload");
        check(Method::DELETE, "/runs/a", "DeleteObject");
        check(Method::POST, "/runs?delete", "DeleteObjects");
        check(Method::HEAD, "/runs", "HeadBucket");
        check(Method::HEAD, "/runs/a", "HeadObject");
        check(Method::PATCH, "/runs/a", "Unknown");
        let copy = Request::put("/runs/a")
            .header("x-amz-copy-source", "/runs/b")
            .body(())
            .unwrap();
        assert_eq!(operation(&copy, "/runs/a"), "CopyObject");
        let by_name = |path: &str| {
            let request = Request::put(path).header("host", "my.runs.localhost:9000");
            let request = request.body(()).unwrap();
            let path = host::path_of(&request).into_owned();
            (operation(&request, &path), path)
        };
        assert_eq!(by_name("/a"), ("PutObject", "/my.runs/a".to_owned()));
        assert_eq!(by_name("/"), ("CreateBucket", "/my.runs/".to_owned()));
    }

    #[test]
    fn the_date_of_a_signature_is_read() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        assert_eq!(parse_amz_date("20130524T000000Z"), Some(time));
        for text in ["", "2013-05-24", "20131324T000000Z", "2013052äT000000Z"] {
            assert_eq!(parse_amz_date(text), None, "{text}");
        }
    }
}
