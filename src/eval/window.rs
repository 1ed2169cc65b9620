//! Windows of tokens that are run together, and the tokens of each that are scored.

use std::ops::Range;

use crate::error::{Error, Result};

/// Protocol by which a text is cut and scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Windows of `ctx` tokens, each from an empty state, starting `stride` tokens apart. Tokens that an earlier
    /// window scored are context only; the first token of the text is never scored.
    Windows {
        /// Tokens of a window.
        ctx: usize,
        /// Tokens from window to window.
        stride: usize,
    },
    /// Protocol of llama-perplexity: windows of `ctx` tokens side by side, of each the tokens after the middle.
    LlamaCpp {
        /// Tokens of a window.
        ctx: usize,
    },
    /// Every document from its first to its last token with the state carried along; `ctx` tokens make a window of
    /// the bootstrap.
    Document {
        /// Tokens of a window.
        ctx: usize,
    },
}

impl Protocol {
    /// Tokens of a window, and from window to window.
    pub fn ctx_and_stride(self) -> (usize, usize) {
        match self {
            Protocol::Windows { ctx, stride } => (ctx, stride),
            Protocol::LlamaCpp { ctx } | Protocol::Document { ctx } => (ctx, ctx),
        }
    }

    /// Refuses windows that score nothing, or leave tokens out.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(self) -> Result<()> {
        let (ctx, stride) = self.ctx_and_stride();
        let least = if matches!(self, Protocol::LlamaCpp { .. }) { 4 } else { 2 };
        let (what, help) = if ctx < least {
            (format!("a window of {ctx} tokens scores none"), format!("give --ctx {least} or more"))
        } else if stride == 0 {
            ("windows 0 tokens apart have no end".to_owned(), format!("give a --stride from 1 to {ctx}"))
        } else if stride > ctx {
            let what = format!("windows of {ctx} tokens that start {stride} apart leave tokens out");
            (what, format!("give a --stride of {ctx} at most, or a larger --ctx"))
        } else {
            return Ok(());
        };
        Err(Error::Usage { what, help })
    }

    /// Fewest tokens of a document of which one is scored.
    pub fn least_tokens(self) -> usize {
        match self {
            Protocol::Windows { ctx, .. } | Protocol::LlamaCpp { ctx } => ctx,
            Protocol::Document { .. } => 2,
        }
    }
}

/// A run of tokens from an empty state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its tokens' places in the text.
    pub tokens: Range<usize>,
    /// The tokens that are predicted and scored.
    pub scored: Range<usize>,
    /// Number of its first window.
    pub window: usize,
    /// Tokens of a window (the last one may be shorter).
    pub window_tokens: usize,
}

impl Sequence {
    /// The window that the token at `place` belongs to.
    pub fn window_of(&self, place: usize) -> usize {
        self.window + (place - self.tokens.start) / self.window_tokens.max(1)
    }

    /// Number of windows.
    pub fn windows(&self) -> usize {
        self.tokens.len().div_ceil(self.window_tokens.max(1))
    }
}

/// Cuts documents, given as ranges of tokens, into sequences; at most `limit` of them.
///
/// # Errors
/// [`Error::Usage`] if the protocol makes no sense or no text is long enough.
pub fn cut(documents: &[Range<usize>], protocol: Protocol, limit: Option<usize>) -> Result<Vec<Sequence>> {
    protocol.check()?;
    let (ctx, stride) = protocol.ctx_and_stride();
    let mut sequences: Vec<Sequence> = Vec::new();
    for document in documents {
        match protocol {
            Protocol::Document { .. } => {
                let scored = document.start + 1..document.end;
                if !scored.is_empty() {
                    sequences.push(Sequence {
                        tokens: document.clone(),
                        scored,
                        window: 0,
                        window_tokens: ctx,
                    });
                }
            }
            _ => {
                let mut start = document.start;
                while start.checked_add(ctx).is_some_and(|end| end <= document.end) {
                    let tokens = start..start + ctx;
                    let from = match protocol {
                        // The token at ctx / 2 is the first input whose prediction counts.
                        Protocol::LlamaCpp { .. } => start + ctx / 2 + 1,
                        _ if start == document.start => start + 1,
                        _ => start + (ctx - stride).max(1),
                    };
                    sequences.push(Sequence {
                        tokens,
                        scored: from..start + ctx,
                        window: 0,
                        window_tokens: ctx,
                    });
                    start += stride;
                }
            }
        }
    }
    if limit == Some(0) {
        return Err(Error::Usage {
            what: "no window is to be scored (--windows 0)".to_owned(),
            help: "give 1 or more".to_owned(),
        });
    }
    if let Some(limit) = limit {
        sequences.truncate(limit);
    }
    let mut window = 0;
    for sequence in &mut sequences {
        sequence.window = window;
        window += sequence.windows();
    }
    if sequences.is_empty() {
        let longest = documents.iter().map(Range::len).max().unwrap_or(0);
        if longest < 2 {
            return Err(Error::Usage {
                what: format!(
                    "the text is too short: {longest} token{}, and the first is never scored",
                    if longest == 1 { "" } else { "s" }
                ),
                help: "give a text of two tokens or more".to_owned(),
            });
        }
        return Err(Error::Usage {
            what: format!("the text is too short: {longest} tokens, and a window has {ctx}"),
            help: format!(
                "give more text, or --ctx {} or less, or --document to score whole documents",
                longest.max(2)
            ),
        });
    }
    Ok(sequences)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one document
mod tests {
    use super::*;

    fn ranges(protocol: Protocol, documents: &[Range<usize>]) -> Vec<(Range<usize>, Range<usize>)> {
        cut(documents, protocol, None).unwrap().into_iter().map(|s| (s.tokens, s.scored)).collect()
    }

    #[test]
    fn every_token_but_the_first_is_scored_once_where_windows_overlap() {
        let found = ranges(Protocol::Windows { ctx: 4, stride: 2 }, &[10..19]);
        assert_eq!(found, [(10..14, 11..14), (12..16, 14..16), (14..18, 16..18)]);
    }

    #[test]
    fn windows_side_by_side_start_from_nothing() {
        let found = ranges(Protocol::Windows { ctx: 4, stride: 4 }, &[0..9, 9..14]);
        assert_eq!(found, [(0..4, 1..4), (4..8, 5..8), (9..13, 10..13)]);
    }

    #[test]
    fn llama_perplexity_scores_the_second_half() {
        // For -c 8: inputs 4, 5, 6 predict the tokens 5, 6, 7.
        assert_eq!(ranges(Protocol::LlamaCpp { ctx: 8 }, &[0..17]), [(0..8, 5..8), (8..16, 13..16)]);
    }

    #[test]
    fn documents_are_cut_into_windows_for_the_bootstrap_only() {
        let sequences = cut(&[0..10, 10..11, 11..16], Protocol::Document { ctx: 4 }, None).unwrap();
        assert_eq!(sequences.len(), 2);
        assert_eq!((sequences[0].windows(), sequences[0].window_of(9)), (3, 2));
        assert_eq!((sequences[1].window, sequences[1].window_of(15)), (3, 4));
    }

    #[test]
    fn a_short_text_is_an_error_that_says_so() {
        let error = cut(&[0..5], Protocol::LlamaCpp { ctx: 512 }, None).unwrap_err();
        assert_eq!(error.to_string(), "the text is too short: 5 tokens, and a window has 512");
        assert!(cut(&[0..5], Protocol::Windows { ctx: 4, stride: 5 }, None).is_err());
    }
}
