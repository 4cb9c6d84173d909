//! Models altered after they were signed: detected by `verify`, and by the engine before a
//! wrong token is output.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use v4_files::gguf::{FileHashes, GgufFile};
use v4_runtime::residency::engram::{EngramOptions, EngramPlacement};
use v4_runtime::residency::experts::ExpertOptions;
use v4_runtime::{Engine, EngineError, EngineOptions, Session, Want, WeightPlacement};
use v4_tests::numbers::golden_ids;
use v4_tests::program::{run, scratch, tiny};
use v4_trust::{
    Beside, Keys, Policy, SecretKey, TrustError, Verify, check, measure, new_key_pair, replace,
    sign,
};

/// The models that are altered: one file each, and split sets.
const MODELS: [(&str, bool); 4] = [
    ("tiny-v4", false),
    ("tiny-v4", true),
    ("tiny-v41", false),
    ("tiny-v41", true),
];

/// A signed copy of a tiny model in a folder of its own.
struct Signed {
    dir: tempfile::TempDir,
    /// The file, or the first part of a set.
    model: PathBuf,
    /// Where each file begins among the bytes of all, and the file.
    parts: Vec<(u64, PathBuf)>,
    public: PathBuf,
}

impl Signed {
    fn new(name: &str) -> Self {
        Self::of(name, false)
    }

    /// A whole file, or a set of parts of less than 8 MB.
    fn of(name: &str, set: bool) -> Self {
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let whole = tiny(name, "native", &[]);
        let mut model = dir.path().join("model.gguf");
        if set {
            let args = [whole.to_str().unwrap(), model.to_str().unwrap()];
            let _ = run("v4-convert", [&args[..], &["--split", "8M", "-q"]].concat()).ok();
            let first = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().path());
            model = first.min().unwrap();
        } else {
            fs::copy(whole, &model).unwrap();
        }
        let file = GgufFile::open(&model).unwrap();
        let parts = file.parts().iter();
        let parts: Vec<_> = parts.map(|p| (p.start(), p.path().to_owned())).collect();
        assert_eq!(parts.len() > 2, set, "{} parts", parts.len());
        let (public_text, secret_text) = new_key_pair(None).unwrap();
        let (public, secret) = (dir.path().join("k.pub"), dir.path().join("k.key"));
        fs::write(&public, public_text).unwrap();
        replace(&secret, secret_text.as_bytes(), true).unwrap();
        let key = secret.to_str().unwrap();
        let _ = run(
            "v4-convert",
            ["sign", model.to_str().unwrap(), "--key", key],
        )
        .ok();
        Self {
            dir,
            model,
            parts,
            public,
        }
    }

    /// The file that a position is in, and the byte of it.
    fn place(&self, position: u64) -> (&Path, u64) {
        let part = self.parts.iter().rfind(|(start, _)| *start <= position);
        let (start, path) = part.unwrap();
        (path, position - start)
    }

    /// Flips a bit of the byte at a position for as long as the result lives.
    fn flip(&self, position: u64, bit: u8) -> Flip<'_> {
        let (path, at) = self.place(position);
        Flip::new(path, at, bit)
    }

    /// The name of the file that a position is in.
    fn file_at(&self, position: u64) -> &str {
        self.place(position)
            .0
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
    }

    fn policy(&self, verify: Verify) -> Policy {
        let mut keys = Keys::default();
        keys.add(self.public.to_str().unwrap()).unwrap();
        Policy {
            keys,
            require_signed: true,
            verify,
        }
    }

    fn check(&self, verify: Verify) -> Result<Option<Arc<FileHashes>>, TrustError> {
        let trusted = check(&self.model, &self.policy(verify), &|_, _| true)?;
        assert!(trusted.signer.is_some());
        Ok(trusted.hashes)
    }
}

/// Flips a bit for as long as it lives.
struct Flip<'a> {
    path: &'a Path,
    at: u64,
    bit: u8,
}

impl<'a> Flip<'a> {
    fn new(path: &'a Path, at: u64, bit: u8) -> Self {
        let flip = Self { path, at, bit };
        flip.toggle();
        flip
    }

    fn toggle(&self) {
        let file = File::options()
            .read(true)
            .write(true)
            .open(self.path)
            .unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << self.bit], self.at)
            .unwrap();
        // As a failing disk would, it leaves no trace in the file's times.
        file.set_times(FileTimes::new().set_modified(before))
            .unwrap();
    }
}

impl Drop for Flip<'_> {
    fn drop(&mut self) {
        self.toggle();
    }
}

