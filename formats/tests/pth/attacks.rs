//! Files made to do harm: each is one clear error, quickly and in little memory.

use formats::{Container, Error, Limits};

use crate::build::{Pickle, Scratch, View, dict, error, file, open, pth, zip};

#[test]
fn no_code_can_be_named() {
    let shell = Pickle::new().global("os", "system").text("echo harm").op(b"\x85R").stop();
    let (text, help) = error(&pth(&shell, &[]));
    assert_eq!(text, "x.pth uses the Python object os.system (at byte 42), which is not supported");
    assert!(
        help.starts_with("only state dicts of tensors are read: save with torch.save(model.state_dict()")
    );
    for (module, name) in [
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch", "hub.load"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "namedtuple"),
        ("torch._utils", "__builtins__"),
        ("", ""),
    ] {
        for pickle in [
            Pickle::new().global(module, name),
            Pickle::new().text(module).text(name).op(b"\x93"),
            Pickle::new().op(b"(").op(format!("i{module}\n{name}\n").as_bytes()),
        ] {
            let text = error(&pth(&pickle.op(b")R").stop(), &[])).0;
            assert!(text.contains(&format!("the Python object {module}.{name} (at byte ")), "{text}");
        }
    }
}

#[test]
fn names_cannot_garble_the_terminal() {
    let pickle = Pickle::new().global("\x1b[2J", &"x".repeat(5000)).stop();
    let text = error(&pth(&pickle, &[])).0;
    assert!(!text.contains('\x1b') && text.len() < 400, "{text}");
}

fn malformed(bytes: &[u8], what: &str) {
    said(open(bytes), what);
}

/// Checks the error with room for a thousand tensors only, so that limits are reached soon.
fn malformed_within(bytes: &[u8], what: &str) {
    let mut limits = Limits::default();
    limits.tensors = 1000;
    said(formats::open(&Scratch::new().write(bytes), &limits), what);
}

