//! Releases: what is made, kept, redone, refused, and what is left when something goes wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::run::{program, sha256, testdata};

/// A folder with a job file, and the release made of it.
struct Place {
    dir: tempfile::TempDir,
}

/// Of two models four artifacts that can be made and one that cannot, each measured on a few tokens.
const JOB: &str = r#"
[release]
quantized_by = "somebody"
[evaluation]
texts = ["SOURCES/heldout.txt"]
ctx = 128
windows = 2
[[model]]
source = "SOURCES/rwkv7-bytes.pth"
name = "seven"
metadata = { license = "apache-2.0", base_model = "some/model" }
[[model]]
source = "SOURCES/rwkv4-bytes.pth"
[[artifact]]
type = ["q8_0", "q4_0"]
[[artifact]]
target = "safetensors"
type = "f16"
"#;

impl Place {
    fn new(job: &str) -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        place.write(job);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, job: &str) {
        let sources = testdata("");
        let job = job.replace("SOURCES", sources.to_str().unwrap().trim_end_matches('/'));
        fs::write(self.path("job.toml"), job).unwrap();
    }

    /// The program on the job, with the folder `out`.
    fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = program();
        for name in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"] {
            command.env_remove(name);
        }
        command.arg("batch").arg(self.path("job.toml")).arg("-o").arg(self.path(out)).args(more);
        command
    }

    /// Runs it; the exit code and what it said.
    fn run(&self, out: &str, more: &[&str]) -> (i32, String) {
        let output = self.command(out, more).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn ok(&self, out: &str, more: &[&str]) {
        let (status, said) = self.run(out, more);
        assert_eq!(status, 0, "{said}");
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(path)).unwrap()).unwrap()
    }

    /// The fates of all cells, by the artifacts' paths.
    fn fates(&self, out: &str) -> BTreeMap<String, String> {
        let summary = self.json(&format!("{out}/summary.json"));
        let text = |cell: &Value, key: &str| cell[key].as_str().unwrap().to_owned();
        summary["cells"].as_array().unwrap().iter().map(|c| (text(c, "path"), text(c, "fate"))).collect()
    }

    /// Every file below a folder but the summaries, which tell of a run.
    fn tree(&self, out: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let root = self.path(out);
        let (mut files, mut folders) = (BTreeMap::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.strip_prefix(&root).unwrap().to_owned(), fs::read(&path).unwrap());
                }
            }
        }
        files.retain(|path, _| !path.to_str().unwrap().starts_with("summary"));
        files
    }
}

