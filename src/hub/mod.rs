//! The Hugging Face Hub: models from it, named `hf://OWNER/REPOSITORY/FILE@REVISION`, and releases to it.
//!
//! Only with the cargo feature `hub`, and only for such names, is there any use of a network. `HF_ENDPOINT`,
//! `HF_TOKEN` and `HF_HOME` count as for `huggingface_hub`; what was loaded once lies in its cache.

#[cfg(not(feature = "hub"))]
#[path = "absent.rs"]
mod client;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};

const SCHEME: &str = "hf://";

/// A repository of models on the Hub, or a file in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Owner of the repository.
    pub owner: String,
    /// The repository's name.
    pub name: String,
    /// The file; the whole repository without.
    pub file: Option<String>,
    /// The branch, tag or commit; `main` without.
    pub revision: Option<String>,
}

impl Address {
    /// True if a path is an address.
    pub fn is(path: &Path) -> bool {
        path.to_str().is_some_and(|p| p.starts_with(SCHEME))
    }

    /// The address that a path is.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is none.
    pub fn parse(path: &Path) -> Result<Address> {
        let parse = || {
            let text = path.to_str()?.strip_prefix(SCHEME)?;
            let (text, revision) = match text.rsplit_once('@') {
                Some((text, revision)) => (text, Some(revision.to_owned())),
                None => (text, None),
            };
            let mut parts = text.splitn(3, '/').map(|part| part.trim_end_matches('/').to_owned());
            let (owner, name) = (parts.next()?, parts.next()?);
            let file = parts.next().filter(|f| !f.is_empty());
            let whole = !owner.is_empty() && !name.is_empty() && revision.as_deref() != Some("");
            whole.then_some(Address { owner, name, file, revision })
        };
        parse().ok_or_else(|| Error::Usage {
            what: format!("{} is no address on the Hugging Face Hub", path.display()),
            help: "addresses are hf://OWNER/REPOSITORY/FILE or, of a folder, hf://OWNER/REPOSITORY; @REVISION may follow"
                .to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.owner, self.name)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

/// Path of a file or folder on this machine: `path`, or a copy loaded from the Hub.
///
/// # Errors
/// If it is on the Hub and cannot be had.
pub fn local(path: &Path) -> Result<Cow<'_, Path>> {
    match Address::is(path) {
        true => client::load(&Address::parse(path)?).map(Cow::Owned),
        false => Ok(Cow::Borrowed(path)),
    }
}

/// Puts `files` of a folder into the repository `to`, in one commit, whose address is given back. The repository is made if
/// `create` says so, and whether it is private.
///
/// # Errors
/// [`Error::Model`] if the Hub refuses; [`Error::Usage`] if its client is not built in.
pub fn commit(
    folder: &Path,
    files: &BTreeSet<String>,
    to: &Address,
    create: Option<bool>,
    message: &str,
) -> Result<String> {
    client::commit(folder, files, to, create, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let address = |text: &str| Address::parse(Path::new(text)).unwrap();
        let text = "hf://BlinkDL/rwkv-7-world/a/b.pth@v1.0";
        let parsed = address(text);
        assert_eq!((parsed.owner.as_str(), parsed.name.as_str()), ("BlinkDL", "rwkv-7-world"));
        assert_eq!((parsed.file.as_deref(), parsed.revision.as_deref()), (Some("a/b.pth"), Some("v1.0")));
        assert_eq!(parsed.to_string(), text);
        for text in ["hf://a/b", "hf://a/b/"] {
            assert_eq!(address(text).to_string(), "hf://a/b");
        }
        for wrong in ["hf://", "hf://a", "hf:///b", "hf://a//c", "hf://a/b@", "a/b"] {
            assert!(Address::parse(Path::new(wrong)).is_err(), "{wrong}");
        }
        assert!(!Address::is(Path::new("a/hf://b")));
    }
}
