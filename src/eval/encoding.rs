//! Texts in other encodings than UTF-8: models of RWKV were trained on none of them, so whoever gives one gave the wrong
//! file, or saved it as another program does.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};

/// The mark that Windows puts before UTF-8. It is no text.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// Bytes of a text that are looked at to tell its encoding.
const LOOKED_AT: usize = 1 << 20;
/// Least share of characters that texts are made of, for bytes to be taken as UTF-16.
const LIKELY: f64 = 0.95;

/// Reason that bytes are no UTF-8 text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotUtf8 {
    /// Verdict on the bytes: `is UTF-16 LE`.
    pub what: String,
    /// Name at `iconv` of the likely encoding.
    pub iconv: Option<&'static str>,
}

impl NotUtf8 {
    fn encoded(name: &str, iconv: &'static str) -> NotUtf8 {
        NotUtf8 { what: format!("is {name}, and models read UTF-8"), iconv: Some(iconv) }
    }
}

/// The bytes of a UTF-8 text without the mark before it. Samples may begin and end within a character.
///
/// # Errors
/// [`NotUtf8`] for another encoding and for binary data.
pub(super) fn utf8(bytes: &[u8]) -> Result<&[u8], NotUtf8> {
    for (mark, name, iconv) in [
        (&b"\xff\xfe\0\0"[..], "UTF-32 LE", "UTF-32"),
        (b"\0\0\xfe\xff", "UTF-32 BE", "UTF-32"),
        (b"\xff\xfe", "UTF-16 LE", "UTF-16"),
        (b"\xfe\xff", "UTF-16 BE", "UTF-16"),
    ] {
        if bytes.starts_with(mark) {
            return Err(NotUtf8::encoded(name, iconv));
        }
    }
    let text = without_mark(bytes);
    let has_nul = text.contains(&0);
    let first = invalid(text).next();
    if first.is_none() && !has_nul {
        return Ok(text);
    }
    let looked_at = &text[..text.len().min(LOOKED_AT)];
    // (Other encodings have no NULs, and in pairs of their bytes some of them look like Hangul.)
    // A few NULs in what else is UTF-8 are none of UTF-16: there every second byte of ASCII is one.
    let nuls = looked_at.iter().filter(|b| **b == 0).count();
    let may_be_wide = has_nul && (first.is_some() || nuls * 5 > looked_at.len());
    if let Some(wide) = wide(looked_at).filter(|_| may_be_wide) {
        return Err(wide);
    }
    let is_odd = |b: &&u8| **b < 0x20 && !matches!(**b, b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0x1b);
    let odd = looked_at.iter().filter(is_odd).count();
    if has_nul || odd * 100 > looked_at.len() {
        let kind = if has_nul { "NUL bytes" } else { "control characters" };
        return Err(NotUtf8 { what: format!("is binary data with {kind}, and no text"), iconv: None });
    }
    Err(legacy(text, first.unwrap_or_default()))
}

/// Bytes without the mark that Windows puts before UTF-8.
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// Offsets at which bytes are no UTF-8, but for a character that is cut at the start or the end.
fn invalid(text: &[u8]) -> impl Iterator<Item = usize> {
    const MAX_CUT: usize = 3;
    let is_continued = |b: &&u8| **b & 0xc0 == 0x80;
    let cut = text.iter().take(MAX_CUT).take_while(is_continued).count();
    let mut at = cut;
    std::iter::from_fn(move || {
        let error = std::str::from_utf8(text.get(at..)?).err()?;
        let length = error.error_len()?; // none: the text ends within a character
        let found = at + error.valid_up_to();
        at = found + length;
        Some(found)
    })
}

