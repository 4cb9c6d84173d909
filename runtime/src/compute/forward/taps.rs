//! What a draft module reads of the target: states of some layers, at the last positions
//! (spec/speculation.md sections 2 and 3.1).

use std::ops::Range;

use crate::compute::backend::Backend;
use crate::model::{DraftConfig, DraftKind, Family};

/// Which states are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSites {
    /// Ascending.
    pub(super) layers: Vec<usize>,
    pub(super) moment: Moment,
    /// Whether the mean over the streams is kept, or all of them.
    pub(super) mean: bool,
    /// Positions kept by default: those that a draft attends to.
    keep: usize,
}

/// When a layer's state is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// After Engram, before anything else of the layer.
    Entering,
    /// After the layer.
    Leaving,
}

impl TapSites {
    /// What a draft module reads of a target with `layers` layers.
    #[must_use]
    pub fn of(draft: &DraftConfig, layers: usize) -> Self {
        let keep = draft.model.window;
        match &draft.kind {
            DraftKind::Mtp => Self {
                layers: vec![layers - 1],
                moment: Moment::Leaving,
                mean: false,
                keep,
            },
            DraftKind::Dspark(dspark) => Self {
                layers: dspark.target_layers.clone(),
                moment: match draft.model.family {
                    Family::V4 => Moment::Leaving,
                    Family::V41 => Moment::Entering,
                },
                mean: true,
                keep,
            },
        }
    }
}

/// The states kept of one sequence.
#[derive(Debug)]
pub struct Taps<B: Backend> {
    keep: usize,
    sites: Vec<Site<B>>,
    /// Up to where nothing has changed since this was last asked for.
    unchanged: usize,
}

/// Those of one layer: of consecutive positions, from `first` on.
#[derive(Debug)]
struct Site<B: Backend> {
    first: usize,
    rows: B::Buf,
}

// Derived, these would ask for backends that can be cloned.
impl<B: Backend> Clone for Taps<B> {
    fn clone(&self) -> Self {
        let copy = |site: &Site<B>| Site {
            first: site.first,
            rows: site.rows.clone(),
        };
        Self {
            keep: self.keep,
            sites: self.sites.iter().map(copy).collect(),
            unchanged: self.unchanged,
        }
    }
}

impl<B: Backend> Taps<B> {
    pub(super) fn new(sites: &TapSites) -> Self {
        let none = |_| Site {
            first: 0,
            rows: B::Buf::default(),
        };
        Self {
            keep: sites.keep,
            sites: sites.layers.iter().map(none).collect(),
            unchanged: usize::MAX,
        }
    }

    /// Keeps the states of `more` positions besides those that a draft attends to, so
    /// that drafts can be made for as many earlier positions.
    pub fn keep_more(&mut self, more: usize) {
        self.keep = self.keep.saturating_add(more);
    }

    /// Positions that are kept, at least.
    pub(super) fn kept(&self) -> usize {
        self.keep
    }

    /// The positions whose states are all there.
    pub fn positions(&self, b: &B) -> Range<usize> {
        let mut all = 0..usize::MAX;
        for site in &self.sites {
            all.start = all.start.max(site.first);
            all.end = all.end.min(site.first + b.buf_rows(&site.rows));
        }
        all.start..all.end.max(all.start)
    }

    /// The states at these positions, layer beside layer: one row for each position.
    pub(super) fn read(&self, b: &B, positions: Range<usize>, out: &mut B::Buf) {
        let mut part = B::Buf::default();
        let sites: Vec<Vec<f32>> = self
            .sites
            .iter()
            .map(|site| {
                let rows = positions.start - site.first..positions.end - site.first;
                b.take_rows(&site.rows, rows, &mut part);
                b.read(&part)
            })
            .collect();
        let width = sites.first().map_or(0, Vec::len) / positions.len().max(1);
        let mut values = Vec::with_capacity(sites.len() * width * positions.len());
        for i in 0..positions.len() {
            for site in &sites {
                values.extend_from_slice(&site[i * width..(i + 1) * width]);
            }
        }
        b.write(&values, sites.len() * width, out);
    }

    /// The position up to which states are as they were at the last call.
    pub(super) fn unchanged(&mut self) -> usize {
        std::mem::replace(&mut self.unchanged, usize::MAX)
    }

    /// Adds states of a layer at consecutive positions. Those at the same and later
    /// positions are forgotten: their tokens were taken back.
    pub(super) fn push(&mut self, b: &B, site: usize, first: usize, rows: &B::Buf) {
        let n = b.buf_rows(rows);
        let Site {
            first: held,
            rows: all,
        } = &mut self.sites[site];
        let end = *held + b.buf_rows(all);
        if (*held..=end).contains(&first) {
            if first < end {
                self.unchanged = self.unchanged.min(first);
                let mut kept = B::Buf::default();
                b.take_rows(all, 0..first - *held, &mut kept);
                *all = kept;
            }
        } else {
            self.unchanged = self.unchanged.min(first);
            *all = B::Buf::default();
            *held = first;
        }
        b.append_rows(rows, all);
        // Not at each token: the others would be moved each time.
        let held_rows = first + n - *held;
        if held_rows > 2 * self.keep {
            b.drop_first_rows(all, held_rows - self.keep);
            *held += held_rows - self.keep;
        }
    }

    /// Forgets all states.
    pub(super) fn restart(&mut self) {
        for site in &mut self.sites {
            *site = Site {
                first: 0,
                rows: B::Buf::default(),
            };
        }
        self.unchanged = 0;
    }

    /// Bytes held.
    pub(super) fn bytes(&self, b: &B) -> usize {
        self.sites.iter().map(|site| b.buf_bytes(&site.rows)).sum()
    }
}
