//! Generates the contract's code without a system protoc.
use std::{env, error::Error, fs, path::PathBuf};

const AGENT: &str = "spotter/v1/agent.proto";
const RUNS: &str = "spotter/v1/runs.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={AGENT}");
    println!("cargo:rerun-if-changed={RUNS}");
    // Reflection serves these bytes to tools that do not have our files; the agent is small and carries its own file only.
    serve(AGENT, "descriptors.bin")?;
    serve(RUNS, "runs.bin")?;
    tonic_prost_build::configure().compile_fds(protox::compile([RUNS], ["."])?)?;
    Ok(())
}

/// Writes a file and what it needs, without places and comments.
fn serve(proto: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let mut descriptors = protox::compile([proto], ["."])?;
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?).join(name);
    fs::write(out, prost_encode(&descriptors))?;
    Ok(())
}

fn prost_encode(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