fn ids(model: &str) -> Vec<u32> {
    let mut ids = golden_ids(model, "medium");
    ids.truncate(96);
    ids
}

/// How weights come into memory.
fn placements() -> Vec<(&'static str, EngineOptions)> {
    let default = EngineOptions {
        threads: Some(2),
        ..EngineOptions::default()
    };
    let experts = |most| ExpertOptions {
        most_slots: Some(most),
        ..ExpertOptions::default()
    };
    vec![
        ("mapped", default.clone()),
        (
            "copied",
            EngineOptions {
                weights: WeightPlacement::Copied,
                engram: EngramOptions {
                    placement: EngramPlacement::Memory,
                    ..EngramOptions::default()
                },
                ..default.clone()
            },
        ),
        (
            "streamed",
            EngineOptions {
                experts: experts(4),
                ..default
            },
        ),
    ]
}

/// The bits of the logits at every position.
fn logits(model: &Path, options: EngineOptions, ids: &[u32]) -> Result<Vec<u32>, EngineError> {
    let engine = Engine::open(model, options)?;
    let mut session = Session::new(&engine, 256, 32)?;
    match session.append(ids, Want::All) {
        Ok(logits) => Ok(logits.data.iter().map(|v| v.to_bits()).collect()),
        Err(error) => {
            // What was found once stops the engine: also for who needs other bytes.
            let after = Session::new(&engine, 256, 32)?.append(&ids[..1], Want::Last);
            assert!(
                after.is_err_and(|e| e.is_altered()),
                "goes on after {error}"
            );
            Err(error)
        }
    }
}

/// One tensor of each kind: its name without the layer, and the tensor.
fn kinds(file: &GgufFile, rng: &mut SmallRng) -> BTreeMap<String, (String, u64, u64)> {
    let mut kinds = BTreeMap::new();
    for t in file.tensors() {
        let mut parts = t.name.splitn(3, '.');
        let kind = match (parts.next(), parts.next(), parts.next()) {
            (Some("blk"), Some(_), Some(rest)) => rest.to_owned(),
            _ => t.name.clone(),
        };
        // Any of the layers.
        if !kinds.contains_key(&kind) || rng.random_bool(0.3) {
            kinds.insert(kind, (t.name.clone(), file.position(t), t.bytes));
        }
    }
    kinds
}

#[test]
fn one_bit_of_any_tensor_is_found_before_a_wrong_token() {
    for (name, set) in MODELS {
        let signed = Signed::of(name, set);
        let hashes = signed.check(Verify::BeforeUse).unwrap().unwrap();
        let ids = ids(name);
        let mut rng = SmallRng::seed_from_u64(7);
        let file = GgufFile::open(&signed.model).unwrap();
        for (how, options) in placements() {
            let good = logits(&signed.model, options.clone(), &ids).unwrap();
            let options = EngineOptions {
                hashes: Some(Arc::clone(&hashes)),
                ..options
            };
            let checked = logits(&signed.model, options.clone(), &ids).unwrap();
            assert!(checked == good, "{name}, {how}: checks change nothing");
            for (kind, (tensor, position, bytes)) in kinds(&file, &mut rng) {
                let at = position + rng.random_range(0..bytes);
                let _flip = signed.flip(at, rng.random_range(0..8));
                let what = format!("{name}, {how}: byte {at}, in {tensor}");
                match logits(&signed.model, options.clone(), &ids) {
                    Err(error) => {
                        assert!(error.is_altered(), "{what}: {error}");
                        let message = error.to_string();
                        assert!(message.contains(signed.file_at(at)), "{message}");
                        assert!(message.contains(&tensor), "{what}: {message}");
                    }
                    // An expert or a row that none of the tokens uses; what is for images.
                    Ok(bits) => {
                        assert!(bits == good, "{what}: wrong bits");
                        let by_use = kind.contains("_exps.")
                            || kind == "per_layer_token_embd.weight"
                            || kind == "token_embd.weight"
                            || kind.contains("_vl.");
                        assert!(by_use, "{what}: not found");
                    }
                }
                let error = signed.check(Verify::Whole).unwrap_err();
                assert!(error.is_altered(), "{what}: {error}");
            }
        }
    }
}

