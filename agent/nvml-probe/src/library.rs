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
    let chosen = env::var("NVML_LIB").ok();
    first_that_loads(candidates(chosen, &DIRECTORIES), |path| {
        Nvml::builder().lib_path(path.as_ref()).init()
    })
}

fn first_that_loads<T>(
    candidates: impl Iterator<Item = String>,
    init: impl Fn(&str) -> Result<T, NvmlError>,
) -> Result<(T, String), Refusal> {
    let mut first_problem = None;
    for candidate in candidates {
        match init(&candidate) {
            Ok(nvml) => return Ok((nvml, candidate)),
            Err(NvmlError::LibloadingError(err)) => {
                let said = loader_text(&err);
                // Most loaders name the file themselves.
                first_problem.get_or_insert_with(|| match said.starts_with(&candidate) {
                    true => said,
                    false => format!("{candidate}: {said}"),
                });
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

/// The one that was `chosen` first, then the loader's own search, then those `directories` that have one.
fn candidates(chosen: Option<String>, directories: &[&str]) -> impl Iterator<Item = String> {
    let chosen = chosen.filter(|path| !path.is_empty());
    let mounted: Vec<String> = directories
        .iter()
        .map(|dir| format!("{dir}/{NAME}"))
        .filter(|path| Path::new(path).exists())
        .collect();
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

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// Directories of this test, each with the library as it is told: absent, or of these bytes.
    fn directories(name: &str, libraries: &[Option<&[u8]>]) -> (PathBuf, Vec<String>) {
        let root = env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let dirs = libraries.iter().enumerate().map(|(number, library)| {
            let dir = root.join(number.to_string());
            fs::create_dir_all(&dir).unwrap();
            if let Some(bytes) = library {
                fs::write(dir.join(NAME), bytes).unwrap();
            }
            dir.display().to_string()
        });
        let dirs = dirs.collect();
        (root, dirs)
    }

    #[test]
    fn the_chosen_one_comes_first_then_the_loaders_then_those_that_are_there() {
        let (root, dirs) = directories("nvml-order", &[Some(b""), None, Some(b"x")]);
        let dirs: Vec<&str> = dirs.iter().map(String::as_str).collect();
        let (first, third) = (format!("{}/{NAME}", dirs[0]), format!("{}/{NAME}", dirs[2]));
        let all = |chosen: Option<&str>| -> Vec<String> {
            candidates(chosen.map(str::to_owned), &dirs).collect()
        };
        let found = [NAME, &first, &third];
        assert_eq!(all(None), found);
        assert_eq!(all(Some("")), found, "an empty variable chooses nothing");
        assert_eq!(all(Some("/my/nvml"))[..2], ["/my/nvml", NAME]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_cannot_be_loaded_is_passed_over_and_what_refuses_is_the_answer() {
        let (root, dirs) = directories("nvml-load", &[Some(b""), Some(b"no library"), Some(b"it")]);
        let paths: Vec<String> = dirs.iter().map(|dir| format!("{dir}/{NAME}")).collect();
        // The loader's own words on the first two: an empty placeholder, and what is no library.
        let init = |path: &str| match path == paths[2] {
            true => Ok(7),
            false => (Nvml::builder().lib_path(path.as_ref()).init()).map(|_| 0),
        };
        let found = first_that_loads(paths.iter().cloned(), init);
        let found = found.map_err(|refusal| refusal.text);
        assert_eq!(found, Ok((7, paths[2].clone())));
        let refused = first_that_loads(paths[..2].iter().cloned(), init).unwrap_err();
        assert_eq!(refused.failure, Failure::NoLibrary);
        assert!(refused.text.starts_with(&paths[0]), "{}", refused.text);
        let mismatch = |path: &str| match path == paths[1] {
            true => Err(NvmlError::LibRmVersionMismatch),
            false => init(path),
        };
        let refused = first_that_loads(paths.iter().cloned(), mismatch).unwrap_err();
        assert_eq!(refused.failure, Failure::Mismatch);
        assert!(refused.text.starts_with(&paths[1]), "{}", refused.text);
        let nowhere = first_that_loads(std::iter::empty(), init).unwrap_err();
        assert!(nowhere.text.contains("is nowhere"), "{}", nowhere.text);
        fs::remove_dir_all(root).unwrap();
    }
}
