//! Certificates that a bucket's server is trusted by, from a file of the user's: only certificates leave it.
//!
//! Such files often hold a private key as well, and a box is somebody else's machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Largest file that is read, bytes: all authorities of the world are a quarter of it.
const MAX_BYTES: u64 = 1 << 20;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Why a file gives no certificates.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// It cannot be read.
    #[error("the certificates in `{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody has that many.
    #[error("`{}` has {bytes} bytes; at most {MAX_BYTES} of certificates are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It holds something else.
    #[error("there is no certificate in `{}`: it must be PEM, with `{BEGIN}`", path.display())]
    None {
        /// The file.
        path: PathBuf,
    },
}

/// The certificates of a PEM file, and nothing else of it.
///
/// # Errors
/// When it cannot be read or holds none.
pub fn read(path: &Path) -> Result<String, AuthoritiesError> {
    let failed = |source| AuthoritiesError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > MAX_BYTES {
        return Err(AuthoritiesError::TooLarge {
            path: path.to_owned(),
            bytes,
        });
    }
    let text = fs::read(path).map_err(failed)?;
    let pem = only_certificates(&String::from_utf8_lossy(&text));
    if pem.is_empty() {
        return Err(AuthoritiesError::None {
            path: path.to_owned(),
        });
    }
    Ok(pem)
}

fn only_certificates(text: &str) -> String {
    let mut found = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let Some(end) = rest[at..].find(END) else {
            break;
        };
        found.push_str(&rest[at..at + end + END.len()]);
        found.push('\n');
        rest = &rest[at + end + END.len()..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_in_the_file_stays_at_home() {
        let one = format!("{BEGIN}\nAAAA\n{END}");
        let two = format!("{BEGIN}\nBBBB\n{END}");
        let key = "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----";
        let text = format!("# ours\n{one}\n{key}\n{two}\n{BEGIN}\ncut off");
        assert_eq!(only_certificates(&text), format!("{one}\n{two}\n"));
        assert_eq!(only_certificates(key), "");
    }

    #[test]
    fn what_is_no_file_of_certificates_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let said = |path: &Path| read(path).unwrap_err().to_string();
        assert!(said(&path).contains("cannot be read"));
        fs::write(&path, "hello").unwrap();
        assert!(said(&path).contains("no certificate"));
        fs::write(&path, vec![b'x'; MAX_BYTES as usize + 1]).unwrap();
        assert!(said(&path).contains("bytes"));
        fs::write(&path, format!("{BEGIN}\nAAAA\n{END}\n")).unwrap();
        assert_eq!(read(&path).unwrap(), format!("{BEGIN}\nAAAA\n{END}\n"));
    }
}
