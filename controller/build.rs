//! Embeds the agent, zstd-compressed, when it was built before the controller; else an empty file, and the agent is looked
//! for at run time.
use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

const TRIPLE: &str = "x86_64-unknown-linux-musl";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=SPOTTER_AGENT_BIN");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let agent = match env::var_os("SPOTTER_AGENT_BIN").filter(|path| !path.is_empty()) {
        Some(path) => Some(PathBuf::from(path)),
        None => built_before(&out),
    };
    let compressed = match &agent {
        // A path that does not exist is not watched: cargo would build the controller anew each time.
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
fn built_before(out: &Path) -> Option<PathBuf> {
    let build = out.ancestors().find(|path| path.ends_with("build"))?;
    let target = build.parent()?.parent()?;
    [Some(target), target.parent()]
        .into_iter()
        .flatten()
        .map(|target| target.join(TRIPLE).join("release/spotter-agent"))
        .find(|path| path.is_file())
}
