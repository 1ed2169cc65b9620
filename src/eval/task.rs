//! Models on a text: what is run, in which windows, and what the result is to be compared by.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::measure::{Load, Work, measure};
use super::summary::{Evaluation, summarise};
use super::window::{Protocol, Sequence, cut};
use super::{Corpus, oddity, vocabulary_sha256};
use crate::error::{Error, Result};
use crate::metadata;
use crate::model::Model;
use crate::runner::{Head, Runner};
use crate::vocab::{Coder, Vocab};

/// What was evaluated, and how: two evaluations with the same setting can be compared.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(missing_docs)] // the names speak
pub struct Setting {
    pub texts: Vec<String>,
    pub text_bytes: u64,
    pub text_sha256: String,
    pub text_tokens: usize,
    pub documents: usize,
    pub vocabulary: String,
    pub vocabulary_sha256: String,
    pub protocol: String,
    pub ctx: usize,
    pub stride: usize,
    /// How products were computed.
    pub arithmetic: String,
    /// Mean divergence of that arithmetic from the exact one, where it is another.
    pub arithmetic_kl: Option<f64>,
    /// Epsilon of the norm over heads, if it was another than the official runner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_norm_epsilon: Option<f32>,
    /// Patterns of the tensors that the models were run without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
}

/// A text cut into windows, for models of one vocabulary.
#[derive(Clone, Debug)]
pub struct Task {
    /// The text.
    pub corpus: Corpus,
    /// Sequences that the models run over.
    pub sequences: Vec<Sequence>,
    texts: Vec<PathBuf>,
    coder: Coder,
    protocol: Protocol,
}

impl Task {
    /// Reads the texts, of any bytes if `allow_non_utf8`, and cuts them by `protocol` into windows, at most `limit` of
    /// them.
    ///
    /// # Errors
    /// As [`Corpus::read`] and [`cut`].
    pub fn new(
        texts: &[PathBuf],
        coder: Coder,
        protocol: Protocol,
        limit: Option<usize>,
        allow_non_utf8: bool,
    ) -> Result<Task> {
        let mut corpus = Corpus::read(texts, &coder, allow_non_utf8)?;
        let odd = oddity(&corpus.tokens, &coder);
        corpus.warnings.extend(odd.map(|odd| format!("the text {odd}; nothing follows for others")));
        let sequences = cut(&corpus.documents, protocol, limit)?;
        Ok(Task { corpus, sequences, texts: texts.to_vec(), coder, protocol })
    }

    /// Number of documents that are too short for any of their tokens to be scored.
    pub fn unscored_documents(&self) -> usize {
        let least = self.protocol.least_tokens();
        self.corpus.documents.iter().filter(|d| d.len() < least).count()
    }

    /// Number of tokens that every model is run over.
    pub fn tokens_run(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens.len()).sum()
    }

    /// Amount of work. (Tokens that are run but not scored are counted as if they were.)
    pub fn work(&self) -> Work {
        Work { text: self.corpus.tokens.len(), scored: self.tokens_run() }
    }

    /// Runs all models, the first of which is the reference or the only one, and other `heads` of the first;
    /// `progress` hears of the tokens done and may stop the work.
    ///
    /// # Errors
    /// As [`measure`](super::measure()).
    pub fn run(
        &self,
        models: &[&Runner],
        heads: &[&dyn Head],
        load: Load,
        progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Evaluation> {
        let measured = measure(models, heads, &self.corpus.tokens, &self.sequences, load, progress)?;
        let windows = self.sequences.iter().map(Sequence::windows).sum();
        let bytes_of = |place: usize| self.coder.bytes(self.corpus.tokens[place]).len();
        Ok(summarise(&measured, windows, self.tokens_run(), bytes_of))
    }

    /// Setting of the evaluation, in exact arithmetic.
    pub fn setting(&self) -> Setting {
        let (ctx, stride) = self.protocol.ctx_and_stride();
        let protocol = match self.protocol {
            Protocol::Windows { .. } => "windows",
            Protocol::LlamaCpp { .. } => "llama.cpp",
            Protocol::Document { .. } => "document",
        };
        Setting {
            texts: self.texts.iter().map(|p| p.display().to_string()).collect(),
            text_bytes: self.corpus.file_bytes,
            text_sha256: self.corpus.sha256.clone(),
            text_tokens: self.corpus.tokens.len(),
            documents: self.corpus.documents.len(),
            vocabulary: self.coder.vocab().name.clone(),
            vocabulary_sha256: vocabulary_sha256(self.coder.vocab()),
            protocol: protocol.to_owned(),
            ctx,
            stride,
            arithmetic: "f32".to_owned(),
            arithmetic_kl: None,
            group_norm_epsilon: None,
            dropped: Vec::new(),
        }
    }
}

/// Refuses two models that do not mean the same by every token; the vocabulary is `vocab`, which was `given` or is the
/// first model's.
///
/// # Errors
/// [`Error::Usage`] that says what differs; whatever reading the vocabulary of `b` says.
pub fn same_vocabulary(a: &Model, b: &Model, vocab: &Vocab, given: bool) -> Result<()> {
    let name = |m: &Model| m.container.path().display().to_string();
    let differ = |what: String| {
        Err(Error::Usage {
            what,
            help:
                "compare models with the same vocabulary; if only its listing differs, give it: --vocab FILE"
                    .to_owned(),
        })
    };
    if a.dims.vocab != b.dims.vocab {
        return differ(format!(
            "{} predicts {} tokens and {} predicts {}, so their predictions cannot be compared",
            name(a),
            a.dims.vocab,
            name(b),
            b.dims.vocab
        ));
    }
    if given {
        return Ok(());
    }
    // What a model states need not name all of its rows.
    let whole = |vocab: &Vocab| vocab.clone().padded(a.dims.vocab).map(|v| v.tokens);
    match metadata::stated_coder(b)? {
        Some(own) if whole(own.vocab()).is_none_or(|own| Some(own) != whole(vocab)) => {
            differ(format!("{} and {} have different vocabularies", name(a), name(b)))
        }
        _ => Ok(()),
    }
}
