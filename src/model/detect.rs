//! Model in a container: the purpose of every tensor in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use formats::{Container, Mapped, Value};

use super::shape::Solver;
use super::spec::{Dim, Role, Scope, TensorSpec};
use super::{Body, Dims, Map, Naming, Rank, Ranks, Stored, TensorView, Version, identify, quantized, qwen2};
use crate::error::{Error, Result};
use crate::model::adapter::{Adapter, Layout, TunedState};
use crate::storage;

/// A model: a file's tensors in their canonical places.
#[derive(Debug)]
pub struct Model {
    /// The file.
    pub container: Container,
    /// The architecture's version.
    pub version: &'static Version,
    /// Naming of the tensors in the file.
    pub naming: &'static Naming,
    /// The wrapper before every name, such as `module.`.
    pub prefix: String,
    /// The sizes.
    pub dims: Dims,
    /// The ranks of every block.
    pub ranks: Vec<Ranks>,
    /// Every tensor, in canonical order: first the entry, then block by block, then the exit.
    pub tensors: Vec<ModelTensor>,
    /// Tensors of the file that are left out, each by a rule.
    pub dropped: Vec<Dropped>,
    /// Adapters that were read for the model, merged or not.
    pub adapters: Vec<Adapter>,
    /// The initial state that was tuned for it.
    pub state: Option<TunedState>,
}

/// A tensor that the model has.
#[derive(Debug)]
pub struct ModelTensor {
    /// Its row in the version's table.
    pub spec: &'static TensorSpec,
    /// Its block (0 for tensors outside the blocks).
    pub layer: usize,
    /// Its values, in canonical shape and orientation.
    pub values: TensorView,
}

impl ModelTensor {
    /// The canonical name.
    pub fn name(&self) -> String {
        self.spec.name_in(self.layer)
    }

    /// True if no forward pass ever reads it: block 0 has no earlier value to mix in.
    pub fn is_unread(&self) -> bool {
        self.spec.scope == Scope::Later && self.layer == 0
    }
}

/// A tensor of the file that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its name in the file.
    pub name: String,
    /// Rule by which it is not needed.
    pub rule: String,
}

impl Model {
    /// Opens the model at `path`, leaving out the tensors whose names match `drop`.
    ///
    /// # Errors
    /// If there is no file of a known format, or no model in it.
    pub fn open(path: &Path, drop: &[String]) -> Result<Model> {
        Model::detect(storage::open(path)?, drop)
    }

    /// Finds out what `container` holds. Tensors whose names match one of the patterns in `drop` (a name,
    /// with `*` for anything) are left out.
    ///
    /// # Errors
    /// [`Error::Model`] if it is no RWKV model, or one that is recognised but cannot be used;
    /// [`Error::Tensor`] if a tensor is missing, unexpected or of the wrong shape.
    pub fn detect(container: Container, drop: &[String]) -> Result<Model> {
        let identified = identify::identify(&container);
        if identified.is_err() {
            container.check_unchanged()?;
        }
        let (version, naming, prefix) = identified?;
        if version.body == Body::Qwen2 {
            qwen2::check(&container)?;
        }
        Builder::new(container, version, naming, prefix).build(drop)
    }

    /// Every file that the model is read from.
    pub fn files(&self) -> impl Iterator<Item = &Mapped> {
        self.containers().flat_map(Container::files)
    }

    /// The model's own container, and those of its adapters and its state.
    fn containers(&self) -> impl Iterator<Item = &Container> {
        let adapters = self.adapters.iter().flat_map(|a| &a.files);
        let joined = adapters.chain(self.state.iter().filter_map(|s| s.file.as_ref()));
        std::iter::once(&self.container).chain(joined.map(|c| &**c))
    }

    /// `result`, which was computed from the model, unless a file of the model changed meanwhile: that is the error then,
    /// whatever the result, which may be a consequence.
    ///
    /// # Errors
    /// [`Error::Format`] for the first file that changed; as `result`.
    pub fn unless_changed<T>(&self, result: Result<T>) -> Result<T> {
        self.containers().try_for_each(Container::check_unchanged)?;
        result
    }

    /// The tensor of a spec in a block.
    pub fn tensor(&self, slot_name: &str, layer: usize) -> Option<&ModelTensor> {
        self.tensors.iter().find(|t| t.spec.name == slot_name && t.layer == layer)
    }

