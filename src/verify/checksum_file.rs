//! `NAME.sha256`: checksums of whole files beside them, as `sha256sum` writes and checks them.
//!
//! ```text
//! <64 hex digits>  model.prefab          or " *" in front of the name
//! ```

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use formats::{Container, Mapped};

use crate::digest::file_sha256;
use crate::error::{Error, Result};
use crate::files;
use crate::storage::Written;

/// The extension that is added to the name of what it is of.
const EXTENSION: &str = ".sha256";
/// Longest such file.
const MAX_BYTES: u64 = 16 << 20;
/// Hex digits of a SHA-256.
const DIGITS: usize = 64;

/// Path of the checksums of a file, set or folder named `out`.
pub fn path(out: &Path) -> PathBuf {
    let mut name: OsString = out.file_name().unwrap_or_default().to_owned();
    name.push(EXTENSION);
    out.with_file_name(name)
}

/// The text for files; names are told relative to the folder of `out`.
///
/// # Errors
/// [`Error::Usage`] if a name is no Unicode.
pub fn text(out: &Path, files: &[Written]) -> Result<String> {
    let folder = out.parent().unwrap_or(Path::new(""));
    let mut text = String::new();
    for Written { path, sha256, .. } in files {
        let name = path.strip_prefix(folder).unwrap_or(path);
        let plain = name.to_str().filter(|name| !name.contains(['\n', '\r', '\\']));
        let name = plain.ok_or_else(|| Error::Usage {
            what: format!("the name {} cannot stand in a file of checksums", name.display()),
            help: "give the output another name, or leave --checksum-file out".to_owned(),
        })?;
        text += &format!("{sha256}  {name}\n");
    }
    Ok(text)
}

/// Compares the files of a container with the checksums beside them; gives the file of checksums, if there is one.
///
/// # Errors
/// [`Error::Model`] with the first file that has another checksum, is not listed, or is missing.
pub(super) fn compare(container: &Container, hashes: &[String]) -> Result<Option<PathBuf>> {
    let Some(beside) = candidates(container).into_iter().find(|path| path.is_file()) else { return Ok(None) };
    let wrong = |path: &Path, what: String| {
        Error::Model {
        path: path.to_owned(),
        what,
        help: "get a sound copy of the file and of its checksums; or delete the checksums if they are of an earlier \
               file of that name"
            .to_owned(),
    }
    };
    let listed = parsed(&files::text(&beside, "file of checksums", MAX_BYTES)?)
        .map_err(|line| wrong(&beside, format!("is no list of SHA-256s: line {line} is none")))?;
    let folder = beside.parent().unwrap_or(Path::new(""));
    for (file, hash) in container.files().iter().zip(hashes) {
        let name = file.path().strip_prefix(folder).unwrap_or(file.path());
        match listed.iter().find(|(listed, _)| listed == name) {
            Some((_, stated)) if stated.eq_ignore_ascii_case(hash) => {}
            Some((_, stated)) => {
                let what = format!("has the SHA-256 {hash}, and {} says {stated}", beside.display());
                return Err(wrong(file.path(), what));
            }
            None => return Err(wrong(&beside, format!("does not list {}", name.display()))),
        }
    }
    let of_model = |name: &Path| container.files().iter().any(|f| f.path() == folder.join(name));
    for (name, stated) in listed.iter().filter(|(name, _)| is_beneath(name) && !of_model(name)) {
        let path = folder.join(name);
        if !path.is_file() {
            return Err(wrong(&beside, format!("lists {}, which is not there", name.display())));
        }
        let hash = file_sha256(&Mapped::open(&path)?);
        if !stated.eq_ignore_ascii_case(&hash) {
            let what = format!("has the SHA-256 {hash}, and {} says {stated}", beside.display());
            return Err(wrong(&path, what));
        }
    }
    Ok(Some(beside))
}

/// Paths where checksums may be: beside what was opened, and beside a set under the name that it would have in one
/// file.
fn candidates(container: &Container) -> Vec<PathBuf> {
    let opened = container.path();
    let mut all = vec![path(opened)];
    let name = opened.file_name().unwrap_or_default().to_string_lossy();
    all.extend(formats::whole_name(&name).map(|whole| path(&opened.with_file_name(whole))));
    all
}

/// Names and checksums; else the number of the line that is neither empty nor a comment, nor has both.
fn parsed(text: &str) -> std::result::Result<Vec<(PathBuf, String)>, usize> {
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let line = |(number, line): (usize, &str)| {
        let (hash, name) = line.split_at_checked(DIGITS).ok_or(number + 1)?;
        let name = name.strip_prefix("  ").or_else(|| name.strip_prefix(" *")).ok_or(number + 1)?;
        match hash.bytes().all(|b| b.is_ascii_hexdigit()) && !name.is_empty() {
            true => Ok((PathBuf::from(name), hash.to_owned())),
            false => Err(number + 1),
        }
    };
    lines.map(line).collect()
}

/// True if a path leads to nowhere but into the folder that it starts from.
fn is_beneath(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_sha256sum_are_read() {
        let hash = "0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789";
        let text = format!("# made by hand\n{hash}  a b.bin\n\n{hash} *c.bin\n");
        let listed = parsed(&text).unwrap();
        assert_eq!(listed, [("a b.bin".into(), hash.to_owned()), ("c.bin".into(), hash.to_owned())]);
        for bad in
            ["x", &hash[1..], &format!("{hash} a"), &format!("{hash}  "), &format!("g{}  a", &hash[1..])]
        {
            assert_eq!(parsed(&format!("{hash}  a\n{bad}")), Err(2), "{bad}");
        }
    }

    #[test]
    fn paths_may_not_lead_elsewhere() {
        assert!(is_beneath(Path::new("folder/model.safetensors")));
        for path in ["../a", "/etc/passwd", "a/../../b"] {
            assert!(!is_beneath(Path::new(path)), "{path}");
        }
    }
}
