//! Tests of the names of heads, and of clusters in files. (`tests/it/heads.rs` has what they compute.)

use std::path::{Path, PathBuf};

use super::stored::HeadFile;
use super::*;
use crate::model::Model;
use crate::runner::{Options, Runner};

fn runner(name: &str) -> Runner {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    Runner::new(Model::open(&file, &[]).unwrap(), Options::default()).unwrap()
}

#[test]
fn heads_are_asked_for_by_name() {
    let good = |text: &str| text.parse::<HeadChoice>().unwrap();
    assert_eq!(good("full"), HeadChoice::Full);
    assert_eq!(good("certified"), HeadChoice::Certified(1));
    assert_eq!(good("certified:50"), HeadChoice::Certified(50));
    assert_eq!(good("clustered:256,0.95"), HeadChoice::Clustered(Fit { clusters: 256, share: 0.95 }));
    assert_eq!(good("a:b.safetensors"), HeadChoice::Stored(PathBuf::from("a:b.safetensors")));
    for bad in
        ["", "certified:0", "certified:x", "clustered", "clustered:5", "clustered:5,0", "clustered:5,1.1"]
    {
        assert!(bad.parse::<HeadChoice>().is_err(), "{bad}");
    }
}

#[test]
fn clusters_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let runner = runner("rwkv7-bytes.pth");
    let full = runner.full_rows();
    let tokens: Vec<u32> =
        b"/// Returns the number of elements in the map, or ".iter().map(|b| (*b).into()).collect();
    let hidden = [runner.run(&[&tokens], &mut [runner.start()]).unwrap()];
    let fit = Fit { clusters: 16, share: 0.8 };
    let mut made = fit.cluster(&runner, Some(&mean_squares(&hidden))).unwrap();
    made.fit(&runner, &hidden, "text".to_owned());
    assert_eq!(made.of_row.len(), 256);
    let [compact, file] = ["head.rwkvz", "head.safetensors"].map(|name| folder.path().join(name));
    for file in [&compact, &file] {
        std::fs::write(file, made.file(file).unwrap()).unwrap();
        let read = Clustered::read(&HeadFile::open(file).unwrap(), &full).unwrap();
        assert_eq!(
            (&read.of_row, &read.members, &read.offsets),
            (&made.of_row, &made.members, &made.offsets)
        );
        assert_eq!((read.outside, read.share, &read.fitted), (made.outside, made.share, &made.fitted));
        assert_eq!(read.centers.rows(0..16), made.centers.rows(0..16));
        let error = Model::open(file, &[]).unwrap_err();
        assert!(error.to_string().contains("is an output layer to be read in part, not a model"), "{error}");
    }
    assert!(fit.cluster(&runner, None).is_ok());
    assert!(Fit { clusters: 257, ..fit }.cluster(&runner, None).is_err());

    // A bit of a row's cluster turned; cut short, or with a row in no cluster.
    let mut wrong = std::fs::read(&compact).unwrap();
    wrong[64] ^= 1;
    std::fs::write(&compact, wrong).unwrap();
    let error = stored::open(&compact, &full).unwrap_err().to_string();
    assert!(error.contains("does not match its SHA-256"), "{error}");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 7]).unwrap();
    assert!(stored::open(&file, &full).is_err());
    let mut wrong = bytes.clone();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
    wrong[header..header + 4].copy_from_slice(&16u32.to_le_bytes());
    std::fs::write(&file, wrong).unwrap();
    let error = stored::open(&file, &full).unwrap_err().to_string();
    assert!(error.ends_with("puts a row into cluster 16 of 16"), "{error}");
}

#[test]
fn certified_heads_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let runner = runner("rwkv7-bytes.pth");
    let made = HeadChoice::certified(3, &runner).unwrap();
    let file = folder.path().join("head.rwkvz");
    std::fs::write(&file, made.file(&runner.full_rows(), &file).unwrap()).unwrap();
    let read = Certified::read(&HeadFile::open(&file).unwrap(), &runner.full_rows()).unwrap();
    assert_eq!((read.best, &read.copy.bytes), (3, &made.copy.bytes));
    assert_eq!(read.bounds, made.bounds);
    assert_eq!(HeadChoice::Stored(file.clone()).make(&runner).unwrap().exact(), 3);
    // Of rows that are a little other ones nothing is proven.
    let other = self::runner("rwkv6-bytes.pth");
    let error = stored::open(&file, &other.full_rows()).unwrap_err().to_string();
    assert!(
        error.contains("is certified for another head") || error.contains("as this model's head needs"),
        "{error}"
    );
}

/// Clusters have their true probability on average on the text that they were fitted to, and so has what is not read.
#[test]
fn fitted_masses_are_right_on_average() {
    let runner = runner("rwkv6-bytes.pth");
    let text = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/heldout.txt")).unwrap();
    let tokens: Vec<u32> = text[..2048].iter().map(|b| u32::from(*b)).collect();
    let hidden = [runner.run(&[&tokens], &mut [runner.start()]).unwrap()];
    let mut head = Fit { clusters: 16, share: 0.8 }.cluster(&runner, Some(&mean_squares(&hidden))).unwrap();
    head.fit(&runner, &hidden, String::new());
    let rows: Vec<usize> = (0..tokens.len()).collect();
    let full = runner.logits(&hidden[0], &rows).unwrap();
    let (other, readings) = runner.logits_by(&head, &hidden[0], &rows).unwrap();
    let outside = |logits: &Logits, i: usize| {
        let row = logits.row(i);
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        let p: Vec<f64> = row.iter().map(|v| f64::from(v - most).exp()).collect();
        let read: f64 = (0..256u32).filter(|k| readings[i].rows.contains(*k)).map(|k| p[k as usize]).sum();
        1.0 - read / p.iter().sum::<f64>()
    };
    let mean = |logits| rows.iter().map(|i| outside(logits, *i)).sum::<f64>() / rows.len() as f64;
    let (truth, said) = (mean(&full), mean(&other));
    assert!(truth > 0.001 && truth < 0.2, "{truth}");
    assert!((truth - said).abs() < 0.05 * truth, "{said} and not {truth}");
}
