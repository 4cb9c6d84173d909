//! A small model, measured, signed and looked at again: what is trusted, and what every
//! alteration is called.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use v4_files::gguf::{Metadata, TensorInfo, data_bytes, encode_header, layout_offsets};
use v4_quant::GgmlType;
use v4_trust::{
    Beside, Keys, Manifest, Measured, Policy, SecretKey, TrustError, Trusted, Verify, check,
    measure, new_key_pair, replace, sign,
};

const GO_ON: v4_trust::Progress<'static> = &|_, _| true;

/// A table of rows with two blocks and a bit, three experts, a matrix of more than a MiB,
/// and a vector.
fn layout() -> Vec<TensorInfo> {
    let tensor = |name: &str, dims: &[u64]| (name.to_owned(), GgmlType::F32, dims.to_vec());
    let tensors = [
        tensor("token_embd.weight", &[64, 600]),
        tensor("blk.0.ffn_up_exps.weight", &[32, 16, 3]),
        tensor("output.weight", &[64, 5000]),
        tensor("output_norm.weight", &[7]),
    ];
    layout_offsets(tensors, 64).unwrap()
}

fn model_bytes() -> Vec<u8> {
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", "deepseek4");
    metadata.insert("general.name", "Tiny");
    let tensors = layout();
    let mut bytes = encode_header(&metadata, &tensors, 64).unwrap();
    let data = usize::try_from(data_bytes(&tensors, 64)).unwrap();
    let mut x = 1u32;
    bytes.extend((0..data).map(|_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    }));
    bytes
}

/// A model in a folder of its own, with its manifest, list of hashes and signature.
struct Signed {
    folder: tempfile::TempDir,
    model: PathBuf,
    beside: Beside,
    public: PathBuf,
    key: SecretKey,
    measured: Measured,
}

