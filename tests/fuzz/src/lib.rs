//! Fuzz targets: one for each format (or part of one) that reads bytes from strangers.
//!
//! A target is a function that must come back, without a panic, for any bytes, soon, and without allocating
//! out of proportion. The program `fuzz` runs all targets on damaged seeds, the same ones every time; the
//! program `coverage` runs one under libFuzzer.
//!
//! A new format is one file in `targets/` and one line in [`TARGETS`].

pub mod mutate;
mod targets;

use std::path::PathBuf;

use tempfile::TempDir;

/// Something to be fuzzed.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Valid inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Runs one input and says in a word how it ended. Inputs that end in a new way are kept as seeds.
    pub run: fn(&Scratch, &[u8]) -> String,
}

/// Every target.
pub static TARGETS: &[Target] = &[
    targets::gguf::TARGET,
    targets::compact::TARGET,
    targets::safetensors::TARGET,
    targets::rwkv_cpp::TARGET,
    targets::prefab::TARGET,
    targets::pth::ZIP,
    targets::pth::PICKLE,
    targets::pth::LEGACY,
];

/// Decodes the first tiles of a tensor; most are nonsense.
fn tiles(tensor: &formats::Tensor, tiled: &formats::compact::Tiled<'_>) {
    const MOST: usize = 1 << 16;
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let values = tiled.tiles.rows.min(tensor.rows()).saturating_mul(cols);
    let decoder = quant::coding::Decoder::new(tiled.tiles.coding, tiled.head, cols.min(MOST));
    if let (Ok(decoder), true) = (decoder, values <= MOST) {
        for tile in tiled.from(0).take(4) {
            let _ = decoder.decode(tile, &mut vec![0.0; values]);
        }
    }
}

/// A folder for the file that an input is, in memory where the system has such a place.
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// Makes the folder.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new() -> std::io::Result<Scratch> {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Ok(Scratch { folder: folder? })
    }

    /// Opens `bytes` as a model, touches all that is in it, and says how that ended.
    pub fn open(&self, bytes: &[u8]) -> String {
        let path = self.folder.path().join("input");
        std::fs::write(&path, bytes).expect("the scratch folder takes a file");
        match formats::open(&path, &formats::Limits::default()) {
            Ok(container) => {
                for tensor in container.tensors() {
                    if let Some(tiled) = container.tiled(tensor) {
                        tiles(tensor, &tiled);
                    } else if tensor.coded.is_none() {
                        assert_eq!(container.bytes(tensor).len() as u64, tensor.bytes, "{tensor:?}");
                    }
                    assert_eq!(container.tensor(&tensor.name), Some(tensor));
                    tensor.elements();
                    let _ = (container.blocks(tensor, 0..usize::MAX), container.codebook(tensor));
                }
                let _ = format!("{:?}", container.metadata());
                format!("{} tensors", container.tensors().len().min(9))
            }
            Err(error) => {
                error.help();
                // Only its first plain words: names and numbers do not count as another way to end.
                let text = error.to_string();
                let text = text.rsplit("input").next().unwrap_or_default();
                let plain = |w: &&str| w.bytes().all(|b| b.is_ascii_lowercase());
                let words = if matches!(error, formats::Error::Unsupported { .. }) { 3 } else { 8 };
                text.split_whitespace().filter(plain).take(words).collect::<Vec<_>>().join(" ")
            }
        }
    }
}
