//! What is wanted: which encodings the tensors of a file get.
//!
//! ```text
//! file_types.rs   the types that files are called by, and the encodings of their tensors
//! presets.rs      names for how large and good a file is to be
//! types.rs        types of single tensors, and the file that holds them
//! choices.rs      whose mix of types, what stands in, how long to search
//! scheme.rs       all of it settled, for a plan
//! ```

mod choices;
mod file_types;
mod presets;
mod scheme;
mod types;

pub use choices::{Fallback, Mix, Search};
pub use file_types::{CODED, FILE_TYPES, FileType, Levels, fitting};
pub use presets::Preset;
pub use scheme::Scheme;
pub use types::{TensorType, Types};
