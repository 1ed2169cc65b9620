//! Putting the parts of matrices together.

use std::collections::{BTreeMap, BTreeSet};

use quant::Encoding;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ABSMAX, BLOCK, NF4, QUANT_MAP, QUANT_STATE};
use crate::budget::Budget;
use crate::container::{CODEBOOK_BYTES, Container, Split, Tensor};
use crate::error::{Blame, Error, Result};
use crate::json;

/// Longest JSON of a matrix; bitsandbytes writes about 80 bytes.
const STATE_BYTES: u64 = 1 << 16;
/// Help for matrices that are stored in another way.
const HELP: &str = "start from the checkpoint that the file was made of; or load the folder with transformers, call \
     `model.dequantize()`, and save it";

/// Content of the JSON of a matrix.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: u64,
    shape: Vec<u64>,
    /// There if the scales are quantized too.
    nested_blocksize: Option<IgnoredAny>,
}

/// The container with one tensor for each matrix that bitsandbytes serialized; any other as it is.
pub(crate) fn joined(container: Container, budget: &Budget<'_>) -> Result<Container> {
    let format = container.format().name();
    let mut matrices = BTreeMap::new();
    let mut parts = BTreeSet::new();
    for t in container.tensors() {
        let blame = Blame { path: container.files()[t.file].path(), format };
        if let Some((name, kind)) = t.name.split_once(QUANT_STATE) {
            let matrix = Matrix { container: &container, blame, name, budget };
            matrices.insert(name.to_owned(), matrix.join(t, kind).map_err(|e| e.in_tensor(name))?);
            parts.extend([t.name.clone(), format!("{name}{ABSMAX}"), format!("{name}{QUANT_MAP}")]);
        }
        refuse_int8(&container, t, blame)?;
    }
    if let Some(t) = container.tensors().iter().find(|t| is_lone(&t.name, &container, &parts)) {
        let blame = Blame { path: container.files()[t.file].path(), format };
        let what = "scales of bitsandbytes without the quant_state that says what they are";
        return Err(blame.malformed(what).in_tensor(&t.name));
    }
    if matrices.is_empty() {
        return Ok(container);
    }
    let tensors = container.tensors().iter().filter(|t| !parts.contains(&t.name));
    let tensors = tensors.map(|t| matrices.remove(&t.name).unwrap_or_else(|| t.clone())).collect();
    container.with_tensors(tensors, budget)
}

/// True if a tensor has the name of the scales of a matrix that says nothing of them.
fn is_lone(name: &str, container: &Container, parts: &BTreeSet<String>) -> bool {
    let of = name.strip_suffix(ABSMAX);
    of.is_some_and(|of| container.tensor(of).is_some_and(|t| t.encoding == Encoding::U8))
        && !parts.contains(name)
}

/// Refuses the matrices of LLM.int8, whose scales are those of whole rows.
fn refuse_int8(container: &Container, t: &Tensor, blame: Blame<'_>) -> Result<()> {
    let Some(module) = t.name.strip_suffix(".SCB") else { return Ok(()) };
    let name = format!("{module}.weight");
    match container.tensor(&name) {
        Some(codes) if codes.encoding == Encoding::I8 => {
            Err(blame.unsupported("LLM.int8 of bitsandbytes", HELP).in_tensor(&name))
        }
        _ => Ok(()),
    }
}

/// A matrix while its parts are looked for.
struct Matrix<'a> {
    container: &'a Container,
    blame: Blame<'a>,
    name: &'a str,
    budget: &'a Budget<'a>,
}

impl Matrix<'_> {
    /// The tensor of the parts that belong to `state`, of a quantization that is called `kind`.
    fn join(&self, state: &Tensor, kind: &str) -> Result<Tensor> {
        let blame = self.blame;
        if kind != NF4 {
            let what = format!("{:?}, a quantization of bitsandbytes", json::short(kind));
            return Err(blame.unsupported(what, HELP));
        }
        let text = self.plain(state, "quant_state")?;
        blame.within("bytes of quant_state", text.len() as u64, STATE_BYTES)?;
        let said: State = serde_json::from_slice(text)
            .map_err(|e| blame.malformed(format!("its quant_state is broken: {}", json::message(&e))))?;
        let nested = self.container.tensor(&format!("{}.nested_absmax", self.name)).is_some();
        if nested || said.nested_blocksize.is_some() {
            return Err(blame.unsupported("scales that bitsandbytes quantized once more", HELP));
        }
        if said.quant_type != NF4 || said.blocksize != BLOCK as u64 {
            let kind = json::short(&said.quant_type);
            let what = format!("{kind:?} of bitsandbytes in blocks of {}", said.blocksize);
            return Err(blame.unsupported(what, HELP));
        }
        let (shape, elements) = self.shape(&said.shape)?;
        if !elements.is_multiple_of(BLOCK) {
            let what = format!("{elements} weights of bitsandbytes, no whole blocks of {BLOCK}");
            return Err(blame.unsupported(what, HELP));
        }
        let codes = self.part("", |e| e.is_plain(), elements as u64 / 2)?;
        let f32 = |e| e == Encoding::F32;
        let scales = self.part(ABSMAX, f32, (elements / BLOCK * 4) as u64)?;
        let levels = self.part(QUANT_MAP, f32, CODEBOOK_BYTES)?;
        if [scales.file, levels.file] != [codes.file; 2] {
            let what = "codes of bitsandbytes in one file and their scales in another";
            let help = "save the model once more, in one file or with another max_shard_size";
            return Err(blame.unsupported(what, help));
        }
        let split = Split { scales: scales.offset, codebook: Some(levels.offset) };
        Ok(Tensor { encoding: Encoding::Nf4, shape, split: Some(split), ..codes.clone() })
    }

    /// The shape that the JSON tells, and how many weights that are.
    fn shape(&self, said: &[u64]) -> Result<(Vec<usize>, usize)> {
        self.blame.within("dimensions", said.len() as u64, self.budget.dims)?;
        let shape: Option<Vec<usize>> = said.iter().map(|d| usize::try_from(*d).ok()).collect();
        let elements = shape.as_ref().and_then(|s| s.iter().try_fold(1usize, |n, d| n.checked_mul(*d)));
        shape.zip(elements).ok_or_else(|| self.blame.malformed(format!("the shape {said:?} is absurd")))
    }

    /// The part of that suffix, which takes so many bytes.
    fn part(&self, suffix: &str, fits: impl Fn(Encoding) -> bool, bytes: u64) -> Result<&Tensor> {
        let t = self.container.tensor(&format!("{}{suffix}", self.name));
        let what = if suffix.is_empty() { "codes" } else { &suffix[1..] };
        let t = t.ok_or_else(|| self.blame.malformed(format!("there is a quant_state, and no {what}")))?;
        let len = self.plain(t, what)?.len() as u64;
        if !fits(t.encoding) || len != bytes {
            let found = t.encoding;
            let what = format!("its {what} should take {bytes} bytes, and are {len} bytes of {found}");
            return Err(self.blame.malformed(what));
        }
        Ok(t)
    }

    /// The bytes of a part that lies as it is.
    fn plain(&self, t: &Tensor, what: &str) -> Result<&[u8]> {
        if t.strides.is_some() || t.coded.is_some() || t.split.is_some() {
            return Err(self.unordered(what));
        }
        Ok(self.container.bytes(t))
    }

    fn unordered(&self, what: &str) -> Error {
        self.blame.malformed(format!("its {what} are not stored one after the other"))
    }
}
