//! What fine-tuning leaves instead of a whole model: changes of matrices, whole small tensors, tuned states.
//!
//! ```text
//! RWKV-LM-LoRA, RWKV-PEFT   <matrix>.lora_A [r, in], .lora_B [out, r]          W + B A * alpha / r
//! PiSSA                     and <matrix>.init_lora_A, .init_lora_B beside it   W - init_B init_A + B A
//! DiSHA (new Bone)          <matrix>.disha [r, out]                            W[o, c] + D[c mod r, o]
//! Bone, Bat                 <matrix>.bone or .disha [in / r, r, r]             W_ab + W_ab D_b + D_b in r x r blocks
//! web-rwkv                  <matrix>.lora.0 [in, r], .lora.1 [out, r]          as LoRA
//! llama.cpp                 <tensor>.lora_a [r, in], .lora_b [out, r]          as LoRA; its file holds alpha
//! all of them               whole tensors (norms, mixes, decays)               instead of the model's
//! tuned states              <block>.att.time_state [heads, size, size]         before the first token
//! ```
//!
//! An adapter is read for a model ([`Adapter::read`]) and merged into it ([`Adapter::merge`]): from then on the model's
//! tensors give the merged values wherever they are read, row by row, so that merging takes no memory to speak of.
//! Sources: Blealtan/RWKV-LM-LoRA, JL-er/RWKV-PEFT (`merge/`), cryscan/web-rwkv.

mod disha;
mod flags;
mod lora;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use formats::{Container, Limits, Value};

pub use disha::{Bat, Disha};
pub use flags::Flags;
pub use lora::LowRank;
pub use state::{Layout, TunedState};

use crate::branches;
use crate::error::{Error, Result};
use crate::model::{Held, Lazy, Model, NAMINGS, Role, Scope};
use crate::verify;

/// What an adapter says besides its tensors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Alpha of a LoRA, which its file does not hold.
    pub alpha: Option<f32>,
    /// Where a PiSSA training started from: a file with `init_lora_A` and `init_lora_B`.
    pub init: Option<&'a Path>,
    /// Whether nobody needs to know how it is scaled: it is written into a file that does not say.
    pub unscaled: bool,
}

/// Most that a LoRA is multiplied by: trainings have 0.1 to 100 or so, and with more, weights soon are no numbers.
const LARGEST_SCALE: f32 = 1e4;

/// The key of a LoRA's alpha in a GGUF file.
pub const ALPHA_KEY: &str = "adapter.lora.alpha";

/// What a file changes about a model.
#[derive(Debug)]
pub struct Adapter {
    /// The files it is read from.
    pub files: Vec<Arc<Container>>,
    /// Alpha of a LoRA.
    pub alpha: Option<f32>,
    /// Its parts, in file order.
    pub parts: Vec<Part>,
}

/// What an adapter changes about one tensor.
#[derive(Debug)]
pub struct Part {
    /// Number of the tensor in [`Model::tensors`].
    pub tensor: usize,
    /// What becomes of it.
    pub kind: Kind,
}

/// What becomes of a tensor.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Products of two low-rank matrices are added, one after the other.
    LowRank(Vec<Arc<LowRank>>),
    /// A row of DiSHA is added to every group of columns.
    Disha(Arc<Disha>),
    /// Blocks are multiplied and added.
    Bat(Arc<Bat>),
    /// Another tensor takes its place.
    Whole(Lazy),
}

/// Wrappers that training code leaves before the names.
const WRAPPERS: &[&str] = &["module.", "_forward_module.", "base_model.model.", "model."];

