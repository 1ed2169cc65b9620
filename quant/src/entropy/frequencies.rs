//! Frequencies of symbols.

use super::{EntropyError, Fields, log2, push_varint};

/// Bits of a frequency.
pub(crate) const BITS: u32 = 12;

/// Sum of the frequencies of a table.
pub(crate) const TOTAL: u32 = 1 << BITS;

/// Frequency of each of 256 symbols, in parts of 4096. A symbol of frequency 0 cannot be coded.
///
/// In a file: the first and the last symbol that come, a byte each, then the frequencies of these and all between in
/// LEB128.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frequencies([u16; 256]);

impl Frequencies {
    /// The frequencies nearest to `counts` in coded length; every symbol that is counted has one.
    ///
    /// Without counts, symbol 0 alone comes.
    pub fn new(counts: &[u32; 256]) -> Frequencies {
        let sum: u64 = counts.iter().map(|c| u64::from(*c)).sum();
        let mut out = [0u16; 256];
        if sum == 0 {
            out[0] = TOTAL as u16;
            return Frequencies(out);
        }
        for (f, c) in out.iter_mut().zip(counts) {
            if *c > 0 {
                let part = (u64::from(*c) * u64::from(TOTAL) + sum / 2) / sum;
                *f = part.max(1) as u16;
            }
        }
        // What rounding gave or took too much is settled where that costs least: one part of a symbol with count c
        // and frequency f is worth about c / f.
        let mut over = out.iter().map(|f| i32::from(*f)).sum::<i32>() - TOTAL as i32;
        let mut worth: [f64; 256] = std::array::from_fn(|i| f64::from(counts[i]) / f64::from(out[i].max(1)));
        let used: Vec<usize> = (0..256).filter(|i| out[*i] > 0).collect();
        while over != 0 {
            let less = over > 0;
            let usable = used.iter().copied().filter(|i| out[*i] > u16::from(less));
            let found = if less {
                usable.reduce(|a, b| if worth[b] < worth[a] { b } else { a })
            } else {
                usable.reduce(|a, b| if worth[b] > worth[a] { b } else { a })
            };
            let Some(i) = found else { break };
            out[i] = if less { out[i] - 1 } else { out[i] + 1 };
            worth[i] = f64::from(counts[i]) / f64::from(out[i]);
            over -= if less { 1 } else { -1 };
        }
        Frequencies(out)
    }

    /// The frequency of each symbol.
    pub fn parts(&self) -> &[u16; 256] {
        &self.0
    }

    /// The bits that symbols counted so take.
    pub(crate) fn bits(&self, counts: &[u32; 256]) -> f64 {
        let used = self.0.iter().zip(counts).filter(|(_, c)| **c > 0);
        used.map(|(f, c)| f64::from(*c) * (f64::from(BITS) - log2(f64::from((*f).max(1))))).sum()
    }

    /// Appends the bytes of the table.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let first = self.0.iter().position(|f| *f > 0).unwrap_or(0);
        let last = self.0.iter().rposition(|f| *f > 0).unwrap_or(0);
        out.extend([first as u8, last as u8]);
        for f in &self.0[first..=last] {
            push_varint(u32::from(*f), out);
        }
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Frequencies, EntropyError> {
        const WHAT: &str = "a table of frequencies";
        let [first, last] = fields.array(WHAT)?;
        if first > last {
            return Err(EntropyError::Field { what: "the first symbol of a table", value: first.into() });
        }
        let mut out = [0; 256];
        let mut sum = 0;
        for f in &mut out[usize::from(first)..=usize::from(last)] {
            let v = fields.varint(WHAT)?;
            if v > TOTAL - sum {
                return Err(EntropyError::Field {
                    what: "the sum of frequencies",
                    value: (sum + v.min(TOTAL)).into(),
                });
            }
            sum += v;
            *f = v as u16;
        }
        if sum != TOTAL {
            return Err(EntropyError::Field { what: "the sum of frequencies", value: sum.into() });
        }
        Ok(Frequencies(out))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frequencies_are_whole_near_and_come_back(
            counts in proptest::collection::vec(prop_oneof![Just(0u32), 1..9u32, 0..100_000u32], 256),
        ) {
            let counts: [u32; 256] = counts.try_into().unwrap();
            let table = Frequencies::new(&counts);
            let sum: u64 = counts.iter().map(|c| u64::from(*c)).sum();
            prop_assert_eq!(table.0.iter().map(|f| u32::from(*f)).sum::<u32>(), TOTAL);
            prop_assert!(counts.iter().zip(&table.0).all(|(c, f)| *c == 0 || *f > 0));
            let entropy: f64 = counts.iter().filter(|c| **c > 0)
                .map(|c| f64::from(*c) * (sum as f64 / f64::from(*c)).log2()).sum();
            prop_assert!(table.bits(&counts) <= 1.03 * entropy + 0.05 * sum as f64);
            let mut bytes = Vec::new();
            table.write(&mut bytes);
            let mut fields = Fields(&bytes);
            prop_assert_eq!(Frequencies::read(&mut fields), Ok(table));
            prop_assert_eq!(fields.end(""), Ok(()));
        }

        #[test]
        fn any_bytes_are_a_table_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(table) = Frequencies::read(&mut Fields(&bytes)) {
                prop_assert_eq!(table.0.iter().map(|f| u32::from(*f)).sum::<u32>(), TOTAL);
            }
        }
    }
}
