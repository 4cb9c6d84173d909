//! Positioned reads past the page cache's own pace: what mapped memory cannot
//! give, since page faults come one after the other (design contract 5).

/// How reads are submitted to the operating system. The results are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// `io_uring` where the kernel allows it, threads elsewhere.
    #[default]
    Auto,
    /// `io_uring`; an error where the kernel refuses it.
    Uring,
    /// A pool of threads, each with one `pread` at a time.
    Threads,
}