/// UTF-16 and UTF-32 without a mark: by the characters that their units would be.
fn wide(bytes: &[u8]) -> Option<NotUtf8> {
    let quads = || bytes.as_chunks::<4>().0.iter();
    let pairs = || bytes.as_chunks::<2>().0.iter();
    let share = |chars: &mut dyn Iterator<Item = Option<char>>| {
        let (mut all, mut likely) = (0usize, 0usize);
        for c in chars {
            all += 1;
            likely += usize::from(c.is_some_and(is_of_texts));
        }
        if all < 2 { 0.0 } else { likely as f64 / all as f64 }
    };
    let units = |of: fn([u8; 2]) -> u16| pairs().map(move |pair| char::from_u32(of(*pair).into()));
    let wide = |of: fn([u8; 4]) -> u32| quads().map(move |quad| char::from_u32(of(*quad)));
    let of_32 = [
        (share(&mut wide(u32::from_le_bytes)), "UTF-32 LE", "UTF-32LE"),
        (share(&mut wide(u32::from_be_bytes)), "UTF-32 BE", "UTF-32BE"),
    ];
    let of_16 = [
        (share(&mut units(u16::from_le_bytes)), "UTF-16 LE", "UTF-16LE"),
        (share(&mut units(u16::from_be_bytes)), "UTF-16 BE", "UTF-16BE"),
    ];
    let found = [of_32, of_16].into_iter().flatten().find(|(share, ..)| *share >= LIKELY);
    found.map(|(_, name, iconv)| NotUtf8::encoded(name, iconv))
}

/// True for characters of the scripts that most texts are in; of all numbers of 16 bits half are none.
fn is_of_texts(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{a0}'..='\u{5ff}' | '\u{900}'..='\u{97f}' | '\u{e00}'..='\u{e7f}'
        | '\u{2010}'..='\u{203e}' | '\u{3000}'..='\u{30ff}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}'
        | '\u{ff00}'..='\u{ffef}' | '\u{feff}')
}

