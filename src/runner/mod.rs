//! The reference runner: what a model says, computed in `f32` straight from whatever file it is in.
//!
//! It follows the official runner (the pip package `rwkv`, fp32 on a CPU) operation by operation; `v4` to `v7`
//! hold what differs between the versions. A pass takes a run of tokens of several sequences through the model
//! block by block: the matrices stay as the file stores them and are decoded in panels while they multiply, so
//! nothing but the activations of the run takes memory. Every sum has a fixed order (`arch`), so the same tokens
//! give the same bits alone and in company, one by one and in long runs, and for any number of threads.

#[cfg(test)]
mod adapted;
mod arch;
#[cfg(test)]
mod containers;
mod device;
mod head;
mod layer;
pub(crate) mod math;
mod matrix;
mod moments;
mod norm;
mod pass;
mod sample;
mod state;
#[cfg(test)]
mod tests;
mod v4;
mod v5;
mod v6;
mod v7;
#[cfg(test)]
mod variants;
mod walk;
mod weight;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use formats::Limits;

/// True if this thread multiplies and adds in one step, which rounds once.
pub(crate) fn is_fused() -> bool {
    arch::Level::best() != arch::Level::Portable
}

pub use device::Arithmetic;
pub use head::{
    Certified, Clustered, FORMS as HEADS, Fit, Full, FullRows, Head, HeadChoice, Reading, Rows, mean_squares,
    parse_share,
};
pub use moments::{ErrorMeter, Moments};
pub use sample::Sampler;
pub use state::State;
pub use walk::{BlockHalf, ForwardPass};

use crate::error::{Error, Result};
use crate::model;
use crate::model::{Body, Model, ModelTensor, Role};
use device::Products;
use layer::Layer;
use matrix::Matrix;
pub use matrix::Pool;
use norm::Norm;
use pass::{Pass, each_row};
pub(crate) use weight::Dense;
pub use weight::{ActivationHook, Inputs, Key};
use weight::{By, Hooked, Values, Weight};

/// Options of running a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Epsilon of the norm over heads, if not the official 64e-5 (rwkv.cpp uses 1e-5 for version 5).
    pub group_norm_epsilon: Option<f32>,
    /// Keeps the low-rank matrices decoded: worth their memory where tokens come one by one.
    pub keep_low_rank: bool,
    /// Lets go of the pages of every block once it is computed, so that the file does not fill the memory.
    pub stream: bool,
    /// Arithmetic of the products of matrices.
    pub arithmetic: Arithmetic,
    /// The buffers of activations: models that run one after the other share them if they are given the same.
    pub pool: Pool,
}

/// Decoded vectors by block and short name.
type Vectors = BTreeMap<usize, HashMap<&'static str, Vec<f32>>>;

/// A model that can be run.
#[derive(Debug)]
pub struct Runner {
    model: Model,
    options: Options,
    norm_epsilon: f32,
    vectors: Vectors,
    /// Numbers of the model's tensors by spec and block.
    places: HashMap<Key, usize>,
    /// Matrices that are used as they are here, whatever the file holds: low-rank ones that are kept decoded, and such
    /// as are tried in place of the file's.
    decoded: HashMap<Key, Dense>,
    /// Hook that records the activations, and the part of a text that they are of.
    hook: Option<(Arc<dyn ActivationHook>, usize)>,
    /// Initial state of every text, if not the empty one.
    initial: Option<State>,
    pool: Pool,
    /// The device, if it is not the processor itself.
    products: Option<Products>,
}

/// Hidden states that the last block gives for the tokens of a run, before the head: a row a token.
#[derive(Debug)]
pub struct Hidden(Matrix);

impl Hidden {
    /// Number of tokens.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Some rows.
    fn take(&self, rows: &[usize]) -> Matrix {
        let mut part = self.0.pool().matrix(rows.len(), self.0.cols);
        for (i, row) in rows.iter().enumerate() {
            part.row_mut(i).copy_from_slice(self.0.row(*row));
        }
        part
    }
}

