//! ggml's type numbers.

use quant::Encoding;

/// ggml's number of every encoding that GGUF can hold.
#[rustfmt::skip]
const TYPES: &[(u32, Encoding)] = &[
    (0, Encoding::F32),     (1, Encoding::F16),     (2, Encoding::Q4_0),     (3, Encoding::Q4_1),
    (6, Encoding::Q5_0),    (7, Encoding::Q5_1),    (8, Encoding::Q8_0),     (10, Encoding::Q2K),
    (11, Encoding::Q3K),    (12, Encoding::Q4K),    (13, Encoding::Q5K),     (14, Encoding::Q6K),
    (15, Encoding::Q8K),    (16, Encoding::IQ2XXS), (17, Encoding::IQ2XS),   (18, Encoding::IQ3XXS),
    (20, Encoding::IQ4NL),  (21, Encoding::IQ3S),   (22, Encoding::IQ2S),    (23, Encoding::IQ4XS),
    (24, Encoding::I8),     (25, Encoding::I16),    (26, Encoding::I32),     (27, Encoding::I64),
    (28, Encoding::F64),    (30, Encoding::BF16),
];

/// Types that exist but are not read here.
#[rustfmt::skip]
const UNREAD: &[(u32, &str)] = &[
    (9, "Q8_1"), (19, "IQ1_S"), (29, "IQ1_M"), (34, "TQ1_0"), (35, "TQ2_0"), (39, "MXFP4"), (40, "NVFP4"),
    (41, "Q1_0"), (42, "Q2_0"),
];

/// ggml's number of an encoding, if GGUF can hold it.
pub fn type_id(encoding: Encoding) -> Option<u32> {
    TYPES.iter().find(|(_, e)| *e == encoding).map(|(id, _)| *id)
}

/// The encoding of a ggml type number.
pub fn encoding_of(id: u32) -> Option<Encoding> {
    TYPES.iter().find(|(i, _)| *i == id).map(|(_, e)| *e)
}

/// Name of a type number that [`encoding_of`] does not know.
pub(super) fn name_of_unread(id: u32) -> Option<&'static str> {
    UNREAD.iter().find(|(i, _)| *i == id).map(|(_, name)| *name)
}
