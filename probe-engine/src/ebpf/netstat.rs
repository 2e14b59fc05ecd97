//! `/proc/net/netstat` of one network namespace: counters of TCP that netlink does not tell.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The file, held open: it stays with the namespace in which it was opened (`single_open_net`).
#[derive(Debug)]
pub struct Netstat {
    file: File,
}

/// The calling thread's.
const PATH: &str = "/proc/thread-self/net/netstat";

impl Netstat {
    /// Of the calling thread's namespace.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open() -> io::Result<Self> {
        Ok(Self { file: File::open(PATH)? })
    }

    /// `ListenDrops`: connection requests that listeners of the namespace have lost, now. `buffer` is for the file, which
    /// comes with one pread(2) (it is one record of `seq_file`): 4 KB on Linux 6.18, and the counter in its first half.
    ///
    /// # Errors
    /// Those of pread(2); InvalidData where the counter is not in what it read, also because the buffer ended before.
    pub fn listen_drops(&self, buffer: &mut [u8]) -> io::Result<u64> {
        let len = self.file.read_at(buffer, 0)?;
        let text = std::str::from_utf8(&buffer[..len]).map_err(io::Error::other)?;
        counter(text, "TcpExt: ", "ListenDrops").ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("no TcpExt ListenDrops in {len} bytes of {PATH}"))
        })
    }
}

/// Of a pair of lines, names and then values, that both begin so.
fn counter(text: &str, prefix: &str, name: &str) -> Option<u64> {
    // What has no end was cut short.
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let mut lines = whole.filter_map(|line| line.strip_prefix(prefix));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|found| found == name)?;
    values.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_name_and_not_in_half_a_line() {
        let text =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\nIpExt: ListenDrops\nIpExt: 4\n";
        let listen_drops = |text| counter(text, "TcpExt: ", "ListenDrops");
        assert_eq!(listen_drops(text), Some(333));
        assert_eq!(counter(text, "IpExt: ", "ListenDrops"), Some(4));
        for len in 0..text.find("\nIpExt").expect("it is there") + 1 {
            assert_eq!(listen_drops(&text[..len]), None, "{len} bytes");
        }
        assert_eq!(listen_drops("TcpExt: ListenOverflows\nTcpExt: 1\n"), None);
        assert_eq!(listen_drops("TcpExt: A ListenDrops\nTcpExt: 1\n"), None);
        assert_eq!(listen_drops("TcpExt: ListenDrops\nTcpExt: -1\n"), None);
    }

    #[test]
    fn it_is_read_again_and_again_from_the_file_that_is_held() {
        let netstat = Netstat::open().expect("of this thread");
        let mut buffer = vec![0; crate::limits::NETLINK_MESSAGE_BYTES_MAX];
        let first = netstat.listen_drops(&mut buffer).expect("every Linux has it");
        assert!(netstat.listen_drops(&mut buffer).expect("once more") >= first);
        let cut = netstat.listen_drops(&mut buffer[..100]).expect_err("too short").to_string();
        assert!(cut.contains("ListenDrops in 100 bytes"), "{cut}");
    }
}
