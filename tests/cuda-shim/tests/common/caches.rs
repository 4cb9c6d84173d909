//! Caches as kernels see them.

use v4_cuda::args::{Pages, RowFormat};
use v4_cuda_shim::{Bench, flushed};
use v4_quant::rounding::CacheFormat;

/// How rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    F32,
    E4m3Tail(usize),
    E4m3,
    IndexKey,
    E2m1,
}

impl Storage {
    fn host(self) -> Option<CacheFormat> {
        match self {
            Self::F32 => None,
            Self::E4m3Tail(tail) => Some(CacheFormat::V4Kv { tail }),
            Self::E4m3 => Some(CacheFormat::V41Window),
            Self::IndexKey => Some(CacheFormat::IndexKey),
            Self::E2m1 => Some(CacheFormat::V41Main),
        }
    }

    fn kind(self) -> u32 {
        match self {
            Self::F32 => RowFormat::F32,
            Self::E4m3Tail(_) => RowFormat::E4M3_64,
            Self::E4m3 => RowFormat::E4M3_32,
            Self::IndexKey => RowFormat::E2M1_32,
            Self::E2m1 => RowFormat::E2M1_16,
        }
    }

    fn row_bytes(self, width: usize) -> usize {
        self.host()
            .map_or(4 * width, |host| host.row_bytes(width).unwrap())
    }

    /// For rows of that many channels which begin at multiples of `alignment` bytes.
    pub fn args(self, width: usize, alignment: usize) -> RowFormat {
        RowFormat {
            kind: self.kind(),
            width: width as u32,
            tail: match self {
                Self::E4m3Tail(tail) => tail as u32,
                _ => 0,
            },
            stride: self.row_bytes(width).next_multiple_of(alignment) as u32,
        }
    }
}

/// Rows in the memory of a bench, and what they are read back as.
pub struct Cache {
    pub pages: Pages,
    pub format: RowFormat,
    pub rows: Vec<Vec<f32>>,
}

/// Rows `first..` in pages of `page_rows`; where `ring` is not 0 in so many pages, of which the
/// latest rows are left.
pub struct Layout {
    pub alignment: usize,
    pub first: usize,
    pub page_rows: usize,
    pub ring: usize,
}

impl Cache {
    /// Stores `rows` as the host does. Pages lie in no order.
    pub fn new(bench: &mut Bench, storage: Storage, rows: &[Vec<f32>], layout: &Layout) -> Self {
        let width = rows.first().map_or(64, Vec::len);
        let format = storage.args(width, layout.alignment);
        let (stride, bytes) = (format.stride as usize, storage.row_bytes(width));
        let needed = (layout.first + rows.len())
            .div_ceil(layout.page_rows)
            .max(1);
        let pages = if layout.ring == 0 {
            needed
        } else {
            layout.ring
        };
        let page_bytes = layout.page_rows * stride;
        // A byte that decodes to NaN in most formats, where nothing was stored.
        let mut contents = vec![vec![0xff; page_bytes]; pages];
        let mut read_back = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            let n = layout.first + i;
            let page = &mut contents[n / layout.page_rows % pages];
            let place = &mut page[n % layout.page_rows * stride..][..bytes];
            read_back.push(match storage.host() {
                None => {
                    place.copy_from_slice(bytemuck::cast_slice(row));
                    row.clone()
                }
                Some(host) => flushed(|| {
                    host.encode(row, place).unwrap();
                    let mut values = vec![0.0; width];
                    host.decode(place, &mut values).unwrap();
                    values
                }),
            });
        }
        let mut table = vec![0; pages];
        for i in (0..pages).rev() {
            table[i] = bench.put(&contents[i]).address();
        }
        Self {
            pages: Pages {
                table: bench.put(&table).address(),
                page_rows: layout.page_rows as u32,
                pages: pages as u32,
            },
            format,
            rows: read_back,
        }
    }
}