fn names(tree: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<&str> {
    tree.keys().map(|p| p.to_str().unwrap()).collect()
}

#[test]
fn a_release_is_made_described_and_kept() {
    let place = Place::new(JOB);
    place.ok("out", &[]);
    let tree = place.tree("out");
    assert_eq!(
        names(&tree),
        [
            "SHA256SUMS",
            "manifest.json",
            "report.html",
            "rwkv4-bytes/README.md",
            "rwkv4-bytes/SHA256SUMS",
            "rwkv4-bytes/rwkv4-bytes-F16.safetensors",
            "rwkv4-bytes/rwkv4-bytes-F16.safetensors.json",
            "seven/README.md",
            "seven/SHA256SUMS",
            "seven/seven-F16.safetensors",
            "seven/seven-F16.safetensors.json",
            "seven/seven-Q4_0.gguf",
            "seven/seven-Q4_0.gguf.json",
            "seven/seven-Q8_0.gguf",
            "seven/seven-Q8_0.gguf.json",
        ]
    );
    // The same file as without a batch.
    let alone = place.path("alone.gguf");
    let source = testdata("rwkv7-bytes.pth");
    let more = ["--type", "q4_0", "--license", "apache-2.0", "--base-model", "some/model"];
    assert!(program().arg("convert").arg(source).arg(&alone).args(more).output().unwrap().status.success());
    assert!(tree[Path::new("seven/seven-Q4_0.gguf")] == fs::read(alone).unwrap());
    // Checksums and the manifest speak of the files that are there.
    let sums = String::from_utf8(tree[Path::new("SHA256SUMS")].clone()).unwrap();
    assert_eq!(sums.lines().count(), 4);
    for line in sums.lines() {
        let (sum, path) = line.split_once("  ").unwrap();
        assert_eq!(sha256(&tree[Path::new(path)]), sum, "{path}");
    }
    let manifest = place.json("out/manifest.json");
    assert_eq!(manifest["release"], "job");
    let seven = &manifest["models"][0];
    assert_eq!((seven["name"].as_str(), seven["artifacts"].as_array().unwrap().len()), (Some("seven"), 3));
    let (q8, q4) = (&seven["artifacts"][0], &seven["artifacts"][1]);
    let kl = |artifact: &Value| artifact["quality"]["against"]["kl"]["value"].as_f64().unwrap();
    assert!(0.0 < kl(q8) && kl(q8) < kl(q4), "{} {}", kl(q8), kl(q4));
    assert_eq!(q4["source"]["files"][0]["sha256"], sha256(&fs::read(testdata("rwkv7-bytes.pth")).unwrap()));
    assert_eq!(q4["card"]["base_model"], "some/model");
    let card = String::from_utf8(tree[Path::new("seven/README.md")].clone()).unwrap();
    for part in [
        "---\nbase_model: \"some/model\"\nbase_model_relation: quantized\nlicense: \"apache-2.0\"\nquantized_by: \"somebody\"\n",
        "| [seven-Q4_0.gguf](seven-Q4_0.gguf) | llama.cpp, ollama, LM Studio, KoboldCpp | q4_0 | 1.30 MB | 5.54 |",
        "llama-cli -m seven-Q8_0.gguf",
        "254 tokens of ",
    ] {
        assert!(card.contains(part), "{part}\n{card}");
    }
    let junit = fs::read_to_string(place.path("out/summary.xml")).unwrap();
    assert!(junit.contains("tests=\"6\" failures=\"0\" errors=\"0\" skipped=\"2\""), "{junit}");

    // Again: nothing is done, nothing changes.
    place.ok("out", &[]);
    assert!(place.tree("out") == tree);
    let fates = place.fates("out");
    assert_eq!(fates["seven/seven-Q8_0.gguf"], "kept");
    assert_eq!(fates["rwkv4-bytes/rwkv4-bytes-Q8_0.gguf"], "inapplicable");

    // Another recipe for one artifact, and another text for none: that one is made anew.
    place.write(
        &JOB.replace("[\"q8_0\", \"q4_0\"]", "\"q8_0\"\n[[artifact]]\ntype = \"q4_0\"\nsearch = \"best\""),
    );
    place.ok("out", &[]);
    let made: Vec<String> = place.fates("out").into_iter().filter(|f| f.1 == "made").map(|f| f.0).collect();
    assert_eq!(made, ["seven/seven-Q4_0.gguf"]);
    let changed = place.tree("out");
    assert_eq!(names(&changed), names(&tree));
    assert!(changed[Path::new("seven/seven-Q4_0.gguf")] != tree[Path::new("seven/seven-Q4_0.gguf")]);

    // A lost file is made again, a shorter text measured again without a conversion.
    place.write(JOB);
    place.ok("out", &[]);
    fs::remove_file(place.path("out/seven/seven-Q8_0.gguf")).unwrap();
    place.ok("out", &[]);
    assert!(place.tree("out") == tree);
    let written = |name: &str| fs::metadata(place.path(name)).unwrap().modified().unwrap();
    let before = written("out/seven/seven-Q8_0.gguf");
    place.write(&JOB.replace("windows = 2", "windows = 1"));
    place.ok("out", &[]);
    assert_eq!(written("out/seven/seven-Q8_0.gguf"), before);
    assert_eq!(
        place.json("out/manifest.json")["models"][0]["artifacts"][0]["quality"]["scored"]["tokens"],
        127
    );
}

/// Artifacts that a text has a say in: one whose types it chooses, one whose types a file tells, one of one type.
const CALIBRATED: &str = r#"
[evaluation]
texts = ["SOURCES/heldout.txt"]
ctx = 128
windows = 2
[calibration]
texts = ["calibration.txt"]
tokens = 1024
ctx = 128
[[model]]
source = "SOURCES/rwkv7-bytes.pth"
name = "seven"
[[artifact]]
preset = "smallest"
[[artifact]]
recipe = "types.toml"
name = "{model}-by-recipe"
[[artifact]]
type = "q2_k"
calibrated = true
"#;

#[test]
fn presets_and_recipes_are_calibrated_once() {
    let place = Place::new(CALIBRATED);
    let text = fs::read(testdata("heldout.txt")).unwrap();
    fs::write(place.path("calibration.txt"), &text[20_000..24_000]).unwrap();
    fs::write(place.path("types.toml"), "type = \"q4_0\"\n[tensors]\n\"token_embd.weight\" = \"q8_0\"\n")
        .unwrap();
    place.ok("out", &[]);
    let tree = place.tree("out");
    // The same files as without a batch.
    let alone = place.path("alone.gguf");
    let source = testdata("rwkv7-bytes.pth");
    let texts = place.path("calibration.txt");
    let calib = ["--calib", texts.to_str().unwrap(), "--calib-tokens", "1024", "--calib-ctx", "128"];
    let types = place.path("types.toml");
    for (name, how) in [
        ("seven-SMALLEST.gguf", [&calib[..], &["--preset", "smallest"]].concat()),
        ("seven-by-recipe.gguf", vec!["--recipe", types.to_str().unwrap()]),
        ("seven-Q2_K.gguf", [&calib[..], &["--type", "q2_k"]].concat()),
    ] {
        let ran = program().arg("convert").arg(&source).arg(&alone).arg("-f").args(how).output().unwrap();
        assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
        assert!(tree[&Path::new("seven").join(name)] == fs::read(&alone).unwrap(), "{name}");
    }
    let artifacts = &place.json("out/manifest.json")["models"][0]["artifacts"];
    assert_eq!(artifacts[0]["recipe"]["chosen"]["preset"], "smallest");
    let used = &artifacts[0]["recipe"]["calibration"];
    assert_eq!(
        (&used["texts"][0]["sha256"], &used["tokens"]),
        (&sha256(&text[20_000..24_000]).into(), &1024.into())
    );
    assert_eq!(artifacts[1]["recipe"]["chosen"]["recipe"]["name"], "types.toml");

    // Again: nothing is measured, chosen or written.
    place.ok("out", &[]);
    assert!(place.tree("out") == tree);
    assert!(place.fates("out").values().all(|fate| fate == "kept"), "{:?}", place.fates("out"));

    // Another text: what it has a say in is made anew.
    fs::write(place.path("calibration.txt"), &text[30_000..34_000]).unwrap();
    place.ok("out", &[]);
    let fates = place.fates("out");
    assert_eq!(fates["seven/seven-by-recipe.gguf"], "kept");
    assert_eq!(
        (fates["seven/seven-SMALLEST.gguf"].as_str(), fates["seven/seven-Q2_K.gguf"].as_str()),
        ("made", "made")
    );
}

/// Sizes, bits and divergences are as good as types: one or a list, each with a name of its own.
#[test]
fn goals_make_artifacts_of_their_own_names() {
    let place = Place::new(
        r#"
[[model]]
source = "SOURCES/rwkv7-bytes.pth"
name = "seven"
[[artifact]]
target = "compact"
target_bpw = [3.5, 5]
[[artifact]]
target = "compact"
target_size = "1500KB"
"#,
    );
    place.ok("out", &[]);
    let tree = place.tree("out");
    let artifacts: Vec<&str> = names(&tree).into_iter().filter(|n| n.ends_with(".rwkvz")).collect();
    assert_eq!(artifacts, ["seven/seven-1500KB.rwkvz", "seven/seven-3.5BPW.rwkvz", "seven/seven-5BPW.rwkvz"]);
    let size = |name: &str| tree[Path::new(name)].len();
    assert!(size(artifacts[0]) <= 1_500_000 && size(artifacts[1]) < size(artifacts[2]));
}

/// What is somebody's is not replaced, what is damaged is made again, and what is left of nobody goes.
#[test]
fn a_release_takes_care_of_what_it_finds() {
    let place = Place::new(JOB);
    fs::create_dir_all(place.path("out/seven")).unwrap();
    for (name, text) in [("out/README.md", "not ours"), ("out/seven/README.md", "my notes")] {
        fs::write(place.path(name), text).unwrap();
    }
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("out/seven/README.md is there, and is of no release"), "{said}");
    assert_eq!(fs::read_to_string(place.path("out/seven/README.md")).unwrap(), "my notes");
    place.ok("out", &["--force"]);
    assert_eq!(fs::read_to_string(place.path("out/README.md")).unwrap(), "not ours");
    let tree = place.tree("out");

    // Damage that leaves the length as it was.
    let artifact = place.path("out/seven/seven-Q8_0.gguf");
    let mut bytes = fs::read(&artifact).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&artifact, bytes).unwrap();
    // What a killed run left of an artifact that is not wanted any more goes; what no run made stays.
    fs::write(place.path("out/seven/.seven-OLD.gguf.lock"), "being written\n").unwrap();
    fs::write(place.path("out/seven/seven-OLD.gguf.partial"), "a download").unwrap();
    // Without --force nothing is replaced that no record names.
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("seven-Q8_0.gguf exists already"), "{said}");
    place.ok("out", &["--force"]);
    assert_eq!(fs::read_to_string(place.path("out/seven/seven-OLD.gguf.partial")).unwrap(), "a download");
    fs::remove_file(place.path("out/seven/seven-OLD.gguf.partial")).unwrap();
    assert_eq!(place.fates("out")["seven/seven-Q8_0.gguf"], "made");
    assert!(place.tree("out") == tree);
}

