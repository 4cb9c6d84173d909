//! The tiny checkpoint, modified copies of it, and the program.
#![allow(dead_code)] // Each test file uses its part.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use v4_convert::plan::{Drafts, Plan, PlanOptions, Vision};
use v4_convert::recipe::Recipe;
use v4_convert::write::{Watch, WriteOptions, write};
use v4_files::gguf::{Header, TensorInfo, parse_header};
use v4_quant::{GgmlType, decode_row};

pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny-v4")
}

pub fn tiny41() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny-v41")
}

pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_v4-convert"))
        .args(args)
        .output()
        .expect("the program starts")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

pub fn options(recipe: &str) -> PlanOptions {
    PlanOptions {
        recipe: Recipe::load(recipe).unwrap(),
        drafts: Drafts::Drop,
        vision: Vision::Drop,
        name: None,
        split: None,
    }
}

pub fn plan(input: &Path, recipe: &str) -> Plan {
    Plan::new(input, &options(recipe)).unwrap_or_else(|error| panic!("{error}"))
}

/// Converts with one thread and gives the bytes.
pub fn convert(input: &Path, recipe: &str) -> Vec<u8> {
    convert_with(input, &options(recipe))
}

pub fn convert_with(input: &Path, options: &PlanOptions) -> Vec<u8> {
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let plan = Plan::new(input, options).unwrap_or_else(|error| panic!("{error}"));
    let options = WriteOptions {
        threads: Some(1),
        ..WriteOptions::default()
    };
    write(&plan, &out, options, &Watch::default()).unwrap_or_else(|error| panic!("{error}"));
    fs::read(out).unwrap()
}

/// A copy of a tiny checkpoint that may be changed.
pub struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    pub fn new() -> Self {
        Self::of(&tiny())
    }

    pub fn of(checkpoint: &Path) -> Self {
        let dir = scratch();
        for entry in fs::read_dir(checkpoint).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "golden.safetensors" {
                fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
        }
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.file(name);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut value);
        fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
    }

    /// The shard that holds a tensor.
    pub fn shard_of(&self, tensor: &str) -> PathBuf {
        let index = fs::read(self.file("model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        self.file(index["weight_map"][tensor].as_str().unwrap())
    }

    /// Changes the header of the shard that holds `tensor`; the data stay.
    pub fn edit_header(&self, tensor: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.shard_of(tensor);
        let (mut header, data) = split_shard(&fs::read(&path).unwrap());
        edit(&mut header);
        let json = serde_json::to_vec(&header).unwrap();
        write_shard(&path, &json, &data);
    }

    /// Overwrites bytes of a tensor's data.
    pub fn poke(&self, tensor: &str, at: u64, bytes: &[u8]) {
        let path = self.shard_of(tensor);
        let whole = fs::read(&path).unwrap();
        let (header, data) = split_shard(&whole);
        let start = (whole.len() - data.len()) as u64;
        let begin = header[tensor]["data_offsets"][0].as_u64().unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(bytes, start + begin + at).unwrap();
    }
}

pub fn write_shard(path: &Path, json: &[u8], data: &[u8]) {
    let length = (json.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], json, data].concat()).unwrap();
}

pub fn split_shard(bytes: &[u8]) -> (Value, Vec<u8>) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    (header, bytes[8 + length..].to_vec())
}

/// All tensors of the tiny V4 checkpoint.
pub fn stored() -> BTreeMap<String, Stored> {
    stored_in(&tiny())
}

/// Dtype, shape and bytes.
pub type Stored = (String, Vec<usize>, Vec<u8>);

/// All tensors of a tiny checkpoint.
pub fn stored_in(checkpoint: &Path) -> BTreeMap<String, Stored> {
    let mut tensors = BTreeMap::new();
    for entry in fs::read_dir(checkpoint).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with("model-") {
            continue;
        }
        let (header, data) = split_shard(&fs::read(&path).unwrap());
        for (name, entry) in header.as_object().unwrap() {
            if name == "__metadata__" {
                continue;
            }
            let number = |value: &Value| value.as_u64().unwrap() as usize;
            let shape = entry["shape"].as_array().unwrap();
            let [begin, end] = [0, 1].map(|i| number(&entry["data_offsets"][i]));
            tensors.insert(
                name.clone(),
                (
                    entry["dtype"].as_str().unwrap().to_owned(),
                    shape.iter().map(number).collect(),
                    data[begin..end].to_vec(),
                ),
            );
        }
    }
    tensors
}

pub fn header(bytes: &[u8]) -> Header {
    parse_header(bytes, bytes.len() as u64).unwrap()
}

pub fn data<'a>(bytes: &'a [u8], header: &Header, info: &TensorInfo) -> &'a [u8] {
    &bytes[(header.data_offset + info.offset) as usize..][..info.bytes as usize]
}

pub fn decoded(bytes: &[u8], header: &Header, name: &str) -> (GgmlType, Vec<f32>) {
    let info = header.tensors.iter().find(|t| t.name == name).unwrap();
    let mut values = vec![0.0; info.values() as usize];
    let rows = data(bytes, header, info).chunks_exact(info.row_bytes() as usize);
    for (row, values) in rows.zip(values.chunks_exact_mut(info.dims[0] as usize)) {
        decode_row(info.ty, row, values).unwrap();
    }
    (info.ty, values)
}

pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Tensors to be added to a copy of a checkpoint, in a shard of their own.
#[derive(Default)]
pub struct Shard {
    header: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

impl Shard {
    pub fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let entry = serde_json::json!({
            "dtype": dtype, "shape": shape,
            "data_offsets": [self.data.len(), self.data.len() + bytes.len()],
        });
        self.data.extend_from_slice(bytes);
        self.header.insert(name.to_owned(), entry);
    }

    pub fn write(self, copy: &Copy, file: &str) {
        copy.edit_json("model.safetensors.index.json", |index| {
            for name in self.header.keys() {
                index["weight_map"][name] = file.into();
            }
        });
        let json = serde_json::to_vec(&self.header).unwrap();
        write_shard(&copy.file(file), &json, &self.data);
    }
}

/// Runs the program and checks that it refuses as it should; `parts` must all be
/// in the message.
pub fn refused(input: &Path, parts: &[&str]) {
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let run = program(&[text(input), text(&out), "--quiet"]);
    let message = String::from_utf8(run.stderr).expect("messages are UTF-8");
    assert_eq!(run.status.code(), Some(1), "{parts:?}: {message}");
    assert!(message.starts_with("v4-convert: "), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(!out.exists(), "{message}");
}
