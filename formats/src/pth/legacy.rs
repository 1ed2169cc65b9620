//! The layout of torch before 1.6: pickles one after another, then raw storages.

use std::collections::BTreeMap;

use crate::budget::Budget;
use crate::container::Tensor;
use crate::cursor::Cursor;
use crate::error::{Blame, Result};
use crate::pth::object::{Item, Object, Pickle, Storage};
use crate::pth::read::Described;
use crate::pth::state::Found;
use crate::pth::{pickle, read, state};

/// 0x1950a86a20f9469cfc6c, as a pickle holds it.
const MAGIC: &[u8] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const PROTOCOL: i64 = 1001;
/// The magic number stands within so many bytes (it is a pickle of its own).
const MAGIC_WITHIN: usize = 32;

/// True if a file that is a pickle starts with torch's magic number.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    let start = bytes.get(..MAGIC_WITHIN).unwrap_or(bytes);
    start.windows(MAGIC.len()).any(|w| w == MAGIC)
}

/// The tensors and metadata of a legacy file.
pub(super) fn read(bytes: &[u8], budget: &Budget<'_>, blame: Blame<'_>) -> Result<Described> {
    let magic = pickle::run(bytes, 0, budget, blame)?;
    if magic.root != Item::Big(MAGIC) {
        return Err(blame.malformed("the magic number is damaged").at(0));
    }
    let protocol = pickle::run(bytes, magic.end, budget, blame)?;
    match protocol.root {
        Item::Int(PROTOCOL) => {}
        Item::Int(other) => {
            let help = "load and save it once with a current torch";
            return Err(blame.unsupported(format!("protocol {other} of torch's legacy layout"), help));
        }
        _ => return Err(blame.malformed("the protocol is no number").at(magic.end)),
    }
    let system = pickle::run(bytes, protocol.end, budget, blame)?;
    if entry(&system, "little_endian") == Some(Item::Bool(false)) {
        let help = "load and save it once with torch on an ordinary (little-endian) machine";
        return Err(blame.unsupported("big-endian numbers", help));
    }
    let pickle = pickle::run(bytes, system.end, budget, blame)?;
    blame.within("bytes of pickle", pickle.bytes, budget.header_bytes)?;
    // First the names: files that are no state dict are refused for that, not for what follows.
    let Found { views, metadata, left_aside } = state::find(&pickle, budget, blame)?;
    let keys = pickle::run(bytes, pickle.end, budget, blame)?;
    let offsets = offsets(bytes, &pickle, &keys, budget, blame)?;
    let mut tensors = read::listed(views.len(), budget, blame)?;
    for (name, view) in views {
        let Some(offset) = offsets.get(view.storage.key) else {
            let what = format!("the storage {:?} is missing", view.storage.key);
            return Err(blame.malformed(what).in_tensor(&name));
        };
        Tensor::reserve(name.len(), view.shape.len(), budget, blame)?;
        tensors.push(read::tensor(name, view, *offset, bytes.len() as u64, blame)?);
    }
    Ok(Described { tensors, metadata, left_aside })
}

/// Offset of the elements of every storage, by its key.
fn offsets<'a>(
    bytes: &'a [u8],
    pickle: &Pickle<'a>,
    keys: &Pickle<'a>,
    budget: &Budget<'_>,
    blame: Blame<'a>,
) -> Result<BTreeMap<&'a str, u64>> {
    let mut storages: BTreeMap<&str, &Storage<'a>> = BTreeMap::new();
    for storage in pickle.storages() {
        budget.entry(2 * size_of::<&str>(), blame)?;
        let first = storages.entry(storage.key).or_insert(storage);
        if (first.elements, first.encoding) != (storage.elements, storage.encoding) {
            return Err(blame.malformed(format!("the storage {:?} is described in two ways", storage.key)));
        }
    }
    let Some(Object::List(list)) = keys.object(keys.root) else {
        return Err(blame.malformed("the list of storages is none").at(pickle.end));
    };
    let mut offsets = BTreeMap::new();
    let mut cursor = Cursor::starting_at(bytes, keys.end, blame);
    for key in list {
        let at = cursor.pos();
        let storage = match key {
            Item::Text(key) => storages.get(key),
            _ => None,
        };
        let Some(storage) = storage else {
            return Err(blame.malformed("there is a storage that the pickle does not describe").at(at));
        };
        let key = storage.key;
        let elements = cursor.u64("the size of a storage")?;
        if elements != storage.elements {
            let what = format!("the storage {key:?} has {elements} elements, not {}", storage.elements);
            return Err(blame.malformed(what).at(at));
        }
        let start = cursor.pos();
        let len = elements.checked_mul(storage.element_bytes());
        let len =
            len.ok_or_else(|| blame.malformed(format!("the storage {key:?} is absurdly large")).at(at))?;
        cursor.take(len, "the data of a storage")?;
        budget.entry(2 * size_of::<&str>(), blame)?;
        if offsets.insert(key, start).is_some() {
            return Err(blame.malformed(format!("the storage {key:?} stands twice")).at(at));
        }
    }
    Ok(offsets)
}

/// The value of a text key of the dict that a pickle is.
fn entry<'a>(pickle: &Pickle<'a>, key: &str) -> Option<Item<'a>> {
    match pickle.object(pickle.root) {
        Some(Object::Dict(pairs)) => pairs.iter().find(|(k, _)| *k == Item::Text(key)).map(|(_, v)| *v),
        _ => None,
    }
}