impl Signed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("m.gguf");
        fs::write(&model, model_bytes()).unwrap();
        let (public_text, secret_text) = new_key_pair(None).unwrap();
        let (public, secret) = (folder.path().join("k.pub"), folder.path().join("k.key"));
        fs::write(&public, public_text).unwrap();
        replace(&secret, secret_text.as_bytes(), true).unwrap();
        let key = SecretKey::read(&secret, None).unwrap();
        let measured = measure(&model, "a test", GO_ON).unwrap();
        let signed = Self {
            beside: Beside::of(&model),
            folder,
            model,
            public,
            key,
            measured,
        };
        replace(&signed.beside.hashes, &signed.measured.hashes, false).unwrap();
        signed.sign(&signed.measured.manifest);
        signed
    }

    fn sign(&self, manifest: &Manifest) {
        let text = manifest.to_text().unwrap();
        fs::write(&self.beside.manifest, &text).unwrap();
        let signature = sign(&text, &self.key, "made for a test").unwrap();
        fs::write(&self.beside.signature, signature).unwrap();
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

    fn check(&self, verify: Verify) -> Result<Trusted, TrustError> {
        check(&self.model, &self.policy(verify), GO_ON)
    }

    fn refusal(&self, verify: Verify) -> TrustError {
        self.check(verify).unwrap_err()
    }

    /// Changes one byte of a file.
    fn flip(&self, path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_manifest_says_what_b3sum_says_of_the_file_its_tensors_and_their_blocks() {
    let signed = Signed::new();
    let (model, measured) = (&signed.model, &signed.measured);
    let bytes = fs::read(model).unwrap();
    let manifest = &measured.manifest;
    let hex = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    assert_eq!(manifest.file.name, "m.gguf");
    assert_eq!(manifest.file.bytes, bytes.len() as u64);
    assert_eq!(manifest.file.blake3.to_string(), hex(&bytes));
    assert_eq!(format!("{:?}", manifest.file.blake3), hex(&bytes));
    assert_eq!(manifest.made_by, "a test");
    assert_eq!(
        (&*manifest.architecture, &*manifest.model, &manifest.recipe),
        ("deepseek4", "Tiny", &None)
    );

    // Rows of a table are read one by one, experts one at a time, the rest from end to end.
    let blocks: Vec<u64> = manifest.tensors.iter().map(|t| t.block_bytes).collect();
    assert_eq!(blocks, [64 << 10, 32 * 16 * 4, 1 << 20, 1 << 20]);
    let (mut frame, mut list, mut end) = (Vec::new(), Vec::new(), 0);
    for (tensor, info) in manifest.tensors.iter().zip(layout()) {
        assert_eq!(
            (&tensor.name, &tensor.dims, tensor.bytes),
            (&info.name, &info.dims, info.bytes)
        );
        assert_eq!(tensor.ty, "F32");
        let start = usize::try_from(tensor.offset).unwrap();
        let data = &bytes[start..start + usize::try_from(tensor.bytes).unwrap()];
        assert_eq!(tensor.blake3.to_string(), hex(data));
        for block in data.chunks(usize::try_from(tensor.block_bytes).unwrap()) {
            list.extend_from_slice(blake3::hash(block).as_bytes());
        }
        frame.extend_from_slice(&bytes[end..start]);
        end = start + data.len();
    }
    frame.extend_from_slice(&bytes[end..]);
    assert_eq!(manifest.frame.to_string(), hex(&frame));
    assert_eq!(measured.hashes, list);
    assert_eq!(manifest.blocks.count, 3 + 3 + 2 + 1);
    assert_eq!(manifest.blocks.blake3.to_string(), hex(&list));

    let text = manifest.to_text().unwrap();
    assert_eq!(text.last(), Some(&b'\n'));
    assert_eq!(
        serde_json::from_slice::<Manifest>(&text).unwrap(),
        *manifest
    );
}

#[test]
fn only_the_table_of_an_engram_has_small_blocks_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.gguf");
    let names = ["blk.1.engram_embd.weight", "blk.1.engram_key.weight"];
    let tensors = names.map(|name| (name.to_owned(), GgmlType::F32, vec![32, 3]));
    let tensors = layout_offsets(tensors, 32).unwrap();
    let mut bytes = encode_header(&Metadata::default(), &tensors, 32).unwrap();
    bytes.resize(bytes.len() + 2 * 32 * 3 * 4, 7);
    fs::write(&model, bytes).unwrap();
    let manifest = measure(&model, "", GO_ON).unwrap().manifest;
    let blocks: Vec<u64> = manifest.tensors.iter().map(|t| t.block_bytes).collect();
    assert_eq!(blocks, [64 << 10, 1 << 20]);
    assert!(manifest.architecture.is_empty() && manifest.model.is_empty());
}

#[test]
fn what_is_known_of_a_model_is_said_in_one_line() {
    let signed = Signed::new();
    let asked = |policy: &Policy| check(&signed.model, policy, GO_ON).unwrap();
    let nothing = asked(&Policy::default());
    assert!(nothing.manifest.is_none() && nothing.file_hash().is_none());
    assert_eq!(nothing.to_string(), "neither signature nor content checked");

    let key = signed.public.to_str().unwrap();
    let lines = [
        (Verify::Off, "; content not checked"),
        (
            Verify::BeforeUse,
            "; each block is checked before it is used",
        ),
        (Verify::Whole, "bytes match the manifest"),
    ];
    for (verify, end) in lines {
        let trusted = asked(&signed.policy(verify));
        let line = trusted.to_string();
        let start = format!("signed with key {key} (made for a test); ");
        assert!(line.starts_with(&start) && line.ends_with(end), "{line}");
        assert_eq!(trusted.whole, verify == Verify::Whole);
        assert_eq!(trusted.hashes.is_some(), verify != Verify::Off);
        let hash = trusted.file_hash().unwrap();
        assert_eq!(hash, signed.measured.manifest.file.blake3);
        if verify == Verify::Off {
            continue;
        }
        let unsigned = asked(&Policy {
            verify,
            ..Policy::default()
        });
        assert!(unsigned.signer.is_none());
        let line = unsigned.to_string();
        assert!(line.starts_with("not signed, or no key") && line.ends_with(end));
    }
    // Keys alone ask for a signature too.
    let keys = Policy {
        require_signed: false,
        ..signed.policy(Verify::Off)
    };
    assert!(asked(&keys).signer.is_some());
}

#[test]
fn what_was_altered_is_found_where_it_is_looked_for() {
    let signed = Signed::new();
    let tensor = usize::try_from(signed.measured.manifest.tensors[2].offset).unwrap();
    let model_len = fs::metadata(&signed.model).unwrap().len() as usize;

    // The last block of the largest tensor, which is shorter.
    signed.flip(&signed.model, tensor + 64 * 5000 * 4 - 1);
    assert!(signed.check(Verify::Off).is_ok());
    assert!(signed.check(Verify::BeforeUse).is_ok());
    let error = signed.refusal(Verify::Whole);
    assert!(matches!(error, TrustError::Model(_)) && error.is_altered());
    assert!(error.to_string().contains("output.weight"), "{error}");
    signed.flip(&signed.model, tensor + 64 * 5000 * 4 - 1);
    assert!(signed.check(Verify::Whole).is_ok());

    // Header and padding, before anything is used.
    for at in [24, model_len - 1] {
        signed.flip(&signed.model, at);
        assert!(signed.refusal(Verify::BeforeUse).is_altered());
        signed.flip(&signed.model, at);
    }

    signed.flip(&signed.beside.hashes, 40);
    let error = signed.refusal(Verify::BeforeUse);
    assert!(matches!(error, TrustError::Hashes { .. }) && error.is_altered());
    signed.flip(&signed.beside.hashes, 40);

    signed.flip(&signed.beside.manifest, 40);
    let error = signed.refusal(Verify::Off);
    assert!(matches!(error, TrustError::BadSignature { .. }) && error.is_altered());
    signed.flip(&signed.beside.manifest, 40);
    assert!(signed.check(Verify::Whole).is_ok());
}

#[test]
fn what_is_missing_or_by_somebody_else_is_said_by_name() {
    let signed = Signed::new();
    let Beside {
        manifest,
        signature,
        hashes,
    } = &signed.beside;
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(name(manifest), "m.gguf.manifest");
    assert_eq!(name(signature), "m.gguf.manifest.minisig");
    assert_eq!(name(hashes), "m.gguf.hashes");
    let aside = signed.folder.path().join("aside");
    for (path, verify) in [
        (hashes, Verify::BeforeUse),
        (signature, Verify::Off),
        (manifest, Verify::Off),
    ] {
        fs::rename(path, &aside).unwrap();
        let error = signed.refusal(verify);
        let as_it_is = match &error {
            TrustError::NoHashes { path: at } => at == hashes,
            TrustError::Unsigned { model, path: at } => *model == signed.model && at == signature,
            TrustError::NoManifest { model, path: at } => *model == signed.model && at == manifest,
            _ => false,
        };
        assert!(
            as_it_is && error.to_string().contains(&name(path)),
            "{error}"
        );
        assert!(!error.is_altered());
        fs::rename(&aside, path).unwrap();
    }
    // Where there is no model, its manifest is not what is missing.
    let nowhere = signed.folder.path().join("none.gguf");
    let error = check(&nowhere, &signed.policy(Verify::Off), GO_ON).unwrap_err();
    assert!(matches!(error, TrustError::Io { .. }), "{error}");

    let nobody = Policy {
        require_signed: true,
        ..Policy::default()
    };
    let error = check(&signed.model, &nobody, GO_ON).unwrap_err();
    assert!(matches!(error, TrustError::NoKeys { .. }), "{error}");

    let other = new_key_pair(None).unwrap().0;
    let mut keys = Keys::default();
    keys.add(other.lines().nth(1).unwrap()).unwrap();
    let error = check(
        &signed.model,
        &Policy {
            keys: keys.clone(),
            ..nobody
        },
        GO_ON,
    );
    let error = error.unwrap_err();
    assert!(matches!(error, TrustError::UnknownSigner { keys: 1, .. }));
    // One of several is enough.
    keys.add(signed.public.to_str().unwrap()).unwrap();
    let policy = Policy {
        keys,
        ..signed.policy(Verify::Off)
    };
    assert!(check(&signed.model, &policy, GO_ON).is_ok());

    fs::write(signature, "untrusted comment: x\nnothing\n").unwrap();
    let error = signed.refusal(Verify::Off);
    assert!(matches!(error, TrustError::SignatureFormat { .. }));
}

#[test]
fn a_signed_manifest_may_still_be_none_of_this_model() {
    let signed = Signed::new();
    let good = &signed.measured.manifest;
    let resigned = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        signed.sign(&manifest);
        signed.refusal(Verify::BeforeUse)
    };
    let error = resigned(&|m| m.format = "v4-manifest-2".to_owned());
    let text = error.to_string();
    assert!(matches!(error, TrustError::Manifest { .. }), "{text}");
    assert!(text.contains("v4-manifest-2") && text.contains("v4-manifest-1"));

    for change in [
        // More or fewer hashes than the list has.
        &(|m: &mut Manifest| m.blocks.count += 1) as &dyn Fn(&mut Manifest),
        &|m| m.blocks.count = u64::MAX / 16,
        // Fewer blocks than hashes, and so some that belong to nothing.
        &|m| m.tensors[2].block_bytes *= 2,
    ] {
        let error = resigned(change);
        assert!(matches!(error, TrustError::Hashes { .. }), "{error}");
    }
    for change in [
        &(|m: &mut Manifest| m.tensors[3].offset = 0) as &dyn Fn(&mut Manifest),
        // More blocks than there are hashes.
        &|m| m.tensors[3].block_bytes = 1,
        &|m| m.tensors[3].block_bytes = 0,
    ] {
        let error = resigned(change);
        assert!(matches!(error, TrustError::Layout { .. }), "{error}");
        assert!(!error.is_altered());
    }
    let error = resigned(&|m| m.file.bytes += 1);
    assert!(error.is_altered(), "{error}");
    fs::write(&signed.beside.manifest, "{}").unwrap();
    let unsigned = Policy {
        verify: Verify::BeforeUse,
        ..Policy::default()
    };
    let error = check(&signed.model, &unsigned, GO_ON).unwrap_err();
    assert!(matches!(error, TrustError::Manifest { .. }), "{error}");
}

