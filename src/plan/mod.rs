//! Planning of the files of a model: for every tensor its encoding, exact bytes and place. Pure: no file is read or
//! written beyond what describes the tensors.

pub mod rules;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use formats::compact::Storage;
use formats::{Metadata, Planned, Split, Sum};
use quant::{Encoding, codec, importance};
use sha2::{Digest, Sha256};

use self::rules::{Listed, Modelled};
use crate::digest::hex;
use crate::error::{Error, Result};
use crate::metadata::ModelMetadata;
use crate::model::{Dropped, Model, Role, TensorView};
use crate::recipe::{Chat, Fallback, FileType, Mix, Recipe, fitting};
use crate::scheme::Coded;
use crate::scheme::Scheme;
use crate::storage::{Output, Sealed};
use crate::targets::{self, Content, Files, Item, LayoutInput, Objection, PlannedFile, SmallFile, Target};

/// Everything about the files to be written, known before any work.
#[derive(Debug)]
pub struct Plan {
    /// Target format.
    pub target: &'static dyn Target,
    /// Scheme that was asked for.
    pub scheme: Scheme,
    /// Form of the output on disk.
    pub output: Output,
    /// Metadata of the files besides tensors, as it is read back.
    pub metadata: Metadata,
    /// The files with tensors, and where everything lies in them.
    pub files: Vec<PlannedFile>,
    /// The files beside them.
    pub small: Vec<SmallFile>,
    /// The tensors of the model, in file order.
    pub tensors: Vec<TensorPlan>,
    /// Tensors of the source that are not written, each with the rule.
    pub dropped: Vec<Dropped>,
    /// Reasons that the runtime would compute something else, if that was to be ignored.
    pub objections: Vec<Objection>,
}

/// Output options: those of the files, not of the weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputOptions {
    /// True if they are written even if the runtime is known to compute something else with them.
    pub force: bool,
    /// Most bytes of tensors in a file, so that several may be needed.
    pub split_max_bytes: Option<u64>,
    /// The chat that a Modelfile for ollama beside them describes.
    pub modelfile: Option<Chat>,
    /// True if files whose format has metadata are to hold the SHA-256 of every tensor.
    pub checksums: bool,
}

impl OutputOptions {
    /// Output options of a recipe. Files like another tool's hold no checksums.
    pub fn of(recipe: &Recipe) -> OutputOptions {
        OutputOptions {
            force: recipe.force_target,
            split_max_bytes: recipe.split_max_size,
            modelfile: recipe.modelfile,
            checksums: !recipe.no_checksums && recipe.mix == Mix::Own,
        }
    }
}

/// A tensor of the model to be written.
#[derive(Debug)]
pub struct TensorPlan {
    /// Its name in the file.
    pub name: String,
    /// Role of the tensor.
    pub role: Role,
    /// Its values.
    pub values: TensorView,
    /// Encoding of the values.
    pub encoding: Encoding,
    /// Encoding that the values would have if their row length were a multiple of its block size.
    pub wanted: Encoding,
    /// Importance of each of its columns; those that the importance matrix says nothing about are filled in.
    pub importance: Option<Arc<[f32]>>,
    /// Number of columns that the importance matrix says nothing about.
    pub unmeasured: usize,
    /// Coding of the values, if they are not stored as they are: the size is known once that is done.
    pub coded: Option<Coded>,
    /// The blocks of all its rows, if they were made already: by calibration; or what they were coded as.
    pub encoded: Option<Arc<Sealed>>,
    /// Bytes of what it was coded as, once that is known.
    pub section_bytes: Option<u64>,
    /// True if it was coded for what a text says about it.
    pub is_calibrated: bool,
    /// Places of its bytes. Rows are encoded to the bytes of the first part for all of them, then those of the second,
    /// and so on.
    pub parts: Vec<Part>,
}

/// A tensor of a file: all of a model's tensor or, of encodings that keep codes and scales apart, one part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Description in the file's tensor table.
    pub planned: Planned,
    /// Number of the file.
    pub file: usize,
    /// Offset of its data in the file; of a split tensor, of the codes.
    pub offset: u64,
    /// Place of the rest of a split tensor.
    pub split: Option<Split>,
    /// Number of its bytes for each row of the model's tensor.
    pub row_bytes: usize,
}

impl TensorPlan {
    /// Number of bytes of a row, all parts together.
    pub fn row_bytes(&self) -> usize {
        self.parts.iter().map(|p| p.row_bytes).sum()
    }

    /// The fewest rows after which a row and a block start together.
    pub fn rows_of_whole_blocks(&self) -> usize {
        let (cols, len) = (self.values.cols().max(1), self.encoding.block_len());
        (1..=len).find(|rows| (rows * cols).is_multiple_of(len)).unwrap_or(len)
    }

    /// Number of bytes of the tensor; an estimate, if it is to be coded and was not yet.
    pub fn bytes(&self) -> u64 {
        match self.coded {
            Some(coded) => {
                let about = || coded.about(self.encoding, self.values.elements() as u64);
                self.section_bytes.unwrap_or_else(about)
            }
            None => (self.row_bytes() * self.values.rows()) as u64,
        }
    }

