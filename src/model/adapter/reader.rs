//! Finds what the tensors of an adapter's file are for.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use formats::{Container, Value};

use super::peft::{self, Config};
use super::{
    ALPHA_KEY, Adapter, Bat, Disha, HELP, Kind, LowRank, Options, Part, RANK_KEY, completes, open, unwrapped,
};
use crate::error::{Error, Result};
use crate::model::{Model, ModelTensor, NAMINGS, Naming, Role, Scope, TensorView};

/// Most that a LoRA is multiplied by: trainings have 0.1 to 100 or so, and with more, weights soon are no numbers.
const LARGEST_SCALE: f32 = 1e4;

/// Endings of the two factors of a LoRA, and true if the first one is transposed; PEFT's names have more behind them.
const PAIRS: [(&str, &str, bool); 3] = [
    (".lora_A", ".lora_B", false),
    (".lora.0", ".lora.1", true),
    (".weight.lora_a", ".weight.lora_b", false),
];

/// Suffixes that may follow those endings: PEFT calls an adapter `default` as long as it is in a model.
const BEHIND: [&str; 4] = ["", ".weight", ".default.weight", ".default"];

/// An adapter's file as it is read.
pub(super) struct Reader<'a> {
    file: Arc<Container>,
    init: Option<Arc<Container>>,
    config: Config,
    /// Alpha that the user gave, and the one in the file.
    asked: Option<f32>,
    stated: Option<f32>,
    unscaled: bool,
    model: &'a Model,
    /// Tensors of the model by their names in the adapter, and whether they are transposed there.
    names: HashMap<String, (usize, bool)>,
}

