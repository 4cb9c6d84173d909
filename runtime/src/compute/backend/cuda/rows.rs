//! Cache rows in a card's memory, in pages as on the host.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{Pages, PushRows, ROW_THREADS, RowFormat as Stored, SUM_BYTES};
use v4_cuda::driver::Extent;

use super::buf::Buf;
use super::device::Device;
use super::space::Space;
use crate::compute::cache_rows::{PAGE_ROWS, RowFormat};
use crate::error::CardError;

/// Pages that are taken at once at most, by a store that has four times as many.
const MOST_AT_ONCE: usize = 64;

/// A page, which is a part of some memory.
#[derive(Debug, Clone)]
struct Page<D: Driver> {
    space: Arc<Space<D>>,
    at: usize,
}

impl<D: Driver> Page<D> {
    fn start(&self) -> u64 {
        self.space.start() + self.at as u64
    }
}

/// Cache rows in a card's memory, in pages that are taken as the context grows. To the host they
/// are the same bytes as those of `HostRows`, and under the same numbers.
#[derive(Debug)]
pub struct Rows<D: Driver> {
    device: Arc<Device<D>>,
    format: RowFormat,
    width: usize,
    /// Bytes of a row, and from one row of a page to the next.
    row_bytes: usize,
    stride: usize,
    pages: VecDeque<Page<D>>,
    /// Pages that were taken with others, and are not used yet.
    ahead: Vec<Page<D>>,
    /// Pages dropped from the front.
    dropped: usize,
    len: usize,
    /// Addresses of pages: that of page `n` in place `n % places`.
    table: Option<Space<D>>,
    places: usize,
}

