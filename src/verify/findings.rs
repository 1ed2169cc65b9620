//! Contradictions and suspicions, gathered before any is reported.

use std::path::Path;

use crate::error::{Error, Result};

/// Contradictions told at most; of more, the number.
const MAX_TOLD: usize = 5;

/// Findings that speak against a file.
#[derive(Debug, Default)]
pub(super) struct Findings {
    contradictions: Vec<String>,
    suspicions: Vec<String>,
}

impl Findings {
    /// Two things in the file cannot both be right.
    pub fn contradict(&mut self, what: String) {
        self.contradictions.push(what);
    }

    /// Adds a contradiction of a key or setting with what the tensors say, if it is none of `allowed`. (If nothing is
    /// allowed, nothing is known.)
    pub fn compare(
        &mut self,
        key: &str,
        stated: &dyn std::fmt::Display,
        found: Option<u64>,
        allowed: &[u64],
    ) {
        if allowed.is_empty() || found.is_some_and(|found| allowed.contains(&found)) {
            return;
        }
        let allowed: Vec<String> = allowed.iter().map(u64::to_string).collect();
        self.contradict(format!("{key} is {stated}, and the tensors say {}", allowed.join(" or ")));
    }

    /// Something is seldom so in a sound file.
    pub fn suspect(&mut self, what: Option<String>) {
        self.suspicions.extend(what);
    }

    /// The suspicions.
    ///
    /// # Errors
    /// [`Error::Model`] that tells the contradictions, if there are any.
    pub fn into_warnings(self, path: &Path) -> Result<Vec<String>> {
        let (told, rest) = self.contradictions.split_at(self.contradictions.len().min(MAX_TOLD));
        if told.is_empty() {
            return Ok(self.suspicions);
        }
        let rest = if rest.is_empty() { String::new() } else { format!("; and {} more", rest.len()) };
        Err(Error::Model {
            path: path.to_owned(),
            what: format!("contradicts itself: {}{rest}", told.join("; ")),
            help: "the file mixes parts of different models, is damaged, or was edited wrongly: get a sound copy, or \
                   correct what is named"
                .to_owned(),
        })
    }
}
