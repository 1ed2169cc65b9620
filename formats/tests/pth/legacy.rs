//! The layout before torch 1.6.

use formats::Error;

use crate::build::{Pickle, Scratch, View, dict, error, legacy, open};

/// The size of a storage of floats and its data.
fn storage(elements: u64) -> Vec<u8> {
    let mut bytes = elements.to_le_bytes().to_vec();
    bytes.extend((0..elements * 4).map(|i| i as u8));
    bytes
}

fn two() -> Vec<u8> {
    let pickle = dict(|p| p.item("a", "first", &[2]).item("b", "second", &[2, 3]));
    legacy(&pickle, &["second", "first"], &[storage(6), storage(2)].concat())
}

#[test]
fn storages_follow_in_the_order_of_the_keys() {
    let c = open(&two()).unwrap();
    let (a, b) = (c.tensor("a").unwrap(), c.tensor("b").unwrap());
    assert_eq!(
        (b.shape.as_slice(), c.bytes(b)),
        ([2, 3].as_slice(), (0..24).collect::<Vec<u8>>().as_slice())
    );
    assert_eq!((a.bytes, a.offset), (8, b.offset + 24 + 8));
}

/// Storages that are themselves windows: a sixth field in their description.
#[test]
fn windows_on_windows() {
    let of = |start: i64, count: i64, view: View<'_>| {
        let pickle = dict(|p| {
            p.text("t")
                .global("torch._utils", "_rebuild_tensor_v2")
                .op(b"((")
                .text("storage")
                .global("torch", "FloatStorage")
                .text("k")
                .text("cpu")
                .int(6)
                .op(b"(")
                .text("view")
                .int(start)
                .int(count)
                .op(b"ttQ")
                .int(view.0)
                .ints(view.1)
                .ints(view.2)
                .op(b"\x89}tR")
        });
        open(&legacy(&pickle, &["k"], &storage(6)))
    };
    let c = of(2, 4, View(1, &[3], &[1])).unwrap();
    assert_eq!(c.bytes(c.tensor("t").unwrap()), (12..24).collect::<Vec<u8>>());
    for bad in
        [of(2, 4, View(2, &[3], &[1])), of(3, 4, View(0, &[1], &[1])), of(i64::MAX, 1, View(0, &[1], &[1]))]
    {
        assert!(matches!(bad, Err(Error::Malformed { .. })), "{bad:?}");
    }
}

#[test]
fn what_breaks_the_layout_is_named() {
    let pickle = dict(|p| p.item("t", "k", &[2]));
    let text = |keys: &[&str], data: &[u8]| error(&legacy(&pickle, keys, data)).0;
    assert!(text(&[], &[]).contains("the storage \"k\" is missing, in tensor \"t\""));
    assert!(text(&["k"], &storage(3)).contains("the storage \"k\" has 3 elements, not 2"));
    assert!(text(&["k", "k"], &[storage(2), storage(2)].concat()).contains("stands twice"));
    assert!(text(&["other"], &storage(2)).contains("that the pickle does not describe"));
    assert!(text(&["k"], &storage(2)[..15]).contains("it ends within the data of a storage"));
    let two_ways = dict(|p| p.item("t", "k", &[2]).item("u", "k", &[3]));
    assert!(error(&legacy(&two_ways, &["k"], &storage(2))).0.contains("is described in two ways"));
    let shell = Pickle::new().global("os", "system").text("echo harm").op(b"\x85R").stop();
    assert!(error(&legacy(&shell, &[], &[])).0.contains("the Python object os.system (at byte "));
}

#[test]
fn every_cut_is_an_error() {
    let (bytes, scratch) = (two(), Scratch::new());
    for cut in 0..bytes.len() {
        assert!(scratch.open(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}
