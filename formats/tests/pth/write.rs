//! Files that are written here: read back, and checked against their CRCs.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use formats::pth::{Crc32, PthPlacement, place};
use formats::{Checksums, Error, Limits, Metadata, Planned, Value, open};
use quant::Encoding;

use crate::build::{Scratch, dict, file, pth, zip};
use crate::real::models;

fn planned(name: &str, encoding: Encoding, shape: &[usize]) -> Planned {
    Planned { name: name.into(), encoding, shape: shape.to_vec() }
}

/// The whole file, with byte `i` of every tensor being `i`.
fn write(placement: &PthPlacement, tensors: &[Planned]) -> Vec<u8> {
    let mut bytes = vec![0; placement.total_bytes as usize];
    let mut crcs = Vec::new();
    for (t, offset) in tensors.iter().zip(&placement.offsets) {
        let data: Vec<u8> = (0..t.bytes().unwrap()).map(|i| i as u8).collect();
        crcs.push(crc32fast::hash(&data));
        bytes[*offset as usize..][..data.len()].copy_from_slice(&data);
    }
    for (at, piece) in placement.finish(&crcs) {
        bytes[at as usize..][..piece.len()].copy_from_slice(&piece);
    }
    bytes
}

fn all_types() -> Vec<Planned> {
    let mut tensors: Vec<Planned> =
        Encoding::all().filter(|e| formats::pth::holds(*e)).map(|e| planned(e.name(), e, &[3, 5])).collect();
    tensors.push(planned("scalar", Encoding::F32, &[]));
    tensors.push(planned("empty", Encoding::BF16, &[0, 4]));
    tensors.push(planned("blocks.0.att.x_r 时", Encoding::BF16, &[1, 1, 300]));
    tensors
}

#[test]
fn what_is_placed_is_read_back() {
    let tensors = all_types();
    assert_eq!(tensors.len(), 11 + 3);
    let metadata: Metadata = vec![
        ("_strategy".into(), "none".into()),
        ("layers".into(), Value::I64(-3)),
        ("large".into(), Value::I64(1 << 40)),
        ("smallest".into(), Value::I64(i64::MIN)),
        ("eps".into(), Value::F64(1e-5)),
        ("flag".into(), Value::Bool(true)),
        ("list".into(), Value::strings(["a".to_owned(), "b".to_owned()])),
        ("numbers".into(), Value::from(vec![300i64, 0x7fff_ffff])),
    ];
    let placement = place("my model", &metadata, &tensors).unwrap();
    let bytes = write(&placement, &tensors);
    let c = Scratch::new().open(&bytes).unwrap();
    assert_eq!(c.metadata(), &metadata);
    for ((t, planned), offset) in c.tensors().iter().zip(&tensors).zip(&placement.offsets) {
        assert_eq!((&t.name, t.encoding, &t.shape), (&planned.name, planned.encoding, &planned.shape));
        assert_eq!((t.offset, t.strides.as_ref(), offset % 64), (*offset, None, 0));
        assert!(c.bytes(t).iter().enumerate().all(|(i, b)| *b == i as u8));
    }
    let checksums = c.format().verify_checksums(&c, &Limits::default());
    assert_eq!(checksums.unwrap(), Checksums::Match(3 + tensors.len()));
}

#[test]
fn the_pieces_and_the_data_fill_the_file() {
    let tensors = all_types();
    let placement = place("m", &Metadata::new(), &tensors).unwrap();
    let mut ranges: Vec<(u64, u64)> =
        placement.finish(&[0; 14]).iter().map(|(at, piece)| (*at, piece.len() as u64)).collect();
    ranges.extend(placement.offsets.iter().zip(&tensors).map(|(at, t)| (*at, t.bytes().unwrap())));
    ranges.sort();
    let mut end = 0;
    for (at, len) in ranges {
        assert_eq!(at, end);
        end += len;
    }
    assert_eq!(end, placement.total_bytes);
}

