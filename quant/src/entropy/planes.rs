//! Bytes with a table of their own, or as they are where that is shorter.
//!
//! ```text
//! 1       0: raw; 1: coded
//! ...     raw: the bytes
//!         coded: frequencies, then a stream of `rans`
//! ```

use super::rans::{Decode, Decoder, Encode, Encoder, LANES};
use super::{EntropyError, Fields, Frequencies};
use crate::arch::{self, Kernel, Lanes};

const RAW: u8 = 0;
const CODED: u8 = 1;

/// Appends `bytes` in at most one byte more than they have.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let mut counts = [0; 256];
    for b in bytes {
        counts[usize::from(*b)] += 1;
    }
    let frequencies = Frequencies::new(&counts);
    // States and frequencies take about 200 bytes.
    if frequencies.bits(&counts) / 8.0 + 200.0 < bytes.len() as f64 {
        let start = out.len();
        out.push(CODED);
        frequencies.write(out);
        let table = [Encode::new(&frequencies)];
        let mut encoder = Encoder::default();
        for bytes in bytes.chunks(LANES).rev() {
            encoder.push(&table, &[0; LANES], bytes);
        }
        encoder.finish(out);
        if out.len() - start <= bytes.len() {
            return;
        }
        out.truncate(start);
    }
    out.push(RAW);
    out.extend(bytes);
}

/// Fills `out` from all of `bytes`.
///
/// # Errors
/// [`EntropyError`] unless `bytes` are what [`encode`] makes of as many bytes.
pub fn decode(bytes: &[u8], out: &mut [u8]) -> Result<(), EntropyError> {
    const WHAT: &str = "a plane of bytes";
    let mut fields = Fields(bytes);
    match fields.u8(WHAT)? {
        RAW => {
            out.copy_from_slice(fields.bytes(out.len(), WHAT)?);
            fields.end(WHAT)
        }
        CODED => {
            let table = Decode::new([&Frequencies::read(&mut fields)?].into_iter());
            arch::dispatch(DecodeBytes { decoder: Decoder::new(fields.0)?, table: &table, out })
        }
        other => Err(EntropyError::Field { what: "the kind of a plane of bytes", value: other.into() }),
    }
}

struct DecodeBytes<'a> {
    decoder: Decoder<'a>,
    table: &'a Decode,
    out: &'a mut [u8],
}

impl Kernel for DecodeBytes<'_> {
    type Output = Result<(), EntropyError>;

    #[inline(always)]
    fn run<S: Lanes>(mut self, lanes: S) -> Self::Output {
        self.decoder.bytes(lanes, self.table, self.out);
        self.decoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_back(bytes in proptest::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..5000)) {
            let mut coded = Vec::new();
            encode(&bytes, &mut coded);
            prop_assert!(coded.len() <= bytes.len() + 1);
            let mut back = vec![0; bytes.len()];
            prop_assert_eq!(decode(&coded, &mut back), Ok(()));
            prop_assert_eq!(&back, &bytes);
            coded.push(0);
            prop_assert!(decode(&coded, &mut back).is_err());
        }

        #[test]
        fn any_bytes_decode_or_are_an_error(
            kind in 0..3u8, bytes in proptest::collection::vec(any::<u8>(), 0..400), n in 0usize..500,
        ) {
            let _ = decode(&[&[kind], &*bytes].concat(), &mut vec![0; n]);
        }
    }
}
