//! The arrays that the kernel program writes and the daemon reads in place: change counters, what became of our own
//! connects, and how many listener events were lost.
//!
//! The one door to mapped memory. **Invariant:** nobody makes a plain reference to it: the kernel writes at any time, so
//! every access is an atomic load of one aligned word. Loads are relaxed and followed by an acquire fence, because only
//! relaxed ones are sure to work on pages that are mapped read-only (documentation of `std::sync::atomic`).
#![expect(unsafe_code, reason = "mmap(2), and words that another writes; each unsafe proves its conditions")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use probe_ebpf::{CONNECTS_LEN, COUNTERS_LEN, Connect, connect_place};

/// Words of one place in [`probe_ebpf::MAP_CONNECTS`].
const CONNECT_WORDS: usize = size_of::<Connect>() / size_of::<u64>();
/// Word of [`Connect::socket_cookie`]
const COOKIE: usize = 0;
/// Word of [`Connect::child_ns`]; the child's others follow.
const CHILD_NS: usize = 3;

const _: () = assert!(std::mem::offset_of!(Connect, socket_cookie) == COOKIE * 8);
const _: () = assert!(std::mem::offset_of!(Connect, child_ns) == CHILD_NS * 8);

/// The change counters: each moves at every event that opens or closes a listener of its slot, before the system call
/// that caused it returns.
#[derive(Debug)]
pub struct Counters {
    words: Words<{ COUNTERS_LEN as usize }>,
}

impl Counters {
    /// Of memory of our own, that [`Counters::bump`] moves: simulations and tests.
    #[must_use]
    pub fn fake() -> Self {
        Self { words: Words::own() }
    }

    /// The program's array [`probe_ebpf::MAP_COUNTERS`].
    ///
    /// # Errors
    /// mmap(2)'s: the map is too short or was made without BPF_F_MMAPABLE (EINVAL), ENOMEM.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { words: Words::map(fd)? })
    }

    /// What the program has written. A slot beyond the array is taken modulo its length.
    #[inline]
    #[must_use]
    pub fn load(&self, slot: u32) -> u64 {
        self.words.load((slot % COUNTERS_LEN) as usize)
    }

    /// A change, where no kernel makes them. Nothing for mapped memory.
    pub fn bump(&self, slot: u32) {
        self.words.add((slot % COUNTERS_LEN) as usize);
    }
}

/// Listener events for which the ring buffer had no room.
#[derive(Debug)]
pub struct Drops {
    words: Words<1>,
}

impl Drops {
    /// Of memory of our own, that [`Drops::bump`] moves.
    #[must_use]
    pub fn fake() -> Self {
        Self { words: Words::own() }
    }

    /// The program's array [`probe_ebpf::MAP_DROPS`].
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { words: Words::map(fd)? })
    }

    /// Events lost since the program was loaded.
    #[must_use]
    pub fn load(&self) -> u64 {
        self.words.load(0)
    }

    /// One more lost, where no kernel loses them. Nothing for mapped memory.
    pub fn bump(&self) {
        self.words.add(0);
    }
}

/// Our own connects, as the program saw them.
#[derive(Debug)]
pub struct Connects {
    words: Words<{ CONNECTS_LEN as usize * CONNECT_WORDS }>,
}

impl Connects {
    /// Of memory of our own, that [`Connects::put`] fills; empty, it never knows anything.
    #[must_use]
    pub fn fake() -> Self {
        Self { words: Words::own() }
    }

    /// The program's array [`probe_ebpf::MAP_CONNECTS`].
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { words: Words::map(fd)? })
    }

    /// What is known of the connect of this socket; `None` = nothing (its event is missing, or its place was taken by a
    /// newer connect). A child that is just being written is not there yet: all its fields are 0.
    #[must_use]
    pub fn read(&self, socket_cookie: u64) -> Option<Connect> {
        let first = connect_place(socket_cookie) as usize * CONNECT_WORDS;
        if socket_cookie == 0 || self.words.load(first + COOKIE) != socket_cookie {
            return None;
        }
        let mut words = [0; CONNECT_WORDS];
        words[COOKIE] = socket_cookie;
        // Written last by the program, so read first: where it is there, so is the rest of the child.
        words[CHILD_NS] = self.words.load(first + CHILD_NS);
        for (index, word) in words.iter_mut().enumerate() {
            if index != COOKIE && index != CHILD_NS {
                *word = self.words.load(first + index);
            }
        }
        // A newer connect takes the place by writing the cookie away first: unchanged, all of the above was ours.
        if self.words.load(first + COOKIE) != socket_cookie {
            return None;
        }
        let mut bytes = [0; size_of::<Connect>()];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let mut connect = Connect::from_bytes(&bytes)?;
        if connect.child_ns == 0 {
            connect =
                Connect { child_netns_cookie: 0, child_remote: [0; 16], child_port: 0, child_family: 0, ..connect };
        }
        Some(connect)
    }

    /// A connect, where no kernel sees them. Nothing for mapped memory.
    pub fn put(&self, connect: Connect) {
        let first = connect_place(connect.socket_cookie) as usize * CONNECT_WORDS;
        self.words.store(first + COOKIE, 0);
        for (index, bytes) in connect.to_bytes().as_chunks::<8>().0.iter().enumerate().skip(1) {
            self.words.store(first + index, u64::from_ne_bytes(*bytes));
        }
        self.words.store(first + COOKIE, connect.socket_cookie);
    }
}

/// Words in memory that is mapped or our own.
///
/// **Invariant:** `first` points to `LEN` words, aligned and initialised, that live until this is dropped.
#[derive(Debug)]
struct Words<const LEN: usize> {
    first: NonNull<AtomicU64>,
    /// Made by `map`: written by the kernel alone, read-only here.
    mapped: bool,
}

