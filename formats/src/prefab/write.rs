//! Placing a prefab: everything but the data, which has to lie where the CBOR around it says.

use std::collections::{BTreeMap, BTreeSet};

use quant::Encoding;

use super::cbor::{self, ARRAY, BYTES, MAP, SIMPLE, UNSIGNED};
use super::{DIMS, TENSORS};
use crate::container::{CODEBOOK_BYTES, Split};
use crate::error::{Error, Result};
use crate::placement::{Placement, Planned};
use crate::value::{Metadata, Value};

/// Lays out a prefab with these keys and tensors, whose names are paths (see the [module](super)); fields and entries
/// stand in the order given, the keys first. `is_matrix` tells the tensors whose field is a matrix, of whatever
/// kind, from those that are always plain.
///
/// # Errors
/// [`Error::CannotHold`] if a name is used twice or runs through another, an array is not counted from 0, an encoding
/// is none of f16, f32, int8 and fp4, or a plain field is to be quantized.
///
/// # Examples
/// ```
/// use formats::{Planned, Value, prefab};
/// let tensors = [Planned { name: "head.w".into(), encoding: quant::Encoding::Fp4, shape: vec![2, 64] }];
/// let placement = prefab::place(&vec![("rescale".into(), Value::U64(6))], &tensors, |_| true)?;
/// assert!(placement.offsets[0] < placement.splits[&0].scales);
/// # Ok::<(), formats::Error>(())
/// ```
pub fn place(
    metadata: &Metadata,
    tensors: &[Planned],
    is_matrix: impl Fn(&str) -> bool,
) -> Result<Placement> {
    let mut root = Node::Map(Vec::new());
    for (key, value) in metadata {
        root.put(key, key, Node::Value(value))?;
    }
    let mut seen = BTreeSet::new();
    for (i, t) in tensors.iter().enumerate() {
        if !seen.insert(t.name.as_str()) {
            return Err(cannot("the name is taken", &t.name));
        }
        root.put(&format!("{TENSORS}{}", t.name), &t.name, Node::Tensor(i))?;
    }
    let mut layout = Layout {
        tensors,
        pieces: Vec::new(),
        start: 0,
        piece: Vec::new(),
        offsets: vec![0; tensors.len()],
        splits: BTreeMap::new(),
    };
    layout.node(&root, &is_matrix)?;
    let total_bytes = layout.at();
    let mut pieces = layout.pieces;
    pieces.push((layout.start, layout.piece));
    let mut pieces = pieces.into_iter().filter(|(_, bytes)| !bytes.is_empty());
    let head = pieces.next().map(|(_, bytes)| bytes).unwrap_or_default();
    let (between, offsets, splits) = (pieces.collect(), layout.offsets, layout.splits);
    Ok(Placement { head, offsets, splits, between, total_bytes })
}