impl<D: Driver> Rows<D> {
    pub(super) fn new(device: &Arc<Device<D>>, format: RowFormat, width: usize) -> Self {
        let row_bytes = format.row_bytes(width);
        Self {
            device: Arc::clone(device),
            format,
            width,
            row_bytes,
            // Keys of the indexer are read in words, all others in pieces of 16 bytes.
            stride: row_bytes.next_multiple_of(if format == RowFormat::Fp4 { 4 } else { 16 }),
            pages: VecDeque::new(),
            ahead: Vec::new(),
            dropped: 0,
            len: 0,
            table: None,
            places: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn format(&self) -> RowFormat {
        self.format
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let pages = self.pages.len() + self.ahead.len();
        pages * self.page_bytes() + self.table.as_ref().map_or(0, Space::len)
    }

    fn page_bytes(&self) -> usize {
        PAGE_ROWS * self.stride
    }

    /// How rows are stored, as kernels take it.
    pub(super) fn stored(&self) -> Stored {
        let (kind, tail) = match self.format {
            RowFormat::F32 => (Stored::F32, 0),
            RowFormat::Fp8Tail { tail } => (Stored::E4M3_64, tail),
            RowFormat::Fp4 => (Stored::E2M1_32, 0),
            RowFormat::Fp8 => (Stored::E4M3_32, 0),
            RowFormat::Fp4E4m3 => (Stored::E2M1_16, 0),
        };
        Stored {
            kind,
            width: self.width as u32,
            tail: tail as u32,
            stride: self.stride as u32,
        }
    }

    /// Where rows are, as kernels take it.
    pub(super) fn places(&self) -> Pages {
        Pages {
            table: self.table.as_ref().map_or(0, Space::start),
            page_rows: PAGE_ROWS as u32,
            pages: self.places.max(1) as u32,
        }
    }

    /// Number of the first row that is still held.
    pub(super) fn first_held(&self) -> usize {
        (self.dropped * PAGE_ROWS).min(self.len)
    }

    /// Appends rows.
    pub(super) fn push(&mut self, x: &Buf<D>) {
        let first = self.len;
        self.len += x.rows();
        let device = Arc::clone(&self.device);
        device.run(|| {
            self.have_pages()?;
            let args = PushRows {
                x: x.start(),
                gain: 0,
                normed: 0,
                cosines: 0,
                sines: 0,
                to: self.places(),
                format: self.stored(),
                first: first as u32,
                pairs: 0,
                hadamard: 0,
                eps: 0.0,
            };
            let extent = Extent::row(x.rows() as u32, ROW_THREADS)
                .with_shared(SUM_BYTES + 4 * self.width as u32);
            device.launch(&device.kernels().cache.push_rows, extent, &args)
        });
    }

    /// Takes pages for all rows, and tells kernels where they are.
    fn have_pages(&mut self) -> Result<(), CardError> {
        let known = self.dropped + self.pages.len();
        let needed = self.len.div_ceil(PAGE_ROWS);
        if needed <= known {
            return Ok(());
        }
        for page in known..needed {
            if self.ahead.is_empty() {
                let count = (needed - page).max((self.pages.len() / 4).min(MOST_AT_ONCE));
                self.ahead = slab(&self.device, count, self.page_bytes())?;
            }
            self.pages.extend(self.ahead.pop());
        }
        if self.pages.len() > self.places {
            let places = self.pages.len().next_power_of_two().max(4);
            self.table = Some(Space::new(&self.device, 8 * places)?);
            self.places = places;
            return self.list(self.dropped..needed);
        }
        self.list(known..needed)
    }

    /// Writes the addresses of pages into the table.
    fn list(&self, pages: Range<usize>) -> Result<(), CardError> {
        let Some(table) = &self.table else {
            return Ok(());
        };
        let mut at = pages.start;
        while at < pages.end {
            let place = at % self.places;
            let end = pages.end.min(at + self.places - place);
            let starts = (at..end).flat_map(|page| {
                let start = self.pages[page - self.dropped].start();
                [start as u32, (start >> 32) as u32]
            });
            let words: Vec<u32> = starts.collect();
            table.upload(8 * place, &mut words.into_iter())?;
            at = end;
        }
        Ok(())
    }

    /// See `Backend::restart_rows`.
    pub(super) fn restart(&mut self, next: usize) {
        self.pages.clear();
        self.dropped = next / PAGE_ROWS;
        self.len = next;
    }

    /// See `Backend::truncate_rows`.
    pub(super) fn truncate(&mut self, len: usize) {
        if len < self.len {
            let pages = len.div_ceil(PAGE_ROWS).saturating_sub(self.dropped);
            self.pages.truncate(pages);
            self.len = len;
        }
    }

    /// See `Backend::keep_last_rows`.
    pub(super) fn keep_last(&mut self, keep: usize) {
        let first = self.len.saturating_sub(keep) / PAGE_ROWS;
        while self.dropped < first {
            self.pages.pop_front();
            self.dropped += 1;
        }
    }

    /// The rows from `from` on that lie together, up to `to`: their page, the first byte, and
    /// how many they are.
    fn together(&self, from: usize, to: usize) -> (Option<&Page<D>>, usize, usize) {
        let page = from / PAGE_ROWS;
        let count = to.min((page + 1) * PAGE_ROWS) - from;
        let held = page.checked_sub(self.dropped);
        let page = held.and_then(|page| self.pages.get(page));
        (page, from % PAGE_ROWS * self.stride, count)
    }

    /// Appends the bytes of rows that have not been dropped; zeros if the card has failed.
    pub(super) fn export(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        let end = out.len() + rows.len() * self.row_bytes;
        self.device.run(|| {
            let mut at = rows.start;
            while at < rows.end {
                let (page, start, count) = self.together(at, rows.end);
                let mut bytes = vec![0; count * self.stride];
                if let Some(page) = page {
                    page.space.read(page.at + start, &mut bytes)?;
                }
                for row in bytes.chunks_exact(self.stride.max(1)) {
                    out.extend_from_slice(&row[..self.row_bytes]);
                }
                at += count;
            }
            Ok(())
        });
        out.resize(end, 0);
    }

    /// See `Backend::import_rows`.
    pub(super) fn import(&mut self, first: usize, bytes: &[u8]) -> bool {
        if self.len != first {
            self.restart(first);
        }
        if !bytes.len().is_multiple_of(self.row_bytes.max(1)) {
            return false;
        }
        self.len += bytes.len() / self.row_bytes.max(1);
        let device = Arc::clone(&self.device);
        device.run(|| {
            self.have_pages()?;
            let (mut at, mut rest) = (first, bytes);
            while at < self.len {
                let (page, start, count) = self.together(at, self.len);
                let (now, after) = rest.split_at(count * self.row_bytes);
                let mut padded = vec![0; count * self.stride];
                let rows = padded.chunks_exact_mut(self.stride.max(1));
                for (to, row) in rows.zip(now.chunks_exact(self.row_bytes.max(1))) {
                    to[..self.row_bytes].copy_from_slice(row);
                }
                if let Some(page) = page {
                    page.space.write(page.at + start, &padded)?;
                }
                (at, rest) = (at + count, after);
            }
            Ok(())
        });
        true
    }

    fn copy(&self) -> Result<Self, CardError> {
        let mut copy = Self::new(&self.device, self.format, self.width);
        (copy.dropped, copy.len) = (self.dropped, self.len);
        if self.pages.is_empty() {
            return Ok(copy);
        }
        let bytes = self.page_bytes();
        copy.ahead = slab(&self.device, self.pages.len(), bytes)?;
        copy.have_pages()?;
        for (to, from) in copy.pages.iter().zip(&self.pages) {
            to.space.copy_from(to.at, &from.space, from.at, bytes)?;
        }
        Ok(copy)
    }
}

/// Pages that are taken together, the last one first.
fn slab<D: Driver>(
    device: &Arc<Device<D>>,
    count: usize,
    bytes: usize,
) -> Result<Vec<Page<D>>, CardError> {
    let space = Arc::new(Space::new(device, count * bytes)?);
    let page = |i| Page {
        space: Arc::clone(&space),
        at: i * bytes,
    };
    Ok((0..count).rev().map(page).collect())
}

impl<D: Driver> Clone for Rows<D> {
    fn clone(&self) -> Self {
        let mut empty = Self::new(&self.device, self.format, self.width);
        (empty.dropped, empty.len) = (self.dropped, self.len);
        self.device
            .get(None, || self.copy().map(Some))
            .unwrap_or(empty)
    }
}
