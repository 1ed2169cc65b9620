//! Texts that no model should be judged by or fitted to, told by their tokens alone.

use std::collections::HashSet;

use crate::vocab::Coder;

/// Fewest tokens that anything is said of.
const MIN_TOKENS: usize = 512;
/// Tokens that are looked at, from all over the text.
const LOOKED_AT: usize = 1 << 16;
/// Most different tokens of a text that is no text: digits, bases, a repeated byte.
const FEW_TOKENS: usize = 24;
/// Tokens of the runs that repeat.
const RUN: usize = 16;
/// Least share of different runs; ordinary texts have more than 0.9.
const FEW_RUNS: f64 = 0.1;
/// Least share of letters among characters that are no blanks; code and tables have more than half.
const FEW_LETTERS: f64 = 0.1;

/// Oddity of a text, as a sentence whose subject it is.
pub fn oddity<'t>(tokens: impl IntoIterator<Item = &'t u32>, coder: &Coder) -> Option<String> {
    let tokens: Vec<u32> = tokens.into_iter().copied().take(LOOKED_AT).collect();
    if tokens.len() < MIN_TOKENS {
        return None;
    }
    let kinds = tokens.iter().collect::<HashSet<_>>().len();
    if kinds <= FEW_TOKENS {
        return Some(format!("consists of {kinds} different tokens only"));
    }
    let runs = tokens.windows(RUN);
    let (all, different) = (runs.len(), runs.collect::<HashSet<_>>().len());
    if (different as f64) < FEW_RUNS * all as f64 {
        return Some(format!("repeats itself: of {all} runs of {RUN} tokens {different} are different"));
    }
    let bytes: Vec<u8> = tokens.iter().flat_map(|t| coder.bytes(*t)).copied().collect();
    let text = String::from_utf8_lossy(&bytes);
    let (mut letters, mut all) = (0usize, 0usize);
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        all += 1;
        letters += usize::from(c.is_alphabetic());
    }
    let is_bare = all > 0 && (letters as f64) < FEW_LETTERS * all as f64;
    is_bare.then(|| format!("has hardly any letters: {letters} of {all} characters"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Vocab;

    #[test]
    fn digits_and_repetitions_are_odd_and_texts_are_not() {
        let coder = Coder::greedy(Vocab::bytes());
        let said = |text: &str| {
            let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
            oddity(&tokens, &coder)
        };
        let number = |i: u32| i.wrapping_mul(2_654_435_761) >> 12;
        let digits: String = (0..400).map(|i| format!("{} ", number(i) % 100)).collect();
        assert_eq!(said(&digits).unwrap(), "consists of 11 different tokens only");
        assert_eq!(said(&"a".repeat(4096)).unwrap(), "consists of 1 different tokens only");
        let sentence = "The quick brown fox jumps over the lazy dog; 12 more wait. ";
        assert!(said(&sentence.repeat(40)).unwrap().starts_with("repeats itself"));
        let symbol = |i: u32| char::from(b'!' + (number(i.wrapping_mul(i)) % 31) as u8);
        let symbols: String = (0..600).map(symbol).collect();
        assert!(said(&symbols).unwrap().starts_with("has hardly any letters"));
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/heldout.txt");
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        assert_eq!(said(&text), None);
        assert_eq!(said("1 2 3"), None, "too short to tell");
    }
}
