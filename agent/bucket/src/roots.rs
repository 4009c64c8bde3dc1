//! The root certificates of the public web, which come with the program: a rented box may have none.

use miniz_oxide::inflate::decompress_to_vec_with_limit;

/// Each certificate behind its length in two bytes, deflated.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/roots.deflate"));

/// More than they take, bytes.
const LIMIT: usize = 1 << 20;

/// The certificates, DER.
pub fn compiled_in() -> Vec<Vec<u8>> {
    let roots = decompress_to_vec_with_limit(PACKED, LIMIT).expect("packed by our own build");
    let mut rest = roots.as_slice();
    let mut certificates = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (certificate, tail) = tail.split_at(usize::from(u16::from_be_bytes(*length)));
        certificates.push(certificate.to_vec());
        rest = tail;
    }
    certificates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_root_is_there_as_it_was() {
        let expected: Vec<Vec<u8>> = webpki_root_certs::TLS_SERVER_ROOT_CERTS
            .iter()
            .map(|root| root.to_vec())
            .collect();
        assert!(expected.len() > 50);
        assert_eq!(compiled_in(), expected);
    }
}
