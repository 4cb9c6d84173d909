//! Decides whose turn is next.

use std::collections::VecDeque;
use std::time::Instant;

use crate::jobs::{Client, Job};

/// Jobs that wait, in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: VecDeque<(Job, Instant)>,
}

impl Queue {
    pub fn push(&mut self, job: Job) {
        self.jobs.push_back((job, Instant::now()));
    }

    pub fn len(&self) -> usize {
        self.jobs.iter().filter(|(job, _)| !job.background).count()
    }

    /// Takes out the jobs whose place `newer` takes.
    pub fn replaced(&mut self, newer: &Job) -> Vec<Job> {
        let (out, jobs) = std::mem::take(&mut self.jobs)
            .into_iter()
            .partition::<Vec<_>, _>(|(job, _)| job.replaced_by(newer));
        self.jobs = jobs.into();
        out.into_iter().map(|(job, _)| job).collect()
    }

    /// The next job: of the client that has the fewest `running`, and of those the
    /// first to arrive. So one client with a hundred requests does not block others.
    /// Background jobs come after all others, if they are allowed at all.
    pub fn next(&mut self, running: &[Client], background: bool) -> Option<(Job, Instant)> {
        let runs = |client: &Client| running.iter().filter(|c| *c == client).count();
        let all = self.jobs.iter().enumerate();
        let all = all.filter(|(_, (job, _))| background || !job.background);
        let (i, _) = all.min_by_key(|(i, (job, _))| (job.background, runs(&job.client), *i))?;
        self.jobs.remove(i)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn job(client: u32, id: u32) -> Job {
        Job::new(vec![id], Client::User(client), mpsc::unbounded_channel().0)
    }

    #[test]
    fn what_is_replaced_waits_no_more_and_what_is_not_urgent_comes_last() {
        let mut queue = Queue::default();
        let named = |client, id, name: &str| Job {
            replaces: Some(name.into()),
            ..job(client, id)
        };
        queue.push(Job {
            background: true,
            ..job(1, 1)
        });
        queue.push(named(1, 2, "a"));
        queue.push(named(1, 3, "b"));
        queue.push(named(2, 4, "a"));
        queue.push(job(1, 5));
        assert_eq!(queue.len(), 4, "what is not urgent does not wait");
        assert!(queue.replaced(&job(1, 9)).is_empty());
        let out = queue.replaced(&named(1, 9, "a"));
        assert_eq!(out.iter().map(|j| j.ids[0]).collect::<Vec<_>>(), [2]);
        let mut rest = |background| {
            let jobs = std::iter::from_fn(|| queue.next(&[], background));
            jobs.map(|(job, _)| job.ids[0]).collect::<Vec<_>>()
        };
        assert_eq!(rest(false), [3, 4, 5]);
        assert_eq!(rest(true), [1]);
    }

    #[test]
    fn a_client_with_many_requests_does_not_keep_others_out() {
        let mut queue = Queue::default();
        for (client, id) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30)] {
            queue.push(job(client, id));
        }
        let mut running = Vec::new();
        let mut order = Vec::new();
        while let Some((job, _)) = queue.next(&running, true) {
            order.push(job.ids[0]);
            running.push(job.client);
        }
        assert_eq!(order, [10, 20, 30, 11, 12]);
    }
}
