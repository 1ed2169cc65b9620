//! The program `rwkv-quant`: see [`rwkv_quant::cli`].

#![deny(unsafe_code)]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod process;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        process::return_large_buffers();
        process::report_large_files();
    }
    rwkv_quant::cli::main()
}
