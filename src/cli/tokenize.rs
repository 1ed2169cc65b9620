//! `rwkv-quant tokenize`.

use std::io::{Read, Write};
use std::path::PathBuf;

use super::show;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::report::{Style, Tokens};
use crate::targets::gguf;
use crate::vocab::{Greedy, Vocab};

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
    /// Vocabulary: a file, or `world` or `bytes`
    #[arg(long, value_name = "FILE", default_value = "world")]
    vocab: PathBuf,
    /// The model whose vocabulary to use
    #[arg(long, value_name = "MODEL", conflicts_with = "vocab")]
    model: Option<PathBuf>,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let vocab = match &args.model {
        None => Vocab::load(&args.vocab)?,
        Some(path) => {
            let model = Model::open(path, &[])?;
            gguf::vocab_of(&model.container).or_else(|| Vocab::usual(model.dims.vocab)).ok_or_else(|| {
                Error::Usage {
                    what: format!("{} has no vocabulary of its own", path.display()),
                    help: "give one: --vocab FILE".to_owned(),
                }
            })?
        }
    };
    let tokenizer = Greedy::new(&vocab);
    let input = input(args)?;
    if !args.decode {
        let ids = tokenizer.encode(&input).map_err(|e| Error::Usage {
            what: e.to_string(),
            help: "give the vocabulary that the text was made for: --vocab FILE".to_owned(),
        })?;
        return show(&Tokens::new(ids, &tokenizer), style);
    }
    let text = String::from_utf8_lossy(&input);
    let ids = text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty());
    let ids: Vec<u32> = ids
        .map(|w| {
            w.parse().ok().filter(|id| (*id as usize) < tokenizer.size()).ok_or_else(|| Error::Usage {
                what: format!("{w:?} is no token of the vocabulary {}", vocab.name),
                help: format!("tokens are numbers below {}", tokenizer.size()),
            })
        })
        .collect::<Result<_>>()?;
    let mut out = std::io::stdout().lock();
    match out.write_all(&tokenizer.decode(&ids)).and_then(|()| out.flush()) {
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
        return std::fs::read(path).map_err(Error::io("read the text", path));
    }
    let mut bytes = Vec::new();
    let stdin = std::path::Path::new("standard input");
    std::io::stdin().read_to_end(&mut bytes).map_err(Error::io("read", stdin))?;
    Ok(bytes)
}
