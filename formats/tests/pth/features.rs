//! Contents that a valid torch file can have, hand-assembled.

use formats::{Error, Value};
use quant::Encoding;

use crate::build::{File, Pickle, View, dict, error, file, open, pth, zip};

#[test]
fn a_plain_state_dict() {
    let pickle =
        dict(|p| p.item("emb.weight", "0", &[2, 3]).item("scalar", "1", &[]).item("empty", "2", &[0, 5]));
    let c = open(&pth(&pickle, &[("0", 24), ("1", 4), ("2", 0)])).unwrap();
    let names: Vec<&str> = c.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["emb.weight", "scalar", "empty"]);
    let t = c.tensor("emb.weight").unwrap();
    assert_eq!((t.encoding, t.shape.as_slice(), &t.strides), (Encoding::F32, [2, 3].as_slice(), &None));
    assert_eq!(c.bytes(t), (0..24).collect::<Vec<u8>>());
    assert_eq!(c.tensor("scalar").unwrap().bytes, 4);
    assert_eq!(c.tensor("empty").unwrap().bytes, 0);
}

#[test]
fn every_storage_class() {
    for (class, encoding, bytes) in [
        ("FloatStorage", Encoding::F32, 4),
        ("HalfStorage", Encoding::F16, 2),
        ("BFloat16Storage", Encoding::BF16, 2),
        ("DoubleStorage", Encoding::F64, 8),
        ("ByteStorage", Encoding::U8, 1),
        ("CharStorage", Encoding::I8, 1),
        ("ShortStorage", Encoding::I16, 2),
        ("IntStorage", Encoding::I32, 4),
        ("LongStorage", Encoding::I64, 8),
        ("BoolStorage", Encoding::Bool, 1),
    ] {
        let pickle = dict(|p| p.text("t").tensor(class, "0", 6, View(0, &[2, 3], &[3, 1])));
        let c = open(&pth(&pickle, &[("0", 6 * bytes)])).unwrap();
        assert_eq!(c.tensor("t").unwrap().encoding, encoding);
    }
    let pickle = dict(|p| p.text("t").tensor("ComplexFloatStorage", "0", 6, View(0, &[6], &[1])));
    assert_eq!(
        error(&pth(&pickle, &[("0", 48)])).0,
        "x.pth uses tensors of the type ComplexFloatStorage, which is not supported"
    );
}

/// Types without a storage class: `_rebuild_tensor_v3` on a storage of bytes.
#[test]
fn float8() {
    let v3 = |dtype: &str| {
        dict(|p| {
            p.text("t")
                .global("torch._utils", "_rebuild_tensor_v3")
                .op(b"(")
                .op(b"(")
                .text("storage")
                .global("torch.storage", "UntypedStorage")
                .text("0")
                .text("cpu")
                .int(6)
                .op(b"tQ")
                .int(2)
                .ints(&[4])
                .ints(&[1])
                .op(b"\x89}")
                .global("torch", dtype)
                .op(b"tR")
        })
    };
    let c = open(&pth(&v3("float8_e4m3fn"), &[("0", 6)])).unwrap();
    let t = c.tensor("t").unwrap();
    assert_eq!((t.encoding, c.bytes(t)), (Encoding::F8E4M3, [2, 3, 4, 5].as_slice()));
    assert_eq!(
        error(&pth(&v3("complex64"), &[("0", 6)])).0,
        "x.pth uses tensors of the type complex64, which is not supported"
    );
}