// SAFETY: the words belong to this value alone (a private box, or a mapping that nothing else unmaps), an address is as
// good on any thread as on another, and every access is atomic.
unsafe impl<const LEN: usize> Send for Words<LEN> {}
// SAFETY: as above; through a shared reference there are only atomic loads, and atomic stores where they are our own.
unsafe impl<const LEN: usize> Sync for Words<LEN> {}

impl<const LEN: usize> Words<LEN> {
    fn own() -> Self {
        let words: Box<[AtomicU64]> = (0..LEN).map(|_| AtomicU64::new(0)).collect();
        Self { first: NonNull::from(Box::leak(words)).cast(), mapped: false }
    }

    fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice (null hint, no MAP_FIXED) takes nobody's memory; the
        // descriptor is borrowed, so open during the call, and the mapping holds the map itself from then on.
        let address = unsafe {
            libc::mmap(ptr::null_mut(), LEN * size_of::<u64>(), libc::PROT_READ, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A success is never null without MAP_FIXED (mmap_min_addr). It begins a page, so it is aligned for any word; and
        // the kernel refuses a length beyond the map's (array_map_mmap: EINVAL), so that all `LEN` words exist.
        let first = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap(2) returned address 0"))?;
        Ok(Self { first, mapped: true })
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < LEN, "every caller takes its index modulo the length");
        // SAFETY: `index` is below `LEN`, so the word lies in the allocation or mapping (the type's invariant), and so does
        // every byte on the way.
        let word = unsafe { self.first.add(index) };
        // SAFETY: aligned, initialised and alive for as long as `self` (the type's invariant). What the kernel writes
        // meanwhile it writes to an atomic, through which shared references allow change; any bits are a valid u64.
        unsafe { word.as_ref() }
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        let value = self.word(index).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    fn store(&self, index: usize, value: u64) {
        // Read-only pages: a store would be a SIGSEGV.
        if !self.mapped {
            self.word(index).store(value, Ordering::SeqCst);
        }
    }

    fn add(&self, index: usize) {
        if !self.mapped {
            self.word(index).fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl<const LEN: usize> Drop for Words<LEN> {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: exactly what `map` mapped, and nothing borrowed from `self` outlives it. It cannot fail for a whole
            // mapping of ours.
            unsafe { libc::munmap(self.first.as_ptr().cast(), LEN * size_of::<u64>()) };
        } else {
            let words = ptr::slice_from_raw_parts_mut(self.first.as_ptr(), LEN);
            // SAFETY: pointer and length are those of the box that `own` leaked, and this runs once.
            drop(unsafe { Box::from_raw(words) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use super::*;

    fn connect(socket_cookie: u64) -> Connect {
        Connect {
            socket_cookie,
            started_ns: socket_cookie,
            established_ns: socket_cookie,
            child_ns: socket_cookie,
            child_netns_cookie: socket_cookie,
            child_remote: [7; 16],
            child_port: 80,
            child_family: 2,
            local_port: 40_000,
            padding: 0,
        }
    }

    #[test]
    fn a_fake_counter_moves_by_one_and_alone() {
        let counters = Counters::fake();
        counters.bump(5);
        counters.bump(5 + COUNTERS_LEN);
        assert_eq!((counters.load(4), counters.load(5), counters.load(5 + COUNTERS_LEN)), (0, 2, 2));
        let drops = Drops::fake();
        drops.bump();
        assert_eq!(drops.load(), 1);
    }

    #[test]
    fn a_connect_is_found_by_its_cookie_until_a_newer_one_takes_its_place() {
        let connects = Connects::fake();
        assert_eq!((connects.read(0), connects.read(9)), (None, None));
        connects.put(connect(9));
        assert_eq!(connects.read(9), Some(connect(9)));
        assert_eq!(connects.read(9 + u64::from(CONNECTS_LEN)), None);
        connects.put(connect(9 + u64::from(CONNECTS_LEN)));
        assert_eq!(connects.read(9), None);
    }

    #[test]
    fn half_a_child_is_none() {
        let connects = Connects::fake();
        connects.put(Connect { child_ns: 0, ..connect(9) });
        let read = connects.read(9).expect("the connect is there");
        assert_eq!((read.child_port, read.child_netns_cookie, read.child_remote), (0, 0, [0; 16]));
        assert_eq!((read.established_ns, read.local_port), (9, 40_000));
    }

    #[test]
    fn a_connect_that_is_overwritten_while_it_is_read_is_never_mixed() {
        let connects = Arc::new(Connects::fake());
        let cookies = [9, 9 + u64::from(CONNECTS_LEN)];
        let writer = std::thread::spawn({
            let connects = Arc::clone(&connects);
            move || (0..20_000).for_each(|round| connects.put(connect(cookies[round % 2])))
        });
        while !writer.is_finished() {
            for cookie in cookies {
                if let Some(read) = connects.read(cookie) {
                    assert_eq!(read, connect(cookie));
                }
            }
        }
        writer.join().expect("the writer");
    }

    #[test]
    fn mapped_words_are_read_in_place_and_never_written() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&vec![0; COUNTERS_LEN as usize * 8]).expect("zeroes");
        let counters = Counters::map(file.as_fd()).expect("mapped");
        write_word(&file, 5, 77);
        counters.bump(5);
        assert_eq!((counters.load(5), counters.load(6)), (77, 0));
        drop(file);
        assert_eq!(counters.load(5), 77, "the mapping outlives the descriptor");
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let directory = File::open("/").expect("the root");
        assert!(Counters::map(directory.as_fd()).is_err());
    }

    fn write_word(file: &File, index: u64, value: u64) {
        use std::os::unix::fs::FileExt;
        file.write_all_at(&value.to_ne_bytes(), index * 8).expect("a word");
    }
}
