//! Torch checkpoints: the archive, the pickle in it, and the legacy layout.

use formats::{Metadata, Planned, Value, pth};
use quant::Encoding;

use crate::{BASE_BYTES, Scratch, Target};

/// Whole files in the zip layout.
pub const ZIP: Target = Target { name: "pth", seeds: zips, run: |scratch, bytes| scratch.open(bytes), base_bytes: BASE_BYTES };
/// Pickles, put into an archive that is in order.
pub const PICKLE: Target = Target { name: "pth-pickle", seeds: pickles, run: in_archive, base_bytes: BASE_BYTES };
/// Whole files in the legacy layout.
pub const LEGACY: Target =
    Target { name: "pth-legacy", seeds: legacies, run: |scratch, bytes| scratch.open(bytes), base_bytes: BASE_BYTES };

fn tensors() -> Vec<Planned> {
    let planned = |name: &str, encoding, shape: &[usize]| Planned {
        name: name.into(),
        encoding,
        shape: shape.to_vec(),
    };
    vec![
        planned("emb.weight", Encoding::F32, &[2, 3]),
        planned("x", Encoding::BF16, &[1, 1, 4]),
        planned("f8", Encoding::F8E4M3, &[4]),
        planned("scalar", Encoding::F32, &[]),
    ]
}

fn metadata() -> Metadata {
    vec![
        ("_strategy".to_owned(), Value::from("cpu fp32")),
        ("large".to_owned(), Value::I64(1 << 40)),
        ("list".to_owned(), Value::from(vec![0.5f64])),
    ]
}

fn zips() -> Vec<Vec<u8>> {
    [(metadata(), tensors()), (Metadata::new(), tensors().into_iter().take(1).collect())]
        .into_iter()
        .filter_map(|(metadata, tensors)| {
            let placement = pth::place("m", &metadata, &tensors).ok()?;
            let mut bytes = vec![0; placement.total_bytes as usize];
            for (at, piece) in placement.finish(&vec![0; tensors.len()]) {
                bytes.get_mut(at as usize..at as usize + piece.len())?.copy_from_slice(&piece);
            }
            Some(bytes)
        })
        .collect()
}

/// Pickles of state dicts in the words of several protocols, and of what is refused.
fn pickles() -> Vec<Vec<u8>> {
    let tensor: &[u8] =
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000\
        X\x03\0\0\0cpuK\x06tQK\0K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR";
    let parts: [&[u8]; 9] = [
        b"\x80\x02}(X\x01\0\0\0a",
        b"\x80\x02ccollections\nOrderedDict\n)Rq\0(X\x01\0\0\0aq\x01",
        b"\x80\x02}(X\x05\0\0\0epochK\x01X\x0a\0\0\0state_dict}(X\x01\0\0\0a",
        b"\x80\x02](",
        b"u.",
        b"u}X\x09\0\0\0_metadatah\0sb.",
        b"uX\x04\0\0\0note](K\x01G?\xe0\0\0\0\0\0\0\x8a\x02\xff\0Ne}X\x01\0\0\0xU\x02ab\x8fu.",
        b"e.",
        b"X\x01\0\0\0bctorch._utils\n_rebuild_parameter\n(",
    ];
    let [dict, ordered, wrapped, list, end, end_ordered, end_wrapped, end_list, parameter] = parts;
    vec![
        [dict, tensor, end].concat(),
        [ordered, tensor, end_ordered].concat(),
        [wrapped, tensor, end_wrapped].concat(),
        [list, tensor, tensor, end_list].concat(),
        [dict, tensor, parameter, tensor, b"\x88}tR", end].concat(),
        b"\x80\x04\x95\x08\0\0\0\0\0\0\0}\x94\x8c\x01a\x94\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\
          \x94((\x8c\x07storage\x94\x8c\x05torch\x94\x8c\x0cFloatStorage\x94\x93\x94\x8c\x010\x94\x8c\x03cpu\x94\
          K\x06t\x94QK\x00K\x02\x85\x94K\x01\x85\x94\x89}\x94t\x94R\x94s."
            .to_vec(),
        b"(dp0\nVt\np1\nctorch._utils\n_rebuild_tensor\np2\n((S'storage'\np3\nctorch\nFloatStorage\np4\nS'0'\n\
          p5\nS'cpu'\nI6\ntp6\nQI0\n(I2\nt(L1L\ntp7\ntRp8\nsV_note\nF1.5\nsg1\n0."
            .to_vec(),
        b"\x80\x02cos\nsystem\nX\x04\0\0\0echo\x85R.".to_vec(),
    ]
}

/// A zip archive of the pickle and one storage of 24 bytes.
fn in_archive(scratch: &Scratch, pickle: &[u8]) -> String {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in [("m/data.pkl", pickle), ("m/data/0", &[1; 24])] {
        let header = out.len() as u32;
        let sizes = [[0; 4], (data.len() as u32).to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        let name_bytes = (name.len() as u16).to_le_bytes();
        for part in
            [b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0", &sizes[..], &name_bytes, b"\0\0", name.as_bytes(), data]
        {
            out.extend_from_slice(part);
        }
        let header = header.to_le_bytes();
        for part in [
            b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0",
            &sizes[..],
            &name_bytes,
            &[0; 12],
            &header,
            name.as_bytes(),
        ] {
            directory.extend_from_slice(part);
        }
    }
    let start = (out.len() as u32).to_le_bytes();
    let len = (directory.len() as u32).to_le_bytes();
    out.extend_from_slice(&directory);
    for part in [b"PK\x05\x06\0\0\0\0\x02\0\x02\0", &len[..], &start, b"\0\0"] {
        out.extend_from_slice(part);
    }
    scratch.open(&out)
}

fn legacies() -> Vec<Vec<u8>> {
    let head =
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0\
        little_endian\x88s.";
    let data = [&b"\x80\x02](X\x01\0\0\x000e.\x06\0\0\0\0\0\0\0"[..], &[1; 24]].concat();
    pickles().into_iter().map(|pickle| [head, &pickle[..], &data[..]].concat()).collect()
}