    /// Number of weights of the model.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(|t| t.values.elements() as u64).sum()
    }

    /// The rank of a branch, if all blocks that have it agree.
    pub fn uniform_rank(&self, rank: super::Rank) -> Option<usize> {
        let mut found = self.ranks.iter().filter_map(|r| r.get(&rank));
        let first = *found.next()?;
        found.all(|r| *r == first).then_some(first)
    }
}

/// Gives every tensor its place.
struct Builder {
    container: Container,
    version: &'static Version,
    naming: &'static Naming,
    prefix: String,
    /// Numbers of the container's tensors by name.
    index: BTreeMap<String, usize>,
    /// Numbers of the tensors that have a place.
    used: BTreeSet<usize>,
    solver: Solver,
}

impl Builder {
    fn new(
        container: Container,
        version: &'static Version,
        naming: &'static Naming,
        prefix: String,
    ) -> Builder {
        let index = container.tensors().iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let mut solver = Solver::default();
        for (key, value) in container.metadata() {
            // llama.cpp joins heads and head size in one vector, so the size must come from a key.
            // Prefabs pad the vocabulary, and join both where there is one head.
            let dim = match key.as_str() {
                key if key.ends_with(".wkv.head_size") => Dim::N,
                "info.num_head" if version.major() > 4 => Dim::H,
                "info.num_vocab" => Dim::V,
                _ => continue,
            };
            if let Some(size) = value.as_u64() {
                solver.set(dim, usize::try_from(size).unwrap_or(usize::MAX), key);
            }
        }
        if let (Body::Qwen2, Some(size)) = (version.body, qwen2::head_size(version, &container)) {
            solver.set(Dim::N, size, "config.json");
        }
        Builder { container, version, naming, prefix, index, used: BTreeSet::new(), solver }
    }

    fn build(mut self, drop: &[String]) -> Result<Model> {
        let layers = self.layers();
        let mut tensors = Vec::new();
        for (spec, layer) in canonical_order(self.version, layers) {
            if let Some(values) = self.place(spec, layer, drop)? {
                tensors.push(ModelTensor { spec, layer, values });
            }
        }
        let mut dropped = self.check_parts(layers, &mut tensors)?;
        let dims = self.solver.dims(layers);
        let state = self.tuned_state(&dims, drop);
        dropped.extend(self.account(drop)?);
        let mut ranks = self.solver.ranks(layers);
        if let Some(first) = ranks.first_mut() {
            first.remove(&Rank::Value); // what block 0 may have is never read
        }
        self.check_heads(&dims)?;
        let Builder { container, version, naming, prefix, .. } = self;
        let adapters = Vec::new();
        Ok(Model { container, version, naming, prefix, dims, ranks, tensors, dropped, adapters, state })
    }

    /// Number of the tensor that stores a spec, and how.
    fn find(&self, spec: &TensorSpec, layer: usize) -> Option<(usize, Stored)> {
        let stored = self.naming.store(self.version, spec)?;
        let name = stored.name_in(layer);
        let i = self.index.get(&format!("{}{name}", self.prefix)).or_else(|| self.index.get(&name))?;
        Some((*i, stored))
    }

    /// Number of blocks: one more than the largest number in a name. (If a block between is missing, its first
    /// tensor will be.)
    fn layers(&self) -> usize {
        let specs = self.version.specs().filter_map(|s| self.naming.store(self.version, s));
        let patterns: BTreeSet<(String, String)> = specs
            .filter_map(|s| {
                s.name.split_once("{}").map(|(a, b)| (format!("{}{a}", self.prefix), b.to_owned()))
            })
            .collect();
        let number = |name: &str| {
            let between = |(a, b): &(String, String)| {
                name.strip_prefix(a.as_str())?.strip_suffix(b.as_str())?.parse::<usize>().ok()
            };
            patterns.iter().filter_map(between).max()
        };
        let largest = self.index.keys().filter_map(|name| number(name)).max();
        // A number larger than the count of tensors means that some are missing, so no more need be looked for.
        largest.map_or(0, |n| n.saturating_add(1)).min(self.index.len())
    }

