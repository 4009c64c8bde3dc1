//! Packs the root certificates that every program carries, because a box may have none: deflated they take a quarter less.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut roots = Vec::new();
    for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let length = u16::try_from(root.len()).expect("a certificate is a few kilobytes");
        roots.extend(length.to_be_bytes());
        roots.extend_from_slice(root);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let packed = miniz_oxide::deflate::compress_to_vec(&roots, 10);
    fs::write(out.join("roots.deflate"), packed).expect("OUT_DIR is writable");
}
