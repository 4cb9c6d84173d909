//! Writes a safetensors file piece by piece.
//!
//! The `safetensors` crate wants every tensor in memory before it writes; the
//! logits of a long text do not fit there (4,096 positions of V4 are 2 GB). The
//! shapes are known beforehand, so the header is written first and the data as
//! they come, each tensor into its place. The crate reads the result in tests.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

/// Element type, four bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 32-bit signed integer.
    I32,
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Element::F32 => "F32",
            Element::I32 => "I32",
        }
    }
}

/// A tensor to be written, row-major.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub element: Element,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
}

impl Tensor {
    /// A tensor of that name, type and shape.
    pub fn new(name: impl Into<String>, element: Element, shape: &[usize]) -> Self {
        Tensor {
            name: name.into(),
            element,
            shape: shape.to_vec(),
        }
    }
}

/// Where a tensor's next values go.
#[derive(Debug)]
struct Place {
    element: Element,
    next: u64,
    end: u64,
}

/// The file under its temporary name; dropped without [`finish`](Self::finish),
/// it disappears.
pub struct TensorFile {
    path: PathBuf,
    file: NamedTempFile,
    places: BTreeMap<String, Place>,
}

impl TensorFile {
    /// Creates the file next to its final name and writes the header.
    pub fn create(path: &Path, tensors: &[Tensor]) -> anyhow::Result<Self> {
        let folder = folder_of(path);
        let file = tempfile::Builder::new()
            .prefix(".v4-run-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .with_context(|| format!("{}: cannot write", path.display()))?;
        let (header, mut places) = layout(tensors).with_context(|| path.display().to_string())?;
        let data = header.len() as u64;
        for place in places.values_mut() {
            place.next += data;
            place.end += data;
        }
        let mut this = TensorFile {
            path: path.to_owned(),
            file,
            places,
        };
        let written = this.file.write_all(&header);
        this.named(written)?;
        Ok(this)
    }

    /// Appends values to a tensor of floats.
    pub fn push_f32(&mut self, name: &str, values: &[f32]) -> anyhow::Result<()> {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.push(name, Element::F32, bytes)
    }

    /// Appends values to a tensor of integers.
    pub fn push_i32(&mut self, name: &str, values: &[i32]) -> anyhow::Result<()> {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.push(name, Element::I32, bytes)
    }

    fn push(&mut self, name: &str, element: Element, bytes: Vec<u8>) -> anyhow::Result<()> {
        let place = self
            .places
            .get_mut(name)
            .filter(|p| p.element == element && p.next + bytes.len() as u64 <= p.end)
            .with_context(|| format!("{name}: more values than its shape has"))?;
        let at = place.next;
        place.next += bytes.len() as u64;
        let written = self
            .file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.write_all(&bytes));
        self.named(written)
    }

    /// Gives the file its name, on disk and complete.
    pub fn finish(self) -> anyhow::Result<()> {
        if let Some((name, _)) = self.places.iter().find(|(_, p)| p.next != p.end) {
            bail!("{name}: fewer values than its shape has");
        }
        let synced = self.file.as_file().sync_all();
        self.named(synced)?;
        let path = self.path;
        let named = self.file.persist(&path).map_err(|e| e.error);
        named
            .and_then(|_| File::open(folder_of(&path))?.sync_all())
            .with_context(|| path.display().to_string())
    }

    fn named(&self, result: std::io::Result<()>) -> anyhow::Result<()> {
        result.with_context(|| self.path.display().to_string())
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The header (length, JSON, padding to 8 bytes) and the tensors' places after it.
fn layout(tensors: &[Tensor]) -> anyhow::Result<(Vec<u8>, BTreeMap<String, Place>)> {
    let mut json = serde_json::Map::new();
    let mut places = BTreeMap::new();
    let mut offset = 0u64;
    for tensor in tensors {
        let bytes = tensor
            .shape
            .iter()
            .try_fold(4u64, |n, &dim| n.checked_mul(dim as u64))
            .with_context(|| format!("{}: size overflows", tensor.name))?;
        let end = offset.checked_add(bytes).context("file size overflows")?;
        json.insert(
            tensor.name.clone(),
            serde_json::json!({
                "dtype": tensor.element.name(),
                "shape": tensor.shape,
                "data_offsets": [offset, end],
            }),
        );
        let place = Place {
            element: tensor.element,
            next: offset,
            end,
        };
        places.insert(tensor.name.clone(), place);
        offset = end;
    }
    let mut text = serde_json::to_vec(&json)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok((header, places))
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn two() -> Vec<Tensor> {
        vec![
            Tensor::new("logits", Element::F32, &[2, 3]),
            Tensor::new("positions", Element::I32, &[2]),
        ]
    }

    #[test]
    fn interleaved_pieces_are_read_back_by_the_safetensors_crate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.safetensors");
        let mut file = TensorFile::create(&path, &two()).unwrap();
        file.push_f32("logits", &[1.0, 2.0, 3.0]).unwrap();
        file.push_i32("positions", &[-7, 8]).unwrap();
        file.push_f32("logits", &[4.0, 5.0, 6.0]).unwrap();
        assert!(!path.exists(), "no name before it is complete");
        file.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let logits = read.tensor("logits").unwrap();
        assert_eq!(logits.shape(), [2, 3]);
        let values: Vec<f32> = logits
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let positions = read.tensor("positions").unwrap();
        assert_eq!(positions.data()[..4], (-7i32).to_le_bytes());
    }

    #[test]
    fn an_incomplete_file_gets_no_name_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.safetensors");
        let mut file = TensorFile::create(&path, &two()).unwrap();
        file.push_i32("positions", &[0, 1]).unwrap();
        assert!(file.finish().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn more_values_than_the_shape_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = TensorFile::create(&dir.path().join("x"), &two()).unwrap();
        assert!(file.push_i32("positions", &[0, 1, 2]).is_err());
        assert!(file.push_i32("logits", &[0]).is_err(), "wrong type");
    }

    #[test]
    fn a_size_beyond_u64_is_an_error() {
        assert!(layout(&[Tensor::new("t", Element::F32, &[usize::MAX, 2])]).is_err());
    }
}
