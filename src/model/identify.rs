//! Identification of a container's version and naming: the first pair all of whose markers are there.

use formats::{Container, Value};

use super::spec::{Dim, Role};
use super::{NAMINGS, Naming, Stored, VERSIONS, Version, quantized, refused};
use crate::error::{Error, Result};

/// Wrappers that training code leaves before the names.
const WRAPPERS: &[&str] = &["module.", "_orig_mod.", "_forward_module.", "model.", "rwkv."];

/// Version, naming and wrapper of a file.
pub(super) fn identify(container: &Container) -> Result<(&'static Version, &'static Naming, String)> {
    let path = container.path();
    if let Some((what, help)) = refused::find(container).or_else(|| quantized::find(container)) {
        return Err(Error::Model { path: path.to_owned(), what, help });
    }
    find(container)?.ok_or_else(|| not_rwkv(container))
}

/// True if a file holds tensors of an architecture that is none of RWKV's released ones: nothing is known of them but
/// how they are stored. (What looks like RWKV and is not found is damaged.)
pub(crate) fn is_unknown(container: &Container) -> bool {
    const RWKV: &[&str] =
        &["blocks.0.att.", "blk.0.time_mix", ".att.time_", ".attention.time_", ".self_attn.r_k"];
    if refused::no_model(container).is_some() {
        return false;
    }
    let stated = container.value("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let is_like = |name: &str| RWKV.iter().any(|part| name.contains(part));
    let is_rwkv = stated.contains("rwkv") || container.tensors().iter().any(|t| is_like(&t.name));
    refused::other_architecture(container).is_some() || (!is_rwkv && matches!(find(container), Ok(None)))
}

/// Version, naming and wrapper of a file, if they are known.
fn find(container: &Container) -> Result<Option<(&'static Version, &'static Naming, String)>> {
    for version in VERSIONS {
        for naming in NAMINGS.iter().filter(|n| n.formats.contains(&container.format().name())) {
            if let Some(prefix) = matches(container, version, naming) {
                let transposes =
                    |n: &&Naming| stores_transposed(version, n) != stores_transposed(version, naming);
                let rivals = || NAMINGS.iter().filter(|n| n.formats.contains(&container.format().name()));
                if rivals().filter(transposes).any(|n| matches(container, version, n).is_some()) {
                    return Err(ambiguous(container));
                }
                return Ok(Some((version, naming, prefix)));
            }
        }
    }
    Ok(None)
}

/// True if a naming stores the version's low-rank matrices [out, in].
fn stores_transposed(version: &Version, naming: &Naming) -> bool {
    let mut low_rank = version.specs().filter(|s| s.role == Role::LowRank);
    low_rank.any(|s| naming.store(version, s).is_some_and(|s| s.transposed))
}

/// All low-rank matrices are square: nothing tells whether they are transposed.
fn ambiguous(container: &Container) -> Error {
    Error::Model {
        path: container.path().to_owned(),
        what: "has square low-rank matrices only, so nothing tells whether it is made for web-rwkv, which transposes \
               them"
            .to_owned(),
        help: "give the .pth that it was made from".to_owned(),
    }
}

/// The wrapper under which `container` has this version in this naming.
fn matches(container: &Container, version: &Version, naming: &Naming) -> Option<String> {
    let stored = |name: &str| {
        let spec = version.specs().find(|s| s.name == name)?;
        naming.store(version, spec)
    };
    let embedding = stored("emb.weight")?;
    let prefix = prefix(container, &embedding.name, naming.wrapped)?;
    let get = |stored: &Stored| lookup(container, &prefix, &stored.name_in(0));
    let all = version.markers.iter().all(|m| stored(m).is_some_and(|s| get(&s).is_some()));
    // Where two namings differ in orientation only, the shapes of the low-rank matrices decide.
    let embd = *container.tensors()[get(&embedding)?].shape.last()?;
    let oriented = version.specs().filter(|s| s.role == Role::LowRank).all(|spec| {
        let Some(stored) = naming.store(version, spec) else { return false };
        let Some(i) = get(&stored) else { return true };
        match (container.tensors()[i].shape.as_slice(), spec.shape) {
            // BlinkDL's [C, rank], or [rank, C].
            ([rows, cols], [Dim::C, _]) => (if stored.transposed { cols } else { rows }) == &embd,
            ([rows, cols], [_, Dim::C]) => (if stored.transposed { rows } else { cols }) == &embd,
            _ => true,
        }
    });
    // Where two versions differ in shape only, the decay decides: a value a head, or a value a channel.
    let count = |name: &str| Some(container.tensors()[get(&stored(name)?)?].elements());
    let decay = "blocks.{}.att.time_decay";
    let per_channel = version
        .specs()
        .find(|s| s.name == decay)
        .is_some_and(|s| s.shape.contains(&Dim::N) || s.shape.contains(&Dim::A));
    let grained = match (count(decay), count("blocks.{}.att.ln_x.weight")) {
        (Some(decays), Some(channels)) => (decays == channels) == per_channel,
        _ => true,
    };
    (all && oriented && grained).then_some(prefix)
}

/// The wrapper before `name` in `container`: nothing, or some of [`WRAPPERS`].
fn prefix(container: &Container, name: &str, wrapped: bool) -> Option<String> {
    if container.tensor(name).is_some() {
        return Some(String::new());
    }
    if !wrapped {
        return None;
    }
    container.tensors().iter().find_map(|t| {
        let prefix = t.name.strip_suffix(name)?;
        let mut rest = prefix;
        while let Some(r) = WRAPPERS.iter().find_map(|w| rest.strip_prefix(w)) {
            rest = r;
        }
        rest.is_empty().then(|| prefix.to_owned())
    })
}

/// The number of the tensor `name`, behind the wrapper or (as transformers stores heads) without it.
fn lookup(container: &Container, prefix: &str, name: &str) -> Option<usize> {
    let find = |name: &str| container.tensors().iter().position(|t| t.name == name);
    find(&format!("{prefix}{name}")).or_else(|| find(name))
}

/// Says why a container holds no RWKV model.
fn not_rwkv(container: &Container) -> Error {
    let path = container.path().to_owned();
    let architecture = container
        .value("general.architecture")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .or_else(|| Some(container.config()?.get("architectures")?.get(0)?.as_str()?.to_owned()));
    let what = match architecture {
        Some(name) => {
            format!("holds a model of the architecture {name:?}, not an RWKV model of version 4 to 7")
        }
        None => {
            let names: Vec<&str> = container.tensors().iter().take(3).map(|t| t.name.as_str()).collect();
            format!("holds no RWKV model of version 4 to 7 (its first tensors: {})", names.join(", "))
        }
    };
    let help = "see `rwkv-quant inspect` for what is in the file; `convert --as-tensors` stores any tensors in another \
                format and type (.pth, .safetensors, .rwkvz)"
        .to_owned();
    Error::Model { path, what, help }
}