#[test]
fn windows_on_one_storage() {
    let pickle = dict(|p| {
        p.text("row")
            .tensor("FloatStorage", "0", 12, View(4, &[4], &[1]))
            .text("transposed")
            .tensor("FloatStorage", "0", 12, View(0, &[4, 3], &[1, 4]))
            .text("all")
            .tensor("FloatStorage", "0", 12, View(0, &[3, 4], &[4, 1]))
            .text("tied")
            .tensor("FloatStorage", "0", 12, View(0, &[3, 4], &[4, 1]))
            .text("column")
            .tensor("FloatStorage", "0", 12, View(1, &[3, 1], &[4, 7]))
            .text("odd strides of ones")
            .tensor("FloatStorage", "0", 12, View(0, &[1, 1, 12], &[99, 5, 1]))
            .text("expanded")
            .tensor("FloatStorage", "0", 12, View(0, &[5, 2], &[0, 1]))
    });
    let c = open(&pth(&pickle, &[("0", 48)])).unwrap();
    let base = c.tensor("all").unwrap().offset;
    let get = |name: &str| {
        let t = c.tensor(name).unwrap();
        (t.offset - base, t.bytes, t.strides.clone())
    };
    assert_eq!(get("row"), (16, 16, None));
    assert_eq!(get("transposed"), (0, 48, Some(vec![1, 4])));
    assert_eq!(get("tied"), (0, 48, None));
    assert_eq!(get("column"), (4, 36, Some(vec![4, 7])));
    assert_eq!(get("odd strides of ones"), (0, 48, None));
    assert_eq!(get("expanded"), (0, 8, Some(vec![0, 1])));
}

#[test]
fn parameters_and_other_ways_to_name_a_tensor() {
    let view = View(0, &[2], &[1]);
    let pickle = dict(|p| {
        p.text("parameter")
            .global("torch._utils", "_rebuild_parameter")
            .op(b"(")
            .tensor("FloatStorage", "0", 2, view)
            .op(b"\x88}tR")
            .text("buffer")
            .global("torch._tensor", "_rebuild_from_type_v2")
            .op(b"(")
            .global("torch._utils", "_rebuild_tensor_v2")
            .global("torch.nn.parameter", "Buffer")
            .op(b"(")
            .tensor_args("FloatStorage", "0", 2, view)
            .op(b"tNtR")
            .text("old")
            .global("torch._utils", "_rebuild_tensor")
            .op(b"(")
            .storage("FloatStorage", "0", 2)
            .int(0)
            .ints(&[2])
            .ints(&[1])
            .op(b"tR")
    });
    let c = open(&pth(&pickle, &[("0", 8)])).unwrap();
    for name in ["parameter", "buffer", "old"] {
        assert_eq!(c.tensor(name).unwrap().shape, [2]);
    }
}

#[test]
fn values_beside_the_tensors_become_metadata() {
    let pickle = dict(|p| {
        p.text("_strategy")
            .text("cuda fp16i8")
            .text("_version")
            .op(b"G\x3f\xe6\x66\x66\x66\x66\x66\x66")
            .text("_rescale_layer")
            .int(6)
            .text("big")
            .int(1 << 40)
            .text("flag")
            .op(b"\x88")
            .text("none")
            .op(b"N")
            .text("list")
            .op(b"](")
            .int(1)
            .int(2)
            .op(b"e")
            .text("mixed")
            .op(b"](")
            .int(1)
            .text("a")
            .op(b"e")
            .text("size")
            .global("torch", "Size")
            .ints(&[3, 4])
            .op(b"\x85R")
            .text("dict")
            .op(b"}")
            .text("a")
            .int(1)
            .op(b"s")
            .text("device")
            .global("torch", "device")
            .text("cpu")
            .op(b"\x85R")
            .text("type")
            .global("torch", "float32")
            .text("bytes")
            .op(b"C\x02\xff\xfe")
            .text("old text")
            .op(b"U\x02ab")
            .item("t", "0", &[2])
    });
    let c = open(&pth(&pickle, &[("0", 8)])).unwrap();
    let array = |v: &[i64]| Value::from(v.to_vec());
    let expected: Vec<(&str, Value)> = vec![
        ("_strategy", "cuda fp16i8".into()),
        ("_version", Value::F64(0.7)),
        ("_rescale_layer", Value::I64(6)),
        ("big", Value::I64(1 << 40)),
        ("flag", Value::Bool(true)),
        ("none", "<none>".into()),
        ("list", array(&[1, 2])),
        ("mixed", "<list of 2>".into()),
        ("size", array(&[3, 4])),
        ("dict", "<dict of 1>".into()),
        ("device", "<device>".into()),
        ("type", "<type>".into()),
        ("bytes", "<bytes of 2>".into()),
        ("old text", "ab".into()),
    ];
    let expected: Vec<(String, Value)> = expected.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    assert_eq!(c.metadata(), &expected);
}

