//! Random damage: never a panic, and what opens can be read to the end.

use formats::Container;
use proptest::prelude::*;

use crate::build::{Pickle, Scratch, View, dict, legacy, pth};

/// Instructions and pieces of them that make up pickles of tensors.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let fixed: Vec<&'static [u8]> = vec![
        b"(",
        b")",
        b"]",
        b"}",
        b"N",
        b"\x88",
        b"\x89",
        b"K\x02",
        b"J\xff\xff\xff\xff",
        b"0",
        b"1",
        b"2",
        b"a",
        b"e",
        b"s",
        b"u",
        b"t",
        b"l",
        b"d",
        b"b",
        b"R",
        b"Q",
        b"q\0",
        b"q\x01",
        b"h\0",
        b"h\x01",
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x94",
        b"\x93",
        b"\x81",
        b"X\x01\0\0\0a",
        b"X\x05\0\0\0model",
        b"X\x07\0\0\0storage",
        b"ctorch\nFloatStorage\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nSize\n",
        b"\x8a\x01\x02",
        b"\x8f",
        b"\x90",
        b"\x91",
        b"(K\x02t",
        b"(K\x01t",
        b"X\x01\0\0\x000",
    ];
    prop_oneof![
        8 => prop::sample::select(fixed).prop_map(<[u8]>::to_vec),
        1 => any::<u8>().prop_map(|b| vec![b]),
        1 => Just(Pickle::default().item("t", "0", &[2]).0),
        1 => Just(Pickle::default().storage("FloatStorage", "0", 2).0),
    ]
}

fn survives(result: Result<Container, formats::Error>) {
    match result {
        Ok(c) => assert!(c.tensors().iter().all(|t| c.bytes(t).len() as u64 == t.bytes)),
        Err(e) => {
            e.help();
            assert!(!e.to_string().is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn soup_of_instructions(pieces in prop::collection::vec(piece(), 0..60)) {
        survives(Scratch::new().open(&pth(&pieces.concat(), &[("0", 8)])));
    }

    #[test]
    fn flipped_bytes(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), old: bool) {
        let pickle = dict(|p| {
            p.item("a", "0", &[2, 2]).text("b").tensor("HalfStorage", "1", 6, View(1, &[2, 2], &[1, 2])).text("n").int(1)
        });
        let mut bytes = if old {
            let data = [&4u64.to_le_bytes()[..], &[1; 16], &6u64.to_le_bytes()[..], &[2; 12]].concat();
            legacy(&pickle, &["0", "1"], &data)
        } else {
            pth(&pickle, &[("0", 16), ("1", 12)])
        };
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        survives(Scratch::new().open(&bytes));
    }
}
