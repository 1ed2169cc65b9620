//! The logits after every token of a text, for comparisons with other programs:
//! `cargo run --release --example logits -- MODEL <TOKENS >LOGITS`.
//!
//! Tokens are decimal numbers between blanks; logits come out as little-endian `f32`, a row a token.

use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;

use formats::Limits;
use rwkv_quant::model::Model;
use rwkv_quant::runner::{Options, Runner};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: logits MODEL <TOKENS >LOGITS")?;
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let tokens = text.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let model = Model::detect(formats::open(Path::new(&path), &Limits::default())?, &[])?;
    let runner = Runner::new(model, Options::default())?;
    let hidden = runner.run(&[&tokens], &mut [runner.start()])?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for row in 0..hidden.rows() {
        for value in runner.logits(&hidden, &[row])?.row(0) {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    out.flush()?;
    Ok(())
}
