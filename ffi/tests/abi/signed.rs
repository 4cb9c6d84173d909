//! A signed model, and what the library does if single weights were altered.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

use v4::layout::Sized32;
use v4::status::Status;
use v4_files::gguf::GgufFile;
use v4_tests::adapter::Written;
use v4_tests::program::{run, scratch, tiny};

/// A copy of the tiny model that was signed.
#[derive(Debug)]
pub struct Signed {
    /// The model.
    pub model: PathBuf,
    /// The public key of who signed it.
    pub signer: PathBuf,
}

impl Signed {
    /// A folder with `signed.gguf` and the files next to it, `signer.pub`, and another key,
    /// `other.pub`.
    pub fn new(folder: &Path) -> Self {
        let model = folder.join("signed.gguf");
        std::fs::copy(tiny("tiny-v4", "native", &[]), &model).unwrap();
        let convert = |args: &[&OsStr]| run("v4-convert", args.iter().copied()).ok();
        for name in ["signer", "other"] {
            let name = folder.join(name);
            convert(&[
                "keygen".as_ref(),
                "--no-password".as_ref(),
                name.as_os_str(),
            ]);
        }
        let signer = folder.join("signer.pub");
        let signed = Self { model, signer };
        signed.sign(&signed.model);
        signed
    }

    /// Signs a model, or an adapter's folder.
    pub fn sign(&self, what: &Path) {
        let key = self.signer.with_extension("key");
        let words = ["sign".as_ref(), "--quiet".as_ref(), "--key".as_ref()];
        let words: Vec<&OsStr> = [&words[..], &[key.as_os_str(), what.as_os_str()]].concat();
        let _ = run("v4-convert", words).ok();
    }

    /// Writes an adapter for the model.
    pub fn adapter(&self, folder: &Path, seed: u64) {
        let file = GgufFile::open(&self.model).unwrap();
        let modules = [
            ("layers.0.attn.wq_a", "blk.0.attn_q_a.weight"),
            (
                "layers.1.ffn.shared_experts.w2",
                "blk.1.ffn_down_shexp.weight",
            ),
            ("head", "output.weight"),
        ];
        let sized = modules.map(|(module, tensor)| {
            let dims = &file.tensor(tensor).unwrap().dims;
            (module.to_owned(), dims[0] as usize, dims[1] as usize)
        });
        Written::noise(4, 8.0, &sized, seed).write(folder);
    }

    /// Flips a bit of each of a tensor's matrices.
    fn flip(&self, tensor: &str) {
        let places: Vec<u64> = {
            let file = GgufFile::open(&self.model).unwrap();
            let info = file.tensor(tensor).unwrap();
            let matrices = info.dims.get(2).copied().unwrap_or(1);
            let place = |i| file.position(info) + i * (info.bytes / matrices);
            (0..matrices).map(place).collect()
        };
        let file = File::options().read(true).write(true).open(&self.model);
        let (file, mut byte) = (file.unwrap(), [0]);
        for at in places {
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    }
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn last_error() -> String {
    // SAFETY: valid until the next call.
    let text = unsafe { CStr::from_ptr(v4::v4_last_error()) };
    text.to_str().unwrap().to_owned()
}

/// All defaults, with the size set.
fn sized<T: Sized32>() -> T {
    // SAFETY: `Sized32` allows zeros, and begins with the size.
    unsafe {
        let mut value: T = std::mem::zeroed();
        (&raw mut value).cast::<u32>().write(size_of::<T>() as u32);
        value
    }
}

/// Opens the model by its signer's word and runs tokens: the statuses of opening, of
/// running, of running once more in a new session, and the first one's message.
fn statuses(signed: &Signed, weights: i32) -> ([i32; 3], String) {
    let (path, key) = (c(&signed.model), c(&signed.signer));
    let signers = [key.as_ptr()];
    let mut options: v4::v4_engine_options = sized();
    (options.threads, options.context, options.weights) = (2, 64, weights);
    (options.signers, options.signer_count) = (signers.as_ptr(), 1);
    let ids: Vec<u32> = (10..42).collect();
    let mut engine = null_mut();
    // SAFETY: as the header says.
    unsafe {
        let opened = v4::v4_engine_open(path.as_ptr(), &raw const options, &raw mut engine);
        if opened != Status::Ok as i32 {
            return ([opened; 3], last_error());
        }
        let run = || {
            let mut session = null_mut();
            let made = v4::v4_session_open(engine, null(), &raw mut session);
            assert_eq!(made, Status::Ok as i32, "{}", last_error());
            let ran = v4::v4_session_append(session, ids.as_ptr(), ids.len(), null());
            let said = last_error();
            let mut facts: v4::v4_session_facts = sized();
            v4::v4_session_facts_of(session, &raw mut facts);
            let held = if ran == Status::Ok as i32 {
                ids.len()
            } else {
                0
            };
            assert_eq!(facts.tokens as usize, held);
            assert_eq!(v4::v4_session_close(session), Status::Ok as i32);
            (ran, said)
        };
        let ((first, said), (second, _)) = (run(), run());
        assert_eq!(v4::v4_engine_close(engine), Status::Ok as i32);
        ([opened, first, second], said)
    }
}

#[test]
fn altered_weights_are_refused_before_they_are_used() {
    let folder = scratch().join("altered");
    std::fs::create_dir_all(&folder).unwrap();
    let signed = Signed::new(&folder);
    let [ok, altered] = [Status::Ok as i32, Status::Altered as i32];
    let (mapped, copied) = (0, 2);
    for weights in [mapped, copied] {
        assert_eq!(statuses(&signed, weights).0, [ok; 3]);
    }
    // What every token needs is compared when the model is opened, experts when tokens
    // choose them; once one was found, no session's call runs the model any more.
    for (tensor, first) in [
        ("output.weight", altered),
        ("blk.5.ffn_down_exps.weight", ok),
    ] {
        signed.flip(tensor);
        for (weights, first) in [(mapped, first), (copied, altered)] {
            let (found, said) = statuses(&signed, weights);
            assert_eq!(found, [first, altered, altered], "{tensor}: {said}");
            assert!(said.contains(tensor), "{said}");
            assert!(said.contains("signed.gguf"), "{said}");
        }
        signed.flip(tensor);
    }
    assert_eq!(statuses(&signed, mapped).0, [ok; 3]);
}
