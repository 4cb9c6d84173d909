//! Models that are altered while they are served: not one wrong token is output, clients
//! get the reason, and the service accepts nothing more.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use v4_files::gguf::GgufFile;
use v4_trust::{Beside, SecretKey, measure, new_key_pair, replace, sign};

use super::{Server, TEXT, convert, convert_as, http};

/// Parts of sets are shorter.
const PART: u64 = 8_000_000;

/// A signed model in a folder of its own.
struct Signed {
    folder: TempDir,
    /// The file, or the first part of a set.
    model: PathBuf,
    /// Where each file begins among the bytes of all, and the file.
    parts: Vec<(u64, PathBuf)>,
    /// Its signer's public key.
    key: String,
}

impl Signed {
    fn new(checkpoint: &str) -> Self {
        Self::of(checkpoint, false)
    }

    /// A file, or a set of parts of less than 8 MB.
    fn of(checkpoint: &str, set: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut model = folder.path().join("model.gguf");
        if set {
            convert_as(checkpoint, &model, "native", Some(PART));
            let files = fs::read_dir(folder.path()).unwrap();
            model = files.map(|f| f.unwrap().path()).min().unwrap();
        } else {
            convert(checkpoint, &model);
        }
        let file = GgufFile::open(&model).unwrap();
        let parts = file.parts().iter();
        let parts: Vec<_> = parts.map(|p| (p.start(), p.path().to_owned())).collect();
        assert_eq!(parts.len() > 2, set);
        let (public, secret) = new_key_pair(None).unwrap();
        let path = folder.path().join("k");
        replace(&path, secret.as_bytes(), true).unwrap();
        let secret = SecretKey::read(&path, None).unwrap();
        let measured = measure(&model, "tests", &|_, _| true).unwrap();
        let (beside, text) = (Beside::of(&model), measured.manifest.to_text().unwrap());
        fs::write(beside.signature, sign(&text, &secret, "tests").unwrap()).unwrap();
        fs::write(beside.manifest, text).unwrap();
        fs::write(beside.hashes, measured.hashes).unwrap();
        let key = public.lines().nth(1).unwrap().to_owned();
        Self {
            folder,
            model,
            parts,
            key,
        }
    }

    /// A byte of one of the files.
    fn anywhere(&self, rng: &mut SmallRng) -> u64 {
        let lengths: Vec<u64> = self
            .parts
            .iter()
            .map(|(_, path)| fs::metadata(path).unwrap().len())
            .collect();
        let mut at = rng.random_range(0..lengths.iter().sum());
        for ((start, _), length) in self.parts.iter().zip(lengths) {
            if at < length {
                return start + at;
            }
            at -= length;
        }
        unreachable!("less than the sum")
    }

    /// The file that a position is in, and where it begins.
    fn part_at(&self, position: u64) -> (&Path, u64) {
        let part = self.parts.iter().rfind(|(start, _)| *start <= position);
        let (start, path) = part.unwrap();
        (path, *start)
    }

    /// The name of that file.
    fn name_at(&self, position: u64) -> &str {
        let name = self.part_at(position).0.file_name().unwrap();
        name.to_str().unwrap()
    }

    fn serve(&self, args: &[&str]) -> Server {
        let all = [&["--no-sessions", "--signer", &self.key], args].concat();
        Server::serving(&self.model, tempfile::tempdir().unwrap(), &all, |_| {})
    }

    /// A bit in each place: of every expert of a tensor, or of each 64 KiB of it.
    fn in_all_of(&self, tensor: &str) -> Vec<u64> {
        let file = GgufFile::open(&self.model).unwrap();
        let info = file.tensor(tensor).unwrap();
        let experts = info.dims.get(2).copied().unwrap_or(1);
        let step = if experts > 1 {
            info.bytes / experts
        } else {
            64 << 10
        };
        let places = (0..info.bytes).step_by(step.try_into().unwrap());
        places.map(|at| file.position(info) + at + 5).collect()
    }