fn wrapped(p: Pickle, key: &str, tensor: &str) -> Pickle {
    p.text(key).op(b"}(").item(tensor, "0", &[2]).op(b"u")
}

#[test]
fn a_wrapped_state_dict_is_found() {
    let one = dict(|p| wrapped(p.text("epoch").int(3), "anything", "t"));
    let c = open(&pth(&one, &[("0", 8)])).unwrap();
    assert_eq!(c.tensors()[0].name, "t");
    assert_eq!(c.value("epoch"), Some(&Value::I64(3)));

    let named = dict(|p| wrapped(wrapped(p, "optimizer", "moment"), "model", "weight"));
    let c = open(&pth(&named, &[("0", 8)])).unwrap();
    assert_eq!(c.tensors()[0].name, "weight");
    assert_eq!(c.value("optimizer"), Some(&Value::from("<dict of 1>")));

    let twice = dict(|p| wrapped(p.text("outer").op(b"}("), "state_dict", "inner").op(b"u"));
    assert_eq!(open(&pth(&twice, &[("0", 8)])).unwrap().tensors()[0].name, "inner");

    // A tensor beside the wrapper, such as a step count, is not the state dict.
    let beside = dict(|p| wrapped(p.item("step", "0", &[2]), "state_dict", "weight"));
    let c = open(&pth(&beside, &[("0", 8)])).unwrap();
    assert_eq!((c.tensors().len(), c.tensors()[0].name.as_str()), (1, "weight"));
    assert_eq!(c.value("step"), Some(&Value::from("<tensor>")));

    let unclear = dict(|p| wrapped(wrapped(p, "ema", "a"), "net", "b"));
    let (text, help) = error(&pth(&unclear, &[("0", 8)]));
    assert_eq!(text, "x.pth uses several dicts of tensors (ema, net), which is not supported");
    assert!(help.contains("torch.load(path, weights_only=True)[\"ema\"]"), "{help}");
}

#[test]
fn a_list_of_tensors_is_numbered() {
    let list = Pickle::new().op(b"](").then(|p| {
        p.tensor("FloatStorage", "0", 2, View(0, &[2], &[1])).tensor(
            "FloatStorage",
            "0",
            2,
            View(1, &[1], &[1]),
        )
    });
    let c = open(&pth(&list.op(b"e").stop(), &[("0", 8)])).unwrap();
    assert_eq!(c.tensors()[1].name, "1");
}

/// An `OrderedDict` with attributes, as `model.state_dict()` gives it.
#[test]
fn a_state_dict_with_its_metadata() {
    let pickle = Pickle::new()
        .global("collections", "OrderedDict")
        .op(b")R(")
        .item("t", "0", &[2])
        .op(b"u}")
        .text("_metadata")
        .global("collections", "OrderedDict")
        .op(b")R")
        .text("")
        .op(b"}")
        .text("version")
        .int(1)
        .op(b"sssb")
        .stop();
    let c = open(&pth(&pickle, &[("0", 8)])).unwrap();
    assert_eq!((c.tensors().len(), c.metadata().len()), (1, 0));
}

