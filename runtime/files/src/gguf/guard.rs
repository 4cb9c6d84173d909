//! Handles mapped files that are truncated: reading past the new end raises SIGBUS, which
//! would kill the process. Here it marks the file as lost, and zeros are read from there
//! on; the caller checks afterwards whether that happened.
#![allow(unsafe_code)]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Mappings watched at once: the parts of two models of the most parts.
const MOST: usize = 1024;
/// A place that is being filled.
const RESERVED: usize = 1;

/// A mapping that is watched.
struct Watched {
    /// Its first byte's address; 0 for a free place.
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

// Read by a signal handler, which may neither lock nor allocate.
static WATCHED: [Watched; MOST] = [const {
    Watched {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; MOST];

/// Watches a mapping until it is dropped, which must be before the mapping is.
#[derive(Debug)]
pub(super) struct Guard {
    place: Option<usize>,
}

impl Guard {
    /// Watches the mapping of these bytes. From the first call on the process has a
    /// handler for SIGBUS, which leaves all other memory to the one before it.
    pub fn new(bytes: &[u8]) -> Self {
        if !install() {
            return Self { place: None };
        }
        let free = WATCHED.iter().position(|watched| {
            let (free, order) = (&watched.start, Ordering::AcqRel);
            free.compare_exchange(0, RESERVED, order, Ordering::Relaxed)
                .is_ok()
        });
        if let Some(place) = free {
            WATCHED[place].lost.store(false, Ordering::Relaxed);
            WATCHED[place].len.store(bytes.len(), Ordering::Relaxed);
            let start = bytes.as_ptr() as usize;
            WATCHED[place].start.store(start, Ordering::Release);
        }
        Self { place: free }
    }

    /// Whether some of the bytes could not be read, and zeros were read instead.
    pub fn lost(&self) -> bool {
        self.place
            .is_some_and(|place| WATCHED[place].lost.load(Ordering::Acquire))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            WATCHED[place].start.store(0, Ordering::Release);
        }
    }
}

#[cfg(target_os = "linux")]
use linux::install;

#[cfg(not(target_os = "linux"))]
fn install() -> bool {
    false
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::{c_int, c_void};
    use std::ptr;
    use std::sync::atomic::AtomicPtr;

    use super::{AtomicBool, AtomicUsize, Once, Ordering, RESERVED, WATCHED};

    static INSTALLED: AtomicBool = AtomicBool::new(false);
    static PAGE: AtomicUsize = AtomicUsize::new(4096);
    /// The action before ours; never freed.
    static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

    type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

    /// Installs the handler, once. Whether there is one.
    pub(super) fn install() -> bool {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // Of libc, not rustix, which reads the kernel's own vector to find out, and
            // is ended by what it finds there under valgrind.
            // SAFETY: a question about a number.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            if let Ok(page @ 1..) = usize::try_from(page) {
                PAGE.store(page, Ordering::Relaxed);
            }
            let handler: Handler = on_bus_error;
            // SAFETY: `sigaction` is plain data, for which zeros are valid.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: as above.
            let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = handler as usize;
            // On the thread's own signal stack where it has one, as the standard
            // library's handler.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            // SAFETY: asks for the present action; both pointers are valid.
            let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) };
            if asked != 0 {
                return;
            }
            BEFORE.store(Box::into_raw(Box::new(before)), Ordering::Release);
            // SAFETY: the handler calls only what may be called in one (see there), and
            // `action` is filled in.
            let set = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
            INSTALLED.store(set == 0, Ordering::Release);
        });
        INSTALLED.load(Ordering::Acquire)
    }

    /// Async-signal-safe: atomics and system calls only.
    extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel hands a valid `siginfo_t` to a SA_SIGINFO handler, and for
        // SIGBUS it has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        for watched in &WATCHED {
            let start = watched.start.load(Ordering::Acquire);
            let len = watched.len.load(Ordering::Relaxed);
            if start <= RESERVED || !(start..start + len).contains(&address) {
                continue;
            }
            let page = PAGE.load(Ordering::Relaxed);
            let from = address / page * page;
            let rest = start + len - from;
            // SAFETY: replaces pages inside of a mapping that its owner keeps until
            // after it has taken it off the list, with pages that can be read. Its
            // bytes are read as plain numbers of any value.
            let mapped = unsafe {
                libc::mmap(
                    from as *mut c_void,
                    rest,
                    libc::PROT_READ,
                    libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            if mapped != libc::MAP_FAILED {
                watched.lost.store(true, Ordering::Release);
                return;
            }
        }
        not_ours(signal, info, context);
    }

    /// Passes the signal to the previous handler; without one, it ends the process as
    /// if we had never been.
    fn not_ours(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let before = BEFORE.load(Ordering::Acquire);
        // SAFETY: null or a `sigaction` that is never freed.
        let before = unsafe { before.as_ref() };
        match before {
            Some(action)
                if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN =>
            {
                if action.sa_flags & libc::SA_SIGINFO != 0 {
                    // SAFETY: such an action has a function of this type.
                    let handler: Handler = unsafe { std::mem::transmute(action.sa_sigaction) };
                    handler(signal, info, context);
                } else {
                    // SAFETY: such an action has a function of this type.
                    let handler: extern "C" fn(c_int) =
                        unsafe { std::mem::transmute(action.sa_sigaction) };
                    handler(signal);
                }
            }
            // The instruction runs again, and the signal ends the process.
            // SAFETY: sets the default action.
            _ => unsafe {
                libc::signal(signal, libc::SIG_DFL);
            },
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::hint::black_box;
    use std::io::Write;

    use memmap2::Mmap;

    use super::*;

    #[test]
    fn a_mapping_that_is_cut_short_reads_as_zeros_and_says_so() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        // SAFETY: cut short below, which is what is tested.
        let map = unsafe { Mmap::map(file.as_file()) }.unwrap();
        let other = Guard::new(&[0; 16]);
        let guard = Guard::new(&map);
        assert!(map.iter().all(|&b| b == 7));
        assert!(!guard.lost());
        file.as_file().set_len(10_000).unwrap();
        assert!(!guard.lost());
        let sum: u64 = black_box(&map[..]).iter().map(|&b| u64::from(b)).sum();
        assert!(guard.lost());
        // The page with the end is there, its rest is zeros.
        assert_eq!(sum, 70_000);
        assert!(!other.lost());
        drop(guard);
        assert!(!Guard::new(&map).lost());
    }
}
