//! The Hugging Face Hub: what a build without it says, and, with it, models from a server on this machine and a release to
//! it.

#[cfg(not(feature = "hub"))]
use crate::run::{run, testdata};

#[cfg(not(feature = "hub"))]
#[test]
fn without_the_feature_addresses_are_refused() {
    let ran = run(["inspect", "hf://BlinkDL/rwkv-7-world/RWKV-x070-World-0.1B.pth"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("was built without the feature hub"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--features hub"), "{}", ran.stderr);
    let ran = run(["upload", testdata("").to_str().unwrap(), "somebody/somewhere"]);
    assert!(ran.stderr.contains("is no address on the Hugging Face Hub"), "{}", ran.stderr);
}

#[cfg(feature = "hub")]
mod built_in {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use crate::run::{ok, program, sha256, testdata};

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const TOKEN: &str = "hf_secret";

    /// Requests, `METHOD PATH`, and their bodies.
    type Heard = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

    /// An answer to `METHOD PATH` with an Authorization header, or none: status, headers and content.
    type Trick = dyn Fn(&str, Option<&str>) -> Option<(&'static str, String, Vec<u8>)> + Send + Sync;

    /// As much of the Hub as is needed here, on this machine; every request must have the token.
    struct Server {
        address: String,
        heard: Heard,
        dir: tempfile::TempDir,
    }

    impl Server {
        fn new(files: BTreeMap<&'static str, Vec<u8>>) -> Server {
            Server::with(files, Box::new(|_, _| None))
        }

        /// A server that answers as `trick` wants, where that has an answer.
        fn with(files: BTreeMap<&'static str, Vec<u8>>, trick: Box<Trick>) -> Server {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let heard = Arc::new(Mutex::new(Vec::new()));
            let (files, hears, trick) = (Arc::new(files), heard.clone(), Arc::new(trick));
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (files, hears, trick) = (files.clone(), hears.clone(), trick.clone());
                    std::thread::spawn(move || answer(stream.unwrap(), &files, &hears, &**trick));
                }
            });
            Server { address, heard, dir: tempfile::tempdir().unwrap() }
        }

        fn command(&self, args: &[&str]) -> Command {
            let mut command = program();
            command.args(args).env("HF_ENDPOINT", &self.address).env("HF_HOME", self.dir.path());
            for name in [
                "HF_HUB_CACHE",
                "HUGGINGFACE_HUB_CACHE",
                "HTTP_PROXY",
                "http_proxy",
                "ALL_PROXY",
                "all_proxy",
            ] {
                command.env_remove(name);
            }
            command.env("HF_TOKEN", TOKEN);
            command
        }

        fn run(&self, args: &[&str]) -> (i32, String, String) {
            let output = self.command(args).output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
        }

        fn count(&self, start: &str) -> usize {
            self.heard.lock().unwrap().iter().filter(|(line, _)| line.starts_with(start)).count()
        }
    }

    /// Reads one request and answers it.
    fn answer(
        mut stream: TcpStream,
        files: &BTreeMap<&str, Vec<u8>>,
        heard: &Mutex<Vec<(String, Vec<u8>)>>,
        trick: &Trick,
    ) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let header = |name: &str| {
            let value = |line: &String| {
                line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
            };
            lines.iter().find_map(value)
        };
        let mut body = vec![0; header("content-length").map_or(0, |n| n.parse().unwrap())];
        reader.read_exact(&mut body).unwrap();
        let mut words = lines[0].split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        heard.lock().unwrap().push((format!("{method} {path}"), body.clone()));
        let reply = |status: &str, more: &str, content: &[u8]| {
            let head = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n",
                content.len()
            );
            let content = if method == "HEAD" { &[] } else { content };
            [head.as_bytes(), content].concat()
        };
        let json = |value: Value| {
            reply("200 OK", "Content-Type: application/json\r\n", value.to_string().as_bytes())
        };
        let list = || files.keys().map(|name| json!({"rfilename": name})).collect::<Vec<_>>();
        let file = path.strip_prefix("/somebody/model/resolve/").and_then(|path| path.split_once('/'));
        let reply = if let Some((status, more, content)) =
            trick(&format!("{method} {path}"), header("authorization").as_deref())
        {
            reply(status, &more, &content)
        } else if header("authorization") != Some(format!("Bearer {TOKEN}")) {
            reply("401 Unauthorized", "", b"")
        } else if path == "/api/models/somebody/model/revision/v1" {
            json(json!({"sha": COMMIT, "siblings": list()}))
        } else if let Some((_, file)) = file {
            match files.get(file) {
                Some(bytes) => {
                    let more = format!("ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n", sha256(bytes));
                    reply("200 OK", &more, bytes)
                }
                None => reply("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b""),
            }
        } else if path == "/api/repos/create" {
            json(json!({"url": "somewhere"}))
        } else if path.starts_with("/api/models/somebody/release/preupload/") {
            let asked: Value = serde_json::from_slice(&body).unwrap();
            let mode = |f: &Value| json!({"path": f["path"], "uploadMode": "regular", "shouldIgnore": false});
            json(json!({"files": asked["files"].as_array().unwrap().iter().map(mode).collect::<Vec<_>>()}))
        } else if path.starts_with("/api/models/somebody/release/commit/") {
            json(json!({"commitUrl": "https://hub/commit/1", "commitOid": COMMIT}))
        } else {
            reply("404 Not Found", "X-Error-Code: RepoNotFound\r\n", b"")
        };
        stream.write_all(&reply).ok();
    }

    #[test]
    fn models_are_loaded_once() {
        let bytes = fs::read(testdata("rwkv7-bytes.pth")).unwrap();
        let server = Server::new(BTreeMap::from([("a/rwkv7-bytes.pth", bytes)]));
        let dir = tempfile::tempdir().unwrap();
        let (loaded, own) = (dir.path().join("loaded.gguf"), dir.path().join("own.gguf"));
        let model = "hf://somebody/model/a/rwkv7-bytes.pth@v1";
        for _ in 0..2 {
            let args = ["convert", model, loaded.to_str().unwrap(), "--type", "q8_0", "--force"];
            let (status, _, said) = server.run(&args);
            assert_eq!(status, 0, "{said}");
        }
        ok([
            "convert",
            testdata("rwkv7-bytes.pth").to_str().unwrap(),
            own.to_str().unwrap(),
            "--type",
            "q8_0",
        ]);
        assert!(fs::read(loaded).unwrap() == fs::read(own).unwrap());
        assert_eq!(server.count("GET /somebody/model/resolve/v1/a/rwkv7-bytes.pth"), 1);

        for (address, why) in [
            ("hf://somebody/model/b.pth@v1", "hf://somebody/model/b.pth@v1 cannot be loaded: "),
            ("hf://nobody/model/b.pth", "hf://nobody/model/b.pth cannot be loaded: "),
            ("hf://somebody", "is no address on the Hugging Face Hub"),
        ] {
            let (status, _, said) = server.run(&["inspect", address]);
            assert_ne!(status, 0);
            assert!(said.contains(why), "{said}");
        }
        let output =
            server.command(&["inspect", "hf://somebody/model/c.pth@v1"]).env("HF_TOKEN", "wrong").output();
        let said = String::from_utf8(output.unwrap().stderr).unwrap();
        assert!(said.contains("set HF_TOKEN to a token that may do this"), "{said}");
    }

    const MODEL: &str = "hf://somebody/model/m.pth@v1";

    fn small_model() -> Vec<u8> {
        fs::read(testdata("rwkv7-bytes.pth")).unwrap()
    }

    fn said_of(bytes: &[u8], name: &str) -> String {
        format!(
            "{name}: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Size: {}\r\n",
            sha256(bytes),
            bytes.len()
        )
    }

    /// Names of all files below a folder.
    fn names(folder: &std::path::Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => found.extend(names(&entry.path())),
                false => found.push(entry.file_name().into_string().unwrap()),
            }
        }
        found
    }

    #[test]
    fn bytes_are_compared_with_the_sum_that_the_hub_tells() {
        let bytes = small_model();
        let mut flipped = bytes.clone();
        flipped[1_000_000] ^= 1;
        for (sent, why) in [
            (flipped, "has the SHA-256"),
            (bytes[..bytes.len() - 1].to_vec(), "has other than the"),
            ([&bytes[..], b"x"].concat(), "has other than the"),
        ] {
            let trick = move |asked: &str, _: Option<&str>| {
                asked.starts_with("GET").then(|| ("200 OK", String::new(), sent.clone()))
            };
            let server = Server::with(BTreeMap::from([("m.pth", bytes.clone())]), Box::new(trick));
            let (status, _, said) = server.run(&["inspect", MODEL]);
            assert_eq!(status, 1, "{said}");
            assert!(said.contains(why) && said.contains("help: "), "{said}");
            assert_eq!(names(server.dir.path()), [""; 0], "nothing of it is kept");
        }
    }

    #[test]
    fn names_that_a_server_gives_stay_within_the_cache() {
        let bytes = small_model();
        let sum = sha256(&bytes);
        let size = bytes.len();
        for headers in [
            format!("ETag: \"../../../escaped\"\r\nX-Repo-Commit: {COMMIT}\r\n"),
            format!("ETag: \"/tmp/escaped\"\r\nX-Repo-Commit: {COMMIT}\r\n"),
            format!("ETag: \"{sum}\"\r\nX-Repo-Commit: ../../../escaped\r\n"),
            format!("ETag: \"{sum}\"\r\nX-Repo-Commit: ..\r\nX-Linked-Size: {size}\r\n"),
        ] {
            let sent = bytes.clone();
            let trick = move |_: &str, _: Option<&str>| Some(("200 OK", headers.clone(), sent.clone()));
            let server = Server::with(BTreeMap::new(), Box::new(trick));
            let (status, _, said) = server.run(&["inspect", MODEL]);
            assert_eq!(status, 1, "{said}");
            assert!(said.contains("does not say which bytes"), "{said}");
            assert_eq!(names(server.dir.path()), [""; 0]);
        }
        for name in ["../../../escaped.json", "/tmp/escaped.json", "a/../../escaped.json", "C:\\escaped.json"]
        {
            let server = Server::with(
                BTreeMap::new(),
                Box::new(move |_, _| {
                    let list = json!({"sha": COMMIT, "siblings": [{"rfilename": name}]}).to_string();
                    Some(("200 OK", String::new(), list.into_bytes()))
                }),
            );
            let (status, _, said) = server.run(&["inspect", "hf://somebody/model@v1"]);
            assert_eq!(status, 1, "{said}");
            assert!(said.contains("no plain path"), "{said}");
            assert_eq!(names(server.dir.path()), [""; 0]);
        }
        let server = Server::new(BTreeMap::new());
        for address in [
            "hf://../model/m.pth",
            "hf://somebody/../m.pth",
            "hf://somebody/model/../../m.pth",
            "hf://a/b/c@../d",
        ] {
            assert_eq!(server.run(&["inspect", address]).0, 2, "{address}");
        }
    }

    #[test]
    fn the_token_goes_to_no_other_host() {
        let bytes = small_model();
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let (sent, seen) = (bytes.clone(), tokens.clone());
        let other = Server::with(
            BTreeMap::new(),
            Box::new(move |_, token| {
                seen.lock().unwrap().push(token.map(str::to_owned));
                Some(("200 OK", String::new(), sent.clone()))
            }),
        );
        let place = other.address.clone();
        let headers = said_of(&bytes, "X-Linked-ETag");
        let server = Server::with(
            BTreeMap::new(),
            Box::new(move |asked, token| {
                assert_eq!(token, Some("Bearer hf_secret"), "{asked}");
                // First to another name of the same repository, then to where large files lie.
                let location = match asked.ends_with("/somebody/model/resolve/v1/m.pth") {
                    true => "/Somebody/model/resolve/v1/m.pth".to_owned(),
                    false => format!("{place}/blob"),
                };
                let headers = if location.starts_with('/') { "" } else { &headers };
                Some(("302 Found", format!("Location: {location}\r\n{headers}"), Vec::new()))
            }),
        );
        let (status, _, said) = server.run(&["inspect", MODEL]);
        assert_eq!(status, 0, "{said}");
        assert_eq!(*tokens.lock().unwrap(), [None]);
        assert_eq!(server.count("GET"), 2);
    }

    #[test]
    fn folders_are_loaded_and_found_again_without_a_network() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("f");
        let source = testdata("rwkv7-bytes.pth");
        ok(["convert", source.to_str().unwrap(), folder.to_str().unwrap(), "--to", "hf", "--type", "bf16"]);
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        let server = Server::new(BTreeMap::from([
            ("config.json", read("config.json")),
            ("model.safetensors", read("model.safetensors")),
            ("rwkv_vocab_v20230424.txt", read("rwkv_vocab_v20230424.txt")),
            ("pytorch_model.bin", b"not wanted".to_vec()),
        ]));
        let address = "hf://somebody/model@v1";
        let (status, text, said) = server.run(&["inspect", address]);
        assert_eq!(status, 0, "{said}");
        assert!(text.contains("names of flash-linear-attention"), "{text}");
        assert_eq!(server.count("GET /somebody/model/resolve"), 3);
        assert!(!names(server.dir.path()).contains(&"pytorch_model.bin".to_owned()));
        // At a commit, nothing is asked once a file is there.
        let file = format!("hf://somebody/model/model.safetensors@{COMMIT}");
        let asked = server.heard.lock().unwrap().len();
        let output = server.command(&["verify", "--checksums", &file]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(server.heard.lock().unwrap().len(), asked);
    }

    #[test]
    fn a_finished_release_is_uploaded_in_one_commit() {
        let server = Server::new(BTreeMap::new());
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("seven")).unwrap();
        fs::write(path("seven/seven-Q8_0.gguf"), "weights").unwrap();
        fs::write(path("SHA256SUMS"), format!("{}  seven/seven-Q8_0.gguf\n", sha256(b"weights"))).unwrap();
        let folder = dir.path().to_str().unwrap();
        let upload =
            |more: &[&str]| server.run(&[&["upload", folder, "hf://somebody/release/v1@dev"], more].concat());
        fs::write(path("seven/.x.lock"), "").unwrap();
        assert!(upload(&[]).2.contains(".x.lock is unfinished"));
        fs::remove_file(path("seven/.x.lock")).unwrap();
        // What else is there is nobody's business.
        fs::write(path("seven/secrets.txt"), "mine").unwrap();
        fs::write(path("notes.json"), "{}").unwrap();
        fs::write(path("seven/README.md"), "the card").unwrap();
        let (status, said, why) = upload(&["--create", "--private"]);
        assert_eq!(status, 0, "{why}");
        assert!(said.contains("uploaded 1 files, with what describes them: https://hub/commit/1"), "{said}");
        let heard = server.heard.lock().unwrap().clone();
        let body = |start: &str| &heard.iter().find(|(line, _)| line.starts_with(start)).unwrap().1;
        let created: Value = serde_json::from_slice(body("POST /api/repos/create")).unwrap();
        assert_eq!((&created["name"], &created["private"]), (&json!("release"), &json!(true)));
        let commit = std::str::from_utf8(body("POST /api/models/somebody/release/commit/dev")).unwrap();
        let lines: Vec<Value> = commit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["key"], "header");
        let mut files: Vec<(&str, &str)> = lines[1..]
            .iter()
            .map(|f| (f["value"]["path"].as_str().unwrap(), f["value"]["content"].as_str().unwrap()))
            .collect();
        files.sort_unstable();
        let names: Vec<&str> = files.iter().map(|f| f.0).collect();
        assert_eq!(names, ["v1/SHA256SUMS", "v1/seven/README.md", "v1/seven/seven-Q8_0.gguf"]);
        assert_eq!(files[2].1, "d2VpZ2h0cw==");

        fs::write(path("seven/seven-Q8_0.gguf"), "other").unwrap();
        let (status, _, said) = upload(&[]);
        assert_eq!(status, 3);
        assert!(said.contains("is missing, or not what SHA256SUMS says"), "{said}");
    }
}
