//! Who is next.

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
        self.jobs.len()
    }

    /// The next job: of the client that has the fewest `running`, and of those the
    /// first to come. So one client with a hundred requests does not keep others out.
    pub fn next(&mut self, running: &[Client]) -> Option<(Job, Instant)> {
        let runs = |client: &Client| running.iter().filter(|c| *c == client).count();
        let all = self.jobs.iter().enumerate();
        let (i, _) = all.min_by_key(|(i, (job, _))| (runs(&job.client), *i))?;
        self.jobs.remove(i)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::picker::Picking;

    #[test]
    fn a_client_with_many_requests_does_not_keep_others_out() {
        let mut queue = Queue::default();
        for (client, id) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30)] {
            queue.push(Job {
                ids: vec![id],
                checkpoints: Vec::new(),
                max_tokens: 1,
                picking: Picking::default(),
                adapters: Vec::new(),
                client: Client::User(client),
                outputs: mpsc::unbounded_channel().0,
            });
        }
        let mut running = Vec::new();
        let mut order = Vec::new();
        while let Some((job, _)) = queue.next(&running) {
            order.push(job.ids[0]);
            running.push(job.client);
        }
        assert_eq!(order, [10, 20, 30, 11, 12]);
    }
}
