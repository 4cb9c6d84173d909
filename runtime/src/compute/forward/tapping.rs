//! Keeps the states that a draft module reads, while they pass.

use std::sync::Arc;

use super::taps::{Moment, TapSites};
use super::{Cache, Cone, Forward, Scratch, Span};
use crate::compute::backend::Backend;

impl<B: Backend> Forward<B> {
    /// The same model, whose caches keep what drafts read.
    #[must_use]
    pub fn tapped(mut self, sites: TapSites) -> Self {
        self.taps = Some(Arc::new(sites));
        self
    }

    /// What it takes to know the outputs of a sequence from `wanted` on and to continue
    /// after `end`, with a draft if there is a module.
    pub fn cone(&self, wanted: usize, end: usize, cache: &Cache<B>) -> Cone {
        let mut cone = Cone::new(&self.cfg, wanted, end);
        if let (Some(sites), Some(taps)) = (&self.taps, &cache.taps) {
            for &layer in &sites.layers {
                let enters = match sites.moment {
                    Moment::Entering => layer,
                    Moment::Leaving => layer + 1,
                };
                cone.reach(enters, end.saturating_sub(taps.kept()));
            }
        }
        cone
    }

    /// Keeps the rows in work, if they are what drafts read of layer `l`.
    pub(super) fn tap(
        &self,
        l: usize,
        moment: Moment,
        caches: &mut [&mut Cache<B>],
        span: &Span<'_, B>,
        s: &mut Scratch<B>,
    ) {
        let Some(sites) = self.taps.as_ref().filter(|sites| sites.moment == moment) else {
            return;
        };
        let Ok(site) = sites.layers.binary_search(&l) else {
            return;
        };
        if span.ids.is_empty() {
            return;
        }
        let b = &self.backend;
        if sites.mean {
            // All streams count the same.
            let streams = self.cfg.hc_streams;
            let even = vec![1.0 / streams as f32; span.ids.len() * self.cfg.hc_mix()];
            b.write(&even, self.cfg.hc_mix(), &mut s.part_out);
            b.hc_collapse(&s.h, &s.part_out, self.hc(), &mut s.x);
        }
        let states = if sites.mean { &s.x } else { &s.h };
        for (cache, lane) in caches.iter_mut().zip(&span.lanes) {
            if let Some(taps) = &mut cache.taps {
                let skipped = lane.rows.len().saturating_sub(taps.kept());
                let rows = lane.rows.start + skipped..lane.rows.end;
                b.take_rows(states, rows, &mut s.part);
                taps.push(b, site, lane.first + skipped, &s.part);
            }
        }
    }
}
