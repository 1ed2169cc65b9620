//! The 6-bit scales and minima of Q4_K and Q5_K.
//!
//! Eight scales `s` and eight minima `m` of 6 bits in 12 bytes:
//!
//! ```text
//! byte j     (0..4): s[j],            and bits 4-5 of s[j + 4] above
//! byte 4 + j (0..4): m[j],            and bits 4-5 of m[j + 4] above
//! byte 8 + j (0..4): low 4 bits of s[j + 4], and of m[j + 4] above
//! ```

/// The 12 bytes. A scale or minimum above 63 spills into its neighbour, as it does in ggml.
#[inline(always)]
pub(super) fn pack_six_bits(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for j in 0..4 {
        bytes[j] = scales[j] | (scales[j + 4] >> 4 << 6);
        bytes[j + 4] = mins[j] | (mins[j + 4] >> 4 << 6);
        bytes[j + 8] = (scales[j + 4] & 15) | (mins[j + 4] << 4);
    }
    bytes
}

/// Scales and minima of the 12 bytes.
#[inline(always)]
pub(super) fn unpack_six_bits(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        scales[j] = bytes[j] & 63;
        mins[j] = bytes[j + 4] & 63;
        scales[j + 4] = (bytes[j + 8] & 15) | (bytes[j] >> 6 << 4);
        mins[j + 4] = (bytes[j + 8] >> 4) | (bytes[j + 4] >> 6 << 4);
    }
    (scales, mins)
}
