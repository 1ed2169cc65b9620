//! Compact files.

use formats::compact::{Section, Storage, Tiles, place, section};
use formats::{Layout, Metadata, Planned, Sum, Value};
use quant::coding::{Coding, tile_rows};
use quant::{Codec, Encoding};

use crate::{BASE_BYTES, Target};

/// Compact files.
pub const TARGET: Target = Target {
    name: "compact",
    seeds,
    run: |scratch, bytes| scratch.open(bytes),
    base_bytes: BASE_BYTES,
};

fn seeds() -> Vec<Vec<u8>> {
    whole().into_iter().collect()
}

/// A file with a tensor of each coding. (Its checksums are wrong, which opening does not look at.)
fn whole() -> Option<Vec<u8>> {
    let (rows, cols) = (6, 64);
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    let design =
        quant::cancellation::Design::fit(quant::Rows::new(&values, cols), rows, None, 4.0).ok()?;
    let (mut codes, mut lossless) = (Vec::new(), Vec::new());
    design.encode(&values, None, &mut codes).ok()?;
    let bf16: Vec<u8> = values.iter().flat_map(|v| (v.to_bits() >> 16).to_le_bytes()[..2].to_vec()).collect();
    quant::lossless::encode(&bf16, &mut lossless);
    let mut blocks = vec![0; rows * Encoding::Nf4.block_bytes()];
    quant::nf4::NF4.encode(quant::Rows::new(&values, cols), &mut blocks).ok()?;
    let data = [
        section(design.head(), &[codes]).ok()?,
        section(&[], &[lossless]).ok()?,
        section(&[], &[quant::nf4::nested::encode(&blocks)]).ok()?,
        zstd::bulk::compress(&[7; 40], 3).ok()?,
        vec![1; 34],
    ];
    let tiled = |coding, bytes: &[u8]| {
        Storage::Tiled(Tiles { coding, rows: tile_rows(cols) }, bytes.len() as u64)
    };
    let storages = [
        (Encoding::F32, vec![rows, cols], tiled(Coding::Codes, &data[0])),
        (Encoding::BF16, vec![rows, cols], tiled(Coding::Lossless, &data[1])),
        (Encoding::Nf4, vec![rows, cols], tiled(Coding::Nf4Dq, &data[2])),
        (Encoding::F16, vec![20], Storage::Zstd(data[3].len() as u64)),
        (Encoding::Q8_0, vec![1, 32], Storage::Plain),
    ];
    let sections: Vec<Section> = storages
        .into_iter()
        .enumerate()
        .map(|(n, (encoding, shape, storage))| {
            Section { planned: Planned { name: format!("t{n}"), encoding, shape }, storage }
        })
        .collect();
    let metadata: Metadata = vec![("key".to_owned(), Value::strings(["a".to_owned(), "b".to_owned()]))];
    let layout = Layout::from(place(&metadata, &sections).ok()?);
    let mut file = vec![0; layout.total_bytes() as usize];
    let data = layout.offsets().iter().copied().zip(data);
    for (offset, bytes) in layout.finish(&[Sum::default(); 5]).into_iter().chain(data) {
        file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    Some(file)
}
