//! SHA-256 in lower-case hex.

use formats::Mapped;
use sha2::{Digest, Sha256};

/// SHA-256 of bytes, one part after the other.
pub fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    parts.into_iter().for_each(|part| hash.update(part));
    hex(&hash.finalize())
}

/// SHA-256 of a file, whose pages are let go on the way.
pub fn file_sha256(file: &Mapped) -> String {
    const STEP: usize = 8 << 20;
    let mut hash = Sha256::new();
    for (n, bytes) in file.bytes().chunks(STEP).enumerate() {
        hash.update(bytes);
        let start = (n * STEP) as u64;
        file.release(start..start + bytes.len() as u64);
    }
    hex(&hash.finalize())
}

/// Bytes as two digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