fn said(result: Result<Container, Error>, what: &str) {
    match result {
        Err(e @ (Error::Malformed { .. } | Error::Limit { .. })) => {
            assert!(e.to_string().contains(what), "{e}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn windows_outside_their_storage() {
    let t = |elements: i64, view: View<'_>| {
        pth(&dict(|p| p.text("t").tensor("FloatStorage", "0", elements, view)), &[("0", 24)])
    };
    assert!(open(&t(6, View(0, &[6], &[1]))).is_ok());
    let max = i64::MAX;
    for view in [
        View(1, &[6], &[1]),
        View(0, &[7], &[1]),
        View(0, &[2, 3], &[4, 1]),
        View(max, &[6], &[1]),
        View(max, &[], &[]),
        View(7, &[0], &[1]),
        View(0, &[max, max], &[max, 1]),
        View(0, &[max], &[0]),
        View(0, &[1 << 20, 1 << 20], &[0, 0]),
        View(0, &[2], &[max]),
        View(0, &[max, 4, 0], &[0, 0, 0]),
    ] {
        malformed(&t(6, view), "does not fit the storage");
    }
    malformed(&t(6, View(-1, &[1], &[1])), "not described as torch does");
    malformed(&t(6, View(0, &[-1], &[1])), "no tuple of sizes");
    malformed(&t(6, View(0, &[1, 1], &[1])), "not described as torch does");
    malformed(&t(6, View(0, &[1; 9], &[1; 9])), "dimensions");
    malformed(&t(7, View(0, &[6], &[1])), "the storage \"m/data/0\" has 24 bytes, and 7 elements");
    malformed(&t(max, View(0, &[6], &[1])), "elements of 4 bytes should be in it");
    let missing = dict(|p| p.item("t", "../0", &[6]));
    malformed(&pth(&missing, &[("0", 24)]), "the storage \"m/data/../0\" is missing");
}

#[test]
fn two_tensors_of_one_name() {
    let twice = dict(|p| p.item("t", "0", &[2]).item("t", "0", &[2]));
    malformed(&pth(&twice, &[("0", 8)]), "two tensors have the same name");
}

/// `(x, x)` of `(x, x)` of ...: 2^n leaves if it were ever copied.
#[test]
fn a_bomb_of_nested_tuples() {
    let mut p = Pickle::new().op(b"](").text("lol").op(b"e");
    for i in 0..200u8 {
        p = p.op(&[b'q', i, b'h', i, 0x86]);
    }
    malformed_or_no_model(&pth(&p.stop(), &[]));
    let mut deep = Pickle::new().op(b"N");
    deep.0.extend(std::iter::repeat_n(0x85, 1_000_000));
    malformed_or_no_model(&pth(&deep.stop(), &[]));
}

fn malformed_or_no_model(bytes: &[u8]) {
    let result = open(bytes);
    assert!(
        matches!(result, Err(Error::Malformed { .. } | Error::Limit { .. } | Error::NotAModel { .. })),
        "{result:?}"
    );
}

#[test]
fn cycles_end() {
    let list = Pickle::new().op(b"]q\0h\0a").stop();
    malformed_or_no_model(&pth(&list, &[]));
    let own = Pickle::new().op(b"}q\0").text("model").op(b"h\0s").stop();
    malformed_or_no_model(&pth(&own, &[]));
    // The state dict holds itself beside a tensor; and is its own wrapper.
    let with =
        |key: &str| Pickle::new().op(b"}q\0(").text(key).op(b"h\0").item("t", "0", &[2]).op(b"u").stop();
    assert_eq!(open(&pth(&with("own"), &[("0", 8)])).unwrap().tensors().len(), 1);
    malformed_or_no_model(&pth(&with("model"), &[("0", 8)]));
    let mut parents = Pickle::new().op(b"}q\0(").text("a").op(b"}q\x01(").text("b").op(b"h\0");
    parents = parents.text("c").op(b"}(").item("t", "0", &[2]).op(b"uuu");
    malformed_or_no_model_or_unclear(&pth(&parents.stop(), &[("0", 8)]));
}

fn malformed_or_no_model_or_unclear(bytes: &[u8]) {
    assert!(matches!(open(bytes), Err(Error::Unsupported { .. } | Error::NotAModel { .. })));
}

/// A long text or list mentioned over and over, at a few bytes a time.
#[test]
fn repeated_values_are_not_copied_without_end() {
    let long = "x".repeat(1 << 20);
    let mut p = Pickle::new().op(b"}(").item("t", "0", &[2]).text("k").text(&long).op(b"q\0");
    for i in 0..1000i64 {
        p = p.int(i).op(b"h\0");
    }
    malformed(&pth(&p.op(b"u").stop(), &[("0", 8)]), "bytes of memory to be opened");

    let mut p = Pickle::new().op(b"](");
    for _ in 0..1_000 {
        p = p.op(b"))\x86");
    }
    p = p.op(b"eq\0").global("collections", "OrderedDict").op(b"q\x01");
    for _ in 0..1_000 {
        p = p.op(b"0h\x01h\0\x85R");
    }
    malformed_within(&pth(&p.stop(), &[]), "more than the limit");
}

#[test]
fn counts_that_lie() {
    for op in [
        b"X\xff\xff\xff\xff".as_slice(),
        b"B\xff\xff\xff\x7f",
        b"T\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\xff",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
        b"Iabc\n",
        b"Sabc\n",
        b"p-1\n",
        b"h\x01",
        b"j\xff\xff\xff\xff",
        b"a",
        b"(e",
        b"u",
        b"NNs",
        b"}(Nu",
        b"NR",
        b"N)R",
        b"Nb",
        b"NQ",
        b")Q",
        b"1",
        b"t",
        b"2",
        b"0",
        b"(a",
        b"N(0000",
        b"\x82\x01",
        b"\x97",
        b"o",
        b"P0\n",
        b"\xff",
        b"",
    ] {
        malformed(&pth(&Pickle::new().op(op).0, &[]), "no valid torch file");
    }
    malformed_within(&pth(&[b'N'; 100_000], &[]), "pickle instructions");
    malformed_within(&pth(&[b']'; 10_000], &[]), "pickled containers");
}

#[test]
fn archives_that_lie() {
    let pickle = dict(|p| p.item("t", "0", &[2]));
    let good = vec![file("m/data.pkl", pickle), file("m/data/0", vec![1; 8])];
    assert!(open(&zip(&good)).is_ok());
    let mut twice = good.clone();
    twice.push(file("m/data/0", vec![2; 8]));
    malformed(&zip(&twice), "\"m/data/0\" is in the archive twice");
    let mut roots = good.clone();
    roots.push(file("n/data.pkl", "."));
    assert!(matches!(open(&zip(&roots)), Err(Error::NotAModel { .. })));

    let bytes = zip(&good);
    let find = |magic: &[u8], nth: usize| {
        let all: Vec<usize> = (0..bytes.len() - 4).filter(|i| bytes[*i..].starts_with(magic)).collect();
        all[nth]
    };
    let with = |at: usize, new: &[u8]| {
        let mut b = bytes.clone();
        b[at..at + new.len()].copy_from_slice(new);
        b
    };
    let (local, central, end) = (find(b"PK\x03\x04", 1), find(b"PK\x01\x02", 1), find(b"PK\x05\x06", 0));
    malformed(&with(local, b"ZZZZ"), "is not where it should be");
    malformed(&with(local + 30, b"n"), "two headers of \"m/data/0\" in the archive disagree");
    malformed(&with(local + 14, b"\0\0\0\0"), "disagree");
    malformed(&with(local + 18, b"\x09"), "disagree");
    malformed(&with(local + 8, b"\x08"), "disagree");
    malformed(&with(local + 28, b"\xff\xff"), "");
    malformed(&with(central + 42, &[0; 4]), "disagree");
    malformed(&with(central + 42, &[0xf0, 0xff, 0xff, 0x0f]), "");
    malformed(&with(central + 20, b"\x09"), "two sizes");
    malformed(&with(central + 30, b"\x09"), "");
    malformed(&with(end + 8, b"\x03\0\x03\0"), "the zip directory is damaged");
    malformed(&with(end + 8, b"\x01\0\x01\0"), "not the size it claims");
    malformed(&with(end + 8, b"\x01\0"), "one part of several");
    malformed(&with(end + 16, b"\0\0\0\0"), "does not lie where it should");
    malformed(&with(end + 12, b"\xff\xff\xff\xff"), "does not lie where it should");
    let mut prefixed = b"PK\x03\x04 prefix".to_vec();
    prefixed.extend(&bytes);
    malformed(&prefixed, "does not lie where it should");
    let mut behind = bytes.clone();
    behind.push(0);
    malformed(&behind, "the end of the zip archive is missing");

    // Two entries that share their bytes: the second one's header lies within the first one's data.
    let inner = zip(&[file("m/data/0", vec![1; 8])]);
    let inner_local = &inner[..30 + 8 + 8];
    let outer = zip(&[file("m/data.pkl", inner_local), file("m/data/0", vec![1; 8])]);
    let second = (0..outer.len() - 4).filter(|i| outer[*i..].starts_with(b"PK\x01\x02")).nth(1).unwrap();
    let mut overlapping = outer.clone();
    overlapping[second + 42..second + 46].copy_from_slice(&(30u32 + 10).to_le_bytes());
    malformed(&overlapping, "overlap in the archive");
}

fn small() -> Vec<u8> {
    pth(&dict(|p| p.item("a", "0", &[2, 2]).item("b", "1", &[3]).text("n").int(1)), &[("0", 16), ("1", 12)])
}

#[test]
fn every_cut_is_an_error() {
    let (bytes, scratch) = (small(), Scratch::new());
    for cut in 0..bytes.len() {
        assert!(scratch.open(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

/// Every byte changed to a few others: an error or a file that can be read to the end.
#[test]
fn every_changed_byte_is_survived() {
    let (bytes, scratch) = (small(), Scratch::new());
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            if let Ok(c) = scratch.open(&changed) {
                assert!(c.tensors().iter().all(|t| c.bytes(t).len() as u64 == t.bytes));
            }
        }
    }
}
