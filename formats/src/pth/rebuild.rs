//! Meaning of the allowed Python functions: storages, tensors, dicts.

use quant::Encoding;

use crate::error::Result;
use crate::pth::globals::{self, Global};
use crate::pth::object::{Item, Object, Storage, TensorView};
use crate::pth::pickle::Machine;

/// The value of `function(*args)`.
///
/// # Errors
/// If `function` is not callable or `args` are not what it takes.
pub(super) fn call<'a>(machine: &mut Machine<'a>, function: Item<'a>, args: Item<'a>) -> Result<Item<'a>> {
    let Item::Global(function) = function else {
        return Err(machine.blame.malformed("the pickle calls something that is no function"));
    };
    let Some(args) = machine.tuple(args) else {
        return Err(machine.blame.malformed("the arguments of a call are no tuple"));
    };
    // Only a few are ever looked at; a longer tuple is not copied.
    let args: Vec<Item<'a>> = args.iter().take(9).copied().collect();
    match (function, args.as_slice()) {
        (Global::OrderedDict, []) => machine.keep(Object::Dict(Vec::new())),
        (Global::OrderedDict, [pairs]) => ordered_dict(machine, *pairs),
        (Global::RebuildTensor | Global::RebuildTensorV2 | Global::RebuildTensorV3, args) => {
            tensor(machine, function, args)
        }
        (Global::RebuildParameter, [data, ..]) => match machine.object(*data) {
            Some(Object::Tensor(_)) => Ok(*data),
            _ => Err(machine.blame.malformed("a parameter holds no tensor")),
        },
        (Global::RebuildFromTypeV2, [Item::Global(inner), Item::Global(Global::TensorType), args, _]) => {
            match (inner, machine.tuple(*args)) {
                (Global::RebuildTensor | Global::RebuildTensorV2 | Global::RebuildTensorV3, Some(args)) => {
                    let args: Vec<Item<'a>> = args.iter().take(9).copied().collect();
                    tensor(machine, *inner, &args)
                }
                _ => Err(machine.blame.malformed("a tensor is rebuilt from something else")),
            }
        }
        (Global::Size, [dims]) if machine.tuple(*dims).is_some() => Ok(*dims),
        (Global::Device, _) => machine.keep(Object::Other("device")),
        (Global::Plain(name), [] | [_] | [_, _]) => machine.keep(Object::Other(name)),
        (Global::Counter, []) => machine.keep(Object::Dict(Vec::new())),
        (Global::Counter, [counts]) if matches!(machine.object(*counts), Some(Object::Dict(_))) => {
            Ok(*counts)
        }
        _ => Err(machine.blame.malformed(format!("{function:?} is called with arguments it does not take"))),
    }
}

