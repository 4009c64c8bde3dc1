//! How objects and uploads lie in files, and how they are found again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;

use super::{Description, Part, Stored, Upload};

/// Last bytes of every object's file.
const MARK: &[u8; 8] = b"SIMS3OB1";
/// Largest description of an object, bytes; S3 itself allows 2 KB of metadata.
const MAX_DESCRIPTION_BYTES: u64 = 64 << 10;

/// Appends the description to the content.
pub(super) fn describe(path: &Path, description: &Description) -> io::Result<()> {
    let json = serde_json::to_vec(description).map_err(io::Error::other)?;
    let mut file = File::options().append(true).open(path)?;
    file.write_all(&json)?;
    file.write_all(&(json.len() as u64).to_le_bytes())?;
    file.write_all(MARK)
}

pub(super) fn load_bucket(dir: &Path) -> anyhow::Result<BTreeMap<String, Stored>> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut objects = BTreeMap::new();
    for file in files {
        let description =
            load_object(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let stored = Stored {
            description: Arc::new(description),
            file,
        };
        let replaced: Option<Stored> = objects.insert(stored.description.key.clone(), stored);
        if let Some(replaced) = replaced {
            fs::remove_file(replaced.file)?;
        }
    }
    Ok(objects)
}

fn load_object(path: &Path) -> anyhow::Result<Description> {
    let mut file = File::open(path)?;
    let mut tail = [0; 16];
    file.seek(SeekFrom::End(-16))?;
    file.read_exact(&mut tail)?;
    let length = u64::from_le_bytes(tail[..8].try_into()?);
    anyhow::ensure!(
        tail[8..] == *MARK && length <= MAX_DESCRIPTION_BYTES,
        "it is no object of this server"
    );
    file.seek(SeekFrom::End(-16 - i64::try_from(length)?))?;
    Ok(serde_json::from_reader(file.take(length))?)
}

/// Name of a part's file: everything that is known of it.
pub(super) fn part_name(number: u32, md5: &str, crc32: Option<&str>) -> String {
    let crc32 = crc32.map(hex::encode).unwrap_or_default();
    format!("{number:05}-{md5}-{crc32}")
}

pub(super) fn load_upload(dir: &Path) -> anyhow::Result<Option<Upload>> {
    let Ok(begun) = fs::read(dir.join("upload.json")) else {
        return Ok(None);
    };
    let mut parts = BTreeMap::new();
    for file in fs::read_dir(dir)? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        if let [number, md5, crc32] = name.split('-').collect::<Vec<_>>()[..] {
            let (number, about) = (number.parse()?, file.metadata()?);
            let crc32 = (!crc32.is_empty())
                .then(|| anyhow::Ok(String::from_utf8(hex::decode(crc32)?)?))
                .transpose()?;
            let (size_bytes, modified) = (about.len(), about.modified()?);
            parts.insert(
                number,
                Part {
                    size_bytes,
                    md5: md5.to_owned(),
                    crc32,
                    modified,
                    file: file.path(),
                },
            );
        }
    }
    Ok(Some(Upload {
        begun: serde_json::from_slice(&begun)?,
        parts,
    }))
}
