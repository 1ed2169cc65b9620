//! Files that are recognised and refused by name, with what to do instead.

use formats::Container;

/// The key that marks a file of clusters of a head's rows.
pub const HEAD: &str = "rwkv-quant.head";

/// A kind of file that cannot be converted.
struct Refused {
    /// Description of the file.
    what: &'static str,
    /// Advice to the user.
    help: &'static str,
    /// A part of a tensor's name that only this kind has.
    marks: &'static [&'static str],
}

const OTHER_RELEASE: &str = "use a release of RWKV-4, 5, 6, 7 or 7a";

/// Kinds of refused files, in the order they are looked for.
const REFUSED: &[Refused] = &[
    Refused {
        what: "is an RWKV-8 ROSA model, which no runtime that we write for can run",
        help: OTHER_RELEASE,
        marks: &["rosa.", ".rosa_qkv", "rosa1."],
    },
    Refused {
        what: "is an RWKV-8 rc00 model (with ffn.enn), which no runtime that we write for can run",
        help: OTHER_RELEASE,
        marks: &[".ffn.enn.weight"],
    },
    Refused {
        what: "is an RWKV-7b model (DeepEmbed with attention), which no runtime that we write for can run",
        help: "use the release of RWKV-7 or 7a of the same size",
        marks: &[".qkv.qq.weight", ".qkv.k_emb.weight"],
    },
    Refused {
        what: "is an RWKV-7 release candidate (rc2 to rc4 of 2024), whose arithmetic differs from RWKV-7",
        help: "use a final RWKV-7 (x070) release; version 6 converters that accept this file make a wrong model",
        marks: &[".att.time_aaaaa", ".att.time_aaa_w1", ".att.time_kkk_w1", ".att.time_maa_a"],
    },
    Refused {
        what: "is an RWKV-6a experiment (low-rank gate), which no runtime runs",
        help: "use an RWKV-6 (x060) release",
        marks: &[".att.gate_w1", ".att.gate_w2"],
    },
    Refused {
        what: "is an RWKV-6b or 6c experiment, which no runtime runs",
        help: "use an RWKV-6 (x060) release",
        marks: &[".att.time_maa_rkvw_w1"],
    },
    Refused {
        what: "is an RWKV-X model (RWKV with sparse attention blocks)",
        help: OTHER_RELEASE,
        marks: &["moba."],
    },
    Refused {
        what: "is an embedding or reranking model built on RWKV-7, not a language model",
        help: OTHER_RELEASE,
        marks: &["reranker.", "vit."],
    },
    Refused {
        what: "is a hybrid of RWKV-7 and attention (cxa or hxa)",
        help: "only ARWKV-7 and RWKV6-Qwen2 hybrids are converted",
        marks: &[".self_attn.r_norm", ".self_attn.k_norm", ".self_attn.w0"],
    },
    Refused {
        what: "is an RWKV-6 folder of flash-linear-attention, whose token-shift order is another one",
        help: "use the original .pth, or the folder made for the RWKV-6 remote code",
        marks: &[".x_proj.0.linear", ".x_bias"],
    },
    Refused {
        what: "is an RWKV-2 or RWKV-3 model",
        help: OTHER_RELEASE,
        marks: &["blocks.0.att.time_mix\0"],
    },
];

/// Kind of file beside a model that `container` is, if it is one, and its use.
pub fn companion(container: &Container) -> Option<(&'static str, &'static str)> {
    if container.value(HEAD).is_some() {
        return Some(("an output layer to be read in part", "give its model, and this file as --head"));
    }
    const ADAPTER: &[&str] = &[".lora_A", ".lora_B", ".lora_a", ".lora_b", ".disha", ".bone"];
    let names = || container.tensors().iter().map(|t| t.name.as_str());
    // Of flash-linear-attention's models, the names of the low-rank matrices go on behind `.lora.0`.
    let of_adapter =
        |n: &str| ADAPTER.iter().any(|m| n.contains(m)) || n.ends_with(".lora.0") || n.ends_with(".lora.1");
    if names().any(of_adapter) {
        return Some(("a LoRA adapter", "give its base model, and this file as --lora"));
    }
    let state = names().all(|name| name.contains("time_state")) && names().count() > 0;
    let help = "give the model that the state was tuned for, and this file as --state";
    state.then_some(("an initial state (state tuning)", help))
}

/// Fault of `container`, if it is one of the kinds refused, and advice.
pub(super) fn find(container: &Container) -> Option<(String, String)> {
    no_model(container).or_else(|| other_architecture(container))
}

/// Fault of `container`, if it is no model at all, and advice.
pub(super) fn no_model(container: &Container) -> Option<(String, String)> {
    if container.value("_strategy").is_some() {
        return Some((
            "was converted by the pip package rwkv for one strategy: its tensors are transposed and scaled"
                .into(),
            "give the original .pth that it was made from".into(),
        ));
    }
    if container.value("rwkv-quant.shard").is_some() {
        return Some((
            "is one shard of a conversion, not a model".into(),
            "put all of them together: rwkv-quant merge OUTPUT".into(),
        ));
    }
    if container.value(HEAD).is_some() {
        return Some((
            "is an output layer to be read in part, not a model, and no runtime that we write for can use it"
                .into(),
            "give the model that it was made for to generate or eval-ppl, and this file as --head".into(),
        ));
    }
    if container.tensors().is_empty() {
        return Some((
            "holds no tensors at all".into(),
            "the program that made it failed: make it again, or get a sound copy".into(),
        ));
    }
    companion(container).map(|(what, help)| (format!("is {what}, not a model"), help.into()))
}

/// Fault of `container`, if it is a model of an architecture that is known and not converted, and advice.
pub(super) fn other_architecture(container: &Container) -> Option<(String, String)> {
    // The ends of names are marked by NUL, so that a mark can ask for one.
    let names: Vec<String> = container.tensors().iter().map(|t| format!("{}\0", t.name)).collect();
    let has = |mark: &str| names.iter().any(|n| n.contains(mark) || mark == n.trim_end_matches('\0'));
    REFUSED.iter().find(|r| r.marks.iter().any(|m| has(m))).map(|r| (r.what.to_owned(), r.help.to_owned()))
}
