//! A line to a box over a port of loopback: one `sshd -i` for each connection. It counts what each brings, and all but
//! holds it.

use std::{
    fs,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::sshd::{HOST, TestBox};

/// A held connection carries one piece in such a time: where nothing came at all, ssh would take it for dead after 15 s.
const TRICKLE: Duration = Duration::from_secs(1);

/// When the bytes of a connection stand still, or nearly.
#[derive(Debug, Clone, Copy)]
pub enum Hold {
    /// Never.
    Open,
    /// After so many of its own.
    After(u64),
    /// After so many of its own, until so many connections have brought as much.
    UntilSeveral {
        /// How many.
        connections: usize,
        /// So much.
        bytes: u64,
    },
}

#[derive(Debug)]
struct State {
    hold: Hold,
    /// Bytes from the box, by connection.
    brought: Vec<u64>,
    open: usize,
    most: usize,
}

impl State {
    fn is_held(&self, connection: usize) -> bool {
        let own = self.brought[connection];
        match self.hold {
            Hold::Open => false,
            Hold::After(bytes) => own >= bytes,
            Hold::UntilSeveral { connections, bytes } => {
                let there = self.brought.iter().filter(|other| **other >= bytes);
                own >= bytes && there.count() < connections
            }
        }
    }
}

/// Ends with all its connections when dropped.
pub struct Relay {
    pub port: u16,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// The user's ssh configuration leads to it from now on.
    pub async fn open(test_box: &TestBox) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        fs::write(
            test_box.path("user_config"),
            format!("Host {HOST}\n  HostName 127.0.0.1\n"),
        )
        .unwrap();
        let state = Arc::new(Mutex::new(State {
            hold: Hold::Open,
            brought: Vec::new(),
            open: 0,
            most: usize::MAX,
        }));
        let serving = (Arc::clone(&state), test_box.sshd_line());
        let accepting = tokio::spawn(async move {
            let (state, line) = serving;
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = {
                    let mut state = state.lock().unwrap();
                    if state.open >= state.most {
                        continue;
                    }
                    state.brought.push(0);
                    state.open += 1;
                    state.brought.len() - 1
                };
                let (state, line) = (Arc::clone(&state), line.clone());
                connections.spawn(async move {
                    carry(client, &line, number, &state).await;
                    state.lock().unwrap().open -= 1;
                });
            }
        });
        Relay {
            port,
            state,
            accepting,
        }
    }

    pub fn hold(&self, hold: Hold) {
        self.state.lock().unwrap().hold = hold;
    }

    /// Most connections at a time; others are closed at once.
    pub fn most(&self, connections: usize) {
        self.state.lock().unwrap().most = connections;
    }

    /// Bytes from the box, by connection.
    pub fn brought(&self) -> Vec<u64> {
        self.state.lock().unwrap().brought.clone()
    }

    pub fn open_connections(&self) -> usize {
        self.state.lock().unwrap().open
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, line: &str, number: usize, state: &Mutex<State>) {
    let _ = client.set_nodelay(true);
    let mut words = line.split(' ');
    let mut sshd = Command::new(words.next().unwrap())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut to_box, mut from_box) = (sshd.stdin.take().unwrap(), sshd.stdout.take().unwrap());
    let (mut from_client, mut to_client) = client.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_box).await;
    };
    let down = async {
        let mut buffer = vec![0; 32 << 10];
        loop {
            let since = Instant::now();
            while state.lock().unwrap().is_held(number) && since.elapsed() < TRICKLE {
                sleep(Duration::from_millis(5)).await;
            }
            match from_box.read(&mut buffer).await {
                Ok(read) if read > 0 => {
                    state.lock().unwrap().brought[number] += read as u64;
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
    };
    // Whoever hangs up first ends both.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
