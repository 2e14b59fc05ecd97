//! Whether a file may have changed, from what its file system says of it: so that of thousands of files only those are read
//! that somebody touched.

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::limits;

/// Which file it is, its length and its times, in a word. The change time (`st_ctime`, inode(7)) is set by every write and
/// cannot be set back by who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(NonZeroU64);

impl Stamp {
    /// To be taken before the file is read: a change in between then gives another. `None` = the file changed less than
    /// [`limits::MANIFEST_STAMP_AGE_MIN`] ago, or in the future: a further change could leave its times as they are.
    pub(super) fn of(metadata: &Metadata, now: SystemTime) -> Option<Stamp> {
        let changed = since_epoch(metadata.ctime(), metadata.ctime_nsec())?;
        let age = now.duration_since(UNIX_EPOCH).ok()?.checked_sub(changed)?;
        if age < limits::MANIFEST_STAMP_AGE_MIN {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        let times = (metadata.ctime(), metadata.ctime_nsec(), metadata.mtime(), metadata.mtime_nsec());
        (metadata.dev(), metadata.ino(), metadata.len(), times).hash(&mut hasher);
        NonZeroU64::new(hasher.finish()).map(Stamp)
    }
}

fn since_epoch(seconds: i64, nanoseconds: i64) -> Option<Duration> {
    Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?))
}

/// The stamp of what was read last, which any reader may set.
#[derive(Debug, Default)]
pub(super) struct LastStamp(AtomicU64);

impl LastStamp {
    pub(super) fn get(&self) -> Option<Stamp> {
        NonZeroU64::new(self.0.load(Ordering::Relaxed)).map(Stamp)
    }

    pub(super) fn set(&self, stamp: Option<Stamp>) {
        self.0.store(stamp.map_or(0, |stamp| stamp.0.get()), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock;

    #[test]
    fn a_file_that_was_just_written_has_no_stamp_yet() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let metadata = file.path().metadata().expect("its metadata");
        let changed = since_epoch(metadata.ctime(), metadata.ctime_nsec()).expect("a time after 1970");
        let at = |age: Duration| UNIX_EPOCH + changed + age;
        assert_eq!(Stamp::of(&metadata, UNIX_EPOCH + changed - Duration::from_secs(9)), None);
        assert_eq!(Stamp::of(&metadata, at(limits::MANIFEST_STAMP_AGE_MIN - Duration::from_nanos(1))), None);
        assert!(Stamp::of(&metadata, at(limits::MANIFEST_STAMP_AGE_MIN)).is_some());
    }

    #[test]
    fn another_content_of_the_same_length_and_modification_time_has_another_stamp() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let stamp = || {
            let metadata = file.path().metadata().expect("its metadata");
            Stamp::of(&metadata, SystemTime::from(clock::wall()) + Duration::from_secs(3_600))
                .expect("it is old by then")
        };
        fs::write(file.path(), "one").expect("written");
        let before = stamp();
        assert_eq!(stamp(), before);
        let modified = file.path().metadata().and_then(|metadata| metadata.modified()).expect("a modification time");
        // As long as the file system's clock stands still, which is a tick at most.
        let mut tries = 0;
        loop {
            fs::write(file.path(), "two").expect("written");
            fs::File::open(file.path()).and_then(|file| file.set_modified(modified)).expect("set back");
            tries += 1;
            if stamp() != before {
                return;
            }
            assert!(tries < 10_000_000, "the change time stands still");
        }
    }
}
