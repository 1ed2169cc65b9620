//! Hyper-parameters from shapes: every shape must agree with all others.

use std::collections::BTreeMap;

use super::spec::{Dim, Rank, TensorSpec};

/// The sizes of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dims {
    /// Number of blocks.
    pub layers: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Width of the residual stream.
    pub embd: usize,
    /// Width of the time mix.
    pub att: usize,
    /// Width of the keys and values: that of the time mix, or less where heads share them in groups.
    pub kv: usize,
    /// Width of the channel mix.
    pub ffn: usize,
    /// Number of heads (0 for version 4, which has none).
    pub heads: usize,
    /// Size of a head (0 for version 4).
    pub head_size: usize,
}

/// The ranks of one block's low-rank branches; only those that the block has.
pub type Ranks = BTreeMap<Rank, usize>;

/// Sizes known so far: each with the tensor that told it.
#[derive(Debug, Default)]
pub(super) struct Solver {
    sizes: BTreeMap<Dim, (usize, String)>,
    ranks: Vec<BTreeMap<Rank, (usize, String)>>,
}

impl Solver {
    /// Says that `dim` is `size`, because `teller` says so.
    pub fn set(&mut self, dim: Dim, size: usize, teller: &str) {
        self.sizes.entry(dim).or_insert_with(|| (size, teller.to_owned()));
    }

    /// Fits a stored `shape` (already turned into BlinkDL's orientation) to the spec's, and learns what it tells.
    /// Dimensions of one may be missing or added, and heads and their size may be joined, as formats do.
    ///
    /// Returns the canonical shape, or says what disagrees.
    pub fn fit(
        &mut self,
        spec: &TensorSpec,
        layer: usize,
        name: &str,
        shape: &[usize],
    ) -> Result<Vec<usize>, String> {
        let pattern = spec.shape;
        let shape = if let ([Dim::One, Dim::One, Dim::A], [_, _, 1]) = (pattern, shape) {
            vec![1, 1, shape.iter().product()] // rwkv.cpp: [heads, size, 1]
        } else if shape.len() == pattern.len() {
            shape.to_vec()
        } else if let Some(aligned) = align(pattern, shape) {
            aligned
        } else if let Some(sizes) = self.split(pattern, layer, shape) {
            sizes
        } else {
            return Err(format!("has the shape {shape:?}, where {} is expected", Self::show(pattern)));
        };
        for (dim, size) in pattern.iter().zip(&shape) {
            self.learn(*dim, layer, name, *size).map_err(|why| {
                format!("has the shape {shape:?}, where {} is expected: {why}", Self::show(pattern))
            })?;
        }
        Ok(shape)
    }

    fn learn(&mut self, dim: Dim, layer: usize, name: &str, size: usize) -> Result<(), String> {
        let (what, entry) = match dim {
            Dim::One | Dim::Is(_) => {
                let fixed = if let Dim::Is(n) = dim { n } else { 1 };
                return if size == fixed { Ok(()) } else { Err(format!("{size} should be {fixed}")) };
            }
            Dim::Rank(rank) | Dim::FiveRanks(rank) => {
                let factor = if matches!(dim, Dim::FiveRanks(_)) { 5 } else { 1 };
                if !size.is_multiple_of(factor) {
                    return Err(format!("{size} is no multiple of {factor}"));
                }
                while self.ranks.len() <= layer {
                    self.ranks.push(BTreeMap::new());
                }
                let known = self.ranks[layer].entry(rank).or_insert((size / factor, name.to_owned()));
                if known.0 * factor == size {
                    return Ok(());
                }
                (format!("the {} rank is {}", rank.name(), known.0), &known.1)
            }
            _ => {
                let known = self.sizes.entry(dim).or_insert_with(|| (size, name.to_owned()));
                if known.0 == size {
                    return Ok(());
                }
                (format!("{} is {}", Self::show_dim(dim), known.0), &known.1)
            }
        };
        Err(format!("{what} (from {entry:?})"))
    }