/// The other protocols: frames, memo without numbers, short strings, globals from the stack; and text lines.
#[test]
fn other_protocols() {
    let tensor = |p: Pickle| {
        p.op(b"\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\x94((\x8c\x07storage\x94")
            .op(b"\x8c\x05torch\x94\x8c\x0cFloatStorage\x94\x93\x94\x8c\x010\x94\x8c\x03cpu\x94K\x02t\x94Q")
            .op(b"K\x00K\x02\x85\x94K\x01\x85\x94\x89}\x94t\x94R\x94")
    };
    let four =
        Pickle(vec![0x80, 4, 0x95, 8, 0, 0, 0, 0, 0, 0, 0]).op(b"}\x94\x8c\x01t\x94").then(tensor).op(b"s.");
    let zero = Pickle(Vec::new()).op(
        b"(dp0\nVt\np1\nctorch._utils\n_rebuild_tensor\np2\n((S'storage'\np3\nctorch\nFloatStorage\np4\nS'0'\n\
          p5\nS'cpu'\nI2\ntp6\nQI0\n(I2\nt(L1L\ntp7\ntRp8\nsV_note\nF1.5\nsg1\n0.",
    );
    for pickle in [four.0, zero.0] {
        let c = open(&pth(&pickle, &[("0", 8)])).unwrap();
        assert_eq!(c.tensor("t").unwrap().shape, [2]);
    }
}

/// Sizes after the data and an extra field for alignment, as torch writes them.
#[test]
fn torchs_own_zip_dialect() {
    let pickle = dict(|p| p.item("t", "0", &[2]));
    let torch =
        |name: &str, data: Vec<u8>| File { flags: 0x808, extra: b"FB\x03\0ZZZ".to_vec(), ..file(name, data) };
    let bytes = zip(&[torch("a b/data.pkl", pickle), torch("a b/data/0", vec![7; 8])]);
    let c = open(&bytes).unwrap();
    assert_eq!(c.bytes(&c.tensors()[0]), [7; 8]);
}

#[test]
fn relatives_are_refused_by_name() {
    let script = zip(&[file("m/data.pkl", "."), file("m/constants.pkl", "."), file("m/code/x.py", "")]);
    assert_eq!(
        error(&script).0,
        "x.pth uses TorchScript (a compiled program with its weights), which is not supported"
    );
    let module = Pickle::new().global("torch.nn.modules.linear", "Linear").op(b")\x81").stop();
    assert_eq!(
        error(&pth(&module, &[])).0,
        "x.pth uses a whole Python module (torch.nn.modules.linear.Linear at byte 42), which is not supported"
    );
    let plain = error(b"\x80\x04\x95\x0a\0\0\0\0\0\0\0}\x94\x8c\x01a\x94K\x01s.");
    assert_eq!(plain.0, "x.pth is a plain Python pickle, not a model");
    let other = error(&zip(&[file("word/document.xml", "<x/>")]));
    assert_eq!(other.0, "x.pth is a zip archive without data.pkl, not a model");
    let mut tar = b"sys_info".to_vec();
    tar.resize(1024, 0);
    tar[257..262].copy_from_slice(b"ustar");
    assert_eq!(
        error(&tar).0,
        "x.pth uses the tar layout of torch before 0.1.10 (2017), which is not supported"
    );
    let none = error(&pth(&dict(|p| p.text("epoch").int(1)), &[]));
    assert_eq!(none.0, "x.pth is a torch file without a state dict of tensors, not a model");
    let big = zip(&[file("m/data.pkl", "."), file("m/byteorder", "big")]);
    assert_eq!(error(&big).0, "x.pth uses big-endian numbers, which is not supported");
    let mut packed = file("m/data.pkl", ".");
    packed.method = 8;
    assert_eq!(
        error(&zip(&[packed])).0,
        "x.pth uses a compressed zip entry (m/data.pkl), which is not supported"
    );
    assert!(matches!(open(b"PK\x03\x04"), Err(Error::Malformed { .. })));
}

