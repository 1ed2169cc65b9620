//! Q5_1: 6 bits a weight, one scale and one minimum for 32 values, codes 0 to 31.
//!
//! ```text
//! d: f16 | m: f16 | u32: bit i is bit 4 of code i | 16 bytes: low 4 bits, value i (low half), value i + 16 (high half)
//! x' = d * code + m
//! ```
//!
//! `m` is the least value and `d` a thirty-first of the range. The error is at most `d / 2` plus the rounding of
//! `d` and `m` to f16.

use super::blocks::{
    self, Block, EncodeBlock, block_codec, get_f16, inverse, min_max, pack_fifth_bits, pack_nibbles, put_f16,
    unpack_fifth_bits, unpack_nibbles,
};
use crate::encoding::Encoding;

/// ggml's Q5_1 (24 bytes for 32 weights).
pub struct Q5_1;

block_codec!(Q5_1, 32, 24, blocks::encode::<Q5_1, 32, 24>);

impl EncodeBlock<32, 24> for Q5_1 {
    const LIMIT: f32 = 65504.0;

    #[inline(always)]
    fn encode(values: &[f32; 32], out: &mut [u8; 24]) -> bool {
        let (min, max) = min_max(values);
        let d = (max - min) / 31.0;
        let mut codes = [0u8; 32];
        if let Some(id) = inverse(d) {
            for (code, v) in codes.iter_mut().zip(values) {
                *code = ((v - min) * id + 0.5) as i32 as u8;
            }
        }
        out[4..8].copy_from_slice(&pack_fifth_bits(&codes));
        pack_nibbles(&codes, &mut out[8..]);
        put_f16(d, &mut out[..2]) & put_f16(min, &mut out[2..4])
    }
}

impl Block<32, 24> for Q5_1 {
    const ENCODING: Encoding = Encoding::Q5_1;

    #[inline(always)]
    fn decode(bytes: &[u8; 24], out: &mut [f32; 32]) {
        let (d, m) = (get_f16(bytes), get_f16(&bytes[2..]));
        let mut codes = unpack_nibbles(&bytes[8..]);
        unpack_fifth_bits(&bytes[4..8], &mut codes);
        for (v, code) in out.iter_mut().zip(codes) {
            *v = f32::from(code) * d + m;
        }
    }
}
