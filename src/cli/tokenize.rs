//! `rwkv-quant tokenize`.

use std::io::{Read, Write};
use std::path::PathBuf;

use super::show;
use crate::error::{Error, Result};
use crate::hub;
use crate::metadata;
use crate::model::Model;
use crate::report::{Style, Tokens};
use crate::vocab::Coder;

/// Turns text into tokens, or tokens into text.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The text [default: what --file or standard input holds]
    text: Option<String>,
    /// A file with the text
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Take tokens (decimal numbers between blanks) and print the bytes that they stand for
    #[arg(long)]
    decode: bool,
    /// Vocabulary: a file (a tokenizer.json too), or `world` or `bytes`
    #[arg(long, value_name = "FILE", default_value = "world")]
    vocab: PathBuf,
    /// The model whose vocabulary to use
    #[arg(long, value_name = "MODEL", conflicts_with = "vocab")]
    model: Option<PathBuf>,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let coder = match &args.model {
        None => Coder::load(&args.vocab)?,
        Some(path) => metadata::coder(&Model::open(&hub::local(path)?, &[])?, None)?,
    };
    let input = input(args)?;
    if !args.decode {
        let ids = coder.encode(&input).map_err(|e| Error::Usage {
            what: e.to_string(),
            help: "give the vocabulary that the text was made for: --vocab FILE".to_owned(),
        })?;
        return show(&Tokens::new(ids, &coder), style);
    }
    let text = String::from_utf8_lossy(&input);
    let ids = text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty());
    let ids: Vec<u32> = ids
        .map(|w| {
            w.parse().ok().filter(|id| (*id as usize) < coder.size()).ok_or_else(|| Error::Usage {
                what: format!("{w:?} is no token of the vocabulary {}", coder.vocab().name),
                help: format!("tokens are numbers below {}", coder.size()),
            })
        })
        .collect::<Result<_>>()?;
    if style != Style::Human {
        return show(&Tokens::new(ids, &coder), style);
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(&coder.decode(&ids)).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to", std::path::Path::new("standard output"))(e))
        }
        _ => Ok(()),
    }
}

fn input(args: &Args) -> Result<Vec<u8>> {
    if let Some(text) = &args.text {
        return Ok(text.clone().into_bytes());
    }
    if let Some(path) = &args.file {
        return std::fs::read(path).map_err(Error::read("text", path));
    }
    let mut bytes = Vec::new();
    let stdin = std::path::Path::new("standard input");
    std::io::stdin().read_to_end(&mut bytes).map_err(Error::io("read", stdin))?;
    Ok(bytes)
}