    /// True if [`bytes`](TensorPlan::bytes) is a guess.
    pub fn is_estimated(&self) -> bool {
        self.coded.is_some() && self.section_bytes.is_none()
    }

    /// Name of the encoding or coding that its values are stored in.
    pub fn stored_as(&self) -> &'static str {
        self.coded.and_then(Coded::coding).map_or(self.encoding.name(), quant::coding::Coding::name)
    }

    /// Storage of its values in a compact file.
    fn storage(&self) -> Storage {
        self.coded.map_or(Storage::Plain, |coded| coded.storage(self.values.cols(), self.bytes()))
    }
}

impl Plan {
    /// Plans `model` as `out`, a file or folder for `target`.
    ///
    /// # Errors
    /// If the target cannot hold the model, or would compute something else with it and that is not forced.
    pub fn new(
        model: &Model,
        target: &'static dyn Target,
        scheme: Scheme,
        about: &ModelMetadata,
        out: &Path,
        options: OutputOptions,
    ) -> Result<Plan> {
        rules::modelled(&Modelled {
            model,
            target,
            file_type: scheme.file_type,
            layers: scheme.layers,
            equalize: false,
            force: options.force,
            half: None,
        })?;
        let objections = target.check(model)?;
        let items = target.items(model, &scheme)?;
        rules::listed(&Listed { items: &items, scheme: &scheme, target })?;
        let weights = items.iter().map(|i| i.values.elements() as u64).sum();
        let mut tensors =
            items.into_iter().map(|item| choose(item, target, model, &scheme)).collect::<Result<Vec<_>>>()?;
        let planned: Vec<Planned> =
            tensors.iter().flat_map(|t| &t.parts).map(|p| p.planned.clone()).collect();
        let groups = targets::groups(&planned, options.split_max_bytes);
        let storages: Vec<Storage> = tensors.iter().map(TensorPlan::storage).collect();
        let order = LayoutInput {
            model,
            about,
            scheme: &scheme,
            weights,
            out,
            storages: &storages,
            sources: &[],
            checksums: options.checksums,
        };
        let Files { metadata, files, mut small } = target.files(&order, &groups)?;
        if let Some(chat) = options.modelfile {
            small.push(chat.modelfile(target, &files, scheme.branches.is_some())?);
        }

        put(&mut tensors, &files);
        let output = match (target.is_folder(), files.len() + small.len()) {
            (true, _) => Output::Folder,
            (false, 1) => Output::File,
            (false, _) => Output::Set,
        };
        let whole = target.content() == Content::Model;
        let dropped = if whole { dropped(model, &tensors) } else { Vec::new() };
        Ok(Plan { target, scheme, output, metadata, files, small, tensors, dropped, objections })
    }

    /// Lays the files out once more, now that all is coded whose size could only be guessed; `sources` are the SHA-256s
    /// of what the model was read from.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn settle(
        &mut self,
        model: &Model,
        about: &ModelMetadata,
        out: &Path,
        sources: &[String],
    ) -> Result<()> {
        for t in self.tensors.iter_mut().filter(|t| t.coded.is_some()) {
            t.section_bytes = t.encoded.as_ref().map(|section| section.bytes().len() as u64);
        }
        let planned: Vec<Planned> = self.parts().map(|p| p.planned.clone()).collect();
        let storages: Vec<Storage> = self.tensors.iter().map(TensorPlan::storage).collect();
        let (scheme, weights) = (&self.scheme, self.weights());
        // (Files whose layout is settled late hold checksums anyway.)
        let order = LayoutInput {
            model,
            about,
            scheme,
            weights,
            out,
            storages: &storages,
            sources,
            checksums: false,
        };
        let Files { metadata, files, .. } = self.target.files(&order, &[&planned])?;
        put(&mut self.tensors, &files);
        (self.metadata, self.files) = (metadata, files);
        Ok(())
    }

    /// Size of all files.
    pub fn total_bytes(&self) -> u64 {
        let small: u64 = self.small.iter().map(|f| f.bytes.len() as u64).sum();
        self.files.iter().map(|f| f.layout.total_bytes()).sum::<u64>() + small
    }

    /// True if that is a guess: sections that are coded have a size once they are.
    pub fn is_estimated(&self) -> bool {
        self.tensors.iter().any(TensorPlan::is_estimated)
    }

    /// Bytes of all files besides the data of tensors.
    pub fn frame_bytes(&self) -> u64 {
        self.total_bytes() - self.tensors.iter().map(TensorPlan::bytes).sum::<u64>()
    }

    /// SHA-256 of all bytes of the files that are no data of tensors: two plans with the same one write the same files
    /// from the same data.
    pub fn frame_sha256(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.files {
            // Only checksums of the data are still unknown.
            for (offset, bytes) in file.layout.finish(&vec![Sum::default(); file.layout.offsets().len()]) {
                hash.update(offset.to_le_bytes());
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
            hash.update(file.layout.total_bytes().to_le_bytes());
        }
        for small in &self.small {
            hash.update(small.name.as_encoded_bytes());
            hash.update((small.bytes.len() as u64).to_le_bytes());
            hash.update(&small.bytes);
        }
        hex(&hash.finalize())
    }

    /// Number of weights written.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(|t| t.values.elements() as u64).sum()
    }

    /// The file type by which people call the files: of chosen types, that of most weights.
    pub fn called(&self) -> &'static FileType {
        let file_type = self.scheme.file_type;
        match self.scheme.types.0.is_empty() || file_type.coded {
            true => file_type,
            false => file_type.called(self.tensors.iter().map(|t| (t.encoding, t.values.elements() as u64))),
        }
    }

    /// Bits per weight of all files, metadata included.
    pub fn bits_per_weight(&self) -> f64 {
        self.total_bytes() as f64 * 8.0 / self.weights() as f64
    }

    /// Tensors whose rows are no whole blocks of the encoding wanted.
    pub fn fallbacks(&self) -> impl Iterator<Item = &TensorPlan> {
        self.tensors.iter().filter(|t| t.encoding != t.wanted)
    }

    /// The tensors of all files, in order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.tensors.iter().flat_map(|t| &t.parts)
    }
}