    /// A flat vector as the dimensions of the pattern, if all but one of them are known.
    fn split(&self, pattern: &[Dim], layer: usize, shape: &[usize]) -> Option<Vec<usize>> {
        let elements: usize = shape.iter().product();
        let known = |dim: &Dim| match dim {
            Dim::One => Some(1),
            Dim::Is(n) => Some(*n),
            Dim::Rank(rank) => self.ranks.get(layer)?.get(rank).map(|r| r.0),
            Dim::FiveRanks(rank) => self.ranks.get(layer)?.get(rank).map(|r| r.0 * 5),
            dim => self.sizes.get(dim).map(|s| s.0),
        };
        let sizes: Vec<Option<usize>> = pattern.iter().map(known).collect();
        // A size that a key states may be any number.
        let product = sizes.iter().flatten().try_fold(1usize, |n, size| n.checked_mul(*size))?;
        match sizes.iter().filter(|s| s.is_none()).count() {
            0 if product == elements => Some(sizes.into_iter().flatten().collect()),
            1 if product > 0 && elements.is_multiple_of(product) => {
                Some(sizes.into_iter().map(|s| s.unwrap_or(elements / product)).collect())
            }
            _ => None,
        }
    }

    fn show(pattern: &[Dim]) -> String {
        let dims: Vec<String> = pattern.iter().map(|d| Self::show_dim(*d)).collect();
        format!("[{}]", dims.join(", "))
    }

    fn show_dim(dim: Dim) -> String {
        match dim {
            Dim::One => "1".to_owned(),
            Dim::Is(n) => n.to_string(),
            Dim::V => "n_vocab".to_owned(),
            Dim::C => "n_embd".to_owned(),
            Dim::A => "n_att".to_owned(),
            Dim::G => "n_kv".to_owned(),
            Dim::F => "n_ffn".to_owned(),
            Dim::H => "n_head".to_owned(),
            Dim::N => "head_size".to_owned(),
            Dim::Rank(rank) => format!("{} rank", rank.name()),
            Dim::FiveRanks(rank) => format!("5 x {} rank", rank.name()),
        }
    }

    /// The sizes found, once every tensor was fitted.
    pub fn dims(&self, layers: usize) -> Dims {
        let get = |dim: Dim| self.sizes.get(&dim).map(|s| s.0);
        let embd = get(Dim::C).unwrap_or(0);
        let att = get(Dim::A).unwrap_or(embd);
        let heads = get(Dim::H).or_else(|| att.checked_div(get(Dim::N)?)).unwrap_or(0);
        Dims {
            layers,
            vocab: get(Dim::V).unwrap_or(0),
            embd,
            att,
            kv: get(Dim::G).unwrap_or(att),
            ffn: get(Dim::F).unwrap_or(0),
            heads,
            head_size: get(Dim::N).unwrap_or(att.checked_div(heads).unwrap_or(0)),
        }
    }

    /// The ranks of every block.
    pub fn ranks(&self, layers: usize) -> Vec<Ranks> {
        (0..layers)
            .map(|l| {
                self.ranks.get(l).into_iter().flatten().map(|(rank, (size, _))| (*rank, *size)).collect()
            })
            .collect()
    }
}

/// A shape with dimensions of one dropped or added until it is as long as the pattern; ones at the end go
/// first, since formats append them.
fn align(pattern: &[Dim], shape: &[usize]) -> Option<Vec<usize>> {
    let mut shape = shape.to_vec();
    while shape.len() > pattern.len() && shape.last() == Some(&1) {
        shape.pop();
    }
    while shape.len() > pattern.len() {
        let one = shape.iter().position(|d| *d == 1)?;
        shape.remove(one);
    }
    for (i, dim) in pattern.iter().enumerate() {
        if shape.len() < pattern.len() && *dim == Dim::One {
            shape.insert(i, 1);
        }
    }
    (shape.len() == pattern.len()).then_some(shape)
}
