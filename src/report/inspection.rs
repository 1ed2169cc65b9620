//! Content of a file.

use std::io::{self, Write};

use formats::{Container, LeftAside, Value};
use serde::Serialize;
use serde_json::json;

use super::Report;
use super::text::Table;
use crate::escape::line;
use crate::model::{Body, Model, Ranks, peek};
use crate::units::{bytes, count};

/// A file, the model in it if it is one, and its tensors and metadata.
#[derive(Debug, Serialize)]
pub struct Inspection {
    source: SourceSummary,
    model: Option<ModelSummary>,
    /// Reason that no model was found.
    no_model: Option<String>,
    metadata: serde_json::Map<String, serde_json::Value>,
    config: Option<serde_json::Map<String, serde_json::Value>>,
    tensors: Vec<TensorRow>,
    /// Suspicions about the few rows that were looked at.
    warnings: Vec<String>,
}

/// Source of a model.
#[derive(Debug, Serialize)]
pub(super) struct SourceSummary {
    path: String,
    format: &'static str,
    files: usize,
    bytes: u64,
    tensors: usize,
    /// Number of tensors of each encoding.
    encodings: Vec<(String, usize)>,
    /// Other weights in the file, which are not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_aside: Option<AsideRow>,
}

/// State dicts of a torch file, as Python finds them in it.
#[derive(Debug, Serialize)]
struct AsideRow {
    taken: String,
    others: Vec<String>,
    /// Python that saves the first of the others alone.
    how_to_take: String,
}

/// Summary of a model.
#[derive(Debug, Serialize)]
pub(super) struct ModelSummary {
    version: &'static str,
    about: &'static str,
    naming: &'static str,
    prefix: String,
    weights: u64,
    n_layer: usize,
    n_embd: usize,
    n_att: usize,
    n_ffn: usize,
    n_vocab: usize,
    n_head: usize,
    head_size: usize,
    /// Ranks of the low-rank branches: one entry for every run of blocks that agree.
    ranks: Vec<RankRow>,
    tokenizer: String,
}

#[derive(Debug, Serialize, PartialEq)]
struct RankRow {
    first_block: usize,
    last_block: usize,
    ranks: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct TensorRow {
    name: String,
    /// The canonical name, if the tensor has a place in the model.
    canonical: Option<String>,
    role: Option<&'static str>,
    shape: Vec<usize>,
    encoding: &'static str,
    bytes: u64,
    file: String,
    offset: u64,
    /// Reason that it is not used.
    dropped: Option<String>,
}

impl SourceSummary {
    pub fn of(container: &Container) -> SourceSummary {
        let mut encodings: Vec<(String, usize)> = Vec::new();
        for t in container.tensors() {
            match encodings.iter_mut().find(|(name, _)| name == t.stored_as()) {
                Some((_, n)) => *n += 1,
                None => encodings.push((t.stored_as().to_owned(), 1)),
            }
        }
        SourceSummary {
            path: container.path().display().to_string(),
            format: container.format().name(),
            files: container.files().len(),
            bytes: container.file_bytes(),
            tensors: container.tensors().len(),
            encodings,
            left_aside: container.left_aside().map(|aside| AsideRow {
                taken: aside.taken.clone(),
                others: aside.others.clone(),
                how_to_take: LeftAside::how_to_take(aside.others.first().map_or("", String::as_str)),
            }),
        }
    }

    pub fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let encodings: Vec<String> = self.encodings.iter().map(|(e, n)| format!("{n} {e}")).collect();
        let files = if self.files == 1 { String::new() } else { format!(" in {} files", self.files) };
        writeln!(
            out,
            "source    {}  {}, {}{files}, {} tensors ({})",
            self.path,
            self.format,
            bytes(self.bytes),
            self.tensors,
            encodings.join(", ")
        )?;
        let Some(AsideRow { taken, others, how_to_take }) = &self.left_aside else { return Ok(()) };
        let taken = if taken.is_empty() { "the outermost dict" } else { taken };
        let others = others.join(", ");
        writeln!(
            out,
            "aside     {others}: other weights in the file; {taken} is read. To take another, in Python: {how_to_take}"
        )
    }
}

impl ModelSummary {
    pub fn of(model: &Model) -> ModelSummary {
        let mut ranks: Vec<RankRow> = Vec::new();
        for (layer, row) in model.ranks.iter().enumerate() {
            let row = rank_names(row);
            match ranks.last_mut() {
                _ if row.is_empty() => {}
                Some(last) if last.ranks == row => last.last_block = layer,
                _ => ranks.push(RankRow { first_block: layer, last_block: layer, ranks: row }),
            }
        }
        let d = model.dims;
        ModelSummary {
            version: model.version.name,
            about: model.version.about,
            naming: model.naming.name,
            prefix: model.prefix.clone(),
            weights: model.weights(),
            n_layer: d.layers,
            n_embd: d.embd,
            n_att: d.att,
            n_ffn: d.ffn,
            n_vocab: d.vocab,
            n_head: d.heads,
            head_size: d.head_size,
            ranks,
            tokenizer: tokenizer(model),
        }
    }