/// Tells every part its place.
fn put(tensors: &mut [TensorPlan], files: &[PlannedFile]) {
    let places = files.iter().enumerate().flat_map(|(file, f)| {
        f.layout.offsets().iter().enumerate().map(move |(i, o)| (file, *o, f.layout.split(i)))
    });
    for (part, place) in tensors.iter_mut().flat_map(|t| &mut t.parts).zip(places) {
        (part.file, part.offset, part.split) = place;
    }
}

/// Chooses how a tensor is encoded; its place is still to be told.
fn choose(item: Item, target: &dyn Target, model: &Model, scheme: &Scheme) -> Result<TensorPlan> {
    let own = item.fixed.or_else(|| scheme.types.encoding(&item.name));
    let wanted = own.unwrap_or_else(|| scheme.wanted(item.role, item.values.encoding()));
    let (rows, cols) = (item.values.rows(), item.values.cols());
    let encoding = fitting(wanted, rows, cols);
    if encoding != wanted && scheme.fallback == Fallback::Error {
        return Err(Error::Tensor {
            path: model.container.path().to_owned(),
            tensor: item.name.clone(),
            what: format!("has {rows} rows of {cols}, which cannot be stored as {wanted}"),
            help: format!("--fallback warn stores it as {encoding}"),
        });
    }
    if !codec(encoding).is_some_and(quant::Codec::can_encode) {
        return Err(Error::Usage {
            what: format!("tensors cannot be encoded as {encoding}"),
            help: "choose another file type".to_owned(),
        });
    }
    let stated = match &scheme.importance {
        Some(importance) if !encoding.is_plain() && item.fixed.is_none() => {
            importance.of(&item.name, item.role, item.values.cols())?
        }
        _ => None,
    };
    let (importance, unmeasured) = stated.map_or((None, 0), |stated| measured(stated, encoding));
    let planned = Planned { name: item.name.clone(), encoding, shape: item.values.shape().to_vec() };
    let coded = target.coded(&item, encoding, scheme);
    let row_bytes = match coded {
        None => (planned.bytes().unwrap_or(0) as usize).checked_div(rows).unwrap_or(0),
        Some(_) => 1, // of what it is coded as
    };
    let parts = vec![Part { planned, file: 0, offset: 0, split: None, row_bytes }];
    let Item { name, role, values, .. } = item;
    Ok(TensorPlan {
        name,
        role,
        values,
        encoding,
        wanted,
        importance,
        unmeasured,
        coded,
        encoded: None,
        section_bytes: None,
        is_calibrated: false,
        parts,
    })
}

/// The importance that columns of an encoding are weighed by, and how many of them it says nothing about.
fn measured(stated: Arc<[f32]>, encoding: Encoding) -> (Option<Arc<[f32]>>, usize) {
    let group = codec(encoding).and_then(quant::Codec::importance_group).unwrap_or(encoding.block_len());
    let unmeasured = importance::unmeasured(&stated, group);
    let importance = match importance::filled(&stated, group) {
        Some(Cow::Borrowed(_)) => Some(stated),
        Some(Cow::Owned(filled)) => Some(filled.into()),
        None => None,
    };
    (importance, unmeasured)
}

/// Tensors that the reader dropped, and block 0's value residual, which no version ever reads, if it is not written.
fn dropped(model: &Model, tensors: &[TensorPlan]) -> Vec<Dropped> {
    let written: BTreeSet<usize> = tensors.iter().flat_map(|t| t.values.sources()).collect();
    let unread = model.tensors.iter().filter(|t| t.is_unread());
    let unread = unread.filter(|t| !t.values.sources().all(|s| written.contains(&s)));
    let unread = unread.map(|t| Dropped {
        name: t.name(),
        rule: "block 0 has no earlier value to mix in, so it is never read".to_owned(),
    });
    model.dropped.iter().cloned().chain(unread).collect()
}
