//! Common parts of the block types: cutting rows into blocks, f16 scales, the extremes of a block.

use crate::arch::Lanes;
use crate::arch::{self, Kernel};
use crate::codec::{EncodeError, Rows, check_finite, check_importance};
use crate::encoding::Encoding;

/// A block type: `LEN` values in `BYTES` bytes.
pub(super) trait Block<const LEN: usize, const BYTES: usize> {
    const ENCODING: Encoding;

    /// Decodes one block.
    fn decode<S: Lanes>(s: S, bytes: &[u8; BYTES], out: &mut [f32; LEN]);
}

/// A block type whose blocks are encoded one by one.
pub(super) trait EncodeBlock<const LEN: usize, const BYTES: usize>: Block<LEN, BYTES> {
    /// The largest magnitude that a block can hold.
    const LIMIT: f32;

    /// Encodes one block; false if a scale is too large for f16.
    fn encode<S: Lanes>(s: S, values: &[f32; LEN], out: &mut [u8; BYTES]) -> bool;
}

/// Encodes rows of finite values block by block, without regard to an importance.
pub(super) fn encode<B, const LEN: usize, const BYTES: usize>(
    rows: Rows<'_>,
    out: &mut [u8],
) -> Result<(), EncodeError>
where
    B: EncodeBlock<LEN, BYTES>,
{
    const { assert!(B::ENCODING.block_len() == LEN && B::ENCODING.block_bytes() == BYTES) };
    assert!(rows.cols.is_multiple_of(LEN));
    check_importance(rows)?;
    let (values, rest) = rows.values.as_chunks::<LEN>();
    assert!(rest.is_empty());
    let (out, rest) = out.as_chunks_mut::<BYTES>();
    assert!(rest.is_empty() && values.len() == out.len());
    match arch::dispatch(Encode::<B, LEN, BYTES> { values, out, block: std::marker::PhantomData }) {
        None => Ok(()),
        Some(n) => Err(failure(rows.values, n * LEN, LEN, B::ENCODING, B::LIMIT)),
    }
}

struct Encode<'a, B, const LEN: usize, const BYTES: usize> {
    values: &'a [[f32; LEN]],
    out: &'a mut [[u8; BYTES]],
    block: std::marker::PhantomData<B>,
}

impl<B: EncodeBlock<LEN, BYTES>, const LEN: usize, const BYTES: usize> Kernel for Encode<'_, B, LEN, BYTES> {
    /// The first block that cannot be encoded.
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> Option<usize> {
        // Blocks are tested for NaN while they are on their way to the cache anyway.
        const STEP: usize = 64;
        for (n, (values, out)) in self.values.chunks(STEP).zip(self.out.chunks_mut(STEP)).enumerate() {
            if !all_within(values.as_flattened(), B::LIMIT) {
                return Some(n * STEP);
            }
            for (k, (values, out)) in values.iter().zip(out).enumerate() {
                if !B::encode(s, values, out) {
                    return Some(n * STEP + k);
                }
            }
        }
        None
    }
}

/// True if all values are finite and at most twice `limit`. (Above that ggml's sums can overflow to NaN, and it
/// writes a block of zeros.)
#[inline(always)]
pub(super) fn all_within(values: &[f32], limit: f32) -> bool {
    values.iter().fold(true, |good, v| good & (v.abs() <= 2.0 * limit))
}

/// The error for rows whose encoding stopped at the block of `len` values at `index`: names a weight that is not
/// finite or far too large, else the largest weight of the block, whose scale is too large.
#[cold]
pub(super) fn failure(
    values: &[f32],
    index: usize,
    len: usize,
    encoding: Encoding,
    limit: f32,
) -> EncodeError {
    if let Err(error) = check_finite(values) {
        return error;
    }
    let index = values.iter().position(|v| v.abs() > 2.0 * limit).unwrap_or_else(|| {
        let magnitude = |i: &usize| values[*i].abs().to_bits();
        (index..index + len).rev().max_by_key(magnitude).unwrap_or(index)
    });
    EncodeError::Overflow { index, value: values[index], encoding, limit }
}

