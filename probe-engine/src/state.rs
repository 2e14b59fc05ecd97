//! The state file: what a daemon that starts again goes on with instead of finding it out anew.
//!
//! A header (what it is, its version, how many pods), a length-delimited protobuf message about the whole ([`Whole`], since version
//! 2), one per pod ([`PodState`]), and the SHA-256 of all that. It is replaced as a whole: written beside its place, synced, renamed. A file that is cut short, damaged
//! or of a later version is set aside under another name, and the daemon starts without.
//!
//! **Invariant:** no content of the file can do more than that: its size, each message and each number in it have bounds.

mod record;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use probe_core::id::PodUid;
use prost::Message;
use sha2::{Digest, Sha256};

pub(crate) use self::record::has_begun;
pub use self::record::{ContainerState, GateState, PauseState, PodState, ProbeState, TerminationState, Whole};
use crate::limits::{STATE_BYTES_MAX, STATE_POD_BYTES_MAX};

/// In the state directory.
pub const FILE_NAME: &str = "state";

/// What a file that cannot be used is renamed to.
pub const ASIDE_NAME: &str = "state.unusable";

/// The version that is written. Earlier ones are read: a field that they lack has its default, which means "not known".
///
/// 2: conditions of readiness gates; the node's boot, and ends on its clock. A new version leaves a file of the one before it in `tests/data/state`.
pub const VERSION: u8 = 2;

/// The first bytes of the file, before its version.
const MAGIC: &[u8; 15] = b"probe-engine st";

/// Magic, version, and the number of pods as four bytes, little end first.
const HEADER_BYTES: usize = MAGIC.len() + 1 + 4;

/// More than all that is no pod takes, and the length of one.
const ROOM_BYTES: usize = 1024;

/// At the end of the file: the SHA-256 of all before it.
pub const DIGEST_BYTES: usize = 32;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// It begins with something else.
    #[error("not a state file")]
    Foreign,
    /// Written by a later daemon.
    #[error("version {0} is later than {VERSION}, the last that this daemon knows")]
    Version(u8),
    /// It has more than [`STATE_BYTES_MAX`].
    #[error("more than {STATE_BYTES_MAX} bytes")]
    TooLarge,
    /// Its digest is another.
    #[error("damaged or cut short: its checksum is another")]
    Damaged,
    /// The digest is right, so this was written so.
    #[error("what it says of the whole: {0}")]
    Whole(String),
    /// The same of a pod.
    #[error("pod {index}: {what}")]
    Pod {
        /// Which, from 0.
        index: u32,
        /// What is wrong with it.
        what: String,
    },
}

/// Puts the content of a file together, pod by pod.
#[derive(Debug, Default)]
pub struct Writer {
    /// The pods' messages.
    bytes: Vec<u8>,
    pods_len: u32,
    /// Pods for which there was no room.
    left_out: u32,
}

impl Writer {
    /// Adds a pod, where there is room for it: see [`STATE_POD_BYTES_MAX`] and [`STATE_BYTES_MAX`].
    pub fn push(&mut self, pod: &PodState) {
        let len = pod.encoded_len();
        if len > STATE_POD_BYTES_MAX || self.bytes.len() + len + ROOM_BYTES > STATE_BYTES_MAX {
            self.left_out += 1;
            return;
        }
        // A vector takes all that is put into it.
        let _ = pod.encode_length_delimited(&mut self.bytes);
        self.pods_len += 1;
    }

    /// How many pods had no place.
    #[must_use]
    pub fn left_out(&self) -> u32 {
        self.left_out
    }

    /// Of the pods alone: the same as long as nothing of them changes.
    #[must_use]
    pub fn digest(&self) -> [u8; DIGEST_BYTES] {
        Sha256::digest(&self.bytes).into()
    }

    /// A file, in the parts that it is written in.
    #[must_use]
    pub fn finish(self, whole: &Whole) -> Content {
        let mut head = Vec::from(*MAGIC);
        head.push(VERSION);
        head.extend_from_slice(&self.pods_len.to_le_bytes());
        // A vector takes all that is put into it.
        let _ = whole.encode_length_delimited(&mut head);
        let digest = Sha256::new().chain_update(&head).chain_update(&self.bytes).finalize().into();
        Content { head, pods: self.bytes, digest }
    }
}

/// All bytes of a file.
#[derive(Debug)]
pub struct Content {
    head: Vec<u8>,
    pods: Vec<u8>,
    digest: [u8; DIGEST_BYTES],
}

impl Content {
    /// In one piece.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.head, &self.pods, self.digest.as_slice()].concat()
    }
}

/// Puts `content` in the place of the file in `directory`: after this has returned well it outlives a crash of the node, before
/// that the earlier file does. Returns how many bytes it has.
///
/// # Errors
/// Those of the file system.
pub fn replace(directory: &Path, content: &Content) -> io::Result<u64> {
    let new = directory.join(format!("{FILE_NAME}.new"));
    // What a daemon that was killed has left; whatever else has that name is not written into.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let parts = [&content.head, &content.pods, content.digest.as_slice()];
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_data()?;
    drop(file);
    fs::rename(&new, directory.join(FILE_NAME))?;
    File::open(directory)?.sync_all()?;
    Ok(parts.iter().map(|part| part.len() as u64).sum())
}

