//! A command on the box, from the moment it runs: everything that the login shell printed before is discarded.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{
        AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
        BufReader, ReadBuf,
    },
    net::UnixStream,
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

use super::{
    FailureKind, NOISE_LIMIT_BYTES, TunnelError, last_words,
    master::{Words, collect},
};
use crate::provider::SshAddress;

/// Sent between two words about how far it is.
const SEND_BYTES: usize = 128 << 10;

/// Called with bytes done and bytes in all.
pub type Told<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// What it printed, without what the login shell printed before.
    pub stdout: Vec<u8>,
    /// The end of its stderr as one printable line.
    pub words: String,
}

impl Output {
    /// It ended with code 0.
    pub fn ok(&self) -> bool {
        self.code == 0
    }
}

/// A command that runs on the box. Killed here when dropped; the box then closes its input and output.
#[derive(Debug)]
pub struct Remote {
    /// Its standard input.
    pub stdin: ChildStdin,
    /// Its standard output.
    pub stdout: BufReader<ChildStdout>,
    child: Child,
    words: Words,
    address: SshAddress,
}

impl Remote {
    /// Waits for the line that says that our command runs. Nothing is sent before: rc files may read their input.
    pub(super) async fn behind_marker(
        mut child: Child,
        marker: &str,
        address: SshAddress,
        limit: Duration,
    ) -> Result<Remote, TunnelError> {
        let stdin = child.stdin.take().expect("it was started with pipes");
        let mut stdout = BufReader::with_capacity(
            64 << 10,
            child.stdout.take().expect("it was started with pipes"),
        );
        let words = collect(child.stderr.take());
        let mut noise = Noise::default();
        let found = timeout(limit, skip_to(&mut stdout, marker.as_bytes(), &mut noise)).await;
        if let Ok(Ok(true)) = found {
            return Ok(Remote {
                stdin,
                stdout,
                child,
                words,
                address,
            });
        }
        // At the end of its output ssh ends by itself; in the other cases it is killed with `child`.
        let ended = matches!(found, Ok(Ok(false)));
        let code = if ended {
            child.wait().await.ok().map(exit_code)
        } else {
            None
        };
        let said = if ended {
            words.finished().await
        } else {
            words.so_far()
        };
        if code == Some(255) && is_link_trouble(&said) {
            return Err(TunnelError::Lost {
                address,
                words: last_words(&said),
            });
        }
        Err(TunnelError::Silent {
            address,
            limit,
            code,
            noise_bytes: noise.bytes,
            noise: last_words(&noise.tail),
            words: last_words(&said),
        })
    }

    /// Sends all of `input`, reads all output and waits for the end.
    ///
    /// # Errors
    /// When the connection broke before the command ended.
    pub async fn finish(self, input: &[u8]) -> Result<Output, TunnelError> {
        self.finish_telling(input, &|_, _| {}).await
    }

    /// [`Remote::finish`]; `told` hears how many bytes of how many ssh has taken.
    ///
    /// # Errors
    /// As [`Remote::finish`].
    pub async fn finish_telling(
        mut self,
        input: &[u8],
        told: Told<'_>,
    ) -> Result<Output, TunnelError> {
        let mut stdout = Vec::new();
        let send = async {
            let mut sent = 0;
            for piece in input.chunks(SEND_BYTES) {
                // A command that ends without reading all of its input is no error of ours.
                if self.stdin.write_all(piece).await.is_err() {
                    break;
                }
                sent += piece.len();
                told(sent as u64, input.len() as u64);
            }
            drop(self.stdin);
        };
        let (_, read) = tokio::join!(send, self.stdout.read_to_end(&mut stdout));
        read.map_err(|err| TunnelError::local("output of ssh cannot be read", err))?;
        end(self.child, &self.words, self.address, stdout).await
    }

    /// Closes its input, throws the rest of its output away and waits for the end.
    ///
    /// # Errors
    /// When the connection broke before the command ended.
    pub async fn done(self) -> Result<Output, TunnelError> {
        self.finish(&[]).await
    }
}

