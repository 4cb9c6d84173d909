//! The files that a plan writes: one, or the parts of a set, each with its own header.

use std::ops::Range;

use v4_files::gguf::{
    MAX_PARTS, Metadata, PAGE_ALIGNMENT, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, TensorInfo, Value,
    data_bytes, encode_header, layout_offsets,
};

use super::error::PlanError;

/// A file of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its bytes before the tensors' data.
    pub header: Vec<u8>,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its tensors, as indices into [`Plan::outputs`](super::Plan::outputs).
    pub outputs: Range<usize>,
}

/// Bytes of a tensor's entry in a header.
fn entry_bytes(info: &TensorInfo) -> u64 {
    (8 + info.name.len() + 4 + 8 * info.dims.len() + 4 + 8) as u64
}

/// Room for the keys of a part's own metadata.
const PART_KEYS: u64 = 512;

/// Lays tensors out in one file, or in parts that are shorter than `limit` bytes each. The
/// offsets of `infos` become those in their own file.
///
/// # Errors
/// A tensor that is too long for a part, more parts than a set may have, a header that
/// cannot be written.
pub(super) fn lay_out(
    metadata: &Metadata,
    infos: &mut [TensorInfo],
    limit: Option<u64>,
) -> Result<Vec<PlannedFile>, PlanError> {
    let ranges = match limit {
        Some(limit) => cut(metadata, infos, limit)?,
        None => std::iter::once(0..infos.len()).collect(),
    };
    let count = ranges.len();
    if count > MAX_PARTS {
        return Err(PlanError::TooManyParts { count });
    }
    let tensors = infos.len();
    let mut files = Vec::with_capacity(count);
    for (no, outputs) in ranges.into_iter().enumerate() {
        let own = &mut infos[outputs.clone()];
        let shapes = own.iter().map(|t| (t.name.clone(), t.ty, t.dims.clone()));
        let laid = layout_offsets(shapes, PAGE_ALIGNMENT)?;
        for (info, laid) in own.iter_mut().zip(laid) {
            info.offset = laid.offset;
        }
        let mut keys = match no {
            0 => metadata.clone(),
            _ => Metadata::new(),
        };
        if count > 1 {
            keys.insert("general.alignment", PAGE_ALIGNMENT as u32);
            keys.insert(SPLIT_NO, Value::U16(no as u16));
            keys.insert(SPLIT_COUNT, Value::U16(count as u16));
            keys.insert(SPLIT_TENSORS, Value::I32(tensors as i32));
        }
        let header = encode_header(&keys, own, PAGE_ALIGNMENT)?;
        let bytes = (header.len() as u64)
            .checked_add(data_bytes(own, PAGE_ALIGNMENT))
            .filter(|&bytes| i64::try_from(bytes).is_ok())
            .ok_or_else(|| PlanError::RowTooLong {
                tensor: "the whole file".to_owned(),
                columns: u64::MAX,
            })?;
        files.push(PlannedFile {
            header,
            bytes,
            outputs,
        });
    }
    Ok(files)
}

/// Which tensors go to which part: in their order, as many as fit.
fn cut(
    metadata: &Metadata,
    infos: &[TensorInfo],
    limit: u64,
) -> Result<Vec<Range<usize>>, PlanError> {
    let page = PAGE_ALIGNMENT;
    let first = encode_header(metadata, &[], page)?.len() as u64 + PART_KEYS;
    let mut ranges = Vec::new();
    let (mut start, mut header, mut data) = (0, first, 0u64);
    let fits = |header: u64, data: u64| header.next_multiple_of(page) + data < limit;
    let too_small = |tensor: &str, bytes: u64, header: u64, data: u64| PlanError::PartTooSmall {
        tensor: tensor.to_owned(),
        bytes,
        limit,
        least: header.next_multiple_of(page) + data + 1,
    };
    if !fits(first, 0) {
        return Err(too_small("the metadata", first, first, 0));
    }
    // The longest tensor decides: what suits it suits all.
    if let Some(info) = infos.iter().max_by_key(|info| info.bytes) {
        let own = PART_KEYS + entry_bytes(info);
        let bytes = info.bytes.next_multiple_of(page);
        if !fits(own, bytes) {
            return Err(too_small(&info.name, info.bytes, own, bytes));
        }
    }
    for (i, info) in infos.iter().enumerate() {
        let (entry, bytes) = (entry_bytes(info), info.bytes.next_multiple_of(page));
        if !fits(header + entry, data.saturating_add(bytes)) {
            // The first part may have metadata alone.
            if i > start || ranges.is_empty() {
                ranges.push(start..i);
            }
            (start, header, data) = (i, PART_KEYS, 0);
            // One as long with a longer name.
            if !fits(header + entry, bytes) {
                return Err(too_small(&info.name, info.bytes, header + entry, bytes));
            }
        }
        header += entry;
        data += bytes;
    }
    ranges.push(start..infos.len());
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use v4_quant::GgmlType;

    use super::*;

    fn infos(sizes: &[u64]) -> Vec<TensorInfo> {
        let shapes = sizes.iter().enumerate();
        let shapes = shapes.map(|(i, &n)| (format!("t{i}"), GgmlType::I8, vec![n]));
        layout_offsets(shapes, PAGE_ALIGNMENT).unwrap()
    }

    #[test]
    fn parts_are_shorter_than_the_limit_and_hold_every_tensor_once() {
        let sizes = [100_000, 5, 70_000, 70_000, 200_000, 1, 1, 300_000];
        let whole = lay_out(&Metadata::new(), &mut infos(&sizes), None).unwrap();
        assert_eq!(whole.len(), 1);
        for limit in [320_000, 400_000, 500_001, 10_000_000] {
            let mut infos = infos(&sizes);
            let files = lay_out(&Metadata::new(), &mut infos, Some(limit)).unwrap();
            let all: Vec<usize> = files.iter().flat_map(|f| f.outputs.clone()).collect();
            assert_eq!(all, (0..sizes.len()).collect::<Vec<_>>());
            assert!(files.iter().all(|f| f.bytes < limit), "{limit}");
            for file in &files {
                let first = file.outputs.clone().next().map(|i| infos[i].offset);
                assert!(first.is_none_or(|offset| offset == 0));
            }
        }
    }

    #[test]
    fn a_tensor_that_no_part_can_hold_is_named_with_what_would() {
        let error = lay_out(
            &Metadata::new(),
            &mut infos(&[45_000, 50_000]),
            Some(40_000),
        );
        let error = error.unwrap_err();
        let PlanError::PartTooSmall { tensor, least, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(tensor, "t1");
        let files = lay_out(
            &Metadata::new(),
            &mut infos(&[45_000, 50_000]),
            Some(*least),
        )
        .unwrap();
        assert_eq!(files.len(), 2);
        assert!(lay_out(&Metadata::new(), &mut infos(&[10]), Some(100)).is_err());
    }
}
