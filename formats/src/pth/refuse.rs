//! Relatives of torch checkpoints that are no models, and what to say about them.

use crate::error::{Blame, Error};
use crate::pth::zip::Archive;

/// True if the file starts like a zip archive.
pub(super) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

/// True if the file starts like a pickle of protocol 2 or later. (The first bytes of a safetensors file are
/// a length and can look alike, but then comes the brace of its header.)
pub(super) fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..]) && bytes.get(8) != Some(&b'{')
}

/// True if the file is a tar archive.
pub(super) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// A zip archive that is no checkpoint.
pub(super) fn zip(archive: &Archive<'_>, blame: Blame<'_>) -> Error {
    let has = |name: &str| archive.entry(name).is_some();
    let (found, help) = if has("[Content_Types].xml") {
        ("an office document", "give the checkpoint instead")
    } else if archive.entries().iter().any(|e| e.name.ends_with(".pth") || e.name.ends_with(".safetensors")) {
        ("a zip archive with a model in it", "unpack it first")
    } else {
        (
            "a zip archive without data.pkl",
            "a torch checkpoint is a zip archive with a pickle data.pkl in it: give the checkpoint itself",
        )
    };
    not_a_model(found, help, blame)
}

/// True if the archive holds a compiled program besides the weights.
pub(super) fn is_torch_script(archive: &Archive<'_>, root: &str) -> bool {
    let code = format!("{root}/code/");
    archive.entry(&format!("{root}/constants.pkl")).is_some()
        || archive.entries().iter().any(|e| e.name.starts_with(&code))
}

/// An archive made by `torch.jit.save`.
pub(super) fn torch_script(blame: Blame<'_>) -> Error {
    blame.unsupported(
        "TorchScript (a compiled program with its weights)",
        "in Python, save the weights alone: torch.save(torch.jit.load(path).state_dict(), new_path)",
    )
}

/// A pickle that torch did not write.
pub(super) fn plain_pickle(blame: Blame<'_>) -> Error {
    not_a_model(
        "a plain Python pickle",
        "only files made by torch.save are read: save the state dict with torch.save(state_dict, path). \
         Loading an unknown pickle in Python can run any code, so do that only if you trust its maker",
        blame,
    )
}

/// A tar archive: what torch wrote before 0.1.10, or any other.
pub(super) fn tar(bytes: &[u8], blame: Blame<'_>) -> Error {
    let name = bytes.split(|b| *b == 0).next().unwrap_or_default();
    if [b"sys_info".as_slice(), b"pickle", b"storages", b"tensors"].contains(&name) {
        return blame.unsupported(
            "the tar layout of torch before 0.1.10 (2017)",
            "load and save it once with a torch between 0.1.10 and 1.0, which reads both layouts",
        );
    }
    not_a_model("a tar archive", "unpack it first", blame)
}

pub(super) fn not_a_model(found: &str, help: &'static str, blame: Blame<'_>) -> Error {
    Error::NotAModel { path: blame.path.to_owned(), found: found.to_owned(), help }
}
