//! The pickle of a dict of tensors, as torch writes it.

use std::collections::BTreeMap;

use crate::placement::Planned;
use crate::pth::globals;
use crate::value::{Metadata, Value};

/// Pairs that are set at once, as Python's pickler does it.
const BATCH: usize = 1000;

/// A pickle (protocol 2) of the dict of the metadata and the tensors; tensor number `i` fills storage `i`.
pub(super) fn pickle(metadata: &Metadata, tensors: &[Planned]) -> Vec<u8> {
    let mut pickler = Pickler { out: vec![0x80, 2, b'}'], memo: BTreeMap::new() };
    for batch in metadata.chunks(BATCH) {
        pickler.op(b"(");
        for (key, value) in batch {
            pickler.text(key);
            pickler.value(value);
        }
        pickler.op(b"u");
    }
    let mut key = 0u64;
    for batch in tensors.chunks(BATCH) {
        pickler.op(b"(");
        for tensor in batch {
            pickler.text(&tensor.name);
            pickler.tensor(tensor, key);
            key += 1;
        }
        pickler.op(b"u");
    }
    pickler.op(b".");
    pickler.out
}

struct Pickler {
    out: Vec<u8>,
    /// Texts and globals that are written once: their instructions and memo numbers.
    memo: BTreeMap<Vec<u8>, u8>,
}

impl Pickler {
    fn op(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// `module.name`; a fixed few, so that a memo number has a byte's room.
    fn global(&mut self, module: &str, name: &str) {
        self.once(format!("c{module}\n{name}\n").into_bytes());
    }

    fn once(&mut self, instructions: Vec<u8>) {
        match self.memo.get(&instructions) {
            Some(number) => self.out.extend_from_slice(&[b'h', *number]),
            None => {
                let number = self.memo.len() as u8;
                self.out.extend_from_slice(&instructions);
                self.out.extend_from_slice(&[b'q', number]);
                self.memo.insert(instructions, number);
            }
        }
    }

    /// `_rebuild_tensor_v2(('storage', class, key, 'cpu', elements), 0, shape, strides, False, OrderedDict())`
    fn tensor(&mut self, tensor: &Planned, key: u64) {
        let elements = tensor.shape.iter().map(|d| *d as u64).product::<u64>();
        let class = globals::storage_class(tensor.encoding);
        let function = if class.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" };
        self.global("torch._utils", function);
        self.op(b"((");
        self.once(text("storage"));
        match class {
            Some(class) => self.global("torch", class),
            None => self.global("torch.storage", "UntypedStorage"),
        }
        self.text(&key.to_string());
        self.once(text("cpu"));
        // The types without a class have one byte an element, so this is also the number of bytes.
        self.int(elements);
        self.op(b"tQK\0");
        self.sizes(tensor.shape.iter().map(|d| *d as u64));
        // As torch counts them: an empty dimension counts as one.
        let mut strides = vec![1u64; tensor.shape.len()];
        let mut stride = 1u64;
        for (s, dim) in strides.iter_mut().zip(&tensor.shape).rev() {
            *s = stride;
            stride = stride.saturating_mul((*dim as u64).max(1));
        }
        self.sizes(strides.into_iter());
        self.op(b"\x89");
        self.global("collections", "OrderedDict");
        self.op(b")R");
        if let Some(dtype) = globals::classless_dtype(tensor.encoding) {
            self.global("torch", dtype);
        }
        self.op(b"tR");
    }

    fn sizes(&mut self, sizes: impl Iterator<Item = u64>) {
        self.op(b"(");
        sizes.for_each(|size| self.int(size));
        self.op(b"t");
    }

    fn text(&mut self, value: &str) {
        let instructions = text(value);
        self.op(&instructions);
    }

    fn int(&mut self, value: u64) {
        match value {
            0..=0xff => self.op(&[b'K', value as u8]),
            0x100..=0x7fff_ffff_ffff_ffff => self.signed(value as i64),
            // One byte more, which carries the sign.
            _ => {
                self.op(&[0x8a, 9]);
                self.op(&value.to_le_bytes());
                self.op(&[0]);
            }
        }
    }

    fn signed(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(value) => {
                self.op(b"J");
                self.op(&value.to_le_bytes());
            }
            Err(_) => {
                self.op(&[0x8a, 8]);
                self.op(&value.to_le_bytes());
            }
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::U8(v) => self.int((*v).into()),
            Value::U16(v) => self.int((*v).into()),
            Value::U32(v) => self.int((*v).into()),
            Value::U64(v) => self.int(*v),
            Value::I8(v) => self.signed((*v).into()),
            Value::I16(v) => self.signed((*v).into()),
            Value::I32(v) => self.signed((*v).into()),
            Value::I64(v) => self.signed(*v),
            Value::F32(v) => self.float((*v).into()),
            Value::F64(v) => self.float(*v),
            Value::Bool(v) => self.op(if *v { b"\x88" } else { b"\x89" }),
            Value::String(v) => self.text(v),
            Value::Array(values) => {
                self.op(b"](");
                values.iter().for_each(|v| self.value(&v));
                self.op(b"e");
            }
        }
    }

    fn float(&mut self, value: f64) {
        self.op(b"G");
        self.op(&value.to_be_bytes());
    }
}

/// A text as an instruction.
fn text(value: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    // A pickle of protocol 2 has no longer texts than 4 GiB; nor has any metadata.
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
    out
}