#[test]
fn damage_is_found_and_named() {
    let tensors = [planned("a", Encoding::F32, &[20]), planned("b", Encoding::F32, &[20])];
    let placement = place("m", &Metadata::new(), &tensors).unwrap();
    let mut bytes = write(&placement, &tensors);
    bytes[placement.offsets[1] as usize + 7] ^= 4;
    let scratch = Scratch::new();
    let c = scratch.open(&bytes).unwrap();
    let error = c.format().verify_checksums(&c, &Limits::default()).unwrap_err().to_string();
    let expected = format!(
        "the data of \"m/data/1\" does not match its CRC-32: it is damaged, in tensor \"b\", at byte {}",
        placement.offsets[1]
    );
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn files_without_checksums_say_so() {
    let mut bytes = pth(&dict(|p| p.item("t", "0", &[2])), &[("0", 8)]);
    let crcs: Vec<u32> =
        [dict(|p| p.item("t", "0", &[2])), b"little".to_vec(), (0..8).collect(), b"3\n".to_vec()]
            .iter()
            .map(|data| crc32fast::hash(data))
            .collect();
    for i in 0..bytes.len() - 4 {
        if crcs.iter().any(|crc| bytes[i..i + 4] == crc.to_le_bytes()) {
            bytes[i..i + 4].fill(0);
        }
    }
    let c = Scratch::new().open(&bytes).unwrap();
    assert_eq!(c.format().verify_checksums(&c, &Limits::default()).unwrap(), Checksums::Absent);
}

#[test]
fn crcs_of_chunks_combine() {
    let mut whole = Crc32::new();
    for chunk in [b"abc".as_slice(), b"", b"defg"] {
        let mut crc = Crc32::new();
        crc.update(chunk);
        whole.combine(&crc);
    }
    assert_eq!(whole.finalize(), crc32fast::hash(b"abcdefg"));
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn real_files_match_their_checksums() {
    let folder = models();
    for (name, expected) in [
        ("tiny-rwkv7-834K.bf16.pth", Checksums::Match(399 + 6)),
        ("rwkv7-reverse-54K.fp32.legacy.pth", Checksums::Absent),
    ] {
        let c = open(&folder.join(name), &Limits::default()).unwrap();
        assert_eq!(c.format().verify_checksums(&c, &Limits::default()).unwrap(), expected);
    }
}

/// Beyond 4 GiB: a large tensor, and small ones behind it. The data is a hole in the file.
#[test]
fn large_files() {
    let tensors = [
        planned("small", Encoding::F32, &[3]),
        planned("large", Encoding::U8, &[5 << 10, 1 << 20]),
        planned("edge", Encoding::U8, &[u32::MAX as usize]),
        planned("last", Encoding::F32, &[3]),
    ];
    let placement = place("m", &Metadata::new(), &tensors).unwrap();
    let scratch = Scratch::new();
    let path = scratch.write(&[]);
    fill(&path, &placement, &[1, 2, 3, 4]);
    let c = open(&path, &Limits::default()).unwrap();
    for (t, offset) in c.tensors().iter().zip(&placement.offsets) {
        assert_eq!(t.offset, *offset);
    }
    assert_eq!(c.tensor("large").unwrap().bytes, 5 << 30);
}

/// More entries than 16 bits count.
#[test]
fn many_entries() {
    let tensors: Vec<Planned> = (0..70_000).map(|i| planned(&i.to_string(), Encoding::U8, &[1])).collect();
    let placement = place("m", &Metadata::new(), &tensors).unwrap();
    let scratch = Scratch::new();
    let path = scratch.write(&[]);
    fill(&path, &placement, &vec![0xd202_ef8d; tensors.len()]);
    let c = open(&path, &Limits::default()).unwrap();
    assert_eq!(c.tensors().len(), 70_000);
    assert_eq!(c.format().verify_checksums(&c, &Limits::default()).unwrap(), Checksums::Match(70_003));
}

/// Writes everything but the data, which is left as a hole.
fn fill(path: &Path, placement: &PthPlacement, crcs: &[u32]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.set_len(placement.total_bytes).unwrap();
    for (at, piece) in placement.finish(crcs) {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&piece).unwrap();
    }
}

#[test]
fn what_torch_cannot_hold_is_refused() {
    let t = |name: &str, encoding, shape: &[usize]| planned(name, encoding, shape);
    for (root, metadata, tensors) in [
        ("m", vec![], vec![t("a", Encoding::F32, &[1]), t("a", Encoding::F32, &[1])]),
        ("m", vec![("a".to_owned(), Value::U8(1))], vec![t("a", Encoding::F32, &[1])]),
        ("m", vec![("a".to_owned(), Value::U8(1)), ("a".to_owned(), Value::U8(1))], vec![]),
        ("m", vec![], vec![t("a", Encoding::Q8_0, &[32])]),
        ("m", vec![], vec![t("a", Encoding::F32, &[usize::MAX / 4, 1])]),
        ("m", vec![], vec![t("a", Encoding::F32, &[usize::MAX, 2])]),
        ("", vec![], vec![]),
        ("a/b", vec![], vec![]),
    ] {
        let result = place(root, &metadata, &tensors);
        assert!(matches!(result, Err(Error::CannotHold { .. })), "{result:?}");
    }
}

/// The CRC is checked of other zip files too, and those are not torch's.
#[test]
fn an_unused_entry_counts() {
    let pickle = dict(|p| p.item("t", "0", &[2]));
    let mut bytes = zip(&[file("m/data.pkl", pickle), file("m/data/0", vec![0; 8]), file("m/x", "unused")]);
    let at = (0..bytes.len()).find(|i| bytes[*i..].starts_with(b"unused")).unwrap();
    bytes[at] = b'X';
    let c = Scratch::new().open(&bytes).unwrap();
    let error = c.format().verify_checksums(&c, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("the data of \"m/x\" does not match"), "{error}");
}

/// The judge: torch itself, where `RWKV_QUANT_TORCH` names a Python that has it.
#[test]
fn torch_loads_what_is_written() {
    let Some(python) = std::env::var_os("RWKV_QUANT_TORCH") else {
        eprintln!("skipped: RWKV_QUANT_TORCH names no Python with torch");
        return;
    };
    let mut tensors = all_types();
    tensors.retain(|t| t.encoding != Encoding::Bool); // bytes other than 0 and 1 are no booleans
    let metadata = vec![("_strategy".to_owned(), "none".into()), ("n".to_owned(), Value::I64(1 << 40))];
    let path = Scratch::new().0.keep().join("x.pth");
    std::fs::write(&path, write(&place("m", &metadata, &tensors).unwrap(), &tensors)).unwrap();
    let script = "
import sys, torch
for mmap in (False, True):
    d = torch.load(sys.argv[1], weights_only=True, mmap=mmap)
    assert d.pop('_strategy') == 'none' and d.pop('n') == 1 << 40
    for name, t in d.items():
        raw = bytes(t.contiguous().reshape(-1).view(torch.uint8).tolist())
        assert raw == bytes(i % 256 for i in range(t.numel() * t.element_size())), name
    print(*(f'{n}|{str(t.dtype)}|{list(t.shape)}' for n, t in d.items()), sep=chr(10))
";
    let run = std::process::Command::new(python).args(["-c", script]).arg(&path).output().unwrap();
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(text.lines().count(), 2 * tensors.len());
    for t in &tensors {
        let shape = format!("|{:?}", t.shape);
        let found =
            text.lines().filter(|l| l.starts_with(&format!("{}|", t.name)) && l.ends_with(&shape)).count();
        assert_eq!(found, 2, "{t:?}: {text}");
    }
}
