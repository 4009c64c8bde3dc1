//! Whatever a server answers is read or refused.

use spotter_bucket::s3::{clock, xml};

pub(crate) fn check(body: &[u8]) {
    xml::error_body(body);
    let _ = xml::objects(body);
    let _ = xml::parts(body);
    let _ = xml::sums(body);
    let _ = xml::uploads(body);
    let _ = xml::upload_id(body);
    let _ = xml::completed(body);
    if let Ok(text) = std::str::from_utf8(body) {
        clock::parse_iso_time(text);
        xml::unquoted(text);
    }
}
