//! Python string and bytes literals.

/// The bytes of a Python literal: `'...'` and `"..."` in UTF-8, `b'...'` and `b"..."` as they are.
///
/// # Errors
/// A sentence about what cannot be understood.
pub(super) fn bytes(literal: &str) -> Result<Vec<u8>, String> {
    let (is_bytes, quoted) = match literal.strip_prefix('b') {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let quote = quoted.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or("it is not quoted")?;
    let inner = quoted[1..].strip_suffix(quote).ok_or("its closing quote is missing")?;
    let mut out = Vec::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c == quote {
            return Err("a quote within it is not escaped".to_owned());
        }
        if c != '\\' {
            if is_bytes && !c.is_ascii() {
                return Err(format!("{c:?} cannot stand in a bytes literal"));
            }
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let digits = match chars.next().ok_or("it ends with a backslash")? {
            'n' => Err(b'\n'),
            'r' => Err(b'\r'),
            't' => Err(b'\t'),
            '\\' => Err(b'\\'),
            '\'' => Err(b'\''),
            '"' => Err(b'"'),
            'x' => Ok(2),
            'u' if !is_bytes => Ok(4),
            'U' if !is_bytes => Ok(8),
            other => return Err(format!("the escape \\{other} is unknown")),
        };
        match digits {
            Err(byte) => out.push(byte),
            Ok(count) => {
                let hex: String = chars.by_ref().take(count).collect();
                let code = u32::from_str_radix(&hex, 16)
                    .ok()
                    .filter(|_| hex.len() == count)
                    .ok_or_else(|| format!("{hex:?} is no hexadecimal number of {count} digits"))?;
                if is_bytes {
                    out.push(code as u8); // two digits at most
                } else {
                    let c = char::from_u32(code).ok_or_else(|| format!("{hex} is no character"))?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn literals_are_read_as_python_reads_them() {
        for (literal, expected) in [
            (r"'a'", &b"a"[..]),
            (r#""it's""#, b"it's"),
            (r"'\n\t\\\''", b"\n\t\\'"),
            (r"'\x80'", "\u{80}".as_bytes()),
            (r"b'\x80\xff'", b"\x80\xff"),
            (r"'\u3000'", "\u{3000}".as_bytes()),
            ("'é'", "é".as_bytes()),
            ("b''", b""),
        ] {
            assert_eq!(bytes(literal).as_deref(), Ok(expected), "{literal}");
        }
        for bad in
            ["a", "'a", "'", "'a'b'", r"'\q'", r"'\x8'", r"b'é'", r"'\'", r"b'\u3000'", r"'\ud800'", ""]
        {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