impl<'a> Reader<'a> {
    pub fn open(path: &Path, model: &'a Model, options: Options<'_>) -> Result<Reader<'a>> {
        if let Some(alpha) = options.alpha.filter(|a| !is_sound(*a)) {
            return Err(Error::Usage {
                what: format!("the alpha {alpha} would make the adapter nothing, or the weights no numbers"),
                help: "give the alpha of the training; its rank, if it was trained without scaling"
                    .to_owned(),
            });
        }
        let weights = peft::weights(path)?;
        let config = Config::beside(&weights)?.unwrap_or_default();
        let file = open(&weights)?;
        let init = options.init.map(open).transpose()?;
        let mut names = HashMap::new();
        for naming in namings(&file) {
            for (i, held) in model.tensors.iter().enumerate() {
                let stored = naming.store(model.version, held.spec);
                // Values in another order, or transformed, are no tensor of an adapter.
                let stored = stored.filter(|s| s.regroup.is_none() && s.undo.is_none());
                if let Some(stored) = stored {
                    let name = unwrapped(&stored.name_in(held.layer)).to_owned();
                    names.entry(name).or_insert((i, stored.transposed));
                }
            }
        }
        let stated = match file.value(ALPHA_KEY) {
            Some(Value::F32(alpha)) => Some(*alpha),
            _ => config.alpha(),
        };
        let (asked, unscaled) = (options.alpha, options.unscaled);
        Ok(Reader {
            file,
            init,
            config,
            asked,
            stated: stated.filter(|a| is_sound(*a)),
            unscaled,
            model,
            names,
        })
    }

    /// Adapter made of all tensors of the file.
    pub fn adapter(mut self) -> Result<Adapter> {
        self.refuse_other_models()?;
        let mut parts: Vec<Part> = Vec::new();
        let (mut changed, mut unused) = (HashMap::new(), Vec::new());
        for (i, tensor) in self.file.tensors().iter().enumerate() {
            if self.is_second(&tensor.name)? {
                continue;
            }
            let Some(part) = self.part(&tensor.name, i)? else {
                unused.push(tensor.name.as_str());
                continue;
            };
            if let Some(other) = changed.insert(part.tensor, &tensor.name) {
                return Err(
                    self.unfit(&tensor.name, format!("changes the same tensor of the model as {other:?}"))
                );
            }
            parts.push(part);
        }
        self.refuse_lonely_starts(&parts)?;
        // A file with nothing but whole tensors is a model, unless they are all small.
        let small = |p: &Part| !self.model.tensors[p.tensor].spec.role.is_large();
        let changes = |p: &Part| !matches!(p.kind, Kind::Whole(_));
        if parts.is_empty() || !(parts.iter().any(changes) || parts.iter().all(small)) {
            return Err(Error::Model {
                path: self.file.path().to_owned(),
                what: "is no adapter: it holds no LoRA, PiSSA, DiSHA or Bone".to_owned(),
                help: HELP.to_owned(),
            });
        }
        let mut notes = Vec::new();
        if let (Some(asked), Some(stated)) = (self.asked, self.stated)
            && asked != stated
        {
            notes.push(format!("in place of the alpha {stated} that stands in its file"));
        }
        if self.config.is_rank_stabilized() {
            notes.push("scaled by alpha / sqrt(rank) (rsLoRA)".to_owned());
        }
        if let [first, others @ ..] = unused.as_slice() {
            let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            notes.push(format!("not used, as block 0 never reads it: {first}{more}"));
        }
        let alpha = self.asked.or(self.stated);
        let files = std::iter::once(self.file).chain(self.init.take()).collect();
        Ok(Adapter { files, alpha, parts, notes })
    }

    /// Refuses adapters that were made for other weights than the model's.
    fn refuse_other_models(&self) -> Result<()> {
        let model = &self.model.container;
        let branches = self.file.value(RANK_KEY);
        if branches.is_some() && !completes(&self.file, model) {
            return Err(Error::Model {
                path: self.file.path().to_owned(),
                what: format!(
                    "holds branches of low rank, which {} was not made with",
                    model.path().display()
                ),
                help: "give it to the quantized model that was written beside it".to_owned(),
            });
        }
        if branches.is_none() && !self.model.equalized().is_empty() {
            return Err(Error::Model {
                path: model.path().to_owned(),
                what: "was written with rescaled channels, so adapters trained on the original do not fit"
                    .to_owned(),
                help: "give the checkpoint that the adapter was trained on".to_owned(),
            });
        }
        Ok(())
    }

    /// True for the second factor of a LoRA, which is taken with the first.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the first one is missing.
    fn is_second(&self, stored: &str) -> Result<bool> {
        let name = unwrapped(stored);
        if self.names.contains_key(name) {
            return Ok(false);
        }
        let Some((a, b, _)) = PAIRS.iter().find(|(_, b, _)| base(name, b).is_some()) else {
            return Ok(false);
        };
        let first = stored.replace(b, a);
        match self.file.tensors().iter().any(|t| t.name == first) {
            true => Ok(true),
            false => Err(self.unfit(stored, format!("has no counterpart {first:?}"))),
        }
    }

    /// Change that tensor number `i` of the file, called `stored`, makes; `None` if it changes nothing.
    fn part(&self, stored: &str, i: usize) -> Result<Option<Part>> {
        let name = unwrapped(stored);
        let wrong = |what: String| self.unfit(stored, what);
        if self.names.contains_key(name) {
            return self.whole(name, i, &wrong);
        }
        let values = self.lazy(&self.file, i)?;
        for (a, b, turned) in PAIRS {
            let Some(matrix) = base(name, a) else { continue };
            let (tensor, held) = self.matrix(matrix, &wrong)?;
            let other = stored.replace(a, b);
            let k = self.file.tensors().iter().position(|t| t.name == other);
            let k = k.ok_or_else(|| wrong(format!("has no counterpart {other:?}")))?;
            let a = if turned { values.transposed() } else { Some(values) };
            let a = a.ok_or_else(|| wrong("is no matrix".to_owned()))?;
            let b = self.lazy(&self.file, k)?;
            let alpha = a.rows() as f32; // for a factor of 1
            let pair = LowRank { container: Arc::clone(&self.file), a, b, alpha };
            let all = self.scaled(pair.fitting(held).map_err(&wrong)?, matrix, held, &wrong)?;
            return Ok(Some(Part { tensor, kind: Kind::LowRank(all) }));
        }
        if let Some(matrix) = base(name, ".disha").or_else(|| base(name, ".bone")) {
            let (tensor, held) = self.matrix(matrix, &wrong)?;
            let container = Arc::clone(&self.file);
            let kind = if values.shape().len() == 2 && base(name, ".disha").is_some() {
                Kind::Disha(Arc::new(Disha::fitting(container, &values, held).map_err(&wrong)?))
            } else {
                Kind::Bat(Arc::new(Bat::fitting(container, values, held).map_err(&wrong)?))
            };
            return Ok(Some(Part { tensor, kind }));
        }
        self.whole(name, i, &wrong)
    }

    /// A low-rank change with its scale, behind what undoes a PiSSA's start.
    fn scaled(
        &self,
        pair: LowRank,
        matrix: &str,
        held: &ModelTensor,
        wrong: &dyn Fn(String) -> Error,
    ) -> Result<Vec<Arc<LowRank>>> {
        let Some(init) = &self.init else {
            let alpha = self.alpha(&pair, matrix, wrong)?;
            return Ok(vec![Arc::new(LowRank { alpha, ..pair })]);
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
        let (a, b) = (find("A")?, find("B")?);
        let alpha = -(a.rows() as f32);
        let start = LowRank { container: Arc::clone(init), a, b, alpha };
        let name = format!("{matrix}.init_lora_A");
        let start = start.fitting(held).map_err(|what| self.unfit(&name, what))?;
        Ok(vec![Arc::new(start), Arc::new(pair)])
    }

    /// The alpha by which, over its rank, a LoRA is multiplied.
    fn alpha(&self, pair: &LowRank, matrix: &str, wrong: &dyn Fn(String) -> Error) -> Result<f32> {
        let rank = pair.rank();
        if let Some(said) = self.config.rank_of(matrix).filter(|said| *said != rank) {
            return Err(wrong(format!("has the rank {rank}, and adapter_config.json says {said}")));
        }
        let own = self.config.alpha_of(matrix).filter(|a| is_sound(*a)).or(self.stated);
        let alpha = self.asked.or(own).or_else(|| self.unscaled.then_some(rank as f32));
        let alpha = alpha.ok_or_else(|| Error::Usage {
            what: format!("{} is a LoRA, whose scale its file does not hold", self.file.path().display()),
            help: "give the alpha that it was trained with, --lora-alpha ALPHA (its rank, if it was trained without \
                   scaling), or for PiSSA the file that it started from, --lora-init FILE"
                .to_owned(),
        })?;
        let alpha = if self.config.is_rank_stabilized() { alpha * (rank as f32).sqrt() } else { alpha };
        let scale = alpha / rank as f32;
        if scale.abs() > LARGEST_SCALE {
            return Err(Error::Usage {
                what: format!("the alpha {alpha} would multiply the adapter by {scale}, as no training does"),
                help: "give the alpha of the training; its rank, if it was trained without scaling"
                    .to_owned(),
            });
        }
        Ok(alpha)
    }

    /// Refuses what a PiSSA training started from that is no start of a part: a part was lost.
    fn refuse_lonely_starts(&self, parts: &[Part]) -> Result<()> {
        let Some(init) = &self.init else { return Ok(()) };
        let changed = |matrix: &str| {
            let found = self.names.get(&format!("{matrix}.weight"));
            let is_low_rank = |p: &Part| matches!(p.kind, Kind::LowRank(_));
            found.is_some_and(|(i, _)| parts.iter().any(|p| p.tensor == *i && is_low_rank(p)))
        };
        let is_used = |name: &str| {
            let matrix = base(name, ".init_lora_A").or_else(|| base(name, ".init_lora_B"));
            matrix.is_some_and(changed)
        };
        match init.tensors().iter().find(|t| !is_used(unwrapped(&t.name))) {
            None => Ok(()),
            Some(lonely) => Err(Error::Tensor {
                path: init.path().to_owned(),
                tensor: lonely.name.clone(),
                what: format!("is the start of nothing in {}", self.file.path().display()),
                help: "give the file that this PiSSA training started from, and the whole adapter".to_owned(),
            }),
        }
    }

    /// A tensor that takes the place of the model's.
    fn whole(&self, name: &str, i: usize, wrong: &dyn Fn(String) -> Error) -> Result<Option<Part>> {
        let Some((tensor, turned)) = self.names.get(name).copied() else {
            let specs = self.model.version.specs().filter(|s| s.scope == Scope::Later);
            if specs.into_iter().any(|s| s.name_in(0) == name) {
                return Ok(None); // block 0 never reads it, and the model does not have it
            }
            return Err(wrong("belongs to no tensor of the model".to_owned()));
        };
        let held = &self.model.tensors[tensor];
        let shape = held.values.shape();
        let values =
            TensorView::of_other(&self.file, i).and_then(|v| if turned { v.transposed() } else { Some(v) });
        let fits = |v: &TensorView| v.shape() == shape || held.spec.role == Role::Vector;
        let values = values.filter(fits).and_then(|v| v.reshaped(shape)).ok_or_else(|| {
            let found = &self.file.tensors()[i].shape;
            wrong(format!("has the shape {found:?} where the model has {shape:?}"))
        })?;
        Ok(Some(Part { tensor, kind: Kind::Whole(values) }))
    }

    /// The matrix of the model that a change is for.
    fn matrix(&self, name: &str, wrong: &dyn Fn(String) -> Error) -> Result<(usize, &'a ModelTensor)> {
        let found = self.names.get(&format!("{name}.weight")).map(|(i, _)| (*i, &self.model.tensors[*i]));
        found
            .filter(|(_, h)| matches!(h.spec.role, Role::Matrix | Role::Head))
            .ok_or_else(|| wrong("belongs to no matrix of the model".to_owned()))
    }

    fn lazy(&self, container: &Arc<Container>, i: usize) -> Result<TensorView> {
        TensorView::of_other(container, i).ok_or_else(|| {
            let tensor = &container.tensors()[i];
            self.unfit(&tensor.name, format!("is stored as {}, which holds no weights", tensor.encoding))
        })
    }

    fn unfit(&self, tensor: &str, what: String) -> Error {
        let path = self.file.path().to_owned();
        Error::Tensor { path, tensor: tensor.to_owned(), what, help: HELP.to_owned() }
    }
}

