use v4_quant::GgmlType;

use super::error::GgufError;

/// A tensor's entry in the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q_a.weight`.
    pub name: String,
    /// The type of its values.
    pub ty: GgmlType,
    /// 1 to 4 dimensions in ggml's order: the innermost, a row's length, first.
    pub dims: Vec<u64>,
    /// Where its data starts, in bytes from [`Header::data_offset`](super::Header::data_offset).
    pub offset: u64,
    /// Length of its data in bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// A tensor at offset 0; its byte count follows from type and shape.
    ///
    /// # Errors
    /// The name's length, the number of dimensions, a dimension of 0, a shape too
    /// large to count, or a row that is not a whole number of the type's blocks.
    pub fn new(name: String, ty: GgmlType, dims: Vec<u64>) -> Result<Self, GgufError> {
        let bytes = tensor_bytes(&name, ty, &dims)?;
        Ok(Self {
            name,
            ty,
            dims,
            offset: 0,
            bytes,
        })
    }

    /// The number of values.
    #[must_use]
    pub fn values(&self) -> u64 {
        // `new` and the reader have checked that the product fits.
        self.dims.iter().product()
    }

    /// The number of rows: all dimensions but the first.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.dims.iter().skip(1).product()
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        self.bytes / self.rows().max(1)
    }
}

/// Bytes of a tensor of this type and shape.
fn tensor_bytes(name: &str, ty: GgmlType, dims: &[u64]) -> Result<u64, GgufError> {
    if dims.is_empty() || dims.len() > super::MAX_DIMS {
        return Err(GgufError::DimensionCount {
            tensor: name.to_owned(),
            count: dims.len() as u64,
        });
    }
    let impossible = || GgufError::Shape {
        tensor: name.to_owned(),
        dims: dims.to_vec(),
    };
    if dims.contains(&0) {
        return Err(impossible());
    }
    let block = ty.block_values() as u64;
    if !dims[0].is_multiple_of(block) {
        return Err(GgufError::RowLength {
            tensor: name.to_owned(),
            ty,
            values: dims[0],
        });
    }
    // ggml counts in i64, so a shape that it cannot count is refused here too.
    let values = dims
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d))
        .filter(|&n| i64::try_from(n).is_ok())
        .ok_or_else(impossible)?;
    (values / block)
        .checked_mul(ty.block_bytes() as u64)
        .filter(|&n| i64::try_from(n).is_ok())
        .ok_or_else(impossible)
}

/// Checks what must hold between the tensors of one file: names unique, byte
/// counts right, offsets aligned, no two tensors sharing bytes.
pub(super) fn check_table(tensors: &[TensorInfo], alignment: u64) -> Result<(), GgufError> {
    super::sort_names(tensors, |t| &t.name).map_err(|name| GgufError::DuplicateTensor {
        tensor: name.to_owned(),
    })?;
    for t in tensors {
        let expected = tensor_bytes(&t.name, t.ty, &t.dims)?;
        if t.bytes != expected {
            return Err(GgufError::TensorBytes {
                tensor: t.name.clone(),
                given: t.bytes,
                expected,
            });
        }
        if !t.offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned {
                tensor: t.name.clone(),
                offset: t.offset,
                alignment,
            });
        }
    }
    let mut order: Vec<u32> = super::indices(tensors.len());
    order.sort_unstable_by_key(|&i| tensors[i as usize].offset);
    for pair in order.windows(2) {
        let [first, second] = [&tensors[pair[0] as usize], &tensors[pair[1] as usize]];
        if second.offset - first.offset < first.bytes {
            return Err(GgufError::Overlap {
                first: first.name.clone(),
                second: second.name.clone(),
            });
        }
    }
    Ok(())
}