/// Predictions of a model: a row a token that was asked for, a value a token of the vocabulary.
#[derive(Debug)]
pub struct Logits(Matrix);

impl Logits {
    /// The logits of one row.
    pub fn row(&self, i: usize) -> &[f32] {
        self.0.row(i)
    }
}

impl Runner {
    /// A runner of `model`.
    ///
    /// # Errors
    /// [`Error::Model`] if the model is a hybrid with another architecture, or states an epsilon that is none.
    pub fn new(mut model: Model, options: Options) -> Result<Runner> {
        if model.version.body != Body::Rwkv {
            return Err(Error::Model {
                path: model.container.path().to_owned(),
                what: format!("is {}, which this program converts but cannot run", model.version.about),
                help: "evaluate it with llama.cpp's llama-perplexity".to_owned(),
            });
        }
        // Who wrote checksums wants them compared; then nothing is computed from damaged weights.
        model.container.format().verify_checksums(&model.container, &Limits::default())?;
        // Tiles take longer to decode than to multiply, so they are decoded once.
        model::hold(&mut model.container)?;
        let norm_epsilon = crate::targets::gguf::norm_epsilon(&model)?;
        let mut vectors = Vectors::new();
        for held in model.tensors.iter().filter(|h| layer::is_vector(h)) {
            let mut values = vec![0.0; held.values.elements()];
            held.values.read(&model.container, 0..held.values.rows(), &mut values);
            vectors.entry(held.layer).or_default().insert(held.spec.short_name(), values);
        }
        let initial = State::tuned(&model);
        let places = model.tensors.iter().enumerate().map(|(i, h)| ((h.spec.name, h.layer), i)).collect();
        let products = match &options.arithmetic {
            Arithmetic::Candle(device) => Some(Products::new(device.clone())),
            _ => None,
        };
        let mut runner = Runner {
            products,
            pool: options.pool.clone(),
            model,
            options,
            norm_epsilon,
            vectors,
            places,
            decoded: HashMap::new(),
            hook: None,
            initial,
        };
        if runner.options.keep_low_rank {
            let low = runner.model.tensors.iter().filter(|h| h.spec.role == Role::LowRank);
            let flat = low.filter(|h| h.values.shape().len() == 2);
            runner.decoded = flat.map(|h| ((h.spec.name, h.layer), runner.low_rank(h))).collect();
        }
        Ok(runner)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, which is no longer run.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// Bytes of what it keeps decoded all the time.
    pub fn kept_bytes(&self) -> u64 {
        let vectors = self.vectors.values().flat_map(HashMap::values).map(Vec::len).sum::<usize>();
        let low_rank = self.decoded.values().map(Dense::values).sum::<usize>();
        4 * (vectors + low_rank) as u64 + self.initial.as_ref().map_or(0, State::bytes)
    }

    /// The state before a text.
    pub fn start(&self) -> State {
        self.initial.clone().unwrap_or_else(|| State::zero(self.model.version, &self.model.dims))
    }

    /// Runs one sequence of tokens for every state, and advances the states.
    ///
    /// # Errors
    /// [`Error::Usage`] for a token that the model has no row for; [`Error::Model`] naming the block if a value
    /// becomes infinite or NaN.
    ///
    /// # Panics
    /// If there are not as many runs as states.
    pub fn run(&self, runs: &[&[u32]], states: &mut [State]) -> Result<Hidden> {
        assert_eq!(runs.len(), states.len());
        self.check_tokens(runs.iter().flat_map(|r| r.iter()))?;
        let mut pass = Pass::new(runs, states, self.pool.clone());
        let mut x = self.enter(&pass.tokens);
        self.check(None, &x)?;
        pass.entry = self.entry(&x);
        for index in 0..self.model.dims.layers {
            self.block(Layer { runner: self, index }, &mut pass, &mut x)?;
        }
        Ok(Hidden(self.outer_norm("ln_out").rows(&x)))
    }

    /// The logits of some rows of a run.
    ///
    /// # Errors
    /// [`Error::Resources`] if they are computed on a device that fails.
    pub fn logits(&self, hidden: &Hidden, rows: &[usize]) -> Result<Logits> {
        Ok(self.logits_by(&Full, hidden, rows)?.0)
    }

    /// The logits of some rows of a run by a head of this model, and what it read for each.
    ///
    /// # Errors
    /// As [`logits`](Runner::logits).
    pub fn logits_by(
        &self,
        head: &dyn Head,
        hidden: &Hidden,
        rows: &[usize],
    ) -> Result<(Logits, Vec<Reading>)> {
        let found = head.logits(&self.full_rows(), &Inputs(&hidden.take(rows)));
        self.forget(self.held("head.weight"));
        self.products.as_ref().map_or(Ok(()), Products::check)?;
        Ok(found)
    }

    /// The matrix of the head.
    pub fn full_rows(&self) -> FullRows<'_> {
        let head = self.held("head.weight");
        let row_bytes = head.values.encoding().and_then(|e| e.row_bytes(head.values.cols() as u64));
        // Rows that are not stored as they are, but computed, are of f32.
        let row_bytes = row_bytes.unwrap_or(4 * head.values.cols() as u64);
        FullRows { weight: self.weight(head), row_bytes }
    }

