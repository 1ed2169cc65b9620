//! Part of a release, or of one conversion, that a machine works on.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The metadata key by which a file says which shard of which conversion it is.
pub(crate) const KEY: &str = "rwkv-quant.shard";

/// Part `index` of `count`, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Shard {
    /// Number of this part.
    pub index: usize,
    /// Number of all parts.
    pub count: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Shard = Shard { index: 1, count: 1 };

    /// The shard that an array job says this process is: Slurm by `SLURM_ARRAY_TASK_ID`, `_MIN`, `_STEP` and `_COUNT`;
    /// Kubernetes by `JOB_COMPLETION_INDEX`, of `count` or, as our manifest says, `JOB_COMPLETIONS`. [`Shard::WHOLE`]
    /// without any of them. `env` looks a variable up.
    ///
    /// # Errors
    /// [`Error::Usage`] if they make no sense.
    pub fn from_environment(count: Option<usize>, env: impl Fn(&str) -> Option<String>) -> Result<Shard> {
        let number = |name: &str| match env(name) {
            None => Ok(None),
            Some(text) => text.parse::<usize>().map(Some).map_err(|_| Error::Usage {
                what: format!("{name} is {text:?}, which is no number"),
                help: "say which shard this is: --shard 1/4".to_owned(),
            }),
        };
        let (name, place, of) = if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(1);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            (
                "SLURM_ARRAY_TASK_ID",
                id.checked_sub(first).map(|n| n / step),
                number("SLURM_ARRAY_TASK_COUNT")?,
            )
        } else if let Some(index) = number("JOB_COMPLETION_INDEX")? {
            ("JOB_COMPLETION_INDEX", Some(index), number("JOB_COMPLETIONS")?)
        } else {
            return match count {
                None | Some(1) => Ok(Shard::WHOLE),
                Some(count) => Err(Error::Usage {
                    what: format!("nothing says which of the {count} shards this is"),
                    help: format!(
                        "say it: --shard 1/{count}; array jobs of Slurm and Kubernetes say it themselves"
                    ),
                }),
            };
        };
        let Some(count) = count.or(of) else {
            return Err(Error::Usage {
                what: format!("{name} says which shard this is, but nothing says of how many"),
                help: "say it: --shards 4".to_owned(),
            });
        };
        match place {
            Some(place) if place < count => Ok(Shard { index: place + 1, count }),
            _ => Err(Error::Usage {
                what: format!("{name} is beyond the {count} shards"),
                help: "use a range without gaps for the array, such as 1-4, or give --shard".to_owned(),
            }),
        }
    }

    /// Range of the tensors that belong to it, given the bytes of each: a run, and all shards' as equal in bytes as
    /// whole tensors allow.
    pub fn range(&self, bytes: &[u64]) -> Range<usize> {
        let total = bytes.iter().map(|b| u128::from(*b)).sum::<u128>().max(1);
        // A tensor belongs to the shard in which its middle lies.
        let mut end = 0;
        let shards: Vec<u128> = bytes
            .iter()
            .map(|bytes| {
                end += 2 * u128::from(*bytes);
                (end - u128::from(*bytes)) * self.count as u128 / (2 * total)
            })
            .collect();
        let first = |shard: usize| shards.partition_point(|s| *s < shard as u128);
        first(self.index - 1)..first(self.index)
    }

    /// True if the cell at `place`, counted from 0, belongs to it: every `count`-th does.
    pub fn has(&self, place: usize) -> bool {
        place % self.count == self.index - 1
    }

    /// The name of its summary within the release.
    pub fn summary_name(&self) -> String {
        format!("summary-{}-of-{}.json", self.index, self.count)
    }

    /// True if some shard's summary is called so.
    pub fn is_summary_name(name: &str) -> bool {
        let numbers = name.strip_prefix("summary-").and_then(|n| n.strip_suffix(".json"));
        numbers.is_some_and(|numbers| numbers.replacen("-of-", "/", 1).parse::<Shard>().is_ok())
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Shard, String> {
        let shard = || {
            let (index, count) = text.split_once('/')?;
            let shard = Shard { index: index.parse().ok()?, count: count.parse().ok()? };
            (1..=shard.count).contains(&shard.index).then_some(shard)
        };
        shard().ok_or_else(|| format!("{text:?} is no shard: 2/4 is the second of four"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_written_as_fractions() {
        assert_eq!("2/4".parse(), Ok(Shard { index: 2, count: 4 }));
        for wrong in ["", "2", "0/4", "5/4", "a/b", "1/0", "-1/4"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_tensor_belongs_to_one_shard() {
        let ranges = |count, bytes: &[u64]| -> Vec<Range<usize>> {
            (1..=count).map(|index| Shard { index, count }.range(bytes)).collect()
        };
        assert_eq!(ranges(2, &[5, 5, 1, 1, 8]), [0..2, 2..5]);
        assert_eq!(ranges(3, &[1, 100, 1]), [0..1, 1..2, 2..3]);
        assert_eq!(ranges(3, &[9]), [0..0, 0..1, 1..1]);
        assert_eq!(ranges(2, &[0, 0]), [0..2, 2..2]);
        assert_eq!(ranges(1, &[u64::MAX; 3]).as_slice(), std::slice::from_ref(&(0..3)));
        for count in 1..20 {
            let mut next = 0;
            for range in ranges(count, &[3, 1, 4, 1, 5, 9, 2, 6, 5]) {
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, 9);
        }
    }

    #[test]
    fn every_cell_belongs_to_one_shard() {
        let shards: Vec<Shard> = (1..=4).map(|index| Shard { index, count: 4 }).collect();
        for place in 0..11 {
            assert_eq!(shards.iter().filter(|s| s.has(place)).count(), 1);
        }
    }

    fn told(count: Option<usize>, env: &[(&str, &str)]) -> Result<Shard> {
        Shard::from_environment(count, |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn array_jobs_say_which_shard_they_are() {
        let slurm = |id, min, count| {
            told(
                None,
                &[
                    ("SLURM_ARRAY_TASK_ID", id),
                    ("SLURM_ARRAY_TASK_MIN", min),
                    ("SLURM_ARRAY_TASK_COUNT", count),
                ],
            )
        };
        assert_eq!(slurm("3", "1", "8").unwrap(), Shard { index: 3, count: 8 });
        assert_eq!(slurm("0", "0", "8").unwrap(), Shard { index: 1, count: 8 });
        assert!(slurm("9", "1", "3").unwrap_err().to_string().contains("beyond the 3 shards"));
        let kubernetes = [("JOB_COMPLETION_INDEX", "3"), ("JOB_COMPLETIONS", "4")];
        assert_eq!(told(None, &kubernetes).unwrap(), Shard { index: 4, count: 4 });
        assert_eq!(told(Some(5), &kubernetes[..1]).unwrap(), Shard { index: 4, count: 5 });
        assert!(told(None, &kubernetes[..1]).unwrap_err().to_string().contains("of how many"));
        assert!(told(None, &[("JOB_COMPLETION_INDEX", "x")]).is_err());
        assert_eq!(told(None, &[]).unwrap(), Shard::WHOLE);
        assert!(told(Some(2), &[]).is_err());
    }
}