impl Adapter {
    /// Reads the file at `path` as an adapter of `model`.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that belongs to no tensor of the model, or does not fit it; [`Error::Usage`] if
    /// it is a LoRA and nothing says how to scale it.
    pub fn read(path: &Path, model: &Model, options: Options<'_>) -> Result<Adapter> {
        if let Some(alpha) = options.alpha.filter(|a| !a.is_finite() || *a == 0.0) {
            return Err(Error::Usage {
                what: format!("the alpha {alpha} would make the adapter nothing, or the weights no numbers"),
                help: "give the alpha of the training; its rank, if it was trained without scaling"
                    .to_owned(),
            });
        }
        let mut reader = Reader::open(path, model, options)?;
        let part_of_model = reader.file.value(branches::KEY);
        if part_of_model.is_some() && part_of_model != model.container.value(branches::KEY) {
            return Err(Error::Model {
                path: path.to_owned(),
                what: format!(
                    "holds branches of low rank, which {} was not made with",
                    model.container.path().display()
                ),
                help: "give it to the quantized model that was written beside it".to_owned(),
            });
        }
        if part_of_model.is_none() && !model.equalized().is_empty() {
            return Err(Error::Model {
                path: model.container.path().to_owned(),
                what: "was written with rescaled channels, so adapters trained on the original do not fit"
                    .to_owned(),
                help: "give the checkpoint that the adapter was trained on".to_owned(),
            });
        }
        let mut parts = Vec::new();
        for (i, tensor) in reader.file.tensors().iter().enumerate() {
            parts.extend(reader.part(&tensor.name, i)?);
        }
        // A file with nothing but whole tensors is a model, unless they are all small.
        let small = |p: &Part| !model.tensors[p.tensor].slot.role.is_large();
        let changes = |p: &Part| !matches!(p.kind, Kind::Whole(_));
        if parts.is_empty() || !(parts.iter().any(changes) || parts.iter().all(small)) {
            return Err(Error::Model {
                path: path.to_owned(),
                what: "is no adapter: it holds no LoRA, PiSSA, DiSHA or Bone".to_owned(),
                help: HELP.to_owned(),
            });
        }
        let alpha = reader.alpha;
        let files = std::iter::once(reader.file).chain(reader.init.take()).collect();
        Ok(Adapter { files, alpha, parts })
    }

    /// Merges the adapter into the model it was read for.
    pub fn merge(self, model: &mut Model) {
        for part in &self.parts {
            let held = &mut model.tensors[part.tensor];
            held.values = match part.kind.clone() {
                Kind::LowRank(all) => all.into_iter().fold(held.values.clone(), |v, d| v.changed(d)),
                Kind::Disha(change) => held.values.changed(change),
                Kind::Bat(change) => held.values.changed(change),
                Kind::Whole(values) => values,
            };
        }
        model.adapters.push(self);
    }

    /// What it is, in a few words: `LoRA of rank 8 for 14 matrices, 6 whole tensors`.
    pub fn about(&self) -> String {
        let mut ranks: Vec<usize> = Vec::new();
        let mut matrices = 0;
        let (mut whole, mut name) = (0, "");
        for part in &self.parts {
            let (kind, rank) = match &part.kind {
                Kind::LowRank(all) if all.len() > 1 => ("PiSSA", all[0].rank()),
                Kind::LowRank(all) => ("LoRA", all[0].rank()),
                Kind::Disha(change) => ("DiSHA", change.rank()),
                Kind::Bat(change) => ("Bone", change.rank()),
                Kind::Whole(_) => {
                    whole += 1;
                    continue;
                }
            };
            name = kind;
            ranks.push(rank);
            matrices += 1;
        }
        ranks.sort_unstable();
        ranks.dedup();
        let ranks: Vec<String> = ranks.iter().map(ToString::to_string).collect();
        let plural = |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
        let changes =
            format!("{name} of rank {} for {}", ranks.join(", "), plural(matrices, "matrix", "matrices"));
        let whole = (whole > 0).then(|| plural(whole, "whole tensor", "whole tensors"));
        let alpha = self.alpha.map(|alpha| format!("alpha {alpha}"));
        let said: Vec<String> =
            (matrices > 0).then_some(changes).into_iter().chain(alpha).chain(whole).collect();
        said.join(", ")
    }
}

/// Opens an adapter's file, which must be sound: what it holds is blamed on it, and not on the model it is merged into.
fn open(path: &Path) -> Result<Arc<Container>> {
    let container = formats::open(path, &Limits::default())?;
    let sums = container.format().verify_checksums(&container, &Limits::default());
    let sound = sums.map_err(Error::from).and_then(|_| verify::finite(&container).map(drop));
    container.check_unchanged()?;
    sound.map(|()| Arc::new(container))
}

const HELP: &str = "give the LoRA, PiSSA, DiSHA or Bone file that was trained on this very model";

