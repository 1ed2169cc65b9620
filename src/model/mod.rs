//! RWKV itself: what tensors a model of each version has, and how to find them in a file.
//!
//! The canonical model is BlinkDL's: his tensor names, shapes and orientation. A version ([`Version`]) is a
//! table of [`Slot`]s in his terms ([`v4`], [`v5`], [`v6`], [`v7`]); a [`Naming`] says how a family of files
//! stores a slot under another name or in another orientation. [`Model::detect`] finds which version and naming a file
//! has, checks every shape against the others, and gives every tensor of the file a place, a named reason
//! to be dropped, or an error.

mod detect;
mod lazy;
mod naming;
mod refused;
mod shape;
mod slot;
pub mod v4;
pub mod v5;
pub mod v6;
pub mod v7;

pub use detect::{Dropped, Held, Model};
pub use lazy::{Lazy, Map};
pub use naming::{NAMINGS, Naming, Stored};
pub use shape::{Dims, Ranks};
pub use slot::{Dim, Rank, Role, Scope, Slot};

/// One version of the architecture.
#[derive(Debug)]
pub struct Version {
    /// The version's number: `7.0`, `5.2`, `7a`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Every tensor of the model, in canonical order.
    pub slots: &'static [&'static [Slot]],
    /// Slots of block 0 that only this version and its successors have: the first version of [`VERSIONS`]
    /// all of whose markers are found is the one.
    pub markers: &'static [&'static str],
}

impl Version {
    /// All slots, in canonical order.
    pub fn slots(&self) -> impl Iterator<Item = &'static Slot> {
        self.slots.iter().flat_map(|part| part.iter())
    }

    /// The first digit of the version's number.
    pub fn major(&self) -> u32 {
        self.name.bytes().next().map_or(0, |b| u32::from(b - b'0'))
    }
}

/// Every version, in the order in which their markers are looked for.
pub static VERSIONS: &[&Version] =
    &[&v7::V7A, &v7::V7, &v6::V6, &v5::V5_2, &v5::V5_1, &v5::V5_1_REAL, &v5::V5_0, &v4::V4];
