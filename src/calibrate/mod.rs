//! Calibration: what a model does with a text tells how its weights are best rounded.
//!
//! ```text
//! text.rs      which tokens the model is run over, and which of them only judge
//! stage.rs     which matrices are encoded together, in the order of the computation
//! encode.rs    the way through the model: listen, encode, go on with what was encoded
//! measure.rs   what meets the matrices, without encoding anything
//! stats.rs     the same in a file, for many conversions
//! listen.rs    what meets the matrices, from the model on its way or from such a file
//! matrix.rs    one matrix: its second moments, candidates, and the choice among them
//! coded.rs     one matrix of a compact file, at any rate
//! branch.rs    one matrix in two parts: a branch of low rank, and the quantized rest
//! probe.rs     what rounding each tensor costs
//! goals.rs     how large or good the file is to be
//! allocate.rs  which tensor gets how many bits
//! judge.rs     how near the finished file is to its source
//! store.rs     finished matrices on disk, so that a killed run goes on where it was
//! trace.rs     what a file says about the text, so that nobody judges it by the same one
//! ```
//! Source: GPTQ (arXiv 2210.17323) for the feedback of errors; the rest is said where it is done.

mod allocate;
mod branch;
mod coded;
mod cross_check;
mod encode;
mod goals;
mod judge;
mod listen;
mod matrix;
mod measure;
mod probe;
mod stage;
mod stats;
mod store;
mod surprise;
mod text;
mod trace;

use std::path::{Path, PathBuf};

pub use allocate::{Allocation, Goal, Rung, Unit, allocate};
pub use cross_check::CrossCheck;
pub use encode::{Calibration, Done, divide, encode, peak_bytes, running_bytes};
pub use goals::{Chosen, Goals};
pub use judge::Judge;
pub use listen::Source;
pub use matrix::{Choice, Gain, Outcome};
pub use measure::{importance, mean_squares};
pub use probe::{Probed, probe, probing_bytes};
pub use stats::{Stats, measure_all};
pub use store::Store;
pub use text::Text;
pub use trace::{Trace, share_of};

use crate::error::{Error, Result};

/// Tokens that a model is calibrated on unless something else is asked for.
pub(crate) const TOKENS: usize = 65_536;
/// Tokens of a sequence.
pub(crate) const CTX: usize = 512;
/// The word that asks for the model's own samples in place of a text.
pub const SELF: &str = "self";

/// What a model is calibrated on.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Calibration")]
pub struct Settings {
    /// Round the weights so that what the model computes on these texts changes least: text, .jsonl, .npy or .ids, or
    /// `self` for samples of the model itself, or the .safetensors file that `calibrate` measured on them
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    pub calib: Vec<PathBuf>,
    /// Tokens to calibrate on, taken from all over the texts [default: 65536]
    #[arg(long, value_name = "N", requires = "calib")]
    pub calib_tokens: Option<usize>,
    /// Tokens of a sequence, each from an empty state [default: 512]
    #[arg(long, value_name = "N", requires = "calib")]
    pub calib_ctx: Option<usize>,
    /// Seed of the model's own samples [default: 0]
    #[arg(long, value_name = "N", requires = "calib")]
    pub calib_seed: Option<u64>,
    /// Take texts of any bytes, not only UTF-8
    #[arg(long, requires = "calib")]
    pub allow_non_utf8: bool,
}

impl Settings {
    /// Whether calibration is asked for.
    pub fn is_wanted(&self) -> bool {
        !self.calib.is_empty()
    }

    /// Tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] if they are too few to be a text.
    fn ctx(&self) -> Result<usize> {
        match self.calib_ctx.unwrap_or(CTX) {
            ctx if ctx >= text::LEAST_TOKENS => Ok(ctx),
            ctx => Err(Error::Usage {
                what: format!("sequences of {ctx} tokens are too short to calibrate on"),
                help: format!("give --calib-ctx {} or more; 512 is usual", text::LEAST_TOKENS),
            }),
        }
    }

    /// Tokens in all.
    ///
    /// # Errors
    /// [`Error::Usage`] if they are too few for two sequences.
    fn tokens(&self) -> Result<usize> {
        match self.calib_tokens.unwrap_or(TOKENS) {
            tokens if tokens >= 2 * text::LEAST_TOKENS => Ok(tokens),
            tokens => Err(Error::Usage {
                what: format!("{tokens} tokens are too few to calibrate on"),
                help: "give --calib-tokens of some thousands; 65536 is usual".to_owned(),
            }),
        }
    }

    /// The file with measurements that is asked for in place of a text.
    ///
    /// # Errors
    /// [`Error::Usage`] if anything else is given with it.
    pub fn stats(&self) -> Result<Option<&Path>> {
        let is_stats = |path: &&PathBuf| path.extension().is_some_and(|e| e == "safetensors");
        let Some(path) = self.calib.iter().find(is_stats) else { return Ok(None) };
        let alone = Settings {
            calib: vec![path.clone()],
            allow_non_utf8: self.allow_non_utf8,
            ..Settings::default()
        };
        if *self != alone {
            return Err(Error::Usage {
                what: format!("{} holds what was measured on its own text", path.display()),
                help: "give no other text with it, and none of --calib-tokens, --calib-ctx and --calib-seed"
                    .to_owned(),
            });
        }
        Ok(Some(path))
    }

    /// Whether the model's own samples are asked for.
    pub(crate) fn is_self(&self) -> bool {
        self.calib.iter().any(|path| path.as_os_str() == SELF)
    }
}