#[test]
fn gates_that_fail_fail_the_cell_and_nothing_else() {
    let gated = JOB.replace(
        "type = [\"q8_0\", \"q4_0\"]",
        "type = \"q8_0\"\n[artifact.gates]\nmax_kl = 1e-9\nmin_top1 = 0.1\n[[artifact]]\ntype = \"q4_0\"\ngates.max_size = \"1MB\"",
    );
    let place = Place::new(&gated);
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("seven/seven-Q8_0.gguf rejected: the mean divergence is 0.0000"), "{said}");
    assert!(said.contains("and the limit 0.000000001"), "{said}");
    assert!(said.contains(
        "seven/seven-Q4_0.gguf rejected: the size is 1.30 MB (1301664 bytes), and the limit 1000000"
    ));
    assert!(!said.contains("top-1"), "{said}");
    assert!(said.contains("error: 2 of 6 cells failed"), "{said}");
    assert!(!place.path("out/seven/seven-Q4_0.gguf").exists(), "it was not made");
    let sums = fs::read_to_string(place.path("out/SHA256SUMS")).unwrap();
    assert!(!sums.contains("gguf") && sums.contains("seven/seven-F16.safetensors"), "{sums}");
    let junit = fs::read_to_string(place.path("out/summary.xml")).unwrap();
    assert!(junit.contains("tests=\"6\" failures=\"2\" errors=\"0\" skipped=\"2\""), "{junit}");
    assert!(fs::read_to_string(place.path("out/summary.md")).unwrap().contains("**2 failed**"));
    // Wider gates: what was measured is judged anew, and not measured again.
    place.write(&gated.replace("1e-9", "0.1"));
    assert_eq!(place.run("out", &[]).0, 4);
    assert_eq!(place.fates("out")["seven/seven-Q8_0.gguf"], "kept");
}

