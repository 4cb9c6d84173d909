//! Places from which a session can continue.

use v4_runtime::storage::Landmark;

use crate::jobs::Job;

/// The furthest from one place to the next.
pub(super) const APART: usize = 2048;

/// Places of a job's prompt, in order: those that it names, and others between them so
/// that none is further than [`APART`] from the one before.
pub(super) fn of_prompt(job: &Job) -> Vec<(usize, Landmark)> {
    let end = job.ids.len();
    let turns = job.checkpoints.iter().map(|&at| (at, Landmark::Turn));
    let root = job.root.map(|at| (at, Landmark::Root));
    let mut named: Vec<_> = turns.chain(root).filter(|p| p.0 > 0 && p.0 < end).collect();
    // Of two at one place the one that stays longer.
    named.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
    named.dedup_by_key(|place| place.0);
    let mut all = Vec::with_capacity(named.len() + end / APART);
    let mut before = 0;
    for (at, landmark) in named.into_iter().chain([(end, Landmark::Way)]) {
        while at - before > APART {
            before += APART;
            all.push((before, Landmark::Way));
        }
        if at < end {
            all.push((at, landmark));
            before = at;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::jobs::Client;

    #[test]
    fn named_places_and_others_between_them() {
        let job = Job {
            checkpoints: vec![9000, 5000, 5000, 4100, 0, 10_000],
            root: Some(4100),
            ..Job::new(vec![7; 10_000], Client::Anyone, mpsc::unbounded_channel().0)
        };
        use Landmark::{Root, Turn, Way};
        assert_eq!(
            of_prompt(&job),
            [
                (2048, Way),
                (4096, Way),
                (4100, Root),
                (5000, Turn),
                (7048, Way),
                (9000, Turn)
            ]
        );
        // What is no further than that has none before it.
        let near = Job {
            checkpoints: vec![2048, 4096],
            ..Job::new(vec![7; 6144], Client::Anyone, mpsc::unbounded_channel().0)
        };
        assert_eq!(of_prompt(&near), [(2048, Turn), (4096, Turn)]);
        let empty = Job::new(Vec::new(), Client::Anyone, mpsc::unbounded_channel().0);
        assert!(of_prompt(&empty).is_empty());
    }
}