    /// The values of a spec; `None` if this block need not have it and has not.
    fn place(
        &mut self,
        spec: &'static TensorSpec,
        layer: usize,
        drop: &[String],
    ) -> Result<Option<TensorView>> {
        let unread = spec.scope == Scope::Later && layer == 0;
        let may_lack = self.version.may_lack(spec);
        let Some((i, stored)) = self.find(spec, layer).or_else(|| self.tied(spec)) else {
            let what = format!("is missing from this {} model", self.version.about);
            return if unread || may_lack { Ok(None) } else { Err(self.missing(spec, layer, &what)) };
        };
        if unread && self.has_placeholders() {
            return Ok(None); // of another shape
        }
        let name = self.container.tensors()[i].name.clone();
        if may_lack && drop.iter().any(|p| wildcard(p, &name)) {
            return Ok(None);
        }
        self.used.insert(i);
        let wrong = |what: String| Error::Tensor {
            path: self.container.path().to_owned(),
            tensor: name.clone(),
            what,
            help: "the file mixes tensors of different models, or is damaged: get a sound copy".to_owned(),
        };
        let mut values = TensorView::of(&self.container, i).ok_or_else(|| {
            let encoding = self.container.tensors()[i].encoding;
            Error::Tensor {
                path: self.container.path().to_owned(),
                tensor: name.clone(),
                what: format!("is stored as {encoding}, which is not read as weights"),
                help: "give the original checkpoint that this file was made from".to_owned(),
            }
        })?;
        if values.elements() == 0 {
            return Err(wrong(format!("is empty: its shape is {:?}", values.shape())));
        }
        if let Some(k) = stored.stack {
            let shape = values.shape().to_vec();
            values = match values.slice(k) {
                Some(values) => values,
                None if may_lack => return Ok(None),
                None => {
                    let part = spec.short_name();
                    return Err(wrong(format!("has the shape {shape:?}, with no slice {k} for {part}")));
                }
            };
        }
        if stored.transposed {
            let shape = values.shape().to_vec();
            values =
                values.transposed().ok_or_else(|| wrong(format!("has the shape {shape:?}, no matrix")))?;
        }
        if matches!(spec.role, Role::Embedding | Role::Head)
            && let Some(vocab) = self.container.value("info.num_vocab").and_then(Value::as_u64)
        {
            values = values.first_rows(usize::try_from(vocab).unwrap_or(usize::MAX)).unwrap_or(values);
        }
        let shape = self.solver.fit(spec, layer, &name, values.shape()).map_err(&wrong)?;
        values = values
            .reshaped(&shape)
            .ok_or_else(|| wrong(format!("has a layout in memory that cannot become {shape:?}")))?;
        if let Some((dim, order)) = stored.regroup {
            values = values.regrouped(dim, order).ok_or_else(|| {
                wrong(format!("has the shape {shape:?}, which is not that of {} groups", order.len()))
            })?;
        }
        let rescale = self.rescale(spec, layer);
        Ok(Some(stored.undo.into_iter().chain(rescale).fold(values, TensorView::mapped)))
    }

    /// llama.cpp's RWKV-6 files and prefabs may hold two matrices divided by 2^(layer / n); the original is wanted.
    fn rescale(&self, spec: &TensorSpec, layer: usize) -> Option<Map> {
        let keys = ["rwkv6.rescale_every_n_layers", "rescale"];
        let every = keys.iter().find_map(|key| self.container.value(key))?.as_u64().filter(|n| *n > 0)?;
        let halved = matches!(spec.short_name(), "att.output.weight" | "ffn.value.weight");
        let power = layer as u64 / every;
        (halved && power > 0).then(|| Map::Scale((power as f32).exp2()))
    }

    /// Embedding as the LM head of a model that ties the two.
    fn tied(&self, spec: &TensorSpec) -> Option<(usize, Stored)> {
        let tied = self.container.config()?.get("tie_word_embeddings")?.as_bool()?;
        let embedding = self.version.specs().find(|s| s.role == Role::Embedding)?;
        if tied && spec.role == Role::Head { self.find(embedding, 0) } else { None }
    }