#[test]
fn what_cannot_be_made_does_not_stop_the_others() {
    let extra = "[[model]]\nsource = \"lost.pth\"\n[[model]]\nsource = \"SOURCES/heldout.txt\"\nname = \"text\"\n\
                 [[model]]\nsource = \"SOURCES/rwkv6-bytes.pth\"\nname = \"blocked\"\n[[artifact]]\nname = \"asked\"\ntype = \"q8_0\"\nmodels = [\"rwkv4*\"]\n";
    let place = Place::new(&(JOB.to_owned() + extra));
    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/blocked"), "a file where the folder should be").unwrap();
    fs::create_dir(place.path("out/seven")).unwrap();
    fs::write(place.path("out/seven/seven-Q8_0.gguf"), "precious").unwrap();
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 4, "{said}");
    let fates = place.fates("out");
    assert_eq!(fates["seven/seven-F16.safetensors"], "made");
    for (path, why) in [
        ("lost/lost-Q8_0.gguf", "lost.pth"),
        ("text/text-F16.safetensors", "heldout.txt"),
        ("blocked/blocked-Q8_0.gguf", "cannot create the folder "),
        ("seven/seven-Q8_0.gguf", "seven-Q8_0.gguf exists already"),
        ("rwkv4-bytes/asked.gguf", "GGUF holds only versions"),
    ] {
        assert_eq!(fates[path], "failed", "{said}");
        let summary = place.json("out/summary.json");
        let cell = summary["cells"].as_array().unwrap().iter().find(|c| c["path"] == path).unwrap();
        assert!(cell["why"][0].as_str().unwrap().contains(why), "{cell}");
    }
    assert_eq!(fs::read(place.path("out/seven/seven-Q8_0.gguf")).unwrap(), b"precious");
    place.run("out", &["--force"]);
    assert_eq!(place.fates("out")["seven/seven-Q8_0.gguf"], "made");
    assert!(names(&place.tree("out")).iter().all(|n| !n.ends_with(".partial") && !n.ends_with(".lock")));
}

