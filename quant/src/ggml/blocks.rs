//! What the block types share: cutting rows into blocks, f16 scales, the extremes of a block.

use half::f16;

use crate::arch::{self, Kernel};
use crate::codec::{EncodeError, Rows, check_finite, check_importance};
use crate::encoding::Encoding;

/// A block type: `LEN` values in `BYTES` bytes.
pub(super) trait Block<const LEN: usize, const BYTES: usize> {
    const ENCODING: Encoding;

    /// Decodes one block.
    fn decode(bytes: &[u8; BYTES], out: &mut [f32; LEN]);
}

/// A block type whose blocks are encoded one by one.
pub(super) trait EncodeBlock<const LEN: usize, const BYTES: usize>: Block<LEN, BYTES> {
    /// The largest magnitude that a block can hold.
    const LIMIT: f32;

    /// Encodes one block; false if a scale is too large for f16.
    fn encode(values: &[f32; LEN], out: &mut [u8; BYTES]) -> bool;
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
    check_finite(rows.values)?;
    check_importance(rows)?;
    let (values, rest) = rows.values.as_chunks::<LEN>();
    assert!(rest.is_empty());
    let (out, rest) = out.as_chunks_mut::<BYTES>();
    assert!(rest.is_empty() && values.len() == out.len());
    match arch::dispatch(Encode::<B, LEN, BYTES> { values, out, block: std::marker::PhantomData }) {
        None => Ok(()),
        Some(n) => Err(overflow(n * LEN, &values[n], B::ENCODING, B::LIMIT)),
    }
}

struct Encode<'a, B, const LEN: usize, const BYTES: usize> {
    values: &'a [[f32; LEN]],
    out: &'a mut [[u8; BYTES]],
    block: std::marker::PhantomData<B>,
}

impl<B: EncodeBlock<LEN, BYTES>, const LEN: usize, const BYTES: usize> Kernel for Encode<'_, B, LEN, BYTES> {
    /// The first block that does not fit.
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: arch::Lanes>(self, _: S) -> Option<usize> {
        for (n, (values, out)) in self.values.iter().zip(self.out).enumerate() {
            if !B::encode(values, out) {
                return Some(n);
            }
        }
        None
    }
}

/// The error for a block (at `index` in its rows) whose scale is too large: names the largest weight.
pub(super) fn overflow(index: usize, block: &[f32], encoding: Encoding, limit: f32) -> EncodeError {
    let (mut at, mut value) = (0, 0.0f32);
    for (i, v) in block.iter().enumerate() {
        if v.abs() > value.abs() {
            (at, value) = (i, *v);
        }
    }
    EncodeError::Overflow { index: index + at, value, encoding, limit }
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
    fn run<S: arch::Lanes>(self, _: S) {
        for (bytes, out) in self.bytes.iter().zip(self.out) {
            B::decode(bytes, out);
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
            false
        );
    };
    ($type:ident, $len:literal, $bytes:literal, $encode:expr) => {
        crate::ggml::blocks::block_codec!($type, $len, $bytes, $encode, true);
    };
    ($type:ident, $len:literal, $bytes:literal, $encode:expr, $can_encode:literal) => {
        impl crate::codec::Codec for $type {
            fn encoding(&self) -> crate::encoding::Encoding {
                <$type as crate::ggml::blocks::Block<$len, $bytes>>::ENCODING
            }

            fn can_encode(&self) -> bool {
                $can_encode
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

            fn decode(&self, bytes: &[u8], out: &mut [f32]) {
                crate::ggml::blocks::decode::<$type, $len, $bytes>(bytes, out)
            }
        }
    };
}
pub(super) use block_codec;

/// Writes `scale` as f16, rounded to nearest even; false if it becomes infinite.
#[inline(always)]
pub(super) fn put_f16(scale: f32, out: &mut [u8]) -> bool {
    let h = f16::from_f32(scale);
    out.copy_from_slice(&h.to_le_bytes());
    h.is_finite()
}

/// Reads an f16.
#[inline(always)]
pub(super) fn get_f16(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// The value of largest magnitude with its sign; the first one if `-v` and `v` both stand in the block, and `+0`
/// for a block of zeros.
#[inline(always)]
pub(super) fn extreme(values: &[f32; 32]) -> f32 {
    let (low, high) = min_max(values);
    let amax = high.max(-low);
    if amax == 0.0 {
        0.0
    } else if high > -low {
        high
    } else if high < -low {
        low
    } else if values.iter().position(|v| *v == high) < values.iter().position(|v| *v == low) {
        high
    } else {
        low
    }
}

/// The least and the greatest value.
#[inline(always)]
pub(super) fn min_max(values: &[f32; 32]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
    for half in values.as_chunks::<16>().0 {
        for i in 0..16 {
            low[i] = if half[i] < low[i] { half[i] } else { low[i] };
            high[i] = if half[i] > high[i] { half[i] } else { high[i] };
        }
    }
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            low[i] = if low[i + width] < low[i] { low[i + width] } else { low[i] };
            high[i] = if high[i + width] > high[i] { high[i + width] } else { high[i] };
        }
        width /= 2;
    }
    (low[0], high[0])
}

/// `1 / scale`, and 0 for 0. `None` if that is infinite: a scale below 2^-128, where ggml's conversion of the
/// infinite quotients to integers gives the code 0 for every value.
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
    let mut bits = 0u32;
    for (i, code) in codes.iter().enumerate() {
        bits |= u32::from(code >> 4 & 1) << i;
    }
    bits.to_le_bytes()
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
