//! The program `rwkv-quant`: see [`rwkv_quant::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    rwkv_quant::cli::main()
}