#[test]
fn a_wrong_job_is_refused_before_any_work() {
    let place = Place::new(JOB);
    let refused = |job: &str, expected: &str, help: &str| {
        place.write(job);
        let (status, said) = place.run("out", &[]);
        assert_eq!(status, 1, "{said}");
        let said = said.replace(place.dir.path().to_str().unwrap(), "DIR");
        assert!(said.starts_with(&format!("error: DIR/job.toml, {expected}")), "{said}");
        assert!(said.contains(&format!("\nhelp: {help}")), "{said}");
        assert!(!place.path("out").exists());
    };
    refused(
        &JOB.replace("windows = 2", "windoes = 2"),
        "line 7: there is no key \"windoes\"",
        "did you mean windows? (the keys here are texts, ctx, stride, windows, allow_non_utf8)",
    );
    refused(
        &JOB.replace("\"q4_0\"", "\"q8_0\""),
        "line 14: two artifacts are called seven/seven-Q8_0.gguf",
        "give one of them another name",
    );
    refused(
        &JOB.replace(
            "type = \"f16\"",
            "type = \"f16\"\n[[artifact]]\nname = \"{model}-q4_0\"\ntype = \"q4_1\"",
        ),
        "line 19: seven/seven-q4_0.gguf is the name of an artifact of line 14 too",
        "give one of them another name",
    );
    refused(
        &JOB.replace("name = \"seven\"", "name = \"../seven\""),
        "line 8: \"../seven\" names no folder",
        "give the model a name",
    );
    refused(
        &JOB.replace("type = \"f16\"", "type = \"f16\"\nname = \"{modle}\""),
        "line 16: the name \"{modle}\" cannot be used: {modle} stands for nothing",
        "a name is made of text and of {model}, ",
    );
    refused(
        &JOB.replace("type = \"f16\"", "type = \"f16\"\nmodels = [\"eight*\"]"),
        "line 16: no model is called \"eight*\"",
        "the models are seven, rwkv4-bytes",
    );
    refused(
        &JOB.replace("ctx = 128", "ctx = 1"),
        "line 1: [evaluation]: a window of 1 tokens scores none",
        "give",
    );
    refused(
        &JOB.replace("SOURCES/heldout.txt", "nowhere.txt"),
        "line 1: there is no file DIR/nowhere.txt",
        "correct it; paths are relative to the job file",
    );
    refused(
        &JOB.replace("name = \"seven\"", "name = \"report.html\""),
        "line 8: \"report.html\" is the name of a file that describes the release",
        "give the model another name",
    );
    refused(
        &JOB.replace("type = \"f16\"", "target = \"hf\"\nname = \"README.md\"")
            .replace("target = \"safetensors\"\n", ""),
        "line 16: seven/README.md is the name of a file that describes the release",
        "give one of them another name",
    );
    place.write(JOB);
    fs::write(place.path("file"), "").unwrap();
    let (status, said) = place.run("file/out", &[]);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("cannot create the folder "), "{said}");
}