    /// True if products are those of f32.
    pub fn is_exact(&self) -> bool {
        self.options.arithmetic.is_exact()
    }

    /// The error for a head that cannot have another form.
    fn unfit_head(&self, what: String) -> Error {
        Error::Model {
            path: self.model.container.path().to_owned(),
            what: format!("has a head that cannot be read in that way: {what}"),
            help: "leave out --head".to_owned(),
        }
    }

    /// A tensor that stands once in the model. (Detection gave every spec of the version its tensor.)
    fn held(&self, name: &'static str) -> &ModelTensor {
        let place = self.places.get(&(name, 0)).copied();
        &self.model.tensors[place.unwrap_or_else(|| unreachable!("the model has no {name}"))]
    }

    /// The embeddings of tokens after their norm.
    fn enter(&self, tokens: &[u32]) -> Matrix {
        let embedding = self.held("emb.weight");
        self.enter_from(tokens, |token, row| {
            let token = token as usize;
            embedding.values.read(&self.model.container, token..token + 1, row);
        })
    }

    /// Embeddings, read by `read`, after their norm.
    fn enter_from(&self, tokens: &[u32], read: impl Fn(u32, &mut [f32]) + Sync) -> Matrix {
        let mut x = self.pool.matrix(tokens.len(), self.model.dims.embd);
        each_row(&mut x, |i, row| read(tokens[i], row));
        self.outer_norm("blocks.0.ln0").rows(&x)
    }

    /// Copy of the first block's input, which version 7a needs in every block.
    fn entry(&self, x: &Matrix) -> Option<Matrix> {
        (self.model.version.name == "7a").then(|| x.clone())
    }

