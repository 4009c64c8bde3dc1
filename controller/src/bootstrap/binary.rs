//! The agent's binary: named by the user, embedded by the build, or beside our own executable.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// The agent as the build embedded it, zstd-compressed; empty when it was not built before the controller.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.zst"));

/// Most bytes an agent may have. The real one has 5 MB; one with debugging symbols far more.
const SIZE_LIMIT_BYTES: usize = 512 << 20;

/// An agent to upload.
#[derive(Debug, Clone)]
pub struct AgentBinary {
    bytes: Bytes,
    hash: String,
    sha256: String,
    machine: &'static str,
}

/// Why there is no agent to upload.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// None was found.
    #[error("no agent to put on a box: none is built into this spotter, and {} does not exist", beside.display())]
    None {
        /// Where it was looked for last.
        beside: PathBuf,
    },
    /// The file cannot be read.
    #[error("agent {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no program for Linux boxes.
    #[error("{origin} is no agent: {why}")]
    NotAnAgent {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl AgentBinary {
    /// The agent that the user named, else the one inside this program, else `spotter-agent` beside `executable`.
    ///
    /// # Errors
    /// When there is none, or what is there is no Linux program.
    pub fn find(named: Option<&Path>, executable: &Path) -> Result<AgentBinary, BinaryError> {
        AgentBinary::choose(named, EMBEDDED, executable)
    }

    fn choose(
        named: Option<&Path>,
        embedded: &[u8],
        executable: &Path,
    ) -> Result<AgentBinary, BinaryError> {
        if let Some(path) = named {
            return AgentBinary::read(path);
        }
        if !embedded.is_empty() {
            let bytes = zstd::stream::decode_all(embedded).map_err(|source| BinaryError::Read {
                path: PathBuf::from("(built in)"),
                source,
            })?;
            return AgentBinary::from_bytes(bytes, "the agent built into this spotter");
        }
        let beside = executable.with_file_name("spotter-agent");
        if !beside.exists() {
            return Err(BinaryError::None { beside });
        }
        AgentBinary::read(&beside)
    }

    fn read(path: &Path) -> Result<AgentBinary, BinaryError> {
        let bytes = fs::read(path).map_err(|source| BinaryError::Read {
            path: path.to_owned(),
            source,
        })?;
        AgentBinary::from_bytes(bytes, &path.display().to_string())
    }

    /// Takes a binary as it is; `origin` is for the error.
    ///
    /// # Errors
    /// When it is no Linux program for a machine that we know.
    pub fn from_bytes(bytes: Vec<u8>, origin: &str) -> Result<AgentBinary, BinaryError> {
        let machine = elf_machine(&bytes).map_err(|why| BinaryError::NotAnAgent {
            origin: origin.to_owned(),
            why,
        })?;
        let hash = blake3::hash(&bytes).to_hex()[..16].to_owned();
        let sha256 = hex::encode(Sha256::digest(&bytes));
        Ok(AgentBinary {
            bytes: Bytes::from(bytes),
            hash,
            sha256,
            machine,
        })
    }

    /// First 16 hex digits of its blake3: its name on the box.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The machine it runs on, as `uname -m` says it.
    pub fn machine(&self) -> &str {
        self.machine
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// Reads `e_machine` of a 64-bit little-endian ELF file.
fn elf_machine(bytes: &[u8]) -> Result<&'static str, &'static str> {
    if bytes.len() > SIZE_LIMIT_BYTES {
        return Err("it has more than 512 MiB");
    }
    let header: &[u8; 20] = bytes.first_chunk().ok_or("it is too short for a program")?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Err("it is not a 64-bit Linux program");
    }
    match u16::from_le_bytes([header[18], header[19]]) {
        62 => Ok("x86_64"),
        183 => Ok("aarch64"),
        _ => Err("it is for another machine than x86_64 or aarch64"),
    }
}

#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend_from_slice(&machine.to_le_bytes());
        bytes
    }

    #[test]
    fn only_linux_programs_are_taken_for_agents() {
        let check = |bytes: Vec<u8>, expected: Result<&str, &str>| {
            let found = AgentBinary::from_bytes(bytes, "x");
            let found = found
                .as_ref()
                .map(AgentBinary::machine)
                .map_err(ToString::to_string);
            assert_eq!(
                found,
                expected.map_err(|why| format!("x is no agent: {why}"))
            );
        };
        check(elf(62), Ok("x86_64"));
        check(elf(183), Ok("aarch64"));
        check(
            elf(3),
            Err("it is for another machine than x86_64 or aarch64"),
        );
        check(
            b"#!/bin/sh\nexec something else\n".to_vec(),
            Err("it is not a 64-bit Linux program"),
        );
        check(Vec::new(), Err("it is too short for a program"));
    }

    #[test]
    fn the_hash_on_the_box_is_the_start_of_blake3() {
        let agent = AgentBinary::from_bytes(elf(62), "x").unwrap();
        assert_eq!(agent.hash(), &blake3::hash(&elf(62)).to_hex()[..16]);
        assert_eq!(agent.sha256().len(), 64);
    }

    #[test]
    fn a_named_agent_that_is_missing_is_named_in_the_error() {
        let err = AgentBinary::find(Some(Path::new("/nonexistent/agent")), Path::new("/bin/x"))
            .unwrap_err();
        assert_eq!(err.to_string(), "agent /nonexistent/agent cannot be read");
    }

    #[test]
    fn what_is_named_comes_first_then_what_is_inside_then_what_lies_beside() {
        let dir = tempfile::tempdir().unwrap();
        let executable = dir.path().join("spotter");
        let inside = zstd::stream::encode_all(&elf(183)[..], 0).unwrap();
        let machine = |named: Option<&Path>, embedded: &[u8]| {
            AgentBinary::choose(named, embedded, &executable).map(|agent| agent.machine)
        };
        let none = machine(None, &[]).unwrap_err().to_string();
        assert!(none.ends_with("spotter-agent does not exist"), "{none}");
        let beside = dir.path().join("spotter-agent");
        fs::write(&beside, elf(62)).unwrap();
        assert_eq!(machine(None, &[]).unwrap(), "x86_64");
        assert_eq!(machine(None, &inside).unwrap(), "aarch64");
        assert_eq!(machine(Some(&beside), &inside).unwrap(), "x86_64");
    }

    #[test]
    fn the_agent_that_was_built_is_the_one_inside() {
        let named = option_env!("SPOTTER_AGENT_BIN").map(PathBuf::from);
        let kept = Path::new(env!("OUT_DIR"))
            .ancestors()
            .map(|dir| dir.join("x86_64-unknown-linux-musl/release/spotter-agent"))
            .find(|path| path.is_file());
        let Some(path) = named.or(kept) else {
            return skip::skip("there is no static agent: run scripts/build-agent.sh");
        };
        let bytes = fs::read(path).unwrap();
        let agent = AgentBinary::find(None, Path::new("/nonexistent/spotter")).unwrap();
        assert_eq!(agent.hash(), &blake3::hash(&bytes).to_hex()[..16]);
        assert_eq!(agent.bytes().len(), bytes.len());
    }
}
