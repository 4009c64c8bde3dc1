//! Embeds the agent, zstd-compressed, when it was built before the controller; else an empty file, and the agent is looked
//! for at run time.
use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

const TRIPLE: &str = "x86_64-unknown-linux-musl";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=SPOTTER_AGENT_BIN");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let agent = match env::var_os("SPOTTER_AGENT_BIN").filter(|path| !path.is_empty()) {
        Some(path) => Some(PathBuf::from(path)),
        None => built_before(&out)?,
    };
    let compressed = match &agent {
        Some(path) => {
            println!("cargo:rerun-if-changed={}", path.display());
            let bytes = fs::read(path).map_err(|err| format!("agent {}: {err}", path.display()))?;
            zstd::bulk::compress(&bytes, 19)?
        }
        None => Vec::new(),
    };
    fs::write(out.join("agent.zst"), compressed)?;
    Ok(())
}

/// Where `scripts/build-agent.sh` leaves a copy. `OUT_DIR` is `<target>[/<triple>]/<profile>/build/<package>/out`.
fn built_before(out: &Path) -> Result<Option<PathBuf>, Box<dyn Error>> {
    let Some(target) = out
        .ancestors()
        .find(|path| path.ends_with("build"))
        .and_then(|build| build.parent()?.parent())
    else {
        return Ok(None);
    };
    let kept = |target: &Path| target.join(TRIPLE).join("release");
    let found = [Some(target), target.parent()]
        .into_iter()
        .flatten()
        .map(|target| kept(target).join("spotter-agent"))
        .find(|path| path.is_file());
    if found.is_none() {
        // One that is built later is to be seen. A path that does not exist would let cargo build the controller anew each time, so
        // the folder is made; a file that comes into it changes it. With `--target` there is one more level.
        let triple = env::var_os("TARGET");
        let target = match target.parent() {
            Some(parent) if target.file_name() == triple.as_deref() => parent,
            _ => target,
        };
        let folder = kept(target);
        if !folder.exists() {
            fs::create_dir_all(&folder)?;
            // Not a change by itself, or the next build would do this one again.
            fs::File::open(&folder)?.set_modified(UNIX_EPOCH)?;
        }
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    Ok(found)
}