/// The tree of the file.
enum Node<'a> {
    Map(Vec<(String, Node<'a>)>),
    Array(Vec<Node<'a>>),
    Value(&'a Value),
    Tensor(usize),
}

impl<'a> Node<'a> {
    /// Puts `leaf` at `path`, making maps and arrays on the way; `name` is what the caller calls it.
    fn put(&mut self, path: &str, name: &str, leaf: Node<'a>) -> Result<()> {
        let Some((key, rest)) = path.split_once('.') else {
            return match self {
                Node::Map(entries) if entries.iter().all(|(k, _)| k != path) => {
                    entries.push((path.to_owned(), leaf));
                    Ok(())
                }
                _ => Err(cannot("the name is taken, or runs through another", name)),
            };
        };
        self.child(key, rest)
            .ok_or_else(|| cannot("the name is taken, or runs through another", name))?
            .put(rest, name, leaf)
    }

    /// The map or array below, made if need be: an array if the path goes on with 0.
    fn child(&mut self, key: &str, rest: &str) -> Option<&mut Node<'a>> {
        let is_array = rest.split('.').next() == Some("0");
        let new = || if is_array { Node::Array(Vec::new()) } else { Node::Map(Vec::new()) };
        match self {
            Node::Map(entries) => {
                let at = entries.iter().position(|(k, _)| k == key);
                if at.is_none() {
                    entries.push((key.to_owned(), new()));
                }
                let at = at.unwrap_or(entries.len() - 1);
                entries.get_mut(at).map(|(_, node)| node)
            }
            Node::Array(items) => {
                let i: usize = key.parse().ok()?;
                if i == items.len() {
                    items.push(new());
                }
                items.get_mut(i)
            }
            _ => None,
        }
    }
}

/// The bytes of the file so far: finished pieces, with holes for data between them.
struct Layout<'a> {
    tensors: &'a [Planned],
    pieces: Vec<(u64, Vec<u8>)>,
    /// Offset of the piece at work.
    start: u64,
    piece: Vec<u8>,
    offsets: Vec<u64>,
    splits: BTreeMap<usize, Split>,
}

impl Layout<'_> {
    fn at(&self) -> u64 {
        self.start + self.piece.len() as u64
    }

    fn node(&mut self, node: &Node<'_>, is_matrix: &impl Fn(&str) -> bool) -> Result<()> {
        match node {
            Node::Map(entries) => {
                cbor::head(MAP, entries.len() as u64, &mut self.piece);
                entries.iter().try_for_each(|(key, node)| {
                    cbor::text(key, &mut self.piece);
                    self.node(node, is_matrix)
                })
            }
            Node::Array(items) => {
                cbor::head(ARRAY, items.len() as u64, &mut self.piece);
                items.iter().try_for_each(|item| self.node(item, is_matrix))
            }
            Node::Value(value) => value_item(value, &mut self.piece),
            Node::Tensor(i) => self.tensor(*i, is_matrix),
        }
    }

    fn tensor(&mut self, i: usize, is_matrix: &impl Fn(&str) -> bool) -> Result<()> {
        let Planned { name, encoding, shape } = &self.tensors[i];
        let bytes = self.tensors[i].bytes().ok_or_else(|| cannot("its rows are no whole blocks", name))?;
        let mut dims = [1; DIMS];
        if shape.len() > DIMS {
            return Err(cannot("it has more than 4 dimensions", name));
        }
        for (dim, size) in dims.iter_mut().zip(shape.iter().rev()) {
            *dim = *size as u64;
        }
        let blocks = bytes / encoding.block_bytes() as u64;
        let codes = blocks * encoding.code_bytes() as u64;
        let matrix = is_matrix(name);
        match encoding {
            Encoding::F16 if matrix => {
                self.variant("Fp16");
                self.offsets[i] = self.blob(dims, codes)?;
            }
            Encoding::F16 | Encoding::F32 if !matrix => self.offsets[i] = self.blob(dims, codes)?,
            Encoding::Int8 if matrix => {
                self.variant("Int8");
                self.parts(i, false, dims, codes, [2 * blocks, 1, 1, 1], bytes - codes)?;
            }
            Encoding::Fp4 if matrix => {
                self.variant("Fp4");
                dims[0] /= 2;
                self.parts(i, true, dims, codes, [blocks, 1, 1, 1], bytes - codes)?;
            }
            _ => return Err(cannot(&format!("this field cannot be {encoding}"), name)),
        }
        Ok(())
    }

    fn variant(&mut self, name: &str) {
        cbor::head(MAP, 1, &mut self.piece);
        cbor::text(name, &mut self.piece);
    }

    /// The map of a quantized matrix: levels (if it has them), codes, scales.
    fn parts(
        &mut self,
        i: usize,
        has_levels: bool,
        dims: [u64; DIMS],
        codes: u64,
        scale_dims: [u64; DIMS],
        scales: u64,
    ) -> Result<()> {
        cbor::head(MAP, 2 + u64::from(has_levels), &mut self.piece);
        let mut codebook = None;
        if has_levels {
            cbor::text("q", &mut self.piece);
            codebook = Some(self.blob([CODEBOOK_BYTES / 4, 1, 1, 1], CODEBOOK_BYTES)?);
        }
        cbor::text("w", &mut self.piece);
        self.offsets[i] = self.blob(dims, codes)?;
        cbor::text("m", &mut self.piece);
        let scales = self.blob(scale_dims, scales)?;
        self.splits.insert(i, Split { scales, codebook });
        Ok(())
    }

    /// A shape and a hole for the data, whose offset is returned.
    fn blob(&mut self, dims: [u64; DIMS], bytes: u64) -> Result<u64> {
        cbor::head(MAP, 2, &mut self.piece);
        cbor::text("shape", &mut self.piece);
        cbor::head(ARRAY, DIMS as u64, &mut self.piece);
        dims.iter().for_each(|dim| cbor::head(UNSIGNED, *dim, &mut self.piece));
        cbor::text("data", &mut self.piece);
        cbor::head(BYTES, bytes, &mut self.piece);
        let offset = self.at();
        let end = offset.checked_add(bytes).ok_or_else(|| cannot("the file would be absurdly large", ""))?;
        self.pieces.push((self.start, std::mem::take(&mut self.piece)));
        self.start = end;
        Ok(offset)
    }
}

fn value_item(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::String(text) => cbor::text(text, out),
        Value::Bool(b) => cbor::head(SIMPLE, 20 + u64::from(*b), out),
        Value::Array(items) => {
            cbor::head(ARRAY, items.len() as u64, out);
            items.iter().try_for_each(|item| value_item(&item, out))?;
        }
        other => match other.as_u64() {
            Some(n) => cbor::head(UNSIGNED, n, out),
            None => return Err(cannot("a value is neither text nor a natural number", "")),
        },
    }
    Ok(())
}

fn cannot(what: &str, tensor: &str) -> Error {
    let tensor = (!tensor.is_empty()).then(|| tensor.to_owned());
    Error::CannotHold { format: "prefab", what: what.to_owned(), tensor }
}