#[test]
fn progress_goes_up_to_the_end_and_stops_where_it_is_told() {
    let signed = Signed::new();
    let total = fs::metadata(&signed.model).unwrap().len();
    let seen = Mutex::new(Vec::new());
    let note = |done, all| {
        seen.lock().unwrap().push((done, all));
        true
    };
    measure(&signed.model, "", &note).unwrap();
    let noted = std::mem::take(&mut *seen.lock().unwrap());
    // One piece for each tensor, up to its end; padding follows the last one.
    let tensors = &signed.measured.manifest.tensors;
    let ends: Vec<(u64, u64)> = tensors
        .iter()
        .map(|t| (t.offset + t.bytes, total))
        .collect();
    assert_eq!(noted, ends);

    let data: u64 = tensors.iter().map(|t| t.bytes).sum();
    check(&signed.model, &signed.policy(Verify::Whole), &note).unwrap();
    let noted = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(noted.iter().map(|n| n.0).max(), Some(data));
    assert!(noted.iter().all(|n| n.1 == data));

    let stop: v4_trust::Progress<'_> = &|_, _| false;
    let error = measure(&signed.model, "", stop).unwrap_err();
    assert!(matches!(error, TrustError::Interrupted { .. }), "{error}");
    let error = check(&signed.model, &signed.policy(Verify::Whole), stop).unwrap_err();
    assert!(matches!(error, TrustError::Interrupted { .. }), "{error}");
}

