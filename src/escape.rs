//! Text of strangers in what is written for people: names and metadata of files are data there, never markup, commands
//! or the program's own words. One function for each kind of output.

use std::borrow::Cow;
use std::fmt::Write;

/// True for characters that command a terminal, break lines, or show text in another order than it is read
/// (CVE-2021-42574).
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

/// Text on one line of a terminal: hidden characters are written as Rust's escapes.
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, is_hidden, |c, out| out.extend(c.escape_default()))
}

/// Text of several lines without hidden characters, still to be escaped for HTML or XML. (XML 1.0 has no way to write
/// most of them.)
pub fn visible(text: &str) -> Cow<'_, str> {
    replaced(text, |c| is_hidden(c) && !matches!(c, '\n' | '\t'), |c, out| out.extend(c.escape_default()))
}

/// Text within a line of Markdown (CommonMark, GitHub's tables and links, formulas): no markup comes of it. Addresses
/// are no links.
pub fn markdown(text: &str) -> String {
    let text = line(text);
    let mut out = String::new();
    for (i, c) in text.char_indices() {
        let (before, after) = (&text[..i], &text[i + c.len_utf8()..]);
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let within_word = is_word(before.chars().next_back()) && is_word(after.chars().next());
        // (A list's number has 9 digits at most, and a blank behind its mark.)
        let is_number = (1..=9).contains(&i) && before.bytes().all(|b| b.is_ascii_digit());
        let begins_list = is_number && (after.is_empty() || after.starts_with([' ', '\t']));
        let is_www = before.as_bytes().last_chunk::<3>().is_some_and(|c| c.eq_ignore_ascii_case(b"www"));
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            ':' if after.starts_with("//") => out.push_str("&#58;"),
            '.' if is_www => out.push_str("&#46;"),
            '_' if within_word => out.push(c),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' => out.extend(['\\', c]),
            '#' | '-' | '+' | '=' if before.is_empty() => out.extend(['\\', c]),
            '.' | ')' if begins_list => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

/// Text as code within a line of Markdown, in tables too.
pub fn code(text: &str) -> String {
    let text = line(text).replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let space = if text.is_empty() || text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// The path of a file beside, as the target of a link.
pub fn url(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => out.push(char::from(b)),
            // Writing into a String does not fail.
            _ => drop(write!(out, "%{b:02X}")),
        }
    }
    out
}

/// An address of the web as a link of Markdown; anything else as text.
pub fn link(text: &str) -> String {
    let is_web = ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme));
    let is_plain =
        |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '"' | '`' | '\\' | '|' | '{' | '}' | '^');
    if is_web && text.chars().all(is_plain) { format!("<{text}>") } else { markdown(text) }
}

/// An argument of a POSIX shell.
pub fn shell(text: &str) -> String {
    let text = line(text);
    let is_plain = |c: char| {
        c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '+' | '=' | ':' | ',' | '@' | '%')
    };
    // An option comes of no name.
    let text = if text.starts_with('-') { Cow::Owned(format!("./{text}")) } else { text };
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A value as JSON that is YAML and a literal of Python too: hidden characters are escaped.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    // (YAML knows no surrogates, so that larger ones stay.)
    let escaped = replaced(
        &text,
        |c| is_hidden(c) && c <= '\u{ffff}',
        |c, out| {
            // Writing into a String does not fail.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        },
    );
    Ok(escaped.into_owned())
}

/// Text with the characters that `is_special` replaced.
fn replaced(
    text: &str,
    is_special: impl Fn(char) -> bool,
    replace: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    if !text.contains(&is_special) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for c in text.chars() {
        if is_special(c) { replace(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stranger's text, and what becomes of it on a terminal, in Markdown, and in a shell.
    const TABLE: &[(&str, &str, &str, &str)] = &[
        ("RWKV-x070-0.4B", "RWKV-x070-0.4B", "RWKV-x070-0.4B", "RWKV-x070-0.4B"),
        ("q4_k_m.gguf", "q4_k_m.gguf", "q4_k_m.gguf", "q4_k_m.gguf"),
        ("春 \u{e9}", "春 \u{e9}", "春 \u{e9}", "'春 \u{e9}'"),
        (
            "<script>alert(1)</script>",
            "<script>alert(1)</script>",
            "&lt;script&gt;alert(1)&lt;/script&gt;",
            "'<script>alert(1)</script>'",
        ),
        (
            "![x](http://evil/x.png)",
            "![x](http://evil/x.png)",
            r"!\[x\](http&#58;//evil/x.png)",
            "'![x](http://evil/x.png)'",
        ),
        ("a | b `c` *d* _e_", "a | b `c` *d* _e_", r"a \| b \`c\` \*d\* \_e\_", "'a | b `c` *d* _e_'"),
        ("a\n# b", "a\\n# b", r"a\\n# b", r"'a\n# b'"),
        ("# a", "# a", r"\# a", "'# a'"),
        ("1. a", "1. a", r"1\. a", "'1. a'"),
        ("$(rm -rf ~); 'x'", "$(rm -rf ~); 'x'", r"\$(rm -rf \~); 'x'", r"'$(rm -rf ~); '\''x'\'''"),
        ("-rf", "-rf", r"\-rf", "./-rf"),
        ("a\u{1b}[2Jb\u{9b}", "a\\u{1b}[2Jb\\u{9b}", r"a\\u{1b}\[2Jb\\u{9b}", r"'a\u{1b}[2Jb\u{9b}'"),
        ("abc\u{202e}gnp.exe", "abc\\u{202e}gnp.exe", r"abc\\u{202e}gnp.exe", r"'abc\u{202e}gnp.exe'"),
        ("www.evil.com", "www.evil.com", "www&#46;evil.com", "www.evil.com"),
        ("&amp;", "&amp;", "&amp;amp;", "'&amp;'"),
        ("", "", "", "''"),
    ];

    #[test]
    fn no_text_is_more_than_text() {
        for (text, on_line, in_markdown, in_shell) in TABLE {
            assert_eq!(line(text), *on_line);
            assert_eq!(visible(text).replace('\n', "\\n"), *on_line);
            assert_eq!(markdown(text), *in_markdown);
            assert_eq!(shell(text), *in_shell);
            let back: String = serde_json::from_str(&json(text).unwrap()).unwrap();
            assert_eq!(back, *text);
            let back: String = serde_saphyr::from_str(&json(text).unwrap()).unwrap();
            assert_eq!(back, *text, "YAML");
        }
    }

    #[test]
    fn code_and_links_hold_what_they_are_given() {
        for (text, expected) in
            [("a.gguf", "`a.gguf`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a|b\n", "`a\\|b\\n`")]
        {
            assert_eq!(code(text), expected);
        }
        assert_eq!(url("a b)(é.gguf"), "a%20b%29%28%C3%A9.gguf");
        assert_eq!(link("https://example.org/a?b=c#d"), "<https://example.org/a?b=c#d>");
        assert_eq!(link("javascript:alert(1)"), "javascript:alert(1)");
        assert_eq!(link("https://a> <b"), "https&#58;//a&gt; &lt;b");
        assert_eq!(json(&"\u{85}\u{202e}\u{e0041}").unwrap(), "\"\\u0085\\u202e\u{e0041}\"");
    }
}