#[test]
fn rows_and_experts_in_use_are_checked() {
    for (name, set) in MODELS {
        let signed = Signed::of(name, set);
        let hashes = signed.check(Verify::BeforeUse).unwrap().unwrap();
        let ids = ids(name);
        let file = GgufFile::open(&signed.model).unwrap();
        let used: Vec<_> = file
            .tensors()
            .iter()
            .filter(|t| t.name.contains("_exps.") || t.name.ends_with("_embd.weight"))
            .collect();
        for (how, options) in placements() {
            let options = EngineOptions {
                hashes: Some(Arc::clone(&hashes)),
                ..options
            };
            for tensor in &used {
                // A bit in each block: whichever is used first is found.
                let known = hashes
                    .tensors()
                    .iter()
                    .find(|t| t.name == tensor.name)
                    .unwrap();
                let blocks = 0..known.blocks.len() as u64;
                let flips: Vec<_> = blocks
                    .map(|b| signed.flip(known.position + b * known.block_bytes, 3))
                    .collect();
                let found = logits(&signed.model, options.clone(), &ids);
                drop(flips);
                let what = format!("{name}, {how}, {}", tensor.name);
                let error = found.expect_err(&what);
                assert!(error.is_altered(), "{what}: {error}");
                assert!(error.to_string().contains(&tensor.name), "{what}: {error}");
            }
        }
    }
}

#[test]
fn an_expert_that_is_read_again_is_checked_again() {
    let signed = Signed::new("tiny-v4");
    let hashes = signed.check(Verify::BeforeUse).unwrap();
    let options = EngineOptions {
        threads: Some(2),
        experts: ExpertOptions {
            most_slots: Some(4),
            ..ExpertOptions::default()
        },
        hashes,
        ..EngineOptions::default()
    };
    let ids = ids("tiny-v4");
    let engine = Engine::open(&signed.model, options).unwrap();
    let mut session = Session::new(&engine, 256, 32).unwrap();
    session.append(&ids, Want::Last).unwrap();
    let flips: Vec<_> = engine
        .file()
        .tensors()
        .iter()
        .filter(|t| t.name == "blk.3.ffn_up_exps.weight")
        .flat_map(|t| {
            let each = t.bytes / t.dims[2];
            let start = engine.file().position(t);
            (0..t.dims[2]).map(move |e| start + e * each)
        })
        .map(|at| signed.flip(at, 0))
        .collect();
    assert!(!flips.is_empty());
    session.reset();
    let error = session.append(&ids, Want::Last).unwrap_err();
    assert!(error.is_altered(), "{error}");
    assert!(error.to_string().contains("blk.3.ffn_up_exps"), "{error}");
}

#[test]
fn a_row_that_is_read_again_is_checked_again() {
    for (name, table) in [
        ("tiny-v4", "token_embd.weight"),
        ("tiny-v41", "per_layer_token_embd.weight"),
    ] {
        let signed = Signed::new(name);
        let options = EngineOptions {
            threads: Some(2),
            hashes: signed.check(Verify::BeforeUse).unwrap(),
            ..EngineOptions::default()
        };
        let ids = ids(name);
        let engine = Engine::open(&signed.model, options).unwrap();
        let mut session = Session::new(&engine, 256, 32).unwrap();
        session.append(&ids, Want::Last).unwrap();
        let tensors = engine.file().tensors().iter();
        let flips: Vec<_> = tensors
            .filter(|t| t.name.ends_with(table))
            .flat_map(|t| {
                let start = engine.file().position(t);
                (0..t.bytes).step_by(64 << 10).map(move |at| start + at)
            })
            .map(|at| signed.flip(at, 0))
            .collect();
        assert!(!flips.is_empty());
        session.reset();
        let error = session.append(&ids, Want::Last).unwrap_err();
        assert!(error.to_string().contains(table), "{name}: {error}");
    }
}

#[test]
fn weights_that_were_checked_are_checked_again_when_the_file_changes() {
    let signed = Signed::new("tiny-v4");
    let options = EngineOptions {
        threads: Some(2),
        hashes: signed.check(Verify::BeforeUse).unwrap(),
        ..EngineOptions::default()
    };
    let ids = ids("tiny-v4");
    let engine = Engine::open(&signed.model, options).unwrap();
    let mut session = Session::new(&engine, 256, 32).unwrap();
    session.append(&ids[..40], Want::Last).unwrap();
    let dense = engine.file().tensor("blk.1.attn_kv.weight").unwrap();
    let at = engine.file().position(dense) + 77;
    let _flip = signed.flip(at, 2);
    let error = session.append(&ids[40..], Want::Last).unwrap_err();
    assert!(
        error.to_string().contains("blk.1.attn_kv.weight"),
        "{error}"
    );
    assert!(session.is_empty(), "what was computed meanwhile is gone");
}

