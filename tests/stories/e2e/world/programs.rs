//! The programs of this build in a folder that every user can read.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Programs in a folder that every user can read, made once per build.
pub(super) fn programs() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let names = ["spotter", "spotter-sim", "libfake_nvml.so", "spotter-agent"];
        let mut from: Vec<PathBuf> = names[..3]
            .iter()
            .map(|name| stories::program(name))
            .collect();
        from.push(stories::agent());
        // The name follows from what is in it, so that tests in parallel share one folder and never see half of it.
        let mut stamp = blake3::Hasher::new();
        for path in &from {
            let metadata = fs::metadata(path).unwrap();
            stamp.update(
                format!(
                    "{path:?} {} {:?}",
                    metadata.len(),
                    metadata.modified().unwrap()
                )
                .as_bytes(),
            );
        }
        let stamp = &stamp.finalize().to_hex()[..12];
        // Of this build folder: another checkout has its own.
        let of = blake3::hash(stories::program_dir().as_os_str().as_encoded_bytes()).to_hex();
        let of = format!("sp-programs-{}-", &of[..8]);
        let dir = std::env::temp_dir().join(format!("{of}{stamp}"));
        if dir.exists() {
            return dir;
        }
        // Those of builds before this one are of no use any more.
        for old in fs::read_dir(std::env::temp_dir())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = old.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(&of)) {
                let _gone_or_in_use = fs::remove_dir_all(old.path());
            }
        }
        let aside = std::env::temp_dir().join(format!("sp-programs-{}", std::process::id()));
        let _ = fs::remove_dir_all(&aside);
        fs::create_dir(&aside).unwrap();
        for (name, path) in names.iter().zip(&from) {
            let to = aside.join(name);
            if *name == "spotter-agent" {
                // A debug build has a hundred megabytes of symbols, and every box gets a copy.
                let status = Command::new("strip")
                    .arg("-o")
                    .arg(&to)
                    .arg(path)
                    .status()
                    .unwrap();
                assert!(status.success(), "strip (of binutils) works");
            } else {
                fs::copy(path, &to).unwrap();
            }
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
        if fs::rename(&aside, &dir).is_err() {
            let _ = fs::remove_dir_all(&aside);
        }
        dir
    })
}
