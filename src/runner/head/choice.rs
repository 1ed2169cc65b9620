//! Choice of a head by its name on the command line.

use std::path::PathBuf;
use std::str::FromStr;

use super::{Certified, Fit, Full, Head, stored};
use crate::error::{Error, Result};
use crate::runner::Runner;

/// Every form of [`HeadChoice`], and what it means.
pub static FORMS: &[(&str, &str)] = &[
    ("full", "every row"),
    (
        "certified[:K]",
        "6 bits of every row, then the rows that matter: the K likeliest tokens (1) exact by proof",
    ),
    ("clustered:K,P", "of K clusters the likeliest ones, up to the share P of the probability: approximate"),
    ("FILE.rwkvz", "what cluster-head or certify-head wrote, or FILE.safetensors"),
];

/// A head that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum HeadChoice {
    /// All rows.
    Full,
    /// The best so many exact by proof.
    Certified(usize),
    /// Clusters made on the spot, fitted to no text.
    Clustered(Fit),
    /// Clusters, or a certified copy, in a file.
    Stored(PathBuf),
}

impl FromStr for HeadChoice {
    type Err = String;

    /// Parses one of [`FORMS`].
    fn from_str(text: &str) -> std::result::Result<HeadChoice, String> {
        let forms = || {
            let forms: Vec<&str> = FORMS.iter().map(|f| f.0).collect();
            format!("heads are {}", forms.join(", "))
        };
        if text.ends_with(".rwkvz") || text.ends_with(".safetensors") {
            return Ok(HeadChoice::Stored(text.into()));
        }
        match text.split_once(':') {
            None if text == "full" => Ok(HeadChoice::Full),
            None if text == "certified" => Ok(HeadChoice::Certified(1)),
            Some(("certified", best)) => match best.parse() {
                Ok(best) if best > 0 => Ok(HeadChoice::Certified(best)),
                _ => Err(format!("{best:?} is no number of tokens, 1 or more")),
            },
            Some(("clustered", figures)) => {
                let (clusters, share) = figures.split_once(',').ok_or_else(forms)?;
                Ok(HeadChoice::Clustered(Fit {
                    clusters: clusters
                        .parse()
                        .map_err(|_| format!("{clusters:?} is no number of clusters"))?,
                    share: parse_share(share)?,
                }))
            }
            _ => Err(forms()),
        }
    }
}

/// A share of the probability: above 0, at most 1.
pub fn parse_share(text: &str) -> std::result::Result<f32, String> {
    let share = text.parse().ok().filter(|p: &f32| *p > 0.0 && *p <= 1.0);
    share.ok_or_else(|| format!("{text:?} is no share of the probability, above 0 and at most 1"))
}

impl HeadChoice {
    /// A certified head whose `best` likeliest tokens are exact.
    ///
    /// # Errors
    /// [`Error::Model`] if the model's head has no such form.
    pub fn certified(best: usize, runner: &Runner) -> Result<Certified> {
        Certified::new(&runner.full_rows(), best).map_err(|what| runner.unfit_head(what))
    }

    /// The head for a model.
    ///
    /// # Errors
    /// [`Error::Usage`] if products are not exact (what is proven holds for f32), or as [`Fit::cluster`];
    /// [`Error::Model`] if the model's head has no such form, or the file holds nothing of it.
    pub fn make(&self, runner: &Runner) -> Result<Box<dyn Head>> {
        if *self != HeadChoice::Full && !runner.is_exact() {
            return Err(Error::Usage {
                what: "the rows that a head reads are multiplied in exact f32 only".to_owned(),
                help: "leave out --fast and --device, or --head".to_owned(),
            });
        }
        Ok(match self {
            HeadChoice::Full => Box::new(Full),
            HeadChoice::Certified(best) => Box::new(HeadChoice::certified(*best, runner)?),
            HeadChoice::Clustered(fit) => Box::new(fit.cluster(runner, None)?),
            HeadChoice::Stored(path) => stored::open(path, &runner.full_rows())?,
        })
    }
}
