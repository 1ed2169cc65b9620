//! Checkpoints that other programs quantized: their weights mean something only together with scales that stand in
//! tensors of their own.
//!
//! Nothing here reads such scales (4-bit matrices of bitsandbytes are joined by `formats`), so a file with them is
//! refused by the name of its method. Weights without their scales are wrong by a factor of hundreds, so no message ever
//! advises to leave such tensors out.
//! Sources: the tensor names of AutoGPTQ, AutoAWQ, bitsandbytes, compressed-tensors (vLLM), TensorRT Model Optimizer,
//! and `FineGrainedFP8Config` of transformers.

use formats::Container;
use quant::Encoding;

const HELP: &str = "start from the checkpoint that it was made from; or load the folder with transformers, call \
                    `model.dequantize()`, and save it";

/// Last words of the names of tensors that belong to quantized weights, and the method that writes them.
#[rustfmt::skip]
const PARTS: &[(&str, &str)] = &[
    ("g_idx", "GPTQ"),                     ("qzeros", "GPTQ or AWQ"),
    ("qweight", "GPTQ or AWQ"),            ("SCB", "LLM.int8 of bitsandbytes"),
    ("nested_absmax", "bitsandbytes"),     ("absmax", "bitsandbytes"),
    ("weight_packed", "compressed-tensors"), ("weight_zero_point", "compressed-tensors"),
    ("weight_g_idx", "compressed-tensors"),  ("weight_scale_2", "TensorRT Model Optimizer (NVFP4)"),
    ("weight_scale_inv", "a scale for each block (weight_scale_inv)"),
    ("weight_scale", "scales of tensors or rows (weight_scale)"),
    ("input_scale", "scales of activations (input_scale)"),
    ("scales", "scales of groups (scales)"), ("zeros", "zero points of groups (zeros)"),
    ("scale_inv", "scales (scale_inv)"),     ("scale", "scales (scale)"),
];

/// Names of methods as `config.json` spells them, and as their makers do.
#[rustfmt::skip]
const METHODS: &[(&str, &str)] = &[
    ("gptq", "GPTQ"), ("awq", "AWQ"), ("bitsandbytes", "bitsandbytes"), ("fp8", "FP8 in blocks"),
    ("fbgemm_fp8", "FBGEMM FP8"), ("compressed-tensors", "compressed-tensors"),
    ("modelopt", "TensorRT Model Optimizer"), ("hqq", "HQQ"), ("aqlm", "AQLM"), ("quanto", "Quanto"),
    ("torchao", "torchao"), ("eetq", "EETQ"), ("higgs", "HIGGS"), ("mxfp4", "MXFP4"),
];

/// Fault of `container`, if its weights are quantized with scales of their own, and advice.
pub(super) fn find(container: &Container) -> Option<(String, String)> {
    let stated = method(container);
    let part = PARTS.iter().find_map(|(word, by)| {
        let t = container.tensors().iter().find(|t| last_word(&t.name) == *word)?;
        Some((t, *by))
    });
    let is_fp8 = || container.tensors().iter().find(|t| t.encoding == Encoding::F8E4M3);
    let what = match (part, stated) {
        (Some((t, _)), Some(method)) => format!("quantized by {method} (with the tensor {:?})", t.name),
        (Some((t, by)), None) => format!("quantized with {by}: it has the tensor {:?}", t.name),
        (None, Some(method)) if method != "bitsandbytes" => {
            format!(
                "quantized by {method} as its config.json says, and the scales of {:?} are missing",
                is_fp8()?.name
            )
        }
        (None, _) => return None,
    };
    Some((format!("holds weights {what}, which cannot be converted"), HELP.to_owned()))
}

/// The method that `config.json` names.
fn method(container: &Container) -> Option<String> {
    let stated = container.config()?.get("quantization_config")?;
    let name = stated.get("quant_method")?.as_str()?;
    let known = METHODS.iter().find(|(spelled, _)| name.eq_ignore_ascii_case(spelled));
    let name =
        known.map_or_else(|| format!("{:?}", name.chars().take(40).collect::<String>()), |m| m.1.to_owned());
    let format = stated.get("format").and_then(serde_json::Value::as_str);
    Some(match format.map(|f| f.chars().take(40).collect::<String>()) {
        Some(format) => format!("{name} ({format:?})"),
        None => name,
    })
}

/// True if the tensor of this name may say what the weights of another one mean, so that leaving it out would make
/// those wrong.
pub(super) fn is_part(name: &str) -> bool {
    const ENDS: &[&str] =
        &["scale", "scales", "scale_inv", "scale_2", "zeros", "zero_point", "g_idx", "scb", "absmax"];
    let word = last_word(name).to_ascii_lowercase();
    PARTS.iter().any(|(part, _)| word == *part) || ENDS.iter().any(|end| word.ends_with(end))
}

fn last_word(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::is_part;

    #[test]
    fn parts_of_quantized_weights_are_known_by_their_names() {
        for name in [
            "a.scale",
            "a.scales",
            "a.zeros",
            "a.qzeros",
            "a.g_idx",
            "a.SCB",
            "a.absmax",
            "a.weight_scale_inv",
            "k_scale",
        ] {
            assert!(is_part(name), "{name}");
        }
        for name in ["a.weight", "a.bias", "a.scale.weight", "a.scaled", "blocks.0.att.time_state", "zeros.x"]
        {
            assert!(!is_part(name), "{name}");
        }
    }
}
