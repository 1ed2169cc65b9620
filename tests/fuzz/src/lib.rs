//! Fuzz targets: one for each format (or part of one) that reads bytes from strangers.
//!
//! A target is a function that must come back, without a panic, for any bytes, soon, and without allocating
//! out of proportion. The program `fuzz` runs all targets on damaged seeds, the same ones every time; the
//! program `coverage` runs one under libFuzzer.
//!
//! A new format is one file in `targets/` and one line in [`targets`].

pub mod mutate;
mod targets;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Something to be fuzzed.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Valid inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Runs one input and says in a word how it ended. Inputs that end in a new way are kept as seeds.
    pub run: fn(&Scratch, &[u8]) -> String,
    /// Bytes that any input may make it allocate.
    pub base_bytes: usize,
}

impl Target {
    /// Valid inputs, and those that campaigns of fuzzing kept in `corpus/NAME.tar.gz`.
    ///
    /// # Panics
    /// If there is an archive and it cannot be read.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        let mut inputs = (self.seeds)();
        let name = format!("corpus/{}.tar.gz", self.name);
        if let Ok(file) = File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)) {
            let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
            for entry in archive.entries().expect("the archive is sound") {
                let mut bytes = Vec::new();
                entry.and_then(|mut e| e.read_to_end(&mut bytes)).expect("the archive is sound");
                inputs.push(bytes);
            }
        }
        inputs
    }
}

/// Bytes that any file may make the readers of a container allocate.
const BASE_BYTES: usize = 4 << 20;

/// Every target.
pub fn targets() -> Vec<&'static Target> {
    CONTAINERS.iter().chain(&targets::side::TARGETS).chain(&targets::side::CORPORA).collect()
}

static CONTAINERS: &[Target] = &[
    targets::gguf::TARGET,
    targets::compact::TARGET,
    targets::safetensors::TARGET,
    targets::rwkv_cpp::TARGET,
    targets::prefab::TARGET,
    targets::pth::ZIP,
    targets::pth::PICKLE,
    targets::pth::LEGACY,
    targets::blocks::TARGET,
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

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).expect("the scratch folder takes a file");
        path
    }

    /// A copy of a folder, made once.
    pub fn folder_of(&self, source: &Path) -> PathBuf {
        let folder = self.folder.path().join(source.file_name().unwrap_or_default());
        if !folder.is_dir() {
            std::fs::create_dir(&folder).expect("the scratch folder takes a folder");
            for entry in std::fs::read_dir(source).expect("the source is there") {
                let from = entry.expect("the source can be listed").path();
                let to = folder.join(from.file_name().unwrap_or_default());
                std::fs::copy(&from, to).expect("the scratch folder takes a file");
            }
        }
        folder
    }

    /// A folder with nothing in it.
    pub fn empty_folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).expect("the scratch folder takes a folder");
        folder
    }

    /// Opens `bytes` as a model, touches all that is in it, and says how that ended.
    pub fn open(&self, bytes: &[u8]) -> String {
        let path = self.file("input", bytes);
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
                let count = if matches!(error, formats::Error::Unsupported { .. }) { 3 } else { 8 };
                words(&error.to_string(), count)
            }
        }
    }
}

/// The first plain words of an error: names and numbers do not count as another way to end.
fn words(error: &str, count: usize) -> String {
    let text = error.rsplit("input").next().unwrap_or_default();
    let plain = |w: &&str| w.bytes().all(|b| b.is_ascii_lowercase());
    text.split_whitespace().filter(plain).take(count).collect::<Vec<_>>().join(" ")
}