#[test]
fn files_are_replaced_with_the_permissions_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    replace(&path, b"one", true).unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode()), (b"one".to_vec(), 0o600));
    replace(&path, b"two", false).unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode()), (b"two".to_vec(), 0o644));
    // Nothing else is left in the folder.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("none/f");
    let error = replace(&nowhere, b"", false).unwrap_err();
    assert!(matches!(error, TrustError::Io { .. }), "{error}");
    // A bare name is one in the folder at hand. Other tests name files by whole paths.
    std::env::set_current_dir(folder.path()).unwrap();
    replace(Path::new("f"), b"here", false).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"here");
}

#[test]
fn keys_come_from_a_folder_s_pub_files_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = Keys::default();
    keys.add_folder(&folder.path().join("none")).unwrap();
    assert!(keys.is_empty());
    for name in ["b.pub", "a.pub", "c.key", "d"] {
        fs::write(folder.path().join(name), new_key_pair(None).unwrap().0).unwrap();
    }
    fs::write(folder.path().join("e.key"), "no key").unwrap();
    keys.add_folder(folder.path()).unwrap();
    assert!(!keys.is_empty() && keys.len() == 2);
    let text = format!("{keys:?}");
    assert!(text.find("a.pub").unwrap() < text.find("b.pub").unwrap());
    fs::write(folder.path().join("c.pub"), "no key").unwrap();
    let error = keys.add_folder(folder.path()).unwrap_err();
    assert!(matches!(error, TrustError::Key { .. }), "{error}");

    // A word is a wrong key, a path a file that is missing.
    let error = keys.add("word").unwrap_err();
    assert!(matches!(error, TrustError::Key { .. }), "{error}");
    for path in ["./word", "word.pub"] {
        let error = keys.add(path).unwrap_err();
        assert!(matches!(error, TrustError::Io { .. }), "{error}");
    }
    let file = folder.path().join("a.pub");
    let text = fs::read_to_string(&file).unwrap();
    for (bytes, fits) in [(16 << 10, true), ((16 << 10) + 1, false)] {
        let mut text = text.clone();
        text.extend(std::iter::repeat_n('\n', bytes - text.len()));
        fs::write(&file, text).unwrap();
        match keys.add(file.to_str().unwrap()) {
            Ok(()) => assert!(fits),
            Err(TrustError::TooLong { bytes, most, .. }) => {
                assert!(!fits);
                assert_eq!((bytes, most), ((16 << 10) + 1, 16 << 10));
            }
            Err(other) => panic!("{other}"),
        }
    }
    fs::write(&file, b"\xff\xfe").unwrap();
    let error = keys.add(file.to_str().unwrap()).unwrap_err();
    assert!(error.to_string().contains("UTF-8"), "{error}");
    fs::write(&file, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    let error = keys.add(file.to_str().unwrap()).unwrap_err();
    assert!(error.to_string().contains("git lfs pull"), "{error}");
    let error = keys.add(folder.path().to_str().unwrap()).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn a_comment_is_one_line() {
    let signed = Signed::new();
    let error = sign(b"x", &signed.key, "two\nlines").unwrap_err();
    assert!(matches!(error, TrustError::Sign { .. }), "{error}");
    assert_eq!(format!("{:?}", signed.key), "SecretKey");
}