#[test]
fn header_and_gaps_are_checked_before_they_are_parsed() {
    for set in [false, true] {
        header_and_gaps(&Signed::of("tiny-v41", set));
    }
}

fn header_and_gaps(signed: &Signed) {
    let hashes = signed.check(Verify::BeforeUse).unwrap().unwrap();
    let mut frame = Vec::new();
    let mut from = 0;
    for t in hashes.tensors() {
        // Between two files there is nothing.
        from = signed.parts.iter().fold(from, |from, &(start, _)| {
            if (from..=t.position).contains(&start) {
                start
            } else {
                from
            }
        });
        frame.push(from..t.position);
        from = t.position + t.bytes;
    }
    frame.retain(|gap| !gap.is_empty());
    assert!(frame.len() > 2, "a header and gaps");
    let mut rng = SmallRng::seed_from_u64(11);
    let header = frame[0].clone();
    let mut places: Vec<u64> = (0..60).map(|_| rng.random_range(header.clone())).collect();
    places.extend([0, 4, 8, 16, 24, header.end - 1]);
    places.extend(frame[1..].iter().flat_map(|gap| [gap.start, gap.end - 1]));
    for at in places {
        let _flip = signed.flip(at, rng.random_range(0..8));
        for verify in [Verify::BeforeUse, Verify::Whole] {
            let error = signed.check(verify).unwrap_err();
            assert!(error.is_altered(), "byte {at}: {error}");
        }
        let options = EngineOptions {
            hashes: Some(Arc::clone(&hashes)),
            ..EngineOptions::default()
        };
        let error = Engine::open(&signed.model, options).unwrap_err();
        assert!(error.is_altered(), "byte {at}: {error}");
    }
    for (_, path) in &signed.parts {
        let before = fs::read(path).unwrap();
        let file = File::options().append(true).open(path).unwrap();
        for other in [before.len() - 1, before.len() + 1] {
            file.set_len(other as u64).unwrap();
            let error = signed.check(Verify::Whole).unwrap_err();
            assert!(error.is_altered(), "{error}");
        }
        fs::write(path, before).unwrap();
    }
}

#[test]
fn manifest_hashes_and_signature_are_covered() {
    for set in [false, true] {
        manifest_hashes_and_signature(&Signed::of("tiny-v4", set));
    }
}

fn manifest_hashes_and_signature(signed: &Signed) {
    let beside = Beside::of(&signed.model);
    let check_with = |path: &Path, bytes: &[u8], what: String| {
        let before = fs::read(path).unwrap();
        fs::write(path, bytes).unwrap();
        let result = signed.check(Verify::BeforeUse);
        fs::write(path, before).unwrap();
        assert!(result.is_err(), "{what} of {} is not seen", path.display());
        result.unwrap_err()
    };
    let flipped = |bytes: &[u8], at: usize, bit: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1 << bit;
        bytes
    };
    for path in [&beside.manifest, &beside.hashes] {
        let bytes = fs::read(path).unwrap();
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 150) {
            let bit = at % 8;
            check_with(
                path,
                &flipped(&bytes, at, bit),
                format!("bit {bit} of {at}"),
            );
        }
        check_with(path, &bytes[..bytes.len() - 1], "a cut".to_owned());
        check_with(path, &[&bytes[..], b" "].concat(), "a byte more".to_owned());
        check_with(path, b"", "nothing left".to_owned());
    }
    // The first line is minisign's untrusted comment: nothing depends on it.
    let signature = fs::read(&beside.signature).unwrap();
    let start = signature.iter().position(|&b| b == b'\n').unwrap() + 1;
    let end = signature.len() - 1;
    for at in (start..end).filter(|&at| signature[at] != b'\n') {
        for bit in 0..8 {
            let bytes = flipped(&signature, at, bit);
            check_with(&beside.signature, &bytes, format!("bit {bit} of {at}"));
        }
    }
    assert!(signed.check(Verify::BeforeUse).is_ok());
    // A manifest of its own for an altered model, by somebody else.
    let other = measure(&signed.model, "somebody", &|_, _| true).unwrap();
    let text = other.manifest.to_text().unwrap();
    let error = check_with(&beside.manifest, &text, "a manifest".to_owned());
    assert!(matches!(error, TrustError::BadSignature { .. }), "{error}");
    let (_, secret) = new_key_pair(None).unwrap();
    let path = signed.dir.path().join("other.key");
    fs::write(&path, secret).unwrap();
    let key = SecretKey::read(&path, None).unwrap();
    let theirs = sign(&fs::read(&beside.manifest).unwrap(), &key, "trust me").unwrap();
    let error = check_with(&beside.signature, theirs.as_bytes(), "a signer".to_owned());
    assert!(matches!(error, TrustError::UnknownSigner { .. }), "{error}");
}