/// An encoding of one or two bytes a character, or UTF-8 that is damaged at few places, from `first` on.
fn legacy(text: &[u8], first: usize) -> NotUtf8 {
    let wrong = invalid(text).count();
    let foreign = text.iter().filter(|b| !b.is_ascii()).count();
    // In UTF-8 a foreign character has two bytes at least, and other encodings are hardly ever valid.
    let what = format!("holds bytes that are no UTF-8 (sequences: {wrong}, the first at byte {first})");
    if wrong * 10 < foreign {
        return NotUtf8 { what, iconv: None };
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(&text[..text.len().min(LOOKED_AT)], true);
    let (name, iconv) = match detector.guess(None, Utf8Detection::Deny).name() {
        "GBK" | "gb18030" => ("GBK (GB18030)", "GB18030"),
        "Big5" => ("Big5", "BIG5"),
        "Shift_JIS" => ("Shift-JIS", "SHIFT_JIS"),
        "EUC-JP" => ("EUC-JP", "EUC-JP"),
        "EUC-KR" => ("EUC-KR", "EUC-KR"),
        "windows-1252" => ("Latin-1 (Windows-1252)", "WINDOWS-1252"),
        "windows-1250" => ("Windows-1250", "WINDOWS-1250"),
        "windows-1251" => ("Windows-1251", "WINDOWS-1251"),
        "windows-1253" => ("Windows-1253", "WINDOWS-1253"),
        "windows-1254" => ("Windows-1254", "WINDOWS-1254"),
        "ISO-8859-2" => ("Latin-2", "ISO-8859-2"),
        "KOI8-U" => ("KOI8-U", "KOI8-U"),
        _ => return NotUtf8 { what, iconv: None },
    };
    NotUtf8 { what: format!("is likely {name}, and models read UTF-8"), iconv: Some(iconv) }
}

#[cfg(test)]
mod tests {
    use encoding_rs::{BIG5, EUC_KR, Encoding, GBK, SHIFT_JIS, WINDOWS_1251, WINDOWS_1252};

    use super::*;

    const CHINESE: &str = "春天来了,小溪里的冰慢慢融化。孩子们在草地上奔跑,燕子从南方飞回来。";
    const FRENCH: &str = "Où est passé l'été? Là-bas, près du château, à côté de la forêt. ";

    fn units(text: &str, of: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(of).collect()
    }

    fn wide(text: &str, of: fn(u32) -> [u8; 4]) -> Vec<u8> {
        text.chars().flat_map(|c| of(u32::from(c))).collect()
    }

    /// Case calib-not-utf8 (gpt-2-simple#46, AutoGPTQ#650): perplexities of 147860 and exit 0.
    #[test]
    fn other_encodings_are_named() {
        let english = "It was a bright cold day in April, and the clocks were striking thirteen.\r\n";
        for text in [english, CHINESE, FRENCH] {
            for (bytes, name, iconv) in [
                (units(text, u16::to_le_bytes), "UTF-16 LE", "UTF-16LE"),
                (units(text, u16::to_be_bytes), "UTF-16 BE", "UTF-16BE"),
                (wide(text, u32::to_le_bytes), "UTF-32 LE", "UTF-32LE"),
                (wide(text, u32::to_be_bytes), "UTF-32 BE", "UTF-32BE"),
                (units(&format!("\u{feff}{text}"), u16::to_le_bytes), "UTF-16 LE", "UTF-16"),
                (units(&format!("\u{feff}{text}"), u16::to_be_bytes), "UTF-16 BE", "UTF-16"),
                (wide(&format!("\u{feff}{text}"), u32::to_le_bytes), "UTF-32 LE", "UTF-32"),
                (wide(&format!("\u{feff}{text}"), u32::to_be_bytes), "UTF-32 BE", "UTF-32"),
            ] {
                let found = utf8(&bytes).unwrap_err();
                assert_eq!(found, NotUtf8::encoded(name, iconv), "{text}");
            }
        }
        let encoded =
            |encoding: &'static Encoding, text: &str| encoding.encode(&text.repeat(8)).0.into_owned();
        for (bytes, iconv) in [
            (encoded(GBK, CHINESE), "GB18030"),
            (encoded(BIG5, "春天來了,小溪裡的冰慢慢融化。孩子們在草地上奔跑,燕子從南方飛回來。"), "BIG5"),
            (
                encoded(SHIFT_JIS, "春が来て、小川の氷がゆっくりと溶けていく。こどもたちは野原を走る。"),
                "SHIFT_JIS",
            ),
            (
                encoded(EUC_KR, "봄이 왔다. 시냇물의 얼음이 천천히 녹는다. 아이들이 풀밭에서 뛰논다."),
                "EUC-KR",
            ),
            (encoded(WINDOWS_1252, FRENCH), "WINDOWS-1252"),
            (
                encoded(WINDOWS_1251, "Пришла весна, и лёд на ручье медленно тает. Дети бегут по лугу."),
                "WINDOWS-1251",
            ),
        ] {
            assert_eq!(utf8(&bytes).unwrap_err().iconv, Some(iconv));
        }
    }

    #[test]
    fn binary_data_and_damage_are_told_apart() {
        let what = |bytes: &[u8]| utf8(bytes).unwrap_err().what;
        let binary: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert!(what(&binary).starts_with("is binary data with NUL bytes"));
        let controls: Vec<u8> = binary.iter().map(|b| (*b).max(1)).collect();
        assert!(what(&controls).starts_with("is binary data with control characters"));
        assert!(what(b"a text\0with one").starts_with("is binary data with NUL bytes"));
        let mut damaged = CHINESE.repeat(4).into_bytes();
        damaged[30] = b'x';
        assert_eq!(what(&damaged), "holds bytes that are no UTF-8 (sequences: 1, the first at byte 28)");
    }

    #[test]
    fn samples_are_cut_anywhere_and_a_mark_is_no_text() {
        for text in [CHINESE, FRENCH, "\u{1f600} emoji \u{1f680}", "plain", ""] {
            for start in 0..4.min(text.len()) {
                for end in start..=text.len() {
                    let sample = &text.as_bytes()[start..end];
                    assert_eq!(utf8(sample), Ok(sample), "{text} {start} {end}");
                }
            }
            assert_eq!(utf8(format!("\u{feff}{text}").as_bytes()), Ok(text.as_bytes()));
        }
    }
}
