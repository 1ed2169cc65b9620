//! Distance of a finished file from its source, independent of the prediction made when its types were chosen.

use crate::error::Result;
use crate::eval::{Estimate, Load, Sequence, Work, measure, summarise};
use crate::model::Model;
use crate::pipeline::Stop;
use crate::runner::{Options, Runner};

/// Text and reference that a file is judged by once it is written.
#[derive(Debug)]
pub struct Judge {
    /// The source of the file.
    pub source: Model,
    /// Tokens that no matrix was fitted to; they did judge between ways to encode one.
    pub held_out: Vec<Vec<u32>>,
}

impl Judge {
    /// Divergence of the predictions of `written` from the source's, mean over all held-out tokens, with an interval over
    /// their sequences; `None` if they have no token to predict.
    ///
    /// # Errors
    /// If one of the models cannot be run, or the work is stopped.
    pub fn divergence(self, written: Model, stop: &Stop) -> Result<Option<Estimate>> {
        let runner = |model| Runner::new(model, Options { stream: true, ..Options::default() });
        let (source, written) = (runner(self.source)?, runner(written)?);
        let tokens = self.held_out.concat();
        let mut start = 0;
        let sequence = |(window, sequence): (usize, &Vec<u32>)| {
            let tokens = start..start + sequence.len();
            start = tokens.end;
            let scored = tokens.start + 1..tokens.end;
            Sequence { tokens, scored, window, window_tokens: sequence.len() }
        };
        let sequences: Vec<Sequence> = self.held_out.iter().enumerate().map(sequence).collect();
        let models = [&source, &written];
        let load = Load::within(&models, Work { text: tokens.len(), scored: tokens.len() }, None)?;
        let measured = measure(&models, &[], &tokens, &sequences, load, |_| stop.check())?;
        let found = summarise(&measured, sequences.len(), tokens.len(), |_| 1);
        Ok(found.others.first().map(|(_, against)| against.kl))
    }
}