    /// The tuned initial state that stands beside the weights, if every block has one.
    fn tuned_state(&mut self, dims: &Dims, drop: &[String]) -> Option<TunedState> {
        let Dims { layers, heads, head_size: size, .. } = *dims;
        // web-rwkv turns these as it turns low-rank matrices.
        let layout = if self.naming.name == "web-rwkv" { Layout::KeyValue } else { Layout::ValueKey };
        let mut numbers = Vec::new();
        let mut blocks = Vec::new();
        for layer in 0..layers {
            let name = format!("{}{}", self.prefix, TunedState::name(layer));
            let i = *self.index.get(&name).filter(|_| !drop.iter().any(|p| wildcard(p, &name)))?;
            let values = TensorView::of(&self.container, i).filter(|v| v.shape() == [heads, size, size])?;
            blocks.push(layout.turn(&values)?);
            numbers.push(i);
        }
        self.used.extend(numbers);
        (layers > 0).then_some(TunedState { file: None, layout, blocks })
    }

    /// A part that a model may lack must be there as a whole or not at all. Its token shift alone is no part: models
    /// without a gate may have kept the gate's. It is taken out of `tensors` and named.
    fn check_parts(&self, layers: usize, tensors: &mut Vec<ModelTensor>) -> Result<Vec<Dropped>> {
        let mut dropped = Vec::new();
        for part in self.version.optional {
            let found =
                |spec: &TensorSpec, layer| tensors.iter().any(|t| *t.spec == *spec && t.layer == layer);
            let all = canonical_order(self.version, layers).into_iter().filter(|(s, _)| s.part == Some(part));
            let (found, lacking): (Vec<_>, Vec<_>) = all.partition(|(spec, layer)| found(spec, *layer));
            if found.iter().all(|(spec, _)| spec.stack.is_some()) && !lacking.is_empty() {
                dropped.extend(found.iter().map(|(spec, layer)| Dropped {
                    name: self.stored_name(spec, *layer),
                    rule: format!("the model has no {part}, and nothing else reads it"),
                }));
                tensors.retain(|t| t.spec.part != Some(part));
            } else if let Some((spec, layer)) = lacking.first() {
                let what = format!("is missing, although the model has other tensors of its {part}");
                return Err(self.missing(spec, *layer, &what));
            }
            if self.version.body == Body::Qwen2 {
                qwen2::check_part(&self.container, part, lacking.is_empty())?;
            }
        }
        Ok(dropped)
    }

    /// The name under which the file has, or would have, a spec.
    fn stored_name(&self, spec: &TensorSpec, layer: usize) -> String {
        let stored = self.naming.store(self.version, spec);
        let name = stored.map_or_else(|| spec.name_in(layer), |s| s.name_in(layer));
        format!("{}{name}", self.prefix)
    }

    fn missing(&self, spec: &TensorSpec, layer: usize, what: &str) -> Error {
        Error::Tensor {
            path: self.container.path().to_owned(),
            tensor: self.stored_name(spec, layer),
            what: what.to_owned(),
            help: "the file is incomplete: get a sound copy, or give all parts of the model".to_owned(),
        }
    }

    /// Every tensor of the file without a place is dropped by a rule, or an error.
    fn account(&self, drop: &[String]) -> Result<Vec<Dropped>> {
        let mut dropped = Vec::new();
        for (i, t) in self.container.tensors().iter().enumerate() {
            if self.used.contains(&i) {
                continue;
            }
            let rule = if self.is_placeholder(&t.name) {
                "the runtime wants a placeholder here and never reads it".to_owned()
            } else if self.version.body == Body::Qwen2 && t.name.ends_with(".rotary_emb.inv_freq") {
                "the time mix that replaced the attention does not rotate".to_owned()
            } else if let Some(pattern) = drop.iter().find(|p| wildcard(p, &t.name)) {
                format!("left out by --drop {pattern}")
            } else {
                return Err(self.unexpected(&t.name));
            };
            dropped.push(Dropped { name: t.name.clone(), rule });
        }
        drop.iter().try_for_each(|pattern| self.check_drop(pattern))?;
        Ok(dropped)
    }

