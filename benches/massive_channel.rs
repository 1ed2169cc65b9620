//! Gives a model of version 7 a massive channel, as the releases of 2.9 and 7.2 billion weights have in their first block,
//! without changing what it computes: `cargo run --release --example massive_channel -- MODEL OUT.pth [EXPONENT]`.
//!
//! By exact rescaling, what `blocks.0.att.output` takes from channel 7 gets `2^EXPONENT` times as large (by default 2048
//! times, so 4.2 million times in its mean square), and what `blocks.0.ffn.value` takes from channel 7 about as much.

use std::error::Error;
use std::path::PathBuf;

use rwkv_quant::convert::Request;
use rwkv_quant::equalize::{ChannelPair, Equalization};
use rwkv_quant::model::Model;
use rwkv_quant::pipeline::{Silent, Stop};
use rwkv_quant::recipe::FileType;
use rwkv_quant::targets;

/// The channel.
const CHANNEL: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (input, output, exponent) = match args.as_slice() {
        [input, output] => (input, output, 11),
        [input, output, exponent] => (input, output, exponent.parse::<i8>()?),
        _ => return Err("usage: massive_channel MODEL OUT.pth [EXPONENT]".into()),
    };
    let model = Model::open(input.as_ref(), &[])?;
    let mut rescaling = Equalization::default();
    for (name, channels) in [("g2", model.dims.embd), ("ffn", model.dims.ffn)] {
        let pair = ChannelPair::of(model.version).iter().find(|pair| pair.name == name);
        let pair = pair.ok_or_else(|| format!("{} has no pair {name}", model.version.about))?;
        let mut exponents = vec![0; channels];
        exponents[CHANNEL] = exponent / i8::try_from(pair.power)?;
        rescaling = rescaling.with(pair, 0, exponents);
    }
    let model = rescaling.applied(model)?;
    let request = Request { output: PathBuf::from(output), ..Request::default() };
    let target = targets::choose(&request.output, None)?;
    let mut prepared = request.plan(model, target, FileType::named("source")?, &Silent, &Stop::new())?;
    prepared.write(true, &Silent, &Stop::new())?;
    Ok(())
}
