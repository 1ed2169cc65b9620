//! Objects that a pickle of tensors can hold.

use quant::Encoding;

use crate::pth::arena::Arena;
use crate::pth::globals::Global;

/// A value on the machine's stack or in a container. Containers are held by number, so a value is small,
/// copying it copies nothing else, and no nesting costs stack space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Item<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits, little endian, two's complement.
    Big(&'a [u8]),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Global(Global),
    /// The number of an [`Object`].
    Ref(u32),
}

/// Object that an [`Item::Ref`] stands for.
#[derive(Debug, PartialEq)]
pub(super) enum Object<'a> {
    List(Vec<Item<'a>>),
    Tuple(Box<[Item<'a>]>),
    /// Pairs in the order they were set; a key that is set again stands twice.
    Dict(Vec<(Item<'a>, Item<'a>)>),
    Storage(Box<Storage<'a>>),
    Tensor(Box<TensorView<'a>>),
    /// Something harmless that is not needed, by its name.
    Other(&'static str),
}

/// A run of elements that tensors are windows on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    /// Its name in the file.
    pub key: &'a str,
    /// The type of its elements; `None` for bytes that each tensor interprets.
    pub encoding: Option<Encoding>,
    /// Elements of the whole storage in the file.
    pub elements: u64,
    /// The first element of it that is meant (legacy files only).
    pub start: u64,
    /// Number of elements that are meant (legacy files only; else all).
    pub count: u64,
}

impl Storage<'_> {
    /// Bytes of one element.
    pub fn element_bytes(&self) -> u64 {
        self.encoding.map_or(1, |e| e.block_bytes() as u64)
    }
}

/// A tensor as the pickle describes it, nothing checked but the signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorView<'a> {
    pub storage: Storage<'a>,
    pub encoding: Encoding,
    /// First element, counted from the start of the storage.
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

/// The object a pickle describes.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub root: Item<'a>,
    pub objects: Arena<Object<'a>>,
    /// The bytes that it takes.
    pub bytes: u64,
    /// The first byte behind it.
    pub end: u64,
}

impl<'a> Pickle<'a> {
    /// Object that a reference stands for; `None` for other values.
    pub fn object(&self, item: Item<'a>) -> Option<&Object<'a>> {
        object(&self.objects, item)
    }

    /// All storages that were met.
    pub fn storages(&self) -> impl Iterator<Item = &Storage<'a>> {
        self.objects.iter().filter_map(|o| match o {
            Object::Storage(storage) => Some(&**storage),
            _ => None,
        })
    }
}

/// Object that a reference stands for; `None` for other values.
pub(super) fn object<'o, 'a>(objects: &'o Arena<Object<'a>>, item: Item<'a>) -> Option<&'o Object<'a>> {
    match item {
        Item::Ref(id) => objects.get(id as usize),
        _ => None,
    }
}
