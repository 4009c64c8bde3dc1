//! Small whole files of each format, for the tests of several modules and of the box.

/// A zip with stored entries; `wide` adds the 64-bit records as torch writes them for large files.
pub fn zip(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = out.len() as u32;
        let length = (data.len() as u32).to_le_bytes();
        out.extend_from_slice(b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0");
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&length);
        out.extend_from_slice(&length);
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(data);
        directory.extend_from_slice(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend_from_slice(&length);
        directory.extend_from_slice(&length);
        directory.extend_from_slice(&(name.len() as u16).to_le_bytes());
        directory.extend_from_slice(&(if wide { 12_u16 } else { 0 }).to_le_bytes());
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&(if wide { u32::MAX } else { offset }).to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        if wide {
            directory.extend_from_slice(&[1, 0, 8, 0]);
            directory.extend_from_slice(&u64::from(offset).to_le_bytes());
        }
    }
    let offset = out.len() as u64;
    let bytes = directory.len() as u64;
    let count = entries.len() as u64;
    out.extend_from_slice(&directory);
    if wide {
        let position = out.len() as u64;
        out.extend_from_slice(b"PK\x06\x06");
        out.extend_from_slice(&44_u64.to_le_bytes());
        out.extend_from_slice(&[0; 12]);
        for value in [count, count, bytes, offset] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(b"PK\x06\x07\0\0\0\0");
        out.extend_from_slice(&position.to_le_bytes());
        out.extend_from_slice(&1_u32.to_le_bytes());
    }
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&(count as u16).to_le_bytes());
    out.extend_from_slice(&(count as u16).to_le_bytes());
    out.extend_from_slice(&(bytes as u32).to_le_bytes());
    out.extend_from_slice(&(if wide { u32::MAX } else { offset as u32 }).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out
}

/// A safetensors file of one tensor with these bytes.
pub fn safetensors(data: &[u8]) -> Vec<u8> {
    let header = format!(
        r#"{{"__metadata__":{{"step":"5"}},"w":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}}"#,
        data.len()
    );
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

/// A file as PyTorch wrote it before 1.6, with a storage of floats of each length.
pub fn legacy(lengths: &[u8]) -> Vec<u8> {
    let mut out =
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00.\x80\x02]("
            .to_vec();
    for (number, length) in lengths.iter().enumerate() {
        out.extend_from_slice(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00");
        out.push(b'a' + number as u8);
        out.extend_from_slice(b"X\x03\x00\x00\x00cpuK");
        out.push(*length);
        out.extend_from_slice(b"NtQ");
    }
    out.extend_from_slice(b"e.\x80\x02](");
    for number in 0..lengths.len() {
        out.extend_from_slice(b"X\x01\x00\x00\x00");
        out.push(b'a' + number as u8);
    }
    out.extend_from_slice(b"e.");
    for length in lengths {
        out.extend_from_slice(&u64::from(*length).to_le_bytes());
        out.extend(vec![3; usize::from(*length) * 4]);
    }
    out
}

/// An npy file of so many bytes of numbers.
pub fn npy(descr: &str, shape: &str, data_bytes: usize) -> Vec<u8> {
    let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(header.len() as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend(vec![1; data_bytes]);
    out
}