#[test]
fn shards_make_the_same_release() {
    let place = Place::new(JOB);
    place.ok("whole", &[]);
    place.ok("parts", &["--shard", "1/3"]);
    let merge = |out: &str| {
        let output = program().args(["batch", "merge"]).arg(place.path(out)).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, said) = merge("parts");
    assert_eq!(status, 3, "{said}");
    assert!(said.contains("the summary of shard 2/3 is missing"), "{said}");
    // As Slurm and Kubernetes say it.
    let said_by = |env: &[(&str, &str)]| {
        let status = place.command("parts", &[]).envs(env.iter().copied()).output().unwrap().status;
        assert!(status.success(), "{env:?}");
    };
    said_by(&[("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_MIN", "1"), ("SLURM_ARRAY_TASK_COUNT", "3")]);
    said_by(&[("JOB_COMPLETION_INDEX", "2"), ("JOB_COMPLETIONS", "3")]);
    assert!(!place.path("parts/manifest.json").exists());
    assert_eq!(merge("parts").0, 0);
    assert!(place.tree("parts") == place.tree("whole"));
    assert!(place.path("parts/summary.md").exists());
    // A file that got lost on its way is missed.
    fs::remove_file(place.path("parts/seven/seven-Q8_0.gguf")).unwrap();
    let (status, said) = merge("parts");
    assert_eq!(status, 3, "{said}");
    assert!(said.contains("seven/seven-Q8_0.gguf is not in "), "{said}");

    let list = |more: &[&str]| -> Value {
        let mut command = place.command("none", &["--list", "--format", "json"]);
        serde_json::from_slice(&command.args(more).output().unwrap().stdout).unwrap()
    };
    let shards = |list: &Value| {
        list["include"].as_array().unwrap().iter().map(|i| i["shard"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(shards(&list(&[])), ["1/6", "2/6", "3/6", "4/6", "5/6", "6/6"]);
    let two = list(&["--shards", "2"]);
    assert_eq!(shards(&two), ["1/2", "2/2"]);
    assert_eq!(two["include"][1]["artifacts"][0], "seven/seven-Q4_0.gguf");
    assert!(!place.path("none").exists());
}

#[test]
fn two_workers_on_one_release_do_no_harm() {
    let place = Place::new(JOB);
    place.ok("one", &[]);
    let both: Vec<_> = (0..2)
        .map(|_| place.command("two", &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for worker in both {
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(place.tree("one") == place.tree("two"));
}

/// Kills a batch at random moments, `RWKV_QUANT_KILLS` of them (3 by default), and runs it again each time.
#[test]
fn a_killed_batch_ends_with_the_same_bytes() {
    let kills = std::env::var("RWKV_QUANT_KILLS").map_or(3, |n| n.parse::<u64>().unwrap());
    let place = Place::new(JOB);
    let start = Instant::now();
    place.ok("whole", &[]);
    let (whole, took) = (place.tree("whole"), start.elapsed());
    let mut killed = 0;
    for kill in 0..kills {
        // Multiples of the golden ratio are spread evenly, wherever one stops.
        let share = (kill as f64 * 0.618_033_988_75 + 0.3).fract();
        let out = format!("killed{kill}");
        let mut child = place.command(&out, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * share));
        child.kill().unwrap(); // SIGKILL
        killed += u32::from(child.wait().unwrap().code().is_none());
        place.ok(&out, &[]);
        assert_eq!(names(&place.tree(&out)), names(&whole), "killed after {share:.3} of {took:?}");
        assert!(place.tree(&out) == whole, "killed after {share:.3} of {took:?}");
    }
    println!("{killed} of {kills} runs were killed before their end");
    assert!(killed > 0);
}

/// A stranger's metadata and odd names are data in everything that describes a release.
#[test]
fn hostile_names_are_no_markup_and_no_commands() {
    let place = Place::new(
        r#"
[release]
name = "<b>release</b> \u202e"
[[model]]
source = "SOURCES/rwkv7-bytes.pth"
name = "it's $(id) & [x](y) _z_"
[model.metadata]
name = "<img src=x onerror=alert(1)>\n# Owned `x`"
author = "[x](http://evil.example) | *y*"
url = "javascript:alert(1)"
license = "mit\u0085evil: true\u2028---"
[[model]]
source = "missing.pth"
name = "<script>"
[[artifact]]
type = "q8_0"
"#,
    );
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 1, "a folder cannot be called so: {said}");
    let job = fs::read_to_string(place.path("job.toml")).unwrap();
    place.write(&job.replace("name = \"<script>\"", "name = \"a & 'b'\""));
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 4, "{said}");
    let tree = place.tree("out");
    let folder = "it's $(id) & [x](y) _z_";
    let text = |path: &str| String::from_utf8(tree[Path::new(path)].clone()).unwrap();
    let card = text(&format!("{folder}/README.md"));
    for part in [
        "license: \"mit\\u0085evil: true\\u2028---\"\n",
        "# &lt;img src=x onerror=alert(1)&gt;\\\\n# Owned \\`x\\`\n",
        ", by \\[x\\](http&#58;//evil.example) \\| \\*y\\*",
        "The model is at home at javascript:alert(1).",
        "| [it's \\$(id) &amp; \\[x\\](y) \\_z\\_-Q8_0.gguf](it%27s%20%24%28id%29%20%26%20%5Bx%5D%28y%29%20_z_-Q8_0.gguf) |",
        r"llama-cli -m 'it'\''s $(id) & [x](y) _z_-Q8_0.gguf' -p",
        r"echo 'FROM ./it'\''s $(id) & [x](y) _z_-Q8_0.gguf' > Modelfile",
        r"ollama create 'it'\''s $(id) & [x](y) _z_' -f Modelfile",
    ] {
        assert!(card.contains(part), "{part}\n{card}");
    }
    let summary = fs::read_to_string(place.path("out/summary.md")).unwrap();
    assert!(summary.starts_with("# &lt;b&gt;release&lt;/b&gt; \\\\u{202e}\n"), "{summary}");
    for page in [fs::read_to_string(place.path("out/summary.xml")).unwrap(), text("report.html")] {
        assert!(page.contains("&lt;b&gt;release&lt;&#x2f;b&gt; \\u{202e}"), "{page}");
        assert!(!page.contains("<b>") && !page.contains('\u{202e}'), "{page}");
    }
}

/// Records that are damaged, changed by hand, or of version 0.1.0 stand for nothing: what they described is made again,
/// to the same bytes, and the run says why.
#[test]
fn records_are_believed_only_as_they_were_written() {
    let place = Place::new(JOB);
    place.ok("out", &[]);
    let tree = place.tree("out");
    let record = |name: &str| place.path(&format!("out/seven/seven-{name}.json"));
    let edit = |name: &str, change: &dyn Fn(&mut Value)| {
        let path = record(name);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
    };
    let made = |said: &str, name: &str, why: &str| {
        assert!(said.contains(&format!("seven/seven-{name} made: {why}")), "{said}");
        assert_eq!(place.fates("out")[&format!("seven/seven-{name}")], "made");
        assert!(place.tree("out") == tree, "{why}");
    };
    // Written otherwise, it says the same.
    edit("Q8_0.gguf", &|_| {});
    assert!(!place.run("out", &[]).1.contains("Q8_0.gguf made"));
    // A figure, and a file's hash, changed by hand.
    edit("Q8_0.gguf", &|record| record["quality"]["against"]["kl"]["value"] = 1e-9.into());
    edit("Q4_0.gguf", &|record| record["files"][0]["sha256"] = "00".into());
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 0, "{said}");
    made(&said, "Q8_0.gguf", "made again: its record was changed after it had been written");
    made(&said, "Q4_0.gguf", "made again: its record was changed after it had been written");
    // Empty, and cut off: the manifest tells whose the artifact is.
    fs::write(record("Q8_0.gguf"), "").unwrap();
    let bytes = fs::read(record("F16.safetensors")).unwrap();
    fs::write(record("F16.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 0, "{said}");
    made(&said, "Q8_0.gguf", "made again: its record was damaged");
    made(&said, "F16.safetensors", "made again: its record was damaged");
    // Lost: the manifest still tells.
    fs::remove_file(record("Q8_0.gguf")).unwrap();
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 0, "{said}");
    // Version 0.1.0 wrote neither identities nor seals.
    edit("Q8_0.gguf", &|record| {
        let fields = record.as_object_mut().unwrap();
        fields.remove("identity");
        fields.remove("seal");
        fields["program"]["version"] = "0.1.0".into();
    });
    let (status, said) = place.run("out", &[]);
    assert_eq!(status, 0, "{said}");
    made(&said, "Q8_0.gguf", "replaces one of rwkv-quant 0.1.0");
    // What describes the release is made again, whatever is left of it.
    for name in ["manifest.json", "SHA256SUMS", "summary.json", "seven/SHA256SUMS"] {
        fs::write(place.path(&format!("out/{name}")), "").unwrap();
    }
    place.ok("out", &[]);
    assert!(place.tree("out") == tree);
    // Other options: the run says which.
    place
        .write(&JOB.replace("type = [\"q8_0\", \"q4_0\"]", "type = [\"q8_0\", \"q4_0\"]\nsearch = \"best\""));
    let (_, said) = place.run("out", &[]);
    assert!(
        said.contains("replaces one that was made with other options: --search (standard, best)"),
        "{said}"
    );
    // If nothing tells that a batch made it, an artifact is somebody's.
    place.write(JOB);
    place.ok("out", &[]);
    fs::write(record("Q4_0.gguf"), "").unwrap();
    for name in ["manifest.json", "summary.json"] {
        fs::remove_file(place.path(&format!("out/{name}"))).unwrap();
    }
    let (status, said) = place.run("out", &[]);
    assert!(status == 4 && said.contains("seven-Q4_0.gguf exists already"), "{said}");
    place.ok("out", &["--force"]);
    assert!(place.tree("out") == tree);
    // Nor is every file that has a record's name one of a batch.
    let theirs = place.path("other/seven/seven-Q4_0.gguf.json");
    fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, "{\"notes\": \"of somebody\"}").unwrap();
    let (status, said) = place.run("other", &[]);
    assert!(status == 4 && said.contains("seven-Q4_0.gguf.json exists already"), "{said}");
    assert_eq!(fs::read(&theirs).unwrap(), b"{\"notes\": \"of somebody\"}");
}

#[test]
fn summaries_of_shards_are_believed_only_as_they_were_written() {
    let place = Place::new(JOB);
    for shard in ["1/2", "2/2"] {
        place.ok("out", &["--shard", shard]);
    }
    let path = place.path("out/summary-2-of-2.json");
    let sound = fs::read_to_string(&path).unwrap();
    let merge = || {
        let output = program().arg("batch").arg("merge").arg(place.path("out")).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let mut value: Value = serde_json::from_str(&sound).unwrap();
    let cells = value["cells"].as_array_mut().unwrap();
    let cell = cells.iter_mut().find(|cell| cell["record"].is_object()).unwrap();
    cell["record"]["bits_per_weight"] = 1.5.into();
    fs::write(&path, value.to_string()).unwrap();
    let (status, said) = merge();
    assert!(status == 1 && said.contains("summary-2-of-2.json says other things of "), "{said}");
    fs::write(&path, "").unwrap();
    assert!(merge().1.contains("is no summary of a batch"));
    fs::write(&path, sound).unwrap();
    assert_eq!(merge().0, 0);
}

/// Case zero-weights: what is suspicious about a source stands in the record, and so in every summary, also of a later run.
#[test]
fn warnings_stand_in_records_and_summaries() {
    let place = Place::new("[[model]]\nsource = \"zeros.safetensors\"\n[[artifact]]\ntype = \"q8_0\"\n");
    let source = place.path("zeros.safetensors");
    crate::run::ok([
        "convert".as_ref(),
        testdata("rwkv7-bytes.pth").as_os_str(),
        source.as_os_str(),
        "--no-checksums".as_ref(),
    ]);
    let container = formats::open(&source, &formats::Limits::default()).unwrap();
    let tensor = container.tensor("blocks.1.ffn.key.weight").unwrap().clone();
    drop(container);
    let mut bytes = fs::read(&source).unwrap();
    bytes[tensor.offset as usize..][..tensor.bytes as usize].fill(0);
    fs::write(&source, bytes).unwrap();
    for _ in 0..2 {
        let (status, said) = place.run("out", &[]);
        assert_eq!(status, 0, "{said}");
        let summary = fs::read_to_string(place.path("out/summary.md")).unwrap();
        assert!(summary.contains("warning: blk.1.channel_mix_key.weight is all zeros"), "{summary}");
    }
    let record = place.json("out/zeros/zeros-Q8_0.gguf.json");
    assert!(record["warnings"][0].as_str().unwrap().contains("blk.1.channel_mix_key.weight"), "{record}");
}
