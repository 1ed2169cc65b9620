//! Files of all formats but torch's that are small for what they ask.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Description, the file's name, and the function that writes it and tells how many of its bytes a reader has to look
/// at.
pub type Hostile = (&'static str, &'static str, fn(&Path) -> usize);

pub const ALL: &[Hostile] = &[
    // case gguf-header-memory: the file is a hole.
    ("60 GGUF arrays of a million u8", "a.gguf", |p| arrays(p, 60, 0, 1, 1 << 20)),
    ("150 GGUF arrays of a million u8", "a.gguf", |p| arrays(p, 150, 0, 1, 1 << 20)),
    ("GGUF arrays of u16", "a.gguf", |p| arrays(p, 40, 2, 2, 1 << 20)),
    ("GGUF arrays of i32", "a.gguf", |p| arrays(p, 20, 5, 4, 1 << 20)),
    ("GGUF arrays of f32", "a.gguf", |p| arrays(p, 20, 6, 4, 1 << 20)),
    ("GGUF arrays of bool", "a.gguf", |p| arrays(p, 90, 7, 1, 1 << 20)),
    ("GGUF arrays of texts", "a.gguf", |p| arrays(p, 11, 8, 8, 1 << 20)),
    ("GGUF arrays of u64", "a.gguf", |p| arrays(p, 12, 10, 8, 1 << 20)),
    ("GGUF arrays of f64", "a.gguf", |p| arrays(p, 12, 12, 8, 1 << 20)),
    ("a GGUF array of arrays", "a.gguf", |p| arrays(p, 1, 9, 1, 1 << 20)),
    ("a GGUF text of 90 MB", "a.gguf", gguf_text),
    ("a million GGUF keys", "a.gguf", gguf_keys),
    ("130000 GGUF tensors", "a.gguf", gguf_tensors),
    ("30 prefab arrays of a million numbers", "a.prefab", |p| prefab_arrays(p, 30, 1 << 20, &[0])),
    ("prefab arrays of texts", "a.prefab", |p| prefab_arrays(p, 20, 1 << 20, &[0x61, b'x'])),
    ("prefab arrays of empty texts", "a.prefab", |p| prefab_arrays(p, 20, 1 << 20, &[0x60])),
    ("prefab arrays of arrays", "a.prefab", |p| prefab_arrays(p, 20, 1 << 20, &[0x80])),
    ("a million prefab scalars", "a.prefab", prefab_scalars),
    ("prefab blobs", "a.prefab", prefab_blobs),
    // case rwkvz-bomb
    ("an index of 20 million numbers", "a.rwkvz", |p| rwkvz(p, &numbers(20_000_000))),
    ("an index of 65536 numbers", "a.rwkvz", |p| rwkvz(p, &numbers(65_536))),
    ("an index of many texts", "a.rwkvz", |p| rwkvz(p, &array("string", "\"\",", 5_000_000))),
    ("an index of one long text", "a.rwkvz", |p| rwkvz(p, &array("string", &"x".repeat(40_000_000), 0))),
    ("an index of many requirements", "a.rwkvz", |p| {
        rwkvz(
            p,
            &format!("{{\"requires\":[{}\"\"],\"metadata\":[],\"sections\":[]}}", "\"\",".repeat(5_000_000)),
        )
    }),
    ("an index of many keys", "a.rwkvz", |p| {
        let keys = "[\"a\",{\"u8\":0}],".repeat(2_000_000);
        rwkvz(
            p,
            &format!("{{\"requires\":[],\"metadata\":[{}],\"sections\":[]}}", keys.trim_end_matches(',')),
        )
    }),
    ("an index of a shape of many dimensions", "a.rwkvz", |p| {
        let shape = "1,".repeat(10_000_000);
        let section = format!(r#"{{"name":"a","shape":[{shape}1],"values":"f32","offset":64,"bytes":4}}"#);
        rwkvz(p, &format!(r#"{{"metadata":[],"sections":[{section}]}}"#))
    }),
    ("an index of fields that nobody knows", "a.rwkvz", |p| {
        rwkvz(p, &format!("{{\"x\":[{}0],\"metadata\":[],\"sections\":[]}}", "[],".repeat(5_000_000)))
    }),
    ("a safetensors key of 50 MB", "a.safetensors", |p| {
        safetensors(p, &format!("{{\"__metadata__\":{{\"k\":\"{}\"}}}}", "x".repeat(50_000_000)))
    }),
    ("safetensors metadata of many keys", "a.safetensors", |p| {
        let keys: String = (0..2_000_000).map(|i| format!("\"{i:x}\":\"\",")).collect();
        safetensors(p, &format!("{{\"__metadata__\":{{{}}}}}", keys.trim_end_matches(',')))
    }),
    ("a safetensors shape of many dimensions", "a.safetensors", |p| {
        let shape = "0,".repeat(10_000_000);
        safetensors(
            p,
            &format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{shape}0],\"data_offsets\":[0,0]}}}}"),
        )
    }),
    ("130000 safetensors tensors", "a.safetensors", |p| {
        let tensor = |i| format!("\"{i:x}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}},");
        let tensors: String = (0..130_000).map(tensor).collect();
        safetensors(p, &format!("{{{}}}", tensors.trim_end_matches(',')))
    }),
    ("an index file of many tensors", "a.safetensors.index.json", |p| {
        let map: String = (0..2_000_000).map(|i| format!("\"{i:x}\":\"a\",")).collect();
        text(p, &format!("{{\"weight_map\": {{{}}}}}", map.trim_end_matches(',')))
    }),
    ("a config.json of many numbers", "hf", |p| {
        config(p, &format!("{{\"a\":[{}0]}}", "0,".repeat(2_000_000)))
    }),
    ("a config.json of many lists", "hf", |p| {
        config(p, &format!("{{\"a\":[{}0]}}", "[],".repeat(1_300_000)))
    }),
    ("a config.json of many members", "hf", |p| {
        let members: String = (0..300_000).map(|i| format!("\"{i:x}\":0,")).collect();
        config(p, &format!("{{{}}}", members.trim_end_matches(',')))
    }),
    ("many rwkv.cpp tensors", "a.bin", rwkv_cpp),
];

fn text(path: &Path, text: &str) -> usize {
    fs::write(path, text).unwrap();
    text.len()
}

/// A GGUF file of so many keys that are arrays of values that are zero bytes; it takes no disk.
fn arrays(path: &Path, keys: usize, kind: u32, size: u64, len: u64) -> usize {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(b"GGUF").unwrap();
    file.write_all(&[3u32.to_le_bytes(), [0; 4], [0; 4], (keys as u32).to_le_bytes(), [0; 4]].concat())
        .unwrap();
    for i in 0..keys {
        let key = format!("array.{i}");
        file.write_all(&(key.len() as u64).to_le_bytes()).unwrap();
        file.write_all(key.as_bytes()).unwrap();
        file.write_all(&[9u32.to_le_bytes(), kind.to_le_bytes()].concat()).unwrap();
        file.write_all(&len.to_le_bytes()).unwrap();
        file.seek(SeekFrom::Current((len * size) as i64)).unwrap();
    }
    let end = file.stream_position().unwrap();
    file.set_len(end).unwrap();
    // The header may take no more.
    (end as usize).min(100 << 20)
}

fn gguf_head(tensors: u64, keys: u64) -> Vec<u8> {
    [b"GGUF".as_slice(), &3u32.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

fn write(path: &Path, bytes: &[u8]) -> usize {
    fs::write(path, bytes).unwrap();
    bytes.len()
}

fn gguf_text(path: &Path) -> usize {
    let mut bytes = gguf_head(0, 1);
    bytes.extend(
        [1u64.to_le_bytes().as_slice(), b"k", &8u32.to_le_bytes(), &90_000_000u64.to_le_bytes()].concat(),
    );
    bytes.resize(bytes.len() + 90_000_000, b'x');
    write(path, &bytes)
}

fn gguf_keys(path: &Path) -> usize {
    let mut bytes = gguf_head(0, 1 << 20);
    for i in 0..1u32 << 20 {
        bytes.extend(4u64.to_le_bytes());
        bytes.extend(
            format!("{:04}", i % 10_000).bytes().zip(i.to_be_bytes()).map(|(a, b)| a.wrapping_add(b) & 0x7f),
        );
        bytes.extend([0, 0, 0, 0, 1]);
    }
    write(path, &bytes)
}

fn gguf_tensors(path: &Path) -> usize {
    let mut bytes = gguf_head(130_000, 0);
    for i in 0..130_000u32 {
        let name = format!("{i:x}");
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend([1u32.to_le_bytes(), [0; 4], [0; 4], [0; 4], [0; 4], [0; 4]].concat());
    }
    write(path, &bytes)
}

/// A prefab with so many fields that are arrays of one item, repeated.
fn prefab_arrays(path: &Path, fields: u8, len: u32, item: &[u8]) -> usize {
    let mut bytes = vec![0xa0 | 1];
    bytes.extend(b"\x67context");
    bytes.extend([0xb8, fields]);
    for i in 0..fields {
        bytes.extend([0x61, b'0' + i, 0x9a]);
        bytes.extend(len.to_be_bytes());
        bytes.extend(item.repeat(len as usize));
    }
    write(path, &bytes)
}

fn prefab_scalars(path: &Path) -> usize {
    let mut bytes = b"\xa1\x67context\xba".to_vec();
    bytes.extend((1u32 << 20).to_be_bytes());
    (0..1u32 << 20).for_each(|i| bytes.extend(format!("\x65{i:05x}\0").into_bytes()));
    write(path, &bytes)
}

fn prefab_blobs(path: &Path) -> usize {
    let mut bytes = b"\xa1\x66tensor\xba".to_vec();
    bytes.extend(300_000u32.to_be_bytes());
    for i in 0..300_000 {
        bytes.extend(format!("\x65{i:05x}").into_bytes());
        bytes.extend(b"\xa2\x65shape\x84\0\0\0\0\x64data\x40");
    }
    write(path, &bytes)
}

fn numbers(count: usize) -> String {
    array("u8", "0,", count - 1)
}

/// An index with one key, an array of this kind with an item many times, and a last one.
fn array(kind: &str, item: &str, times: usize) -> String {
    let (items, last) = match times {
        0 => (String::new(), format!("\"{item}\"")),
        _ => (item.repeat(times), item.trim_end_matches(',').to_owned()),
    };
    format!(
        "{{\"requires\":[],\"metadata\":[[\"a\",{{\"array\":[\"{kind}\",[{items}{last}]]}}]],\"sections\":[]}}"
    )
}

/// A compact file with this index, right in all its checksums.
fn rwkvz(path: &Path, index: &str) -> usize {
    let frame = zstd::bulk::compress(index.as_bytes(), 3).unwrap();
    let mut bytes = b"RWKVZ\0\r\n\x01\0\0\0\0\0\0\0".to_vec();
    bytes.extend(&frame);
    for field in [16, frame.len() as u64, index.len() as u64, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(b"\x01\0\0\0\0\0\0\0");
    bytes.extend(Sha256::digest(&frame));
    bytes.extend(b"RWKVZEND");
    write(path, &bytes)
}

fn safetensors(path: &Path, header: &str) -> usize {
    write(path, &[&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat())
}

/// A folder of a model of no weights with this config.json.
fn config(path: &Path, text: &str) -> usize {
    fs::create_dir(path).unwrap();
    fs::write(path.join("config.json"), text).unwrap();
    text.len() + safetensors(&path.join("model.safetensors"), "{}")
}

fn rwkv_cpp(path: &Path) -> usize {
    let mut bytes = b"fmgg".to_vec();
    [101u32, 0, 0, 0, 0].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    for i in 0..131_000u32 {
        let name = format!("{i:05x}");
        [1, name.len() as u32, 0, 0].iter().for_each(|n: &u32| bytes.extend(n.to_le_bytes()));
        bytes.extend(name.as_bytes());
    }
    write(path, &bytes)
}
