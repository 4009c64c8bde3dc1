//! Finds a libnvidia-ml that works.
//!
//! ssh shells lack the container's LD_LIBRARY_PATH and minimal images have no ld.so.cache, so the loader's own search is
//! followed by the directories in which images and container toolkits put the driver's libraries.

use std::env;
use std::path::Path;

use nvml_probe::Failure;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// The versioned name only: the unversioned one is CUDA's link-time stub, which answers nothing.
const NAME: &str = "libnvidia-ml.so.1";

/// Where drivers are mounted, most usual first: container toolkit on Debian and RHEL, Kubernetes device plugins, WSL,
/// NixOS, compat packages, GKE.
const DIRECTORIES: [&str; 12] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
    "/usr/lib",
    "/usr/lib/nvidia",
    "/usr/local/cuda/compat",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/opt/nvidia/lib64",
    "/home/kubernetes/bin/nvidia/lib64",
];

/// Why the probe cannot work.
#[derive(Debug)]
pub struct Refusal {
    /// The kind, which becomes the exit code.
    pub failure: Failure,
    /// What NVML or the loader said.
    pub text: String,
}

/// Opens and initialises NVML; also returns which library it was.
///
/// A file that cannot be loaded (missing, an empty placeholder, a noexec mount) is passed over; an NVML that loads and
/// refuses is the answer, because every other copy would refuse as well.
pub fn open() -> Result<(Nvml, String), Refusal> {
    let mut first_problem = None;
    for candidate in candidates() {
        match Nvml::builder().lib_path(candidate.as_ref()).init() {
            Ok(nvml) => return Ok((nvml, candidate)),
            Err(NvmlError::LibloadingError(err)) => {
                first_problem.get_or_insert_with(|| format!("{candidate}: {}", loader_text(&err)));
            }
            Err(err) => {
                return Err(Refusal {
                    failure: failure_of(&err),
                    text: format!("{candidate}: {err}"),
                });
            }
        }
    }
    let text = first_problem.unwrap_or_else(|| format!("{NAME} is nowhere"));
    Err(Refusal {
        failure: Failure::NoLibrary,
        text,
    })
}

/// `NVML_LIB` first, then the loader's own search, then the directories that exist.
fn candidates() -> impl Iterator<Item = String> {
    let chosen = env::var("NVML_LIB").ok().filter(|path| !path.is_empty());
    let mounted = DIRECTORIES
        .iter()
        .map(|dir| format!("{dir}/{NAME}"))
        .filter(|path| Path::new(path).exists());
    chosen.into_iter().chain([NAME.to_owned()]).chain(mounted)
}

/// What the loader itself said: libloading's own text only names the call.
fn loader_text(err: &(dyn std::error::Error + 'static)) -> String {
    err.source()
        .map_or_else(|| err.to_string(), ToString::to_string)
}

/// The exit code that a refusal of NVML stands for.
pub fn failure_of(err: &NvmlError) -> Failure {
    match err {
        NvmlError::LibraryNotFound | NvmlError::FailedToLoadSymbol(_) => Failure::NoLibrary,
        NvmlError::DriverNotLoaded => Failure::NoDriver,
        NvmlError::LibRmVersionMismatch => Failure::Mismatch,
        NvmlError::NoPermission => Failure::NoPermission,
        _ => Failure::Init,
    }
}
