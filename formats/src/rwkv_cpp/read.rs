//! Reading rwkv.cpp's files.

use crate::budget::Budget;
use crate::container::{Container, Tensor};
use crate::cursor::Cursor;
use crate::error::{Blame, Result};
use crate::mapped::Mapped;
use crate::rwkv_cpp::{DIMS, MAGIC, OLD_VERSION, RwkvCpp, VERSION, encoding_of, key};
use crate::value::{Metadata, Value};

pub(super) fn read(file: Mapped, budget: &Budget<'_>) -> Result<Container> {
    let path = file.path().to_owned();
    let blame = Blame { path: &path, format: "rwkv.cpp" };
    let mut cursor = Cursor::new(file.bytes(), blame);
    cursor.take(MAGIC.len() as u64, "the magic number")?;
    let mut metadata = Metadata::new();
    let mut number = |name: &str| -> Result<u32> {
        let value = cursor.u32(name)?;
        metadata.push((key(name), Value::U32(value)));
        Ok(value)
    };
    let version = number("version")?;
    if version != VERSION && version != OLD_VERSION {
        let help = "versions 100 and 101 are read: make the file again with a current rwkv.cpp";
        return Err(blame.unsupported(format!("version {version} of rwkv.cpp's format"), help));
    }
    number("n_vocab")?;
    number("n_embed")?;
    number("n_layer")?;
    encoding_of(number("data_type")?, version, blame)?;

    let mut tensors = Vec::new();
    while cursor.left() > 0 {
        blame.within("tensors", tensors.len() as u64 + 1, budget.tensors)?;
        tensors.push(tensor(&mut cursor, version, budget)?);
    }
    if tensors.is_empty() {
        return Err(blame.malformed("it holds no tensors").at(cursor.pos()));
    }
    Container::new(&RwkvCpp, &path, vec![file], tensors, metadata, budget)
}

/// One tensor: its description and, right behind, its data.
fn tensor(cursor: &mut Cursor<'_>, version: u32, budget: &Budget<'_>) -> Result<Tensor> {
    let at = cursor.pos();
    let blame = cursor.blame;
    let dims = cursor.u32("the number of dimensions")?;
    let name_bytes = cursor.u32("the length of a name")?;
    let id = cursor.u32("the type of a tensor")?;
    if dims == 0 || dims > DIMS {
        return Err(blame.malformed(format!("a tensor of {dims} dimensions, not of 1 to {DIMS}")).at(at));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        shape.push(cursor.u32("a dimension")? as usize);
    }
    shape.reverse();
    blame.within("bytes of name", name_bytes.into(), budget.name_bytes)?;
    let name = cursor.text(name_bytes.into(), "the name of a tensor")?;
    budget.read_more(cursor.pos() - at);
    Tensor::reserve(name.len(), dims as usize, budget, blame)?;
    budget.item::<Tensor>(0, blame)?;
    let name = name.to_owned();
    let in_tensor = |e: crate::Error| e.in_tensor(&name).at(at);
    let encoding = encoding_of(id, version, blame).map_err(in_tensor)?;
    let bytes = Tensor::span_bytes(encoding, &shape, None).ok_or_else(|| {
        in_tensor(blame.malformed(format!("the shape {shape:?} cannot be stored as {encoding}")))
    })?;
    let offset = cursor.pos();
    cursor.take(bytes, "the data").map_err(|e| e.in_tensor(&name))?;
    Ok(Tensor { name, encoding, shape, strides: None, split: None, coded: None, file: 0, offset, bytes })
}