    /// Flips bits. A failing disk leaves no trace in the file's times.
    fn flip(&self, places: &[u64], bit: u8, keep_time: bool) {
        let (path, start) = self.part_at(places[0]);
        let mut open = File::options();
        let file = open.read(true).write(true).open(path).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        for &at in places {
            assert_eq!(self.part_at(at).1, start, "all in one file");
            let mut byte = [0];
            file.read_exact_at(&mut byte, at - start).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << bit], at - start)
                .unwrap();
        }
        if keep_time {
            file.set_times(FileTimes::new().set_modified(before))
                .unwrap();
        }
    }
}

/// A greedy request, another for each number.
fn request(number: u64) -> Value {
    let prompt = format!("{number} {} {TEXT}", "abc ".repeat(number as usize % 7));
    json!({"prompt": prompt, "temperature": 0, "max_tokens": 12, "logit_bias": {"1": -100}})
}

fn ask(server: &Server, number: u64) -> http::Answer {
    server.post("/v1/completions", &request(number))
}

fn text(answer: &http::Answer) -> String {
    answer.ok()["choices"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Nothing is taken any more: either it says so, or nobody listens.
#[track_caller]
fn is_unhealthy(socket: &Path) {
    // One connection: by the next the service may have ended.
    let Ok(stream) = http::try_connect(socket) else {
        return;
    };
    let asked = http::request("GET", "/health", &[], "");
    match http::raw_on(stream, &asked) {
        Ok(bytes) if !bytes.is_empty() => assert_eq!(http::parse(&bytes).status, 503),
        _ => {}
    }
}

/// What a failed request was told is what the service says when it ends.
#[track_caller]
fn ends_saying(server: Server, parts: &[&str]) {
    is_unhealthy(&server.socket);
    let (code, said) = server.ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let last = said.lines().last().unwrap();
    for part in parts {
        assert!(last.contains(part), "no {part:?} in {last}");
    }
}

#[test]
fn what_is_altered_before_its_use_is_named() {
    const STREAMED: &[&str] = &["--most-experts", "4"];
    const CASES: &[(&str, &str, &[&str])] = &[
        ("tiny-v4", "blk.3.ffn_up_exps.weight", STREAMED),
        ("tiny-v4", "blk.2.ffn_down_exps.weight", &[]),
        ("tiny-v4", "token_embd.weight", &[]),
        ("tiny-v41", "blk.3.ffn_gate_exps.weight", STREAMED),
        ("tiny-v41", "per_layer_token_embd.weight", &[]),
        (
            "tiny-v41",
            "per_layer_token_embd.weight",
            &["--reads", "threads"],
        ),
    ];
    for name in ["tiny-v4", "tiny-v41"] {
        let signed = Signed::new(name);
        let tensors: Vec<String> = GgufFile::open(&signed.model)
            .unwrap()
            .tensors()
            .iter()
            .map(|t| t.name.clone())
            .collect();
        for (_, tensor, args) in CASES.iter().filter(|case| case.0 == name) {
            let tensor = tensors.iter().find(|t| t.ends_with(tensor)).unwrap();
            let server = signed.serve(args);
            let places = signed.in_all_of(tensor);
            signed.flip(&places, 3, true);
            let answer = ask(&server, 1);
            signed.flip(&places, 3, true);
            assert_eq!(answer.status, 500, "{tensor}: {}", answer.body);
            let body = answer.json();
            let message = body["error"]["message"].as_str().unwrap();
            let says = ["model.gguf", tensor, "copy the model again"];
            for part in says {
                assert!(message.contains(part), "no {part} in {message}");
            }
            ends_saying(server, &says);
        }
    }
}

#[test]
fn a_stream_says_nothing_wrong_before_it_fails() {
    let signed = Signed::new("tiny-v4");
    let mut body = request(2);
    body["max_tokens"] = 1500.into();
    body["stream"] = true.into();
    let said = |answer: &http::Answer| {
        let events = answer.events();
        let texts = events
            .iter()
            .filter_map(|(_, e)| e["choices"][0]["text"].as_str());
        (texts.collect::<String>(), events.last().unwrap().1.clone())
    };
    for (keep_time, part) in [(true, "blk.3.ffn_up_exps.weight"), (false, "model.gguf")] {
        let server = signed.serve(&["--most-experts", "4"]);
        let (right, _) = said(&server.post("/v1/completions", &body));
        drop(server);

        let server = signed.serve(&["--most-experts", "4"]);
        let mut connection = http::connect(&server.socket);
        let request = http::request("POST", "/v1/completions", &[], &body.to_string());
        connection.write_all(&request).unwrap();
        let mut beginning = vec![0; 3000];
        connection.read_exact(&mut beginning).unwrap();
        let places = signed.in_all_of("blk.3.ffn_up_exps.weight");
        signed.flip(&places, 6, keep_time);
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).unwrap();
        signed.flip(&places, 6, keep_time);

        let answer = http::parse(&[beginning, rest].concat());
        let (before, last) = said(&answer);
        assert!(!before.is_empty() && before.len() < right.len(), "{before}");
        assert!(right.starts_with(&before), "{before:?} of {right:?}");
        let message = last["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
        ends_saying(server, &[part]);
    }
}

#[test]
fn one_bit_anywhere_gives_the_right_answer_or_none() {
    const BITS: u64 = 24;
    for (name, set, args) in [
        ("tiny-v4", false, &["--most-experts", "6"][..]),
        ("tiny-v41", false, &[]),
        (
            "tiny-v41",
            false,
            &["--weights", "copied", "--memory", "1G"],
        ),
        ("tiny-v41", true, &["--most-experts", "6"]),
    ] {
        let signed = Signed::of(name, set);
        let mut server = signed.serve(args);
        let right: Vec<String> = (0..BITS).map(|i| text(&ask(&server, i))).collect();
        drop(server);
        let mut rng = SmallRng::seed_from_u64(17);
        let (mut answers, mut errors) = (0, 0);
        server = signed.serve(args);
        for (i, right) in (0..BITS).zip(&right) {
            let (at, bit) = (signed.anywhere(&mut rng), rng.random_range(0..8));
            // By somebody who writes to the file, and by one who hides it.
            let hidden = i % 4 != 0;
            signed.flip(&[at], bit, hidden);
            let answer = ask(&server, i);
            signed.flip(&[at], bit, hidden);
            if answer.status == 200 {
                assert_eq!(&text(&answer), right, "{name} {args:?}: bit {bit} of {at}");
                assert!(hidden, "{name} {args:?}: a write at {at} is not seen");
                answers += 1;
            } else {
                assert!(answer.status >= 500, "{}", answer.body);
                let body = answer.json();
                let message = body["error"]["message"].as_str().unwrap();
                let file = signed.name_at(at);
                assert!(message.contains(file), "{file}: {message}");
                errors += 1;
                ends_saying(server, &[file]);
                server = signed.serve(args);
            }
        }
        println!("{name} {args:?}: {answers} answers, {errors} errors");
        assert!(answers > 0 && errors > BITS / 4);
    }
}

#[test]
fn a_bit_altered_while_nobody_looks_is_found_at_the_start_or_by_its_use() {
    let signed = Signed::new("tiny-v41");
    let server = signed.serve(&[]);
    let right: Vec<String> = (0..12).map(|i| text(&ask(&server, i))).collect();
    drop(server);
    let bytes = fs::metadata(&signed.model).unwrap().len();
    let mut rng = SmallRng::seed_from_u64(18);
    let mut refused = 0;
    for (i, right) in (0..12).zip(&right) {
        let (at, bit) = (rng.random_range(0..bytes), rng.random_range(0..8));
        signed.flip(&[at], bit, false);
        let model = signed.model.to_str().unwrap();
        let listen = format!("unix:{}", signed.folder.path().join("t").display());
        let args = ["serve", model, "--signer", &signed.key, "--no-sessions"];
        let mut child = super::common::v4_run(
            signed.folder.path(),
            [&args[..], &["--ctx", "2048", "--listen", &listen]].concat(),
        );
        let mut child = child.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let socket = signed.folder.path().join("t");
        let healthy = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(1));
                break false;
            }
            if std::os::unix::net::UnixStream::connect(&socket).is_ok()
                && let Ok(bytes) = http::raw(&socket, &http::request("GET", "/health", &[], ""))
                && bytes.starts_with(b"HTTP/1.1 200")
            {
                break true;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        if healthy {
            let answer = http::post(&socket, "/v1/completions", &request(i));
            if answer.status == 200 {
                assert_eq!(&text(&answer), right, "bit {bit} of {at}");
            } else {
                assert!(answer.body.contains("model.gguf"), "{}", answer.body);
                refused += 1;
            }
            let _ = child.kill();
        } else {
            let mut said = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            assert!(said.contains("does not match the manifest"), "{said}");
            refused += 1;
        }
        child.wait().unwrap();
        let _ = fs::remove_file(&socket);
        signed.flip(&[at], bit, false);
    }
    assert!(refused > 3, "{refused}");
}

#[test]
fn a_write_that_was_undone_counts_and_a_new_name_does_not() {
    let signed = Signed::new("tiny-v4");
    let server = signed.serve(&[]);
    let right = text(&ask(&server, 3));
    // The way to replace a model: next to the old one, then in its place.
    let new = signed.folder.path().join("new.gguf");
    fs::write(&new, b"another model").unwrap();
    let old = signed.folder.path().join("old.gguf");
    fs::hard_link(&signed.model, &old).unwrap();
    fs::set_permissions(&old, Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, &signed.model).unwrap();
    assert_eq!(text(&ask(&server, 3)), right);
    fs::rename(&old, &signed.model).unwrap();
    assert_eq!(text(&ask(&server, 3)), right);

    let places = signed.in_all_of("output_norm.weight");
    signed.flip(&places, 1, false);
    signed.flip(&places, 1, false);
    let answer = ask(&server, 3);
    assert_eq!(answer.status, 500, "{}", answer.body);
    ends_saying(server, &["model.gguf", "was modified", "start again"]);
}

/// A part in whose place another one is put: what is open stays the old one. One that is
/// overwritten, with that of another recipe of the same model: an error that names it.
#[test]
fn a_part_that_is_replaced_gives_no_wrong_token() {
    let signed = Signed::of("tiny-v4", true);
    let other = tempfile::tempdir().unwrap();
    let like = other.path().join("model.gguf");
    convert_as("tiny-v4", &like, "q4", Some(PART));
    let args = ["--most-experts", "4"];
    let mut server = signed.serve(&args);
    let right: Vec<String> = (0..4).map(|i| text(&ask(&server, i))).collect();
    for (_, part) in &signed.parts {
        let name = part.file_name().unwrap().to_str().unwrap();
        let mut parts = fs::read_dir(other.path()).unwrap();
        let number = &name[..11];
        let theirs = parts.find_map(|file| {
            let path = file.unwrap().path();
            let theirs = path.file_name().unwrap().to_str().unwrap();
            theirs.starts_with(number).then_some(path)
        });
        let theirs = fs::read(theirs.unwrap()).unwrap();
        let ours = fs::read(part).unwrap();
        let kept = signed.folder.path().join("kept");
        fs::rename(part, &kept).unwrap();
        fs::write(part, &theirs).unwrap();
        assert_eq!(text(&ask(&server, 1)), right[1], "{name} renamed");
        fs::rename(&kept, part).unwrap();
        assert_eq!(text(&ask(&server, 2)), right[2], "{name} renamed back");

        fs::write(part, theirs).unwrap();
        let answer = ask(&server, 3);
        assert_eq!(answer.status, 500, "{name}: {}", answer.body);
        assert!(answer.body.contains(name), "{name}: {}", answer.body);
        ends_saying(server, &[name]);
        fs::write(part, ours).unwrap();
        server = signed.serve(&args);
        assert_eq!(text(&ask(&server, 3)), right[3]);
    }
}