    /// Refuses tokens that the model has no row for.
    fn check_tokens<'a>(&self, mut tokens: impl Iterator<Item = &'a u32>) -> Result<()> {
        let vocab = self.model.dims.vocab;
        match tokens.find(|t| **t as usize >= vocab) {
            None => Ok(()),
            Some(token) => Err(Error::Usage {
                what: format!(
                    "the token {token} is unknown to {}, which has {vocab} tokens",
                    self.model.container.path().display()
                ),
                help: "give the vocabulary that the model was trained with: --vocab FILE".to_owned(),
            }),
        }
    }

    fn block(&self, layer: Layer<'_>, pass: &mut Pass<'_>, x: &mut Matrix) -> Result<()> {
        for half in BlockHalf::BOTH {
            let change = self.change(half, layer, pass, x);
            each_row(x, |i, row| pass::add(row, change.row(i)));
        }
        if self.options.stream {
            self.model.tensors.iter().filter(|h| h.layer == layer.index).for_each(|h| self.forget(h));
        }
        self.products.as_ref().map_or(Ok(()), Products::check)?;
        self.check(Some(layer.index), x)
    }

    /// Change that half of a block adds to the residual stream.
    fn change(&self, half: BlockHalf, layer: Layer<'_>, pass: &mut Pass<'_>, x: &Matrix) -> Matrix {
        match (half, self.model.version.major()) {
            (BlockHalf::Time, major) => {
                let y = layer.norm("ln1").rows(x);
                match major {
                    4 => v4::time_mix(&layer, pass, &y),
                    5 => v5::time_mix(&layer, pass, &y),
                    6 => v6::time_mix(&layer, pass, &y),
                    _ => v7::time_mix(&layer, pass, &y),
                }
            }
            (BlockHalf::Channel, major) => {
                let y = layer.norm("ln2").rows(x);
                match major {
                    4 | 5 => v4::channel_mix(&layer, pass, &y),
                    6 => v6::channel_mix(&layer, pass, &y),
                    _ => v7::channel_mix(&layer, pass, &y),
                }
            }
        }
    }

    /// The error for logits that are not finite, for the token at `place` of a text if that is known.
    pub fn unsound_logits(&self, place: Option<usize>) -> Error {
        let place = place.map(|place| format!(" for the token at place {place} of the text"));
        Error::Model {
            path: self.model.container.path().to_owned(),
            what: format!("gives logits that are infinite or NaN{}", place.unwrap_or_default()),
            help: "its last norm or head is damaged: `rwkv-quant verify` tells whether the file is"
                .to_owned(),
        }
    }

    /// Refuses values of the residual stream that are not finite after block `index`, or before the first.
    fn check(&self, index: Option<usize>, x: &Matrix) -> Result<()> {
        if quant::check_finite(&x.data).is_ok() {
            return Ok(());
        }
        let place = match index {
            Some(index) => format!("block {index}"),
            None => "the embedding or its norm, blocks.0.ln0".to_owned(),
        };
        Err(Error::Model {
            path: self.model.container.path().to_owned(),
            what: format!("computes infinite or NaN values in {place}"),
            help: "a weight there is damaged or too large: `rwkv-quant verify` finds damaged ones, `rwkv-quant diff` \
                   with a sound copy tells which"
                .to_owned(),
        })
    }

    fn outer_norm(&self, name: &str) -> Norm<'_> {
        let vector = |part: &str| layer::vector(&self.vectors, &format!("{name}.{part}"), 0);
        // `blocks.0.ln0` has no place for a block's number, so its short name is its whole name.
        Norm { weight: vector("weight"), bias: vector("bias"), epsilon: self.norm_epsilon }
    }

    fn weight<'a>(&'a self, held: &'a ModelTensor) -> Weight<'a> {
        let key = (held.spec.name, held.layer);
        let hook = self.hooked(key);
        if let Some(dense) = self.decoded.get(&key) {
            return Weight { values: Values::Dense(dense), by: self.by(), key: None, hook };
        }
        let values = Values::Stored {
            container: &self.model.container,
            values: &held.values,
            stream: self.options.stream,
        };
        Weight { values, by: self.by(), key: Some(key), hook }
    }

    fn hooked(&self, key: Key) -> Option<Hooked<'_>> {
        self.hook.as_ref().map(|(hook, part)| Hooked { key, hook: hook.as_ref(), part: *part })
    }

    /// Way to compute products.
    fn by(&self) -> By<'_> {
        match (&self.products, &self.options.arithmetic) {
            (Some(products), _) => By::Device(products),
            (None, Arithmetic::Fast) => By::Fast,
            _ => By::Exact,
        }
    }

    fn low_rank(&self, held: &ModelTensor) -> Dense {
        Dense::low_rank(&self.model.container, &held.values)
    }

    /// Lets go of a tensor's pages, if the model is streamed.
    fn forget(&self, held: &ModelTensor) {
        if self.options.stream {
            held.values.release(&self.model.container, 0..held.values.rows());
        }
    }
}