#[test]
fn integers_of_any_length() {
    let long = |bytes: &[u8]| {
        let pickle = dict(|p| p.text("n").op(&[0x8a, bytes.len() as u8]).op(bytes).item("t", "0", &[2]));
        open(&pth(&pickle, &[("0", 8)])).unwrap().metadata()[0].1.clone()
    };
    let large = Value::from("<large integer>");
    for (bytes, expected) in [
        (b"".as_slice(), Value::I64(0)),
        (b"\xff", Value::I64(-1)),
        (b"\xff\0", Value::I64(255)),
        (b"\0\x80", Value::I64(-32768)),
        (b"\x01\0\0\0\0\0\0\0\0\0", Value::I64(1)),
        (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff", Value::I64(-2)),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", Value::I64(i64::MAX)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\0", large.clone()),
        (b"\0\0\0\0\0\0\0\0\x01", large),
    ] {
        assert_eq!(long(bytes), expected, "{bytes:?}");
    }
}

/// Values that `torch.load(weights_only=True)` takes beside tensors are read as values that do nothing (case
/// deepspeed-set).
#[test]
fn plain_python_values_beside_tensors_are_read() {
    let set2 = |p: Pickle, module: &str, name: &str| p.global(module, name).op(b"](K\x01K\x02e\x85R");
    let values: Vec<(&str, Pickle, &str)> = vec![
        ("set of protocol 2", set2(Pickle::default(), "__builtin__", "set"), "<set>"),
        ("set of protocol 3", set2(Pickle::default(), "builtins", "set"), "<set>"),
        ("frozenset of protocol 2", set2(Pickle::default(), "__builtin__", "frozenset"), "<frozenset>"),
        ("set of protocol 4", Pickle::default().op(b"\x8f(K\x01K\x02\x90"), "<set>"),
        ("empty set of protocol 4", Pickle::default().op(b"\x8f"), "<set>"),
        ("frozenset of protocol 4", Pickle::default().op(b"(K\x01\x91"), "<frozenset>"),
        (
            "bytes of protocol 2",
            Pickle::default().global("_codecs", "encode").text("ab\u{e9}").text("latin1").op(b"\x86R"),
            "<bytes>",
        ),
        ("empty bytes of protocol 2", Pickle::default().global("__builtin__", "bytes").op(b")R"), "<bytes>"),
        (
            "bytes of protocol 0",
            Pickle::default().op(b"c_codecs\nencode\n(V\xe9\\u005c\nVlatin1\ntR"),
            "<bytes>",
        ),
        ("bytes of protocol 3", Pickle::default().op(b"C\x02ab"), "<bytes of 2>"),
        ("bytearray of protocol 5", Pickle::default().op(b"\x96\x02\0\0\0\0\0\0\0ab"), "<bytes of 2>"),
        (
            "bytearray of protocol 2",
            Pickle::default().global("__builtin__", "bytearray").text("ab").text("latin-1").op(b"\x86R"),
            "<bytearray>",
        ),
        (
            "complex",
            Pickle::default().global("__builtin__", "complex").op(b"G\0\0\0\0\0\0\0\0G\0\0\0\0\0\0\0\0\x86R"),
            "<complex>",
        ),
        (
            "Counter",
            Pickle::default().global("collections", "Counter").op(b"}U\x01aK\x01s\x85R"),
            "<dict of 1>",
        ),
        ("empty Counter", Pickle::default().global("collections", "Counter").op(b")R"), "<dict of 0>"),
        ("OrderedDict", Pickle::default().global("collections", "OrderedDict").op(b")R"), "<dict of 0>"),
        ("dtype", Pickle::default().global("torch", "bfloat16"), "<type>"),
        ("dtype that no tensor can have", Pickle::default().global("torch", "complex64"), "<type>"),
        ("device", Pickle::default().global("torch", "device").text("cuda").op(b"K\0\x86R"), "<device>"),
        (
            "layout",
            Pickle::default().global("torch.serialization", "_get_layout").text("torch.strided").op(b"\x85R"),
            "<layout>",
        ),
        (
            "a long integer of protocol 0",
            Pickle::default().op(b"L123456789012345678901234567890L\n"),
            "<large integer>",
        ),
        ("an integer of protocol 0", Pickle::default().op(b"I7\n"), ""),
    ];
    for (name, value, said) in &values {
        let beside = dict(|p| p.item("t", "0", &[2]).text("other").op(&value.0));
        let read = open(&pth(&beside, &[("0", 8)])).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(read.tensors().len(), 1, "{name}");
        if !said.is_empty() {
            assert_eq!(read.value("other").unwrap(), &Value::from(*said), "{name}");
        }
        // As a key of a dict, and nested in a list.
        let nested = dict(|p| {
            let p = p.item("t", "0", &[2]).op(&value.0).int(1).text("list").op(b"](").op(&value.0);
            p.op(&value.0).op(b"e")
        });
        let read = open(&pth(&nested, &[("0", 8)])).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(read.tensors().len(), 1, "{name}");
    }
    // And nothing else.
    for (module, name) in
        [("builtins", "getattr"), ("__builtin__", "list"), ("_codecs", "decode"), ("collections", "deque")]
    {
        let text =
            error(&pth(&dict(|p| p.item("t", "0", &[2]).text("x").global(module, name)), &[("0", 8)])).0;
        assert!(text.contains(&format!("the Python object {module}.{name} (at byte ")), "{text}");
    }
}

/// A second state dict is named (case two-dicts).
#[test]
fn state_dicts_that_are_left_aside_are_named() {
    let one = |p: Pickle, key: &str| p.op(b"}(").item(key, "0", &[2]).op(b"u");
    let two = |first: &str, second: &str| {
        let p = one(Pickle::new().op(b"}(").text(first), "a");
        pth(&one(p.text(second), "b").op(b"u").stop(), &[("0", 8)])
    };
    let aside = |bytes: &[u8]| {
        let read = open(bytes).unwrap();
        let aside = read.left_aside().cloned();
        (read.tensors()[0].name.clone(), aside.map(|a| (a.taken, a.others)))
    };
    let said = |taken: &str, other: &str| Some((taken.to_owned(), vec![other.to_owned()]));
    assert_eq!(aside(&two("ema", "model")), ("b".into(), said(r#"["model"]"#, r#"["ema"]"#)));
    assert_eq!(
        aside(&two("model", "ema_state_dict")),
        ("a".into(), said(r#"["model"]"#, r#"["ema_state_dict"]"#))
    );
    assert_eq!(aside(&two("module", "state_dict")), ("b".into(), said(r#"["state_dict"]"#, r#"["module"]"#)));
    assert_eq!(aside(&two("model", "optimizer")), ("a".into(), None));
    // Beside tensors, and in a wrapper.
    let beside = dict(|p| one(p.item("t", "0", &[2]).text("ema"), "b"));
    assert_eq!(aside(&pth(&beside, &[("0", 8)])), ("t".into(), said("", r#"["ema"]"#)));
    let p = Pickle::new().op(b"}(").text("model").op(b"}(").text("module");
    let inner = one(one(p, "a").text("ema"), "b").op(b"uu").stop();
    assert_eq!(
        aside(&pth(&inner, &[("0", 8)])),
        ("a".into(), said(r#"["model"]["module"]"#, r#"["model"]["ema"]"#))
    );
    // Which of several is the model nobody knows; the help is right Python.
    let (text, help) = error(&two("teacher", "student"));
    assert!(text.contains("several dicts of tensors (teacher, student)"), "{text}");
    assert!(
        help.ends_with("torch.save(torch.load(path, weights_only=True)[\"teacher\"], new_path)"),
        "{help}"
    );
    let list = one(one(Pickle::new().op(b"]("), "a"), "b").op(b"e").stop();
    let help = error(&pth(&list, &[("0", 8)])).1;
    assert!(help.ends_with("torch.save(torch.load(path, weights_only=True)[0], new_path)"), "{help}");
}
