//! A guard for memory maps: a page that cannot be read any more ends in an error, not in a signal that ends the program.
//!
//! When a mapped file is cut short, or its disk fails, the kernel answers the next touch of a lost page with SIGBUS.
//! The handler here looks whether the address lies in a guarded map. If so, it puts zeros in place of the rest of that
//! map and marks the map as torn; the read goes on, and whoever uses the map finds the mark
//! ([`Mapped::check_unchanged`](crate::Mapped::check_unchanged)) before any result counts. Any other SIGBUS goes to the
//! handler that was there before.
//!
//! The list of guarded maps is a linked list of entries that are never freed, only used again, so that the handler can
//! walk it at any moment without a lock. Windows lets nobody shorten a mapped file, so nothing is guarded there.

#![cfg_attr(unix, allow(unsafe_code))]

/// A guarded range of addresses; the range is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    #[cfg(unix)]
    entry: &'static unix::Entry,
}

impl Guard {
    /// Guards `bytes`, which must be a whole memory map that outlives the guard.
    pub fn new(bytes: &[u8]) -> Guard {
        #[cfg(unix)]
        return Guard { entry: unix::Entry::claim(bytes.as_ptr() as usize, bytes.len()) };
        #[cfg(not(unix))]
        {
            let _ = bytes;
            Guard {}
        }
    }

    /// True if a page of the map could not be read, so that it shows zeros from there on.
    pub fn is_torn(&self) -> bool {
        #[cfg(unix)]
        return self.entry.is_torn();
        #[cfg(not(unix))]
        false
    }
}

#[cfg(unix)]
impl Drop for Guard {
    fn drop(&mut self) {
        self.entry.free();
    }
}

#[cfg(unix)]
mod unix {
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    use libc::{c_int, c_void, siginfo_t};

    /// A place of the list: a range of addresses, or nothing.
    #[derive(Debug)]
    pub struct Entry {
        /// True while somebody owns the place.
        taken: AtomicBool,
        /// Number of changes of the range; odd while it is being changed.
        changes: AtomicUsize,
        start: AtomicUsize,
        end: AtomicUsize,
        torn: AtomicBool,
        next: AtomicPtr<Entry>,
    }

    /// The first place of the list.
    static FIRST: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());
    /// Bytes of a page; 0 until the handler is there.
    static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
    /// The handler that was there before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    /// All places of the list.
    fn entries() -> impl Iterator<Item = &'static Entry> {
        let mut at = FIRST.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: a pointer in the list is null or comes from `Box::leak` in `claim`, which published it with
            // release ordering after the entry was complete. Entries are never freed.
            let entry: &'static Entry = unsafe { at.as_ref() }?;
            at = entry.next.load(Ordering::Acquire);
            Some(entry)
        })
    }

    impl Entry {
        /// A place that guards `len` bytes from `start` on.
        pub fn claim(start: usize, len: usize) -> &'static Entry {
            install();
            let free = entries().find(|e| !e.taken.swap(true, Ordering::AcqRel));
            let entry = free.unwrap_or_else(Entry::append);
            entry.torn.store(false, Ordering::SeqCst);
            entry.set(start, start.saturating_add(len));
            entry
        }

        /// A new place in front of the list.
        fn append() -> &'static Entry {
            let entry: &'static Entry = Box::leak(Box::new(Entry {
                taken: AtomicBool::new(true),
                changes: AtomicUsize::new(0),
                start: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
                torn: AtomicBool::new(false),
                next: AtomicPtr::new(ptr::null_mut()),
            }));
            let new = ptr::from_ref(entry).cast_mut();
            let mut first = FIRST.load(Ordering::Acquire);
            loop {
                entry.next.store(first, Ordering::Relaxed);
                match FIRST.compare_exchange_weak(first, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return entry,
                    Err(other) => first = other,
                }
            }
        }

        fn set(&self, start: usize, end: usize) {
            self.changes.fetch_add(1, Ordering::SeqCst);
            self.start.store(start, Ordering::SeqCst);
            self.end.store(end, Ordering::SeqCst);
            self.changes.fetch_add(1, Ordering::SeqCst);
        }

        pub fn is_torn(&self) -> bool {
            self.torn.load(Ordering::SeqCst)
        }

        pub fn free(&self) {
            self.set(0, 0);
            self.taken.store(false, Ordering::Release);
        }

        /// The range that is guarded, if it holds `address`.
        fn range_of(&self, address: usize) -> Option<(usize, usize)> {
            // A range that another thread changes meanwhile is skipped. It is not the one looked for, since whoever
            // touched `address` keeps its map and its guard alive.
            let before = self.changes.load(Ordering::SeqCst);
            let (start, end) = (self.start.load(Ordering::SeqCst), self.end.load(Ordering::SeqCst));
            let stable = before.is_multiple_of(2) && self.changes.load(Ordering::SeqCst) == before;
            (stable && (start..end).contains(&address)).then_some((start, end))
        }
    }

    /// Installs the handler, once.
    fn install() {
        BEFORE.get_or_init(|| {
            // SAFETY: sysconf reads a constant of the system.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            PAGE_BYTES.store(usize::try_from(page).unwrap_or(4096), Ordering::SeqCst);
            let mut before = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: `action` is a complete sigaction: all zeros is a valid value of the plain C structure, and the
            // handler has the signature that SA_SIGINFO asks for. SA_ONSTACK lets it run where Rust's own handler
            // runs. `before` is written by the call, or stays zero, which is the default action.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_sigbus as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(libc::SIGBUS, &action, before.as_mut_ptr());
                before.assume_init()
            }
        });
    }

    /// Puts zeros in place of a guarded map from the lost page on; hands any other signal on.
    ///
    /// Async-signal-safe: it reads atomics and makes system calls, takes no lock and allocates nothing.
    extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel passes a valid siginfo_t to a handler with SA_SIGINFO.
        let (address, from_kernel) = unsafe { ((*info).si_addr() as usize, (*info).si_code > 0) };
        if from_kernel && mend(address) {
            return;
        }
        hand_on(signal, info, context);
    }

    /// True if `address` lies in a guarded map, whose rest then shows zeros.
    fn mend(address: usize) -> bool {
        let page = PAGE_BYTES.load(Ordering::SeqCst);
        let found = entries().find_map(|e| Some((e, e.range_of(address)?)));
        let (Some((entry, (_, end))), true) = (found, page > 0) else { return false };
        let first = address / page * page;
        entry.torn.store(true, Ordering::SeqCst);
        // SAFETY: the range starts at a page of the guarded map and ends where the map does, so that it replaces
        // nothing but pages of that map, which is read only and alive, as the faulting read shows. Readers see zeros
        // instead of the lost bytes; the owner unmaps the range as before.
        let mapped = unsafe {
            libc::mmap(
                first as *mut c_void,
                end - first,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        mapped != libc::MAP_FAILED
    }

    /// Calls the handler that was there before, or lets the signal end the program.
    fn hand_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        let before = BEFORE.get();
        let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            // SAFETY: the default action is restored by a complete sigaction, and the signal sent once more: it is
            // blocked until the handler returns, and ends the program then.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &action, ptr::null_mut());
                libc::raise(signal);
            }
        } else if before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0) {
            // SAFETY: the address was installed as a handler with SA_SIGINFO, so it is a function of this type.
            let handler = unsafe {
                std::mem::transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(handler)
            };
            handler(signal, info, context);
        } else {
            // SAFETY: the address was installed as a handler without SA_SIGINFO, so it is a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
}
