//! Whether an npy file is whole: its header says how many numbers of which size follow.

use std::io;

use super::{ReadAt, Structure, u16_at, u32_at};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest header that is read; numpy itself refuses to trust one of more than 10,000 bytes.
const MAX_HEADER_BYTES: u64 = 64 << 10;

pub(super) fn check<R: ReadAt + ?Sized>(file: &R, size: u64) -> io::Result<Structure> {
    let short = || Structure::Broken(format!("{size} bytes are no npy file"));
    if size < 10 {
        return Ok(short());
    }
    let mut fixed = [0; 12];
    let fixed_bytes = size.min(12) as usize;
    file.read_at(&mut fixed[..fixed_bytes], 0)?;
    if !fixed.starts_with(MAGIC) {
        return Ok(Structure::Broken(
            "it does not begin like an npy file".to_owned(),
        ));
    }
    let (begins, length) = match fixed[6] {
        1 => (10, u64::from(u16_at(&fixed, 8))),
        2 | 3 if size < 12 => return Ok(short()),
        2 | 3 => (12, u64::from(u32_at(&fixed, 8))),
        _ => return Ok(Structure::Unknown),
    };
    if length > MAX_HEADER_BYTES {
        return Ok(Structure::Unknown);
    }
    if begins + length > size {
        return Ok(Structure::Broken(
            "the npy header is longer than the file".to_owned(),
        ));
    }
    let mut header = vec![0; length as usize];
    file.read_at(&mut header, begins)?;
    let data_bytes = std::str::from_utf8(&header).ok().and_then(data_bytes);
    let Some(expected) = data_bytes.and_then(|data| data.checked_add(begins + length)) else {
        return Ok(Structure::Unknown);
    };
    Ok(if expected == size {
        Structure::Whole("npy")
    } else {
        Structure::Broken(format!("its numbers end at {expected} of {size} bytes"))
    })
}

/// Bytes of the array that a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }` describes; `None` for
/// records and Python objects, which have no size of their own here.
fn data_bytes(header: &str) -> Option<u64> {
    let after = |key: &str| Some(header.split_once(key)?.1.trim_start());
    let descr = after("'descr':")?.strip_prefix('\'')?.split('\'').next()?;
    let kind = descr.trim_start_matches(['<', '>', '|', '=']);
    let number: u64 = kind.get(1..)?.parse().ok()?;
    let item_bytes = match kind.as_bytes().first()? {
        b'U' => number.checked_mul(4)?,
        b'b' | b'i' | b'u' | b'f' | b'c' | b'S' | b'V' => number,
        // Dates carry a unit, which is no part of a plain number; objects are pickled.
        _ => return None,
    };
    let shape = after("'shape':")?.strip_prefix('(')?.split(')').next()?;
    let mut items: u64 = 1;
    for length in shape
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        items = items.checked_mul(length.parse().ok()?)?;
    }
    items.checked_mul(item_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_how_much_follows() {
        let check = |descr: &str, shape: &str, expected: Option<u64>| {
            let header =
                format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
            assert_eq!(data_bytes(&header), expected, "{header}");
        };
        check("'<f4'", "(3, 2)", Some(24));
        check("'|u1'", "()", Some(1));
        check("'<f8'", "(7,)", Some(56));
        check("'<U5'", "(2,)", Some(40));
        check("'|b1'", "(0, 4)", Some(0));
        check("'|O'", "(3,)", None);
        check("[('a', '<i4')]", "(3,)", None);
        check("'<M8[s]'", "(3,)", None);
        check("'<f8'", "(99999999999, 99999999999)", None);
    }
}