async fn end(
    mut child: Child,
    words: &Words,
    address: SshAddress,
    stdout: Vec<u8>,
) -> Result<Output, TunnelError> {
    let status = child
        .wait()
        .await
        .map_err(|err| TunnelError::local("ssh could not be waited for", err))?;
    let said = words.finished().await;
    let code = exit_code(status);
    if code == 255 && is_link_trouble(&said) {
        return Err(TunnelError::Lost {
            address,
            words: last_words(&said),
        });
    }
    Ok(Output {
        code,
        stdout,
        words: last_words(&said),
    })
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// 255 is also an exit code that a command may have; ssh's own comes with its words, or, when its master died, with none.
fn is_link_trouble(words: &[u8]) -> bool {
    let text = String::from_utf8_lossy(words);
    text.trim().is_empty()
        || FailureKind::classify(&text) != FailureKind::Other
        || [
            "mux_client",
            "Session open refused",
            "Control socket",
            "master",
            "Shared connection",
        ]
        .iter()
        .any(|w| text.contains(w))
}

/// What came before the marker.
#[derive(Debug, Default)]
struct Noise {
    bytes: usize,
    tail: Vec<u8>,
}

impl Noise {
    fn add(&mut self, bytes: &[u8]) {
        const KEEP_BYTES: usize = 4096;
        self.bytes += bytes.len();
        self.tail.extend_from_slice(bytes);
        let excess = self.tail.len().saturating_sub(KEEP_BYTES);
        self.tail.drain(..excess);
    }
}

/// Reads lines until one is exactly `marker`. `false` at the end of the output, or when there was too much before it.
async fn skip_to(
    reader: &mut (impl AsyncBufRead + Unpin),
    marker: &[u8],
    noise: &mut Noise,
) -> io::Result<bool> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let room = (NOISE_LIMIT_BYTES - noise.bytes.min(NOISE_LIMIT_BYTES)) as u64;
        if room == 0 {
            return Err(io::Error::other("too much output before the handshake"));
        }
        (&mut *reader)
            .take(room)
            .read_until(b'\n', &mut line)
            .await?;
        if line.is_empty() {
            return Ok(false);
        }
        if line.strip_suffix(b"\n") == Some(marker) {
            return Ok(true);
        }
        noise.add(&line);
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// A byte stream to the agent's socket. Closed when dropped.
pub struct Bridge {
    io: Pin<Box<dyn Duplex>>,
    /// ssh, killed with the stream.
    _child: Option<Child>,
    /// No shell was involved.
    forwarded: bool,
}

impl Bridge {
    pub(super) fn stdio(remote: Remote) -> Bridge {
        let io = Box::pin(tokio::io::join(remote.stdout, remote.stdin));
        Bridge {
            io,
            _child: Some(remote.child),
            forwarded: false,
        }
    }

    pub(super) fn forwarded(stream: UnixStream) -> Bridge {
        Bridge {
            io: Box::pin(stream),
            _child: None,
            forwarded: true,
        }
    }

    /// Whether it goes by a forwarded socket because the login shell was in the way.
    pub fn is_forwarded(&self) -> bool {
        self.forwarded
    }
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge")
            .field("forwarded", &self.forwarded)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Bridge {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Bridge {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(output: &[u8], expected: bool, rest: &[u8], noise_bytes: usize) {
        let mut reader = BufReader::new(output);
        let mut noise = Noise::default();
        let found = skip_to(&mut reader, b"MARK 1", &mut noise).await.unwrap();
        let mut left = Vec::new();
        reader.read_to_end(&mut left).await.unwrap();
        assert_eq!(
            (found, left.as_slice(), noise.bytes),
            (expected, rest, noise_bytes),
            "{output:?}"
        );
    }

    #[tokio::test]
    async fn only_the_exact_line_opens_the_stream() {
        check(b"\nMARK 1\ndata", true, b"data", 1).await;
        check(b"hello\x00\xff\nMARK 1\n", true, b"", 8).await;
        check(b"no newline\nMARK 1\nMARK 1\n", true, b"MARK 1\n", 11).await;
        check(b"echo MARK 1\n", false, b"", 12).await;
        check(b"MARK 1", false, b"", 6).await;
        check(b"MARK 12\n", false, b"", 8).await;
        check(b"", false, b"", 0).await;
    }

    #[tokio::test]
    async fn endless_noise_is_given_up() {
        let mut flood = vec![b'x'; NOISE_LIMIT_BYTES + 5];
        flood.extend_from_slice(b"\nMARK 1\n");
        let mut noise = Noise::default();
        let found = skip_to(&mut BufReader::new(flood.as_slice()), b"MARK 1", &mut noise).await;
        assert!(found.is_err());
        assert_eq!(noise.bytes, NOISE_LIMIT_BYTES);
    }
}