/// What was read: the bytes of each pod, decoded when it is asked for.
#[derive(Debug, Default)]
pub struct State {
    bytes: Vec<u8>,
    /// Where each pod's message is, by a hash of its UID; of two with one hash the first is found.
    places: HashMap<u64, (u32, u32)>,
    hasher: RandomState,
    whole: Whole,
    /// Points of the monotonic clock are those of now.
    is_of_this_boot: bool,
}

impl State {
    /// Reads the file in this directory; none is as good as an empty one. One that cannot be used is renamed to [`ASIDE_NAME`]
    /// and told.
    #[must_use]
    pub fn read(directory: &Path) -> State {
        let path = directory.join(FILE_NAME);
        match State::open(&path) {
            Ok(state) => state,
            Err(StateError::Io(error)) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => {
                let aside = directory.join(ASIDE_NAME);
                let kept = match fs::rename(&path, &aside) {
                    Ok(()) => format!("kept as {}", aside.display()),
                    Err(error) => format!("and cannot be renamed: {error}"),
                };
                tracing::warn!(
                    path = %path.display(),
                    "the state file cannot be used: {error}; starting without it, {kept}"
                );
                State::default()
            }
        }
    }

    fn open(path: &PathBuf) -> Result<State, StateError> {
        let mut bytes = Vec::new();
        let limit = STATE_BYTES_MAX as u64 + 1;
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        State::parse(bytes)
    }

    /// Takes over the content of a file.
    ///
    /// # Errors
    /// What makes it unusable.
    pub fn parse(mut bytes: Vec<u8>) -> Result<State, StateError> {
        if bytes.len() > STATE_BYTES_MAX {
            return Err(StateError::TooLarge);
        }
        if !bytes.starts_with(MAGIC) || bytes.len() < HEADER_BYTES + DIGEST_BYTES {
            return Err(StateError::Foreign);
        }
        let version = bytes[MAGIC.len()];
        if version > VERSION || version == 0 {
            return Err(StateError::Version(version));
        }
        let digest = bytes.split_off(bytes.len() - DIGEST_BYTES);
        if *Sha256::digest(&bytes) != *digest {
            return Err(StateError::Damaged);
        }
        let mut state = State { bytes, ..State::default() };
        state.index(version)?;
        Ok(state)
    }

    /// Finds the pods; every message is decoded once, so that a later look cannot fail.
    fn index(&mut self, version: u8) -> Result<(), StateError> {
        let count: [u8; 4] = self.bytes[MAGIC.len() + 1..HEADER_BYTES].try_into().unwrap_or_default();
        let mut rest = &self.bytes[HEADER_BYTES..];
        if version >= 2 {
            self.whole =
                Whole::decode_length_delimited(&mut rest).map_err(|error| StateError::Whole(error.to_string()))?;
            self.is_of_this_boot = self.whole.is_of_this_boot();
        }
        for index in 0..u32::from_le_bytes(count) {
            let wrong = |what: String| StateError::Pod { index, what };
            let len = prost::decode_length_delimiter(&mut rest).map_err(|error| wrong(error.to_string()))?;
            if len > STATE_POD_BYTES_MAX || len > rest.len() {
                return Err(wrong(format!("{len} bytes are too many")));
            }
            let (message, after) = rest.split_at(len);
            let pod = PodState::decode(message).map_err(|error| wrong(error.to_string()))?;
            let start = self.bytes.len() - rest.len();
            let place = u32::try_from(start).ok().zip(u32::try_from(len).ok());
            self.places.entry(self.hasher.hash_one(&*pod.uid)).or_insert(place.unwrap_or_default());
            rest = after;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(StateError::Pod { index: u32::MAX, what: "bytes after the last".into() })
        }
    }

    /// How many pods there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What is known of a pod; from then on it is not known any more.
    pub fn take(&mut self, uid: &PodUid) -> Option<PodState> {
        let (start, len) = self.places.remove(&self.hasher.hash_one(uid.as_str()))?;
        let message = self.bytes.get(start as usize..)?.get(..len as usize)?;
        let mut pod = PodState::decode(message).ok().filter(|pod| *pod.uid == *uid.as_str())?;
        if !self.is_of_this_boot {
            pod.arrive(&self.whole);
        }
        if self.places.is_empty() {
            self.bytes = Vec::new();
        }
        Some(pod)
    }

    /// What has not been taken.
    #[must_use]
    pub fn left(&self) -> Vec<PodState> {
        let message = |(start, len): &(u32, u32)| self.bytes.get(*start as usize..)?.get(..*len as usize);
        let decoded = self.places.values().filter_map(|place| PodState::decode(message(place)?).ok());
        let arrived = |mut pod: PodState| {
            if !self.is_of_this_boot {
                pod.arrive(&self.whole);
            }
            pod
        };
        decoded.map(arrived).collect()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = State::default();
    }

    /// Gives back the memory of what has been taken.
    pub fn compact(&mut self) {
        let mut bytes = Vec::new();
        for (start, len) in self.places.values_mut() {
            let message = self.bytes.get(*start as usize..).and_then(|rest| rest.get(..*len as usize));
            // Not longer than what they were taken from, whose places are numbers of this size.
            *start = bytes.len() as u32;
            bytes.extend_from_slice(message.unwrap_or_default());
        }
        self.bytes = bytes;
        self.places.shrink_to_fit();
    }
}