/// A finite alpha other than 0.
fn is_sound(alpha: f32) -> bool {
    alpha.is_finite() && alpha != 0.0
}

/// The namings that the tensors of this file may have.
fn namings(file: &Container) -> impl Iterator<Item = &'static Naming> {
    let format = file.format().name();
    // (flash-linear-attention has names that end so, too.)
    let is_web_rwkv =
        file.tensors().iter().any(|t| t.name.ends_with(".lora.0") && !t.name.contains("_lora.lora.0"));
    NAMINGS.iter().filter(move |naming| match naming.name {
        "llama.cpp" => format == "GGUF",
        "web-rwkv" => is_web_rwkv && naming.formats.contains(&"safetensors"),
        _ => format != "GGUF" && !is_web_rwkv && naming.formats.contains(&"torch"),
    })
}

/// The first factor of a LoRA in a file whose counterpart is not there, and the name that this would have.
pub(crate) fn lonely_factor(file: &Container) -> Option<(String, String)> {
    file.tensors().iter().find_map(|tensor| {
        let name = unwrapped(&tensor.name);
        let pairs = PAIRS.iter().flat_map(|(a, b, _)| [(*a, *b), (*b, *a)]);
        let (own, other) = pairs.into_iter().find(|(own, _)| base(name, own).is_some())?;
        let counterpart = tensor.name.replace(own, other);
        file.tensor(&counterpart).is_none().then(|| (tensor.name.clone(), counterpart))
    })
}

/// A name without an ending and what PEFT puts behind that.
fn base<'n>(name: &'n str, ending: &str) -> Option<&'n str> {
    BEHIND.iter().find_map(|behind| name.strip_suffix(behind)?.strip_suffix(ending))
}