/// Finds what the tensors of an adapter's file are for.
struct Reader<'a> {
    file: Arc<Container>,
    init: Option<Arc<Container>>,
    alpha: Option<f32>,
    unscaled: bool,
    model: &'a Model,
    /// Tensors of the model by their names in the adapter, and whether they are transposed there.
    names: HashMap<String, (usize, bool)>,
}

impl<'a> Reader<'a> {
    fn open(path: &Path, model: &'a Model, options: Options<'_>) -> Result<Reader<'a>> {
        let file = open(path)?;
        let init = options.init.map(open).transpose()?;
        let web_rwkv = file.tensors().iter().any(|t| t.name.ends_with(".lora.0"));
        let naming = match file.format().name() {
            "GGUF" => "llama.cpp",
            _ if web_rwkv => "web-rwkv",
            _ => "BlinkDL",
        };
        let naming = NAMINGS.iter().find(|n| n.name == naming);
        let mut names = HashMap::new();
        for (i, held) in model.tensors.iter().enumerate() {
            if let Some(stored) = naming.and_then(|n| n.store(model.version, held.slot)) {
                names.insert(stored.name_in(held.layer), (i, stored.transposed));
            }
        }
        let stated = match file.value(ALPHA_KEY) {
            Some(Value::F32(alpha)) => Some(*alpha).filter(|a| a.is_finite() && *a != 0.0),
            _ => None,
        };
        let alpha = options.alpha.or(stated);
        Ok(Reader { file, init, alpha, unscaled: options.unscaled, model, names })
    }

    /// What tensor number `i` of the file, called `stored`, changes; `None` for what is taken with another one.
    fn part(&self, stored: &str, i: usize) -> Result<Option<Part>> {
        let name = unwrapped(stored);
        let wrong = |what: String| self.unfit(stored, what);
        let values = self.lazy(&self.file, i)?;
        let base = |part: &str| {
            let base = name.strip_suffix(part).or_else(|| name.strip_suffix(&format!("{part}.weight")));
            base.map(str::to_owned)
        };
        let pairs = [
            (".lora_A", ".lora_B", false),
            (".lora.0", ".lora.1", true),
            (".weight.lora_a", ".weight.lora_b", false),
        ];
        if pairs.iter().any(|(_, b, _)| base(b).is_some()) {
            return Ok(None);
        }
        for (a, b, turned) in pairs {
            let Some(matrix) = base(a) else { continue };
            let (tensor, held) = self.matrix(&matrix, &wrong)?;
            let other = stored.replace(a, b);
            let k = self.file.tensors().iter().position(|t| t.name == other);
            let k = k.ok_or_else(|| wrong(format!("has no counterpart {other:?}")))?;
            let a = if turned { values.transposed() } else { Some(values) };
            let a = a.ok_or_else(|| wrong("is no matrix".to_owned()))?;
            let pair =
                LowRank { container: Arc::clone(&self.file), a, b: self.lazy(&self.file, k)?, scale: 1.0 };
            let all = self.scaled(pair.fitting(held).map_err(&wrong)?, &matrix, held)?;
            return Ok(Some(Part { tensor, kind: Kind::LowRank(all) }));
        }
        if let Some(matrix) = base(".disha").or_else(|| base(".bone")) {
            let (tensor, held) = self.matrix(&matrix, &wrong)?;
            let container = Arc::clone(&self.file);
            let kind = if values.shape().len() == 2 && base(".disha").is_some() {
                Kind::Disha(Arc::new(Disha::fitting(container, &values, held).map_err(&wrong)?))
            } else {
                Kind::Bat(Arc::new(Bat::fitting(container, values, held).map_err(&wrong)?))
            };
            return Ok(Some(Part { tensor, kind }));
        }
        self.whole(name, i, &wrong)
    }

    /// A low-rank change with its scale, behind what undoes a PiSSA's start.
    fn scaled(&self, pair: LowRank, matrix: &str, held: &Held) -> Result<Vec<Arc<LowRank>>> {
        let Some(init) = &self.init else {
            let alpha = self.alpha.or_else(|| self.unscaled.then_some(pair.rank() as f32));
            let alpha = alpha.ok_or_else(|| Error::Usage {
                what: format!("{} is a LoRA, whose scale its file does not hold", self.file.path().display()),
                help: "give the alpha that it was trained with, --lora-alpha ALPHA (its rank, if it was trained without \
                       scaling), or for PiSSA the file that it started from, --lora-init FILE"
                    .to_owned(),
            })?;
            let scale = alpha / pair.rank() as f32;
            if scale.abs() > LARGEST_SCALE {
                return Err(Error::Usage {
                    what: format!(
                        "the alpha {alpha} would multiply the adapter by {scale}, as no training does"
                    ),
                    help: "give the alpha of the training; its rank, if it was trained without scaling"
                        .to_owned(),
                });
            }
            return Ok(vec![Arc::new(LowRank { scale, ..pair })]);
        };
        let find = |part: &str| {
            let name = format!("{matrix}.init_lora_{part}");
            let i = init.tensors().iter().position(|t| unwrapped(&t.name) == name);
            i.map(|i| self.lazy(init, i)).transpose()?.ok_or_else(|| Error::Tensor {
                path: init.path().to_owned(),
                tensor: name,
                what: "is missing".to_owned(),
                help: "give the file that this PiSSA training started from (init_pissa.pth)".to_owned(),
            })
        };
        let start = LowRank { container: Arc::clone(init), a: find("A")?, b: find("B")?, scale: -1.0 };
        let name = format!("{matrix}.init_lora_A");
        let start = start.fitting(held).map_err(|what| self.unfit(&name, what))?;
        Ok(vec![Arc::new(start), Arc::new(pair)])
    }

    /// A tensor that takes the place of the model's.
    fn whole(&self, name: &str, i: usize, wrong: &dyn Fn(String) -> Error) -> Result<Option<Part>> {
        let Some((tensor, turned)) = self.names.get(name).copied() else {
            let slots = self.model.version.slots().filter(|s| s.scope == Scope::Later);
            if slots.into_iter().any(|s| s.name_in(0) == name) {
                return Ok(None); // block 0 never reads it, and the model does not have it
            }
            return Err(wrong("belongs to no tensor of the model".to_owned()));
        };
        let held = &self.model.tensors[tensor];
        let shape = held.values.shape();
        let values =
            Lazy::of_other(&self.file, i).and_then(|v| if turned { v.transposed() } else { Some(v) });
        let fits = |v: &Lazy| v.shape() == shape || held.slot.role == Role::Vector;
        let values = values.filter(fits).and_then(|v| v.reshaped(shape)).ok_or_else(|| {
            let found = &self.file.tensors()[i].shape;
            wrong(format!("has the shape {found:?} where the model has {shape:?}"))
        })?;
        Ok(Some(Part { tensor, kind: Kind::Whole(values) }))
    }

    /// The matrix of the model that a change is for.
    fn matrix(&self, name: &str, wrong: &dyn Fn(String) -> Error) -> Result<(usize, &'a Held)> {
        let found = self.names.get(&format!("{name}.weight")).map(|(i, _)| (*i, &self.model.tensors[*i]));
        found
            .filter(|(_, h)| matches!(h.slot.role, Role::Matrix | Role::Head))
            .ok_or_else(|| wrong("belongs to no matrix of the model".to_owned()))
    }

    fn lazy(&self, container: &Arc<Container>, i: usize) -> Result<Lazy> {
        Lazy::of_other(container, i).ok_or_else(|| {
            let tensor = &container.tensors()[i];
            self.unfit(&tensor.name, format!("is stored as {}, which holds no weights", tensor.encoding))
        })
    }

    fn unfit(&self, tensor: &str, what: String) -> Error {
        let path = self.file.path().to_owned();
        Error::Tensor { path, tensor: tensor.to_owned(), what, help: HELP.to_owned() }
    }
}

/// A name without the wrappers before it.
fn unwrapped(mut name: &str) -> &str {
    while let Some(rest) = WRAPPERS.iter().find_map(|w| name.strip_prefix(w)) {
        name = rest;
    }
    name
}

/// All values of a tensor.
fn read(container: &Container, values: &Lazy) -> Vec<f32> {
    let mut out = vec![0.0; values.elements()];
    values.read(container, 0..values.rows(), &mut out);
    out
}
