use std::sync::Arc;

use v4_files::gguf::{GgufFile, TensorInfo};
use v4_quant::GgmlType;

use super::copied::Copied;
use crate::error::EngineError;

/// A tensor of a mapped file.
#[derive(Debug, Clone)]
pub struct Tensor {
    file: Arc<GgufFile>,
    info: TensorInfo,
    /// The data, if they are not where they are mapped.
    copy: Option<Arc<Copied>>,
}

impl Tensor {
    /// The tensor with this name.
    ///
    /// # Errors
    /// If the file lacks it.
    pub fn find(file: &Arc<GgufFile>, name: &str) -> Result<Self, EngineError> {
        Self::find_optional(file, name).ok_or_else(|| EngineError::Model {
            path: file.path().to_path_buf(),
            what: format!(
                "tensor {name} is missing: the file is incomplete or holds another model; convert \
                 it again"
            ),
        })
    }

    /// The tensor with this name, if the file has it.
    #[must_use]
    pub fn find_optional(file: &Arc<GgufFile>, name: &str) -> Option<Self> {
        file.tensor(name).map(|info| Self {
            file: Arc::clone(file),
            info: info.clone(),
            copy: None,
        })
    }

    /// Checks the dimensions, innermost first.
    ///
    /// # Errors
    /// If they differ.
    pub fn expect_dims(self, dims: &[usize]) -> Result<Self, EngineError> {
        // Trailing ones are not stored by every writer.
        let trim = |mut d: &[u64]| {
            while d.len() > 1 && d.last() == Some(&1) {
                d = &d[..d.len() - 1];
            }
            d.to_vec()
        };
        let want: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        if trim(&self.info.dims) == trim(&want) {
            return Ok(self);
        }
        Err(self.error(format!(
            "has dimensions {:?}, but the metadata requires {want:?}",
            self.info.dims
        )))
    }

    /// An error about this tensor.
    #[must_use]
    pub fn error(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::Model {
            path: self.file.path().to_path_buf(),
            what: format!("tensor {} {what}", self.info.name),
        }
    }

    /// Name in the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Number format.
    #[must_use]
    pub fn ty(&self) -> GgmlType {
        self.info.ty
    }

    /// Values per row (ggml's first dimension).
    #[must_use]
    pub fn cols(&self) -> usize {
        self.info.dims[0] as usize
    }

    /// Rows: the second dimension, 1 for a vector.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.info.dims.get(1).map_or(1, |&d| d as usize)
    }

    /// Matrices: the third dimension (experts), 1 for a matrix.
    #[must_use]
    pub fn matrices(&self) -> usize {
        self.info.dims.get(2).map_or(1, |&d| d as usize)
    }

    /// All bytes of the tensor.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        match &self.copy {
            Some(copy) => copy.data(),
            None => self.file.data(&self.info),
        }
    }

    /// The bytes of one matrix.
    ///
    /// # Panics
    /// If there are not that many.
    #[must_use]
    pub fn matrix(&self, i: usize) -> &[u8] {
        let bytes = self.rows() * self.row_bytes();
        &self.data()[i * bytes..][..bytes]
    }

    /// Whether its bytes are checked before they are used.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.file.is_checked()
    }

    /// Sees that all of its bytes are what the file's hashes say, if it has any. A copy
    /// was checked when it was made.
    ///
    /// # Errors
    /// What was altered.
    pub fn check(&self) -> Result<(), EngineError> {
        match &self.copy {
            Some(_) => Ok(()),
            None => Ok(self.file.check(&self.info, 0..self.info.bytes)?),
        }
    }

    /// The same for one matrix.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_matrix(&self, i: usize) -> Result<(), EngineError> {
        if self.copy.is_some() {
            return Ok(());
        }
        let bytes = (self.rows() * self.row_bytes()) as u64;
        let start = i as u64 * bytes;
        Ok(self.file.check(&self.info, start..start + bytes)?)
    }

    /// The same for a few bytes from `start` on, which are as in [`Self::data`].
    ///
    /// # Errors
    /// As [`Self::check`], and if they cannot be read.
    pub fn check_part(&self, start: usize, bytes: &[u8]) -> Result<(), EngineError> {
        Ok(self.file.check_part(&self.info, start as u64, bytes)?)
    }

    /// The same for bytes that were read from the file, from byte `start` of the tensor
    /// on.
    ///
    /// # Errors
    /// As [`GgufFile::check_read`].
    pub fn check_read(&self, start: u64, bytes: &[u8]) -> Result<(), EngineError> {
        Ok(self.file.check_read(&self.info, start, bytes)?)
    }

    /// The same tensor with its data elsewhere.
    pub(super) fn with_copy(&self, copy: Copied) -> Self {
        Self {
            copy: Some(Arc::new(copy)),
            ..self.clone()
        }
    }

    /// Where the data start in the file, in bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.file.position(&self.info)
    }

    /// See [`GgufFile::advise_huge_pages`].
    pub fn advise_huge_pages(&self) {
        self.file.advise_huge_pages(&self.info);
    }

    /// See [`GgufFile::lock`].
    ///
    /// # Errors
    /// If the process may not, with the remedy.
    pub fn lock(&self) -> Result<(), EngineError> {
        self.file.lock(&self.info).map_err(|e| {
            self.error(format_args!(
                "cannot be locked in memory: {e}; raise the limit (ulimit -l, or LimitMEMLOCK= for \
                 a service), or use --weights mapped"
            ))
        })
    }

    /// Where its bytes are checked before they are used, those that were stay in memory:
    /// see [`GgufFile::lock_as_read`].
    pub fn keep_checked(&self) {
        if self.is_checked() {
            self.file.lock_as_read(&self.info);
        }
    }

    /// See [`GgufFile::advise_random`].
    pub fn advise_random(&self) {
        self.file.advise_random(&self.info);
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        // The reader checked that a row is a whole number of blocks.
        self.cols() / self.ty().block_values() * self.ty().block_bytes()
    }

    /// The tensor decoded to f32; for the small ones.
    ///
    /// # Errors
    /// If its type has no decoder.
    pub fn to_f32(&self) -> Result<Vec<f32>, EngineError> {
        let cols = self.cols();
        let mut out = vec![0.0; self.data().len() / self.row_bytes() * cols];
        for (src, dst) in self
            .data()
            .chunks_exact(self.row_bytes())
            .zip(out.chunks_exact_mut(cols))
        {
            v4_quant::decode_row(self.ty(), src, dst).map_err(|e| self.error(e))?;
        }
        Ok(out)
    }
}