    /// A pattern that leaves nothing out is a mistake.
    fn check_drop(&self, pattern: &str) -> Result<()> {
        let matching = || self.index.iter().filter(|(name, _)| wildcard(pattern, name));
        if matching().any(|(_, i)| !self.used.contains(i)) {
            return Ok(());
        }
        let (what, help) = match matching().next() {
            Some((name, _)) => (
                format!("--drop {pattern} leaves nothing out: the model needs {name:?}"),
                "name only tensors that are no part of the model",
            ),
            None => (
                format!("--drop {pattern} matches no tensor of the file"),
                "see `rwkv-quant inspect` for the names; * stands for anything",
            ),
        };
        Err(Error::Usage { what, help: help.to_owned() })
    }

    /// True if files of this format hold something in place of block 0's value residual.
    fn has_placeholders(&self) -> bool {
        matches!(self.container.format().name(), "GGUF" | "prefab")
    }

    /// True if this is block 0's value residual in such a file.
    fn is_placeholder(&self, name: &str) -> bool {
        self.has_placeholders()
            && self
                .version
                .specs()
                .filter(|s| s.scope == Scope::Later)
                .filter_map(|s| self.naming.store(self.version, s))
                .any(|s| s.name_in(0) == name)
    }

    /// The prefix of a tensor that has the name of one of the model's, but behind another prefix.
    fn second_prefix<'n>(&self, name: &'n str) -> Option<&'n str> {
        let own = |i: &usize| {
            let own = &self.container.tensors()[*i].name;
            own.strip_prefix(self.prefix.as_str()).unwrap_or(own)
        };
        let of = |own: &str| name.strip_suffix(own).filter(|prefix| prefix.ends_with('.'));
        self.used.iter().map(own).filter(|own| own.contains('.')).find_map(of)
    }

    fn unexpected(&self, name: &str) -> Error {
        let path: &Path = self.container.path();
        let (what, help) = if let Some(other) = self.second_prefix(name) {
            let own = match self.prefix.as_str() {
                "" => "without a prefix".to_owned(),
                own => format!("behind {own:?}"),
            };
            (
                format!(
                    "belongs to a second set of weights, behind the prefix {other:?}; the model {own} is read"
                ),
                format!(
                    "leave the other one out: --drop '{other}*'; to take that one, save its tensors alone in Python"
                ),
            )
        } else if name.contains("time_state") {
            (
                "is a tuned initial state, and not every block has one of its shape".to_owned(),
                format!("if the state may be lost, leave it out: --drop '{}'", "*time_state"),
            )
        } else if quantized::is_part(name) {
            (
                format!("is no part of {}, and may be a scale that other weights need", self.version.about),
                "give the checkpoint that this file was made from, before it was quantized".to_owned(),
            )
        } else {
            (
                format!("is no part of {}", self.version.about),
                format!(
                    "the model may compute something else than its version says; if you know that this \
                         tensor is not needed, leave it out: --drop '{name}'"
                ),
            )
        };
        Error::Tensor { path: path.to_owned(), tensor: name.to_owned(), what, help }
    }

    fn check_heads(&self, dims: &Dims) -> Result<()> {
        if self.version.body == Body::Qwen2 && dims.head_size == 0 {
            return Err(qwen2::unknown_heads(&self.container));
        }
        if dims.heads.checked_mul(dims.head_size) == Some(dims.att) || dims.heads == 0 {
            return Ok(());
        }
        Err(Error::Model {
            path: self.container.path().to_owned(),
            what: format!(
                "has {} heads of size {}, which do not make the {} of its time mix",
                dims.heads, dims.head_size, dims.att
            ),
            help: "the file mixes tensors of different models, or is damaged: get a sound copy".to_owned(),
        })
    }
}

/// All specs and blocks of a model of so many layers: entry, block by block, exit.
fn canonical_order(version: &'static Version, layers: usize) -> Vec<(&'static TensorSpec, usize)> {
    let is_exit = |s: &TensorSpec| s.name.starts_with("ln_out") || s.name.starts_with("head");
    let outside = |exit: bool| {
        version.specs().filter(move |s| s.scope == Scope::Model && is_exit(s) == exit).map(|s| (s, 0))
    };
    let blocks = (0..layers)
        .flat_map(|layer| version.specs().filter(|s| s.scope != Scope::Model).map(move |s| (s, layer)));
    outside(false).chain(blocks).chain(outside(true)).collect()
}

/// True if `name` matches `pattern`, in which `*` stands for anything.
pub(crate) fn wildcard(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}