    pub fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "model     {}, {} weights, names of {}{}",
            self.about,
            count(self.weights),
            self.naming,
            if self.prefix.is_empty() { String::new() } else { format!(" behind {:?}", self.prefix) }
        )?;
        let heads = match self.n_head {
            0 => String::new(),
            n => format!(", n_head {n} of {}", self.head_size),
        };
        let att = if self.n_att == self.n_embd { String::new() } else { format!(", n_att {}", self.n_att) };
        writeln!(
            out,
            "sizes     n_layer {}, n_embd {}{att}, n_ffn {}{heads}, n_vocab {}",
            self.n_layer, self.n_embd, self.n_ffn, self.n_vocab
        )?;
        for row in &self.ranks {
            let ranks: Vec<String> = row.ranks.iter().map(|(name, size)| format!("{name} {size}")).collect();
            let blocks = match (row.first_block, row.last_block) {
                (a, b) if a == b => format!("block {a}"),
                (a, b) => format!("blocks {a} to {b}"),
            };
            writeln!(out, "ranks     {} ({blocks})", ranks.join(", "))?;
        }
        Ok(())
    }
}

fn rank_names(ranks: &Ranks) -> serde_json::Map<String, serde_json::Value> {
    ranks.iter().map(|(rank, size)| (rank.name().to_owned(), json!(size))).collect()
}

/// The tokenizer that the file states, or that its number of tokens stands for.
fn tokenizer(model: &Model) -> String {
    if let Some(name) = model.container.value("tokenizer.ggml.model").and_then(Value::as_str) {
        return format!("{name} (in the file)");
    }
    if model.version.body == Body::Qwen2 {
        return "Qwen2's, in the files beside the model".to_owned();
    }
    match crate::vocab::Vocab::usual(model.dims.vocab) {
        Some(vocab) => format!("{vocab}, by the size of the vocabulary"),
        None => "unknown".to_owned(),
    }
}

impl Inspection {
    /// Describes a container and what [`Model::detect`] said of it.
    pub fn model(model: &Model) -> Inspection {
        let mut inspection = Inspection::container(&model.container, None);
        for held in &model.tensors {
            for source in held.values.sources() {
                let row = &mut inspection.tensors[source];
                row.role = Some(held.spec.role.name());
                match &mut row.canonical {
                    Some(names) => *names = format!("{names}, {}", held.name()),
                    none => *none = Some(held.name()),
                }
            }
        }
        for d in &model.dropped {
            if let Some(row) = inspection.tensors.iter_mut().find(|t| t.name == d.name) {
                row.dropped = Some(d.rule.clone());
            }
        }
        inspection.model = Some(ModelSummary::of(model));
        inspection.warnings = peek(model);
        inspection
    }

    /// Describes a container in which no model was found, for the reason given.
    pub fn container(container: &Container, no_model: Option<String>) -> Inspection {
        let tensors = container
            .tensors()
            .iter()
            .map(|t| TensorRow {
                name: t.name.clone(),
                canonical: None,
                role: None,
                shape: t.shape.clone(),
                encoding: t.stored_as(),
                bytes: t.stored_bytes(),
                file: container.files()[t.file].path().display().to_string(),
                offset: t.offset,
                dropped: None,
            })
            .collect();
        Inspection {
            source: SourceSummary::of(container),
            model: None,
            no_model,
            metadata: container.metadata().iter().map(|(k, v)| (k.clone(), json_value(v))).collect(),
            config: container.config().cloned(),
            tensors,
            warnings: Vec::new(),
        }
    }
}

/// A metadata value as JSON; long arrays are cut, with their length.
fn json_value(value: &Value) -> serde_json::Value {
    const SHOWN: usize = 8;
    match value {
        Value::String(s) => json!(s),
        Value::Bool(b) => json!(b),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Array(items) if items.len() > SHOWN => {
            let first: Vec<_> = items.iter().take(SHOWN).map(|item| json_value(&item)).collect();
            json!({"length": items.len(), "first": first})
        }
        Value::Array(items) => items.iter().map(|item| json_value(&item)).collect(),
        Value::I8(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::U8(_) | Value::U16(_) | Value::U32(_) | Value::U64(_) => json!(value.as_u64()),
    }
}

impl Report for Inspection {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        self.source.human(out)?;
        match (&self.model, &self.no_model) {
            (Some(model), _) => {
                model.human(out)?;
                writeln!(out, "tokens    {}", model.tokenizer)?;
            }
            (None, Some(why)) => writeln!(out, "model     none: {why}")?,
            (None, None) => {}
        }
        for (key, value) in &self.metadata {
            let mut text = value.to_string();
            if text.chars().count() > 90 {
                text = text.chars().take(87).collect::<String>() + "...";
            }
            writeln!(out, "metadata  {} = {text}", line(key))?;
        }
        let mut table = Table::new(&["tensor", "role", ">shape", "encoding", ">bytes", ""]);
        for t in &self.tensors {
            table.row([
                t.name.clone(),
                t.role.unwrap_or("-").to_owned(),
                format!("{:?}", t.shape),
                t.encoding.to_owned(),
                t.bytes.to_string(),
                t.dropped.as_ref().map(|rule| format!("dropped: {rule}")).unwrap_or_default(),
            ]);
        }
        table.write(out)?;
        self.warnings.iter().try_for_each(|warning| writeln!(out, "warning   {warning}"))
    }
}