#[test]
fn the_stock_minisign_takes_our_signatures_and_we_take_its() {
    let signed = Signed::new("tiny-v4");
    let beside = Beside::of(&signed.model);
    if !v4_fixtures::tool("minisign") {
        return;
    }
    let minisign = |args: &[&str]| {
        let ended = Command::new("minisign").args(args).output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success(), "minisign {args:?}: {text}");
    };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (manifest, public) = (text(&beside.manifest), text(&signed.public));
    minisign(&["-Vm", &manifest, "-p", &public]);
    // Its keys, and what it signs with them.
    let dir = signed.dir.path();
    let (p, s) = (text(&dir.join("stock.pub")), text(&dir.join("stock.key")));
    minisign(&["-G", "-W", "-p", &p, "-s", &s]);
    minisign(&["-Sm", &manifest, "-s", &s, "-t", "by hand"]);
    let model = text(&signed.model);
    let ended = run("v4-run", ["verify", &model, "--signer", &p]).ok();
    assert!(ended.text().contains("(by hand)"), "{}", ended.text());
    let _ = run("v4-convert", ["sign", &model, "--key", &s]).ok();
    minisign(&["-Vm", &manifest, "-p", &p]);
}

#[test]
fn programs_refuse_what_is_unsigned_or_altered() {
    let signed = Signed::new("tiny-v4");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (model, public) = (text(&signed.model), text(&signed.public));
    let ask = |more: &[&str]| {
        let prompt = [
            "complete",
            &model,
            "-p",
            "fn main() {",
            "-n",
            "8",
            "--temp",
            "0",
            "-q",
        ];
        run("v4-run", prompt.iter().chain(more))
    };
    let plain = ask(&[]).ok();
    for more in [
        &["--signer", &public][..],
        &["--signer", &public, "--verify", "whole"],
        &["--verify", "use"],
        &["--signer", &public, "--weights", "copied"],
        &["--signer", &public, "--most-experts", "4"],
    ] {
        assert_eq!(ask(more).ok().stdout, plain.stdout, "{more:?}");
    }
    let whole = fs::read_to_string(&signed.public).unwrap();
    let key = whole.lines().nth(1).unwrap();
    let verified = run("v4-run", ["verify", &model, "--signer", key, "--json"]).ok();
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    let hash = blake3::hash(&fs::read(&signed.model).unwrap()).to_string();
    assert_eq!(report["blake3"], hash);
    assert_eq!(report["whole"], true);
    assert_eq!(report["signer"]["key"], key);

    ask(&[
        "--signer",
        "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
    ])
    .failed_with(&["model.gguf.manifest.minisig", "any of the 1 trusted keys"]);
    ask(&["--signer", "nobody"]).failed_with(&["nobody", "neither a minisign public key"]);
    let output = {
        let file = GgufFile::open(&signed.model).unwrap();
        file.position(file.tensor("output.weight").unwrap()) + 4711
    };
    {
        let _flip = signed.flip(output, 2);
        for more in [
            &["--signer", &public][..],
            &["--signer", &public, "--verify", "whole"],
            &["--verify", "use", "--weights", "copied"],
        ] {
            let ended = ask(more);
            ended.failed_with(&["model.gguf", "output.weight", "copy the model again"]);
            assert!(ended.stdout.is_empty(), "{more:?}: {}", ended.text());
        }
        for command in ["v4-run", "v4-convert"] {
            let ended = run(command, ["verify", &model, "--signer", &public]);
            ended.failed_with(&["model.gguf", "output.weight"]);
        }
    }
    let beside = Beside::of(&signed.model);
    fs::remove_file(&beside.signature).unwrap();
    ask(&["--signer", &public]).failed_with(&["not signed", "v4-convert sign"]);
    let _ = run("v4-run", ["verify", &model, "--unsigned"]).ok();
    fs::remove_file(&beside.hashes).unwrap();
    ask(&["--verify", "use"]).failed_with(&["model.gguf.hashes", "missing"]);
    fs::remove_file(&beside.manifest).unwrap();
    ask(&["--verify", "use"]).failed_with(&["has no manifest", "v4-convert sign"]);
    ask(&["--require-signed"]).failed_with(&["no key is trusted"]);
    assert_eq!(ask(&[]).ok().stdout, plain.stdout);
}