/// Decodes whole blocks.
pub(super) fn decode<B, const LEN: usize, const BYTES: usize>(bytes: &[u8], out: &mut [f32])
where
    B: Block<LEN, BYTES>,
{
    const { assert!(B::ENCODING.block_len() == LEN && B::ENCODING.block_bytes() == BYTES) };
    let (bytes, rest) = bytes.as_chunks::<BYTES>();
    assert!(rest.is_empty());
    let (out, rest) = out.as_chunks_mut::<LEN>();
    assert!(rest.is_empty() && bytes.len() == out.len());
    arch::dispatch(Decode::<B, LEN, BYTES> { bytes, out, block: std::marker::PhantomData });
}

struct Decode<'a, B, const LEN: usize, const BYTES: usize> {
    bytes: &'a [[u8; BYTES]],
    out: &'a mut [[f32; LEN]],
    block: std::marker::PhantomData<B>,
}

impl<B: Block<LEN, BYTES>, const LEN: usize, const BYTES: usize> Kernel for Decode<'_, B, LEN, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        for (bytes, out) in self.bytes.iter().zip(self.out) {
            B::decode(s, bytes, out);
        }
    }
}

/// Implements [`Codec`](crate::Codec) for a [`Block`]; `read only`, or with the function that encodes rows.
macro_rules! block_codec {
    ($type:ident, $len:literal, $bytes:literal, read only) => {
        crate::ggml::blocks::block_codec!(
            $type,
            $len,
            $bytes,
            |_, _| {
                Err(crate::codec::EncodeError::ReadOnly(
                    <$type as crate::ggml::blocks::Block<$len, $bytes>>::ENCODING,
                ))
            },
            false,
            None
        );
    };
    ($type:ident, $len:literal, $bytes:literal, $encode:expr) => {
        crate::ggml::blocks::block_codec!(
            $type,
            $len,
            $bytes,
            |rows, out| {
                let encode: fn(crate::codec::Rows<'_>, &mut [u8]) -> Result<(), crate::codec::EncodeError> =
                    $encode;
                let group = <$type as crate::ggml::best::Best<$len, $bytes>>::GRID.group;
                crate::importance::with_filled(rows, group, |rows| encode(rows, out))
            },
            true,
            Some(<$type as crate::ggml::best::Best<$len, $bytes>>::GRID.group),
            crate::ggml::best::encode::<$type, $len, $bytes>,
            crate::ggml::corrected::encode::<$type, $len, $bytes>,
            crate::ggml::corrected::polish::<$type, $len, $bytes>
        );
    };
    ($type:ident, $len:literal, $bytes:literal, $encode:expr, $can_encode:literal, $group:expr $(, $best:expr, $feedback:expr, $polish:expr)?) => {
        impl crate::codec::Codec for $type {
            fn encoding(&self) -> crate::encoding::Encoding {
                <$type as crate::ggml::blocks::Block<$len, $bytes>>::ENCODING
            }

            fn can_encode(&self) -> bool {
                $can_encode
            }

            fn importance_group(&self) -> Option<usize> {
                $group
            }

            fn encode(
                &self,
                rows: crate::codec::Rows<'_>,
                out: &mut [u8],
            ) -> Result<(), crate::codec::EncodeError> {
                let encode: fn(crate::codec::Rows<'_>, &mut [u8]) -> Result<(), crate::codec::EncodeError> =
                    $encode;
                encode(rows, out)
            }

            $(fn encode_best(
                &self,
                rows: crate::codec::Rows<'_>,
                out: &mut [u8],
            ) -> Result<(), crate::codec::EncodeError> {
                $best(self, rows, out)
            }

            fn encode_feedback(
                &self,
                rows: crate::codec::Rows<'_>,
                feedback: &crate::feedback::Feedback,
                out: &mut [u8],
            ) -> Result<(), crate::codec::EncodeError> {
                $feedback(self, rows, feedback, out)
            }

            fn polish(
                &self,
                rows: crate::codec::Rows<'_>,
                hessian: &crate::hessian::Hessian,
                bytes: &mut [u8],
            ) {
                $polish(self, rows, hessian, bytes)
            })?

            fn decode(&self, bytes: &[u8], out: &mut [f32]) {
                crate::ggml::blocks::decode::<$type, $len, $bytes>(bytes, out)
            }
        }
    };
}
pub(super) use block_codec;

/// Writes `scale` as f16, rounded to nearest even; false if it becomes infinite.
#[inline(always)]
pub(super) fn put_f16<S: Lanes>(s: S, scale: f32, out: &mut [u8]) -> bool {
    let h = s.f16_from(scale);
    out.copy_from_slice(&h.to_le_bytes());
    h & 0x7c00 != 0x7c00
}

/// Reads an f16.
#[inline(always)]
pub(super) fn get_f16<S: Lanes>(s: S, bytes: &[u8]) -> f32 {
    s.f16_to(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// The value of largest magnitude with its sign; the first one if `-v` and `v` both stand in the block, and `+0`
/// for a block of zeros.
#[inline(always)]
pub(super) fn extreme<S: Lanes>(s: S, values: &[f32; 32]) -> f32 {
    let (low, high) = min_max(s, values);
    if high > -low {
        high
    } else if high < -low {
        low
    } else if high == 0.0 {
        0.0
    } else if values.iter().position(|v| *v == high) < values.iter().position(|v| *v == low) {
        high
    } else {
        low
    }
}

/// The least and the greatest value.
#[inline(always)]
pub(super) fn min_max<S: Lanes>(s: S, values: &[f32; 32]) -> (f32, f32) {
    let mut low = s.load(values);
    let mut high = low;
    for values in values.chunks_exact(S::N).skip(1) {
        let values = s.load(values);
        low = s.min(values, low);
        high = s.max(values, high);
    }
    let (low, high) = (s.least(low), s.greatest(high));
    if low == 0.0 {
        // The first of -0 and +0 counts.
        let zero = first_zero(values);
        return (zero, if high == 0.0 { zero } else { high });
    }
    (low, high)
}

#[cold]
#[inline(never)]
fn first_zero(values: &[f32; 32]) -> f32 {
    values.iter().copied().find(|v| *v == 0.0).unwrap_or(0.0)
}

/// The codes `min((x - base) / d + half, last)` of a block, cut to integers. All are 0 where ggml divides by a scale
/// below 2^-128: its quotients are infinite, and their conversion to integers gives 0.
#[inline(always)]
pub(super) fn codes<S: Lanes>(s: S, values: &[f32; 32], base: f32, d: f32, half: f32, last: f32) -> [u8; 32] {
    let mut codes = [0; 32];
    let Some(inverse) = inverse(d) else { return codes };
    let (base, inverse, half, last) = (s.splat(base), s.splat(inverse), s.splat(half), s.splat(last));
    for (values, codes) in values.chunks_exact(S::N).zip(codes.chunks_exact_mut(S::N)) {
        s.store_u8(s.min((s.load(values) - base) * inverse + half, last), codes);
    }
    codes
}

/// `1 / scale`, and 0 for 0; `None` if that is infinite.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> Option<f32> {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    inverse.is_finite().then_some(inverse)
}

/// Two codes of 4 bits a byte: value `i` in the low half, value `i + 16` in the high half.
#[inline(always)]
pub(super) fn pack_nibbles(codes: &[u8; 32], out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = (codes[i] & 15) | (codes[i + 16] << 4);
    }
}

/// Bit 4 of each code.
#[inline(always)]
pub(super) fn pack_fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let mut bits = [0; 4];
    for (bits, codes) in bits.iter_mut().zip(codes.as_chunks::<8>().0) {
        // The product moves bit 0 of byte i to bit 56 + i.
        let ones = u64::from_le_bytes(*codes) >> 4 & 0x0101_0101_0101_0101;
        *bits = (ones.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
    bits
}

/// The codes of [`pack_nibbles`].
#[inline(always)]
pub(super) fn unpack_nibbles(bytes: &[u8]) -> [u8; 32] {
    let mut codes = [0; 32];
    for (i, byte) in bytes[..16].iter().enumerate() {
        codes[i] = byte & 15;
        codes[i + 16] = byte >> 4;
    }
    codes
}

/// Adds the bits of [`pack_fifth_bits`] to `codes`.
#[inline(always)]
pub(super) fn unpack_fifth_bits(bytes: &[u8], codes: &mut [u8; 32]) {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> i & 1) << 4) as u8;
    }
}

/// The low 2 bits of 256 codes: in each half, byte `i` holds codes `i`, `i + 32`, `i + 64`, `i + 96`.
#[inline(always)]
pub(super) fn pack_two_bits(codes: &[u8; 256], out: &mut [u8]) {
    for (out, codes) in out.chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = codes[i] | codes[i + 32] << 2 | codes[i + 64] << 4 | codes[i + 96] << 6;
        }
    }
}
