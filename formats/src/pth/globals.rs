//! The Python names that a pickle may use: a short list, each with a meaning of ours.
//!
//! A pickle names classes and functions and asks for them to be called. Nothing is imported and nothing is
//! called here: a name on the list is a case of [`Global`], and any other name is an error. So no file can
//! make this program run anything.

use quant::Encoding;

use crate::error::{Blame, Error};

/// A Python class or function that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor(storage, offset, size, stride)`
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata?)`
    RebuildTensorV2,
    /// `torch._utils._rebuild_tensor_v3(.., hooks, dtype, metadata?)`: types that have no storage class
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter(tensor, requires_grad, hooks)`, also with a state
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2(function, type, arguments, state)`
    RebuildFromTypeV2,
    /// `torch.FloatStorage` and its like; `None` is a storage of bytes
    Storage(Option<Encoding>),
    /// `torch.float32` and its like
    Dtype(Encoding),
    /// `torch.complex64` and others that no tensor here can have
    UnreadDtype(&'static str),
    /// A function that makes a value of plain Python which is not needed: `set`, `frozenset`, `bytes`, `bytearray`,
    /// `complex`, `_codecs.encode` (bytes of old protocols), `torch.serialization._get_layout`; by the value's name
    Plain(&'static str),
    /// `collections.Counter`: a dict
    Counter,
    /// `torch.Size`: a tuple
    Size,
    /// `torch.device`: not needed
    Device,
    /// `torch.Tensor`, `torch.nn.parameter.Parameter`, `...Buffer`: plain tensors
    TensorType,
}

/// Storage classes and dtypes by name.
#[rustfmt::skip]
const TYPES: &[(&str, &str, Encoding)] = &[
    ("FloatStorage",    "float32",  Encoding::F32),
    ("HalfStorage",     "float16",  Encoding::F16),
    ("BFloat16Storage", "bfloat16", Encoding::BF16),
    ("DoubleStorage",   "float64",  Encoding::F64),
    ("ByteStorage",     "uint8",    Encoding::U8),
    ("CharStorage",     "int8",     Encoding::I8),
    ("ShortStorage",    "int16",    Encoding::I16),
    ("IntStorage",      "int32",    Encoding::I32),
    ("LongStorage",     "int64",    Encoding::I64),
    ("BoolStorage",     "bool",     Encoding::Bool),
];

/// Dtypes that have no storage class.
const FLOAT8: &str = "float8_e4m3fn";

/// Dtypes that may stand in a file but are not read as tensors.
#[rustfmt::skip]
const UNREAD: &[&str] = &[
    "uint16", "uint32", "uint64", "complex32", "complex64", "complex128", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2",
];

/// Plain Python's own types that `torch.load(weights_only=True)` makes values of; Python 2 called their module
/// `__builtin__`.
const PLAIN: &[&str] = &["set", "frozenset", "bytes", "bytearray", "complex"];

/// The storage class of an encoding, if it has one.
pub(super) fn storage_class(encoding: Encoding) -> Option<&'static str> {
    TYPES.iter().find(|(.., e)| *e == encoding).map(|(class, ..)| *class)
}

/// The dtype of an encoding without a storage class.
pub(super) fn classless_dtype(encoding: Encoding) -> Option<&'static str> {
    (encoding == Encoding::F8E4M3).then_some(FLOAT8)
}

impl Global {
    /// Finds `module.name`, which stands at byte `at`.
    ///
    /// # Errors
    /// If it is not on the list.
    pub fn find(module: &str, name: &str, at: u64, blame: Blame<'_>) -> Result<Global, Error> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Global::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromTypeV2,
            ("builtins" | "__builtin__", name) => match PLAIN.iter().find(|plain| **plain == name) {
                Some(plain) => Global::Plain(plain),
                None => return Err(forbidden(module, name, at, blame)),
            },
            ("_codecs", "encode") => Global::Plain("bytes"),
            ("torch.serialization", "_get_layout") => Global::Plain("layout"),
            ("collections", "Counter") => Global::Counter,
            ("torch", "Size") => Global::Size,
            ("torch", "device") => Global::Device,
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter" | "Buffer") => Global::TensorType,
            ("torch" | "torch.storage" | "torch.cuda", "UntypedStorage" | "_UntypedStorage") => {
                Global::Storage(None)
            }
            ("torch" | "torch.storage" | "torch.cuda", class) if class.ends_with("Storage") => {
                match TYPES.iter().find(|(c, ..)| *c == class) {
                    Some((.., encoding)) => Global::Storage(Some(*encoding)),
                    None => return Err(unread(class, blame)),
                }
            }
            ("torch", FLOAT8) => Global::Dtype(Encoding::F8E4M3),
            ("torch", name) => {
                let read = TYPES.iter().find(|(_, dtype, _)| *dtype == name);
                let unread = UNREAD.iter().find(|dtype| **dtype == name);
                match (read, unread) {
                    (Some((.., encoding)), _) => Global::Dtype(*encoding),
                    (None, Some(dtype)) => Global::UnreadDtype(dtype),
                    (None, None) => return Err(forbidden(module, name, at, blame)),
                }
            }
            _ => return Err(forbidden(module, name, at, blame)),
        })
    }
}

/// An element type that is known, but not read.
pub(super) fn unread(name: &str, blame: Blame<'_>) -> Error {
    blame.unsupported(
        format!("tensors of the type {name}"),
        "convert them to float32, float16 or bfloat16 in Python before saving",
    )
}

fn forbidden(module: &str, name: &str, at: u64, blame: Blame<'_>) -> Error {
    let full: String = format!("{module}.{name}").chars().take(200).collect();
    let full = full.escape_debug();
    let what = if module.starts_with("torch.nn.") || module.starts_with("__torch__") {
        format!("a whole Python module ({full} at byte {at})")
    } else {
        format!("the Python object {full} (at byte {at})")
    };
    let help = "only state dicts of tensors are read: save with torch.save(model.state_dict(), path). Loading \
                a file in Python can run any code that it names, so do that only if you trust its maker";
    blame.unsupported(what, help)
}