/// `OrderedDict([[key, value], ...])`, as Python 2 wrote it.
fn ordered_dict<'a>(machine: &mut Machine<'a>, pairs: Item<'a>) -> Result<Item<'a>> {
    let wrong = machine.blame.malformed("an OrderedDict is made of something that is no list of pairs");
    let Some(Object::List(pairs)) = machine.object(pairs) else {
        return Err(wrong);
    };
    // The one place where a list is copied: paid for, so that it cannot be done over and over.
    let count = pairs.len() as u64;
    machine.budget.reserve(count * size_of::<[Item<'a>; 2]>() as u64, machine.blame)?;
    let pairs: Option<Vec<_>> = pairs
        .iter()
        .map(|pair| match machine.object(*pair) {
            Some(Object::List(pair)) => pair.as_slice().try_into().ok(),
            Some(Object::Tuple(pair)) => pair.as_ref().try_into().ok(),
            _ => None,
        })
        .map(|pair| pair.map(|[key, value]: [Item<'a>; 2]| (key, value)))
        .collect();
    let pairs = pairs.ok_or(wrong)?;
    machine.charge(count)?;
    machine.keep(Object::Dict(pairs))
}

/// `('storage', class, key, location, elements[, view])`, the id of a storage that lies outside the pickle.
pub(super) fn storage<'a>(machine: &Machine<'a>, id: Item<'a>) -> Result<Storage<'a>> {
    let wrong = || machine.blame.malformed("a storage is not described as torch does");
    let (fields, view) = match machine.tuple(id) {
        Some([fields @ .., view @ (Item::None | Item::Ref(_))]) => (fields, *view),
        Some(fields) => (fields, Item::None),
        None => return Err(wrong()),
    };
    let [Item::Text("storage"), Item::Global(Global::Storage(encoding)), Item::Text(key), _, elements] =
        fields
    else {
        return Err(wrong());
    };
    let (elements, encoding) = (count(*elements).ok_or_else(wrong)?, *encoding);
    // In legacy files a storage can be a window on another, larger one.
    match (view, machine.tuple(view)) {
        (Item::None, _) => Ok(Storage { key, encoding, elements, start: 0, count: elements }),
        (_, Some([Item::Text(_), start, count_])) => {
            let (start, count) = (count(*start).ok_or_else(wrong)?, count(*count_).ok_or_else(wrong)?);
            Ok(Storage { key, encoding, elements, start, count })
        }
        _ => Err(wrong()),
    }
}

/// The tensor that one of torch's rebuild functions makes of `args`.
fn tensor<'a>(machine: &mut Machine<'a>, function: Global, args: &[Item<'a>]) -> Result<Item<'a>> {
    let blame = machine.blame;
    let wrong = || blame.malformed("a tensor is not described as torch does");
    let [storage, offset, shape, strides, rest @ ..] = args else {
        return Err(wrong());
    };
    let Some(Object::Storage(storage)) = machine.object(*storage) else {
        return Err(wrong());
    };
    let storage = **storage;
    let (encoding, metadata) = match (function, rest) {
        (Global::RebuildTensor, []) => (storage.encoding, None),
        (Global::RebuildTensorV2, [_, _]) => (storage.encoding, None),
        (Global::RebuildTensorV2, [_, _, metadata]) => (storage.encoding, Some(*metadata)),
        (Global::RebuildTensorV3, [_, _, dtype]) => (dtype_of(machine, *dtype)?, None),
        (Global::RebuildTensorV3, [_, _, dtype, metadata]) => (dtype_of(machine, *dtype)?, Some(*metadata)),
        _ => return Err(wrong()),
    };
    let encoding = encoding.ok_or_else(wrong)?;
    // A typed storage of another type would count its elements otherwise.
    if storage.encoding.is_some_and(|e| e != encoding) {
        return Err(wrong());
    }
    match metadata.map(|m| (m, machine.object(m))) {
        None | Some((Item::None, _)) => {}
        Some((_, Some(Object::Dict(pairs)))) if pairs.is_empty() => {}
        _ => {
            let help = "call .resolve_neg().resolve_conj().clone() on it in Python before saving";
            return Err(blame.unsupported("a tensor that is to be changed when it is loaded", help));
        }
    }
    let offset = count(*offset).ok_or_else(wrong)?;
    let shape = counts(machine, *shape)?;
    let strides = counts(machine, *strides)?;
    if shape.len() != strides.len() {
        return Err(wrong());
    }
    let dims = (shape.len() + strides.len()) as u64 * size_of::<u64>() as u64;
    machine.budget.reserve(size_of::<TensorView<'_>>() as u64 + dims + 48, blame)?;
    machine.keep(Object::Tensor(Box::new(TensorView { storage, encoding, offset, shape, strides })))
}

fn dtype_of<'a>(machine: &Machine<'a>, dtype: Item<'a>) -> Result<Option<Encoding>> {
    match dtype {
        Item::Global(Global::Dtype(encoding)) => Ok(Some(encoding)),
        Item::Global(Global::UnreadDtype(name)) => Err(globals::unread(name, machine.blame)),
        _ => Ok(None),
    }
}

fn counts<'a>(machine: &Machine<'a>, items: Item<'a>) -> Result<Vec<u64>> {
    let wrong = || machine.blame.malformed("a shape is no tuple of sizes");
    let items = match machine.object(items) {
        Some(Object::Tuple(items)) => items.as_ref(),
        Some(Object::List(items)) => items.as_slice(),
        _ => return Err(wrong()),
    };
    machine.blame.within("dimensions", items.len() as u64, machine.budget.dims)?;
    items.iter().map(|i| count(*i)).collect::<Option<_>>().ok_or_else(wrong)
}

/// A number that is not negative.
fn count(item: Item<'_>) -> Option<u64> {
    match item {
        Item::Int(v) => u64::try_from(v).ok(),
        _ => None,
    }
}
