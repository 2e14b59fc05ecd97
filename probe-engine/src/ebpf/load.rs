//! Loads the kernel program and attaches it to `inet_sock_set_state`.
//!
//! First by `tp_btf`, and where that is refused on the raw tracepoint. Everything hangs on descriptors of this process:
//! **Invariant:** nothing is pinned, so that nothing is left when [`Loaded`] is dropped or the process is killed.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use aya::maps::{Map, MapData, MapType, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError, RawTracePoint};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader, Endianness};
use aya_log::EbpfLogger;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use probe_ebpf::{
    GLOBAL_IDENTITY, GLOBAL_LOG, GLOBAL_OFFSETS, Identity, MAP_CONNECTS, MAP_COUNTERS, MAP_DROPS, MAP_EVENTS,
    PROGRAM_BTF, PROGRAM_RAW,
};
use sha2::{Digest, Sha256};

use super::counters::{Connects, Counters, Drops};
use super::events::EventRing;
use super::feature::{Unavailable, lacking_capabilities, lockdown_mode, verifier_end};
use super::offsets::{self, OffsetsError};
use crate::limits::EVENT_RING_BYTES;

/// The tracepoint, as [`BtfTracePoint`] and [`RawTracePoint`] name it.
const TRACEPOINT: &str = "inet_sock_set_state";

/// Where the kernel says what it is locked down for.
pub const LOCKDOWN_PATH: &str = "/sys/kernel/security/lockdown";

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `tp_btf/inet_sock_set_state`: events carry socket cookies.
    TpBtf,
    /// `raw_tracepoint/inet_sock_set_state`: a cookie is known only once something asked for it, so the kernel's times
    /// of our own connects are there only for sockets whose SO_COOKIE was read before they connected.
    RawTracepoint,
}

impl Hook {
    /// As the kernel's documentation has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf/inet_sock_set_state",
            Self::RawTracepoint => "raw_tracepoint/inet_sock_set_state",
        }
    }
}

/// What is loaded, and from what. The default is what the daemon uses; tests change it.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions<'a> {
    /// The kernel's BTF.
    pub btf_path: &'a Path,
    /// Do not try tp_btf.
    pub force_raw: bool,
    /// The ELF object, aligned to 8 bytes.
    pub object: &'a [u8],
    /// Of the ring buffer; the kernel wants a power of two of pages, and gets the next one.
    pub ring_bytes: u32,
    /// The program logs, and [`Loaded::log`] reads it.
    pub log: bool,
    /// The kernel measures the program's runs (BPF_ENABLE_STATS) while it is loaded: two clock reads a run.
    pub stats: bool,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self {
            btf_path: Path::new(offsets::BTF_PATH),
            force_raw: false,
            object: probe_ebpf::OBJECT,
            ring_bytes: EVENT_RING_BYTES,
            log: false,
            stats: false,
        }
    }
}

/// The program, running. Dropped, it is detached and gone; what was moved out of here before stays readable.
#[derive(Debug)]
pub struct Loaded {
    /// The change counters, mapped.
    pub counters: Arc<Counters>,
    /// Our own connects, mapped.
    pub connects: Arc<Connects>,
    /// Lost listener events, mapped.
    pub drops: Arc<Drops>,
    /// The ring buffer's one reader.
    pub events: EventRing,
    /// What it costs.
    pub program: ProgramInfo,
    /// How it is attached.
    pub hook: Hook,
    /// Of the object, as 64 hexadecimal digits.
    pub sha256: String,
    /// What the program says, where it was asked to.
    pub log: Option<ProgramLog>,
    /// Keeps the program attached. Kept by whoever takes the rest apart.
    pub attached: Attached,
}

/// Detaches the program when dropped.
#[derive(Debug)]
pub struct Attached {
    _link: Link,
    _stats: Option<OwnedFd>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for their drop, which detaches")]
enum Link {
    Btf(aya::programs::tp_btf::BtfTracePointLink),
    Raw(aya::programs::raw_trace_point::RawTracePointLink),
}

/// The sha256 of the embedded object, as 64 hexadecimal digits.
pub const OBJECT_SHA256: &str = env!("EBPF_OBJECT_SHA256");

/// Loads and attaches the embedded program; `log`: with its diagnostics.
///
/// # Errors
/// Why there can be no passive answers here.
pub fn load(log: bool) -> Result<Loaded, Unavailable> {
    load_with(LoadOptions { log, ..LoadOptions::default() })
}

/// [`load`], with everything chosen.
///
/// # Errors
/// As [`load`].
pub fn load_with(options: LoadOptions<'_>) -> Result<Loaded, Unavailable> {
    check_machine()?;
    let offsets = offsets::read(options.btf_path).map_err(|error| match error {
        OffsetsError::Read { path, source } if source.kind() == io::ErrorKind::NotFound => Unavailable::NoBtf(path),
        error => Unavailable::Offsets(error),
    })?;
    let identity = identity()?;
    let mut ebpf = create(options, &offsets.to_bytes(), &identity.to_bytes())?;
    let counters = Counters::map(map_fd(&ebpf, MAP_COUNTERS)?).map_err(unmapped(MAP_COUNTERS))?;
    let connects = Connects::map(map_fd(&ebpf, MAP_CONNECTS)?).map_err(unmapped(MAP_CONNECTS))?;
    let drops = Drops::map(map_fd(&ebpf, MAP_DROPS)?).map_err(unmapped(MAP_DROPS))?;
    let events = ring(ebpf.take_map(MAP_EVENTS))?;
    // Only readable, it costs nothing: without it the program does not log at all.
    let stats = if options.stats { aya::sys::enable_stats(aya::sys::Stats::RunTime).ok() } else { None };
    let (hook, program, link) = attach(&mut ebpf, options)?;
    let log = match options.log {
        true => EbpfLogger::init_with_logger(&mut ebpf, ToTracing).ok().map(ProgramLog),
        false => None,
    };
    // The programs that were not attached, the maps' descriptors and the object end here; the link holds what is used.
    drop(ebpf);
    Ok(Loaded {
        counters: Arc::new(counters),
        connects: Arc::new(connects),
        drops: Arc::new(drops),
        events: EventRing::new(events),
        program,
        hook,
        sha256: sha256(options.object),
        log,
        attached: Attached { _link: link, _stats: stats },
    })
}

/// What the kernel counts of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramCounts {
    /// Runs; 0 where bpf statistics are off (`kernel.bpf_stats_enabled`, [`LoadOptions::stats`]).
    pub run_cnt: u64,
    /// Their time together, nanoseconds; likewise.
    pub run_time_ns: u64,
    /// Events at which the kernel skipped the program, because it was interrupted by itself on that CPU; always counted.
    pub recursion_misses: u64,
}

/// A handle on the loaded program; does not keep it attached.
#[derive(Debug)]
pub struct ProgramInfo {
    fd: OwnedFd,
    id: u32,
}

impl ProgramInfo {
    /// The kernel's number of it, as bpftool shows; 0 = the kernel does not tell.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The counts now, from `/proc/self/fdinfo`.
    ///
    /// # Errors
    /// That file cannot be read.
    pub fn read(&self) -> io::Result<ProgramCounts> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd()))?;
        Ok(counts(&text))
    }
}

/// Lines that bpf_prog_show_fdinfo of the kernel does not write count as 0.
fn counts(fdinfo: &str) -> ProgramCounts {
    let field = |name: &str| {
        let value = fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    ProgramCounts {
        run_cnt: field("run_cnt"),
        run_time_ns: field("run_time_ns"),
        recursion_misses: field("recursion_misses"),
    }
}

/// What the program says through aya-log.
pub struct ProgramLog(EbpfLogger<ToTracing>);

impl std::fmt::Debug for ProgramLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ProgramLog").finish_non_exhaustive()
    }
}

impl ProgramLog {
    /// Readable while there is something, for poll(2) and epoll(7).
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Hands all that is there to `tracing`, at DEBUG (the program's own level is in the text).
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

/// aya-log speaks to `log`; the daemon has `tracing`.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(level = %record.level(), "kernel program: {}", record.args());
    }

    fn flush(&self) {}
}

/// What can be said before anything is tried: the kernel's own answers are less clear.
fn check_machine() -> Result<(), Unavailable> {
    if !cfg!(all(target_endian = "little", target_pointer_width = "64")) {
        return Err(Unavailable::Machine);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(lacking) = lacking_capabilities(&status).filter(|lacking| !lacking.is_empty()) {
        return Err(Unavailable::Capabilities(lacking.join(" and ")));
    }
    let lockdown = std::fs::read_to_string(LOCKDOWN_PATH).unwrap_or_default();
    if lockdown_mode(&lockdown) == Some("confidentiality") {
        return Err(Unavailable::Lockdown);
    }
    raise_memlock();
    // The smallest thing that bpf(2) can be asked for. aya asks many more to find out what the kernel can do, and takes
    // a refusal of those for a kernel that cannot.
    aya::sys::is_map_supported(MapType::Array).map_err(|error| refused(&error)).map(drop)
}

/// Before 5.11 maps count against RLIMIT_MEMLOCK, later against the cgroup: there the limit is left alone, since
/// containers that the daemon starts inherit it. Refused (without CAP_SYS_RESOURCE, the hard limit stays), the maps may
/// still fit.
fn raise_memlock() {
    if !counts_maps_as_locked() {
        return;
    }
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err()
        && let Ok((_, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
    {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
}

fn identity() -> Result<Identity, Unavailable> {
    let path = "/proc/self/ns/pid";
    let pidns = std::fs::metadata(path).map_err(|source| Unavailable::Proc { path, source })?;
    // The helper compares with the kernel's own encoding of a device number (MKDEV: 12 bits and 20), not with stat(2)'s.
    let dev = u64::from(libc::major(pidns.dev())) << 20 | u64::from(libc::minor(pidns.dev()));
    Ok(Identity { pidns_dev: dev, pidns_ino: pidns.ino(), tgid: std::process::id(), padding: 0 })
}

/// Parses the object, sets its globals, makes its maps.
fn create(options: LoadOptions<'_>, offsets: &[u8], identity: &[u8]) -> Result<Ebpf, Unavailable> {
    let log = [u8::from(options.log)];
    let mut loader = EbpfLoader::new();
    loader
        // No relocations in our object: the kernel's BTF, which `new` has read, is given back at once.
        .btf(None)
        .override_global(GLOBAL_OFFSETS, offsets, true)
        .override_global(GLOBAL_IDENTITY, identity, true)
        .override_global(GLOBAL_LOG, log.as_slice(), true)
        .map_max_entries(MAP_EVENTS, options.ring_bytes);
    loader.load(options.object).map_err(|error| match error {
        EbpfError::MapError(_) => refused(&error),
        _ => Unavailable::Object(chain(&error)),
    })
}

fn ring(map: Option<Map>) -> Result<RingBuf<MapData>, Unavailable> {
    let map = map.ok_or_else(|| Unavailable::Object(format!("it has no map {MAP_EVENTS}")))?;
    RingBuf::try_from(map).map_err(|error| refused(&error))
}

fn map_fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, Unavailable> {
    match ebpf.map(name) {
        Some(Map::Array(data)) => Ok(data.fd().as_fd()),
        Some(_) => Err(Unavailable::Object(format!("its map {name} is no array"))),
        None => Err(Unavailable::Object(format!("it has no map {name}"))),
    }
}

fn unmapped(name: &'static str) -> impl FnOnce(io::Error) -> Unavailable {
    move |source| Unavailable::Map { name, source }
}

fn attach(ebpf: &mut Ebpf, options: LoadOptions<'_>) -> Result<(Hook, ProgramInfo, Link), Unavailable> {
    if !options.force_raw {
        match attach_btf(ebpf, options.btf_path) {
            Ok((program, link)) => return Ok((Hook::TpBtf, program, link)),
            Err(error) => tracing::info!(%error, "tp_btf is refused; trying the raw tracepoint"),
        }
    }
    let (program, link) = attach_raw(ebpf)?;
    Ok((Hook::RawTracepoint, program, link))
}

fn attach_btf(ebpf: &mut Ebpf, btf_path: &Path) -> Result<(ProgramInfo, Link), Unavailable> {
    let program: &mut BtfTracePoint = program(ebpf, PROGRAM_BTF)?;
    {
        // Several megabytes, dropped right after the load.
        let btf = Btf::parse_file(btf_path, Endianness::default());
        let btf = btf.map_err(|error| Unavailable::Attach(chain(&error)))?;
        program.load(TRACEPOINT, &btf).map_err(not_loaded)?;
    }
    let info = program_info(program.fd(), program.info())?;
    let link = program.attach().and_then(|id| program.take_link(id));
    link.map(|link| (info, Link::Btf(link))).map_err(|error| Unavailable::Attach(chain(&error)))
}

fn attach_raw(ebpf: &mut Ebpf) -> Result<(ProgramInfo, Link), Unavailable> {
    let program: &mut RawTracePoint = program(ebpf, PROGRAM_RAW)?;
    program.load().map_err(not_loaded)?;
    let info = program_info(program.fd(), program.info())?;
    let link = program.attach(TRACEPOINT).and_then(|id| program.take_link(id));
    link.map(|link| (info, Link::Raw(link))).map_err(|error| Unavailable::Attach(chain(&error)))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, Unavailable>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| Unavailable::Object(format!("it has no program {name}")))?;
    program.try_into().map_err(|error| Unavailable::Object(format!("{name}: {}", chain(&error))))
}

fn program_info(
    fd: Result<&aya::programs::ProgramFd, ProgramError>,
    info: Result<aya::programs::ProgramInfo, ProgramError>,
) -> Result<ProgramInfo, Unavailable> {
    let fd = fd.and_then(|fd| Ok(fd.as_fd().try_clone_to_owned()?)).map_err(|error| refused(&error))?;
    Ok(ProgramInfo { fd, id: info.map_or(0, |info| info.id()) })
}

fn not_loaded(error: ProgramError) -> Unavailable {
    match &error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let end = verifier_end(&verifier_log.to_string());
            match io_error.raw_os_error() {
                // The verifier's own refusals come with a log; without one, the kernel did not let it begin.
                Some(libc::EPERM) if end.is_empty() => Unavailable::Forbidden(format!("BPF_PROG_LOAD: {io_error}")),
                Some(libc::ENOMEM) => Unavailable::Memory(format!("BPF_PROG_LOAD: {io_error}")),
                _ if end.is_empty() => Unavailable::Verifier(io_error.to_string()),
                _ => Unavailable::Verifier(format!("{io_error}: {end}")),
            }
        }
        _ => Unavailable::Attach(chain(&error)),
    }
}

/// A refusal of bpf(2) that is not about the program.
fn refused(error: &(dyn Error + 'static)) -> Unavailable {
    let what = chain(error);
    match errno(error) {
        Some(libc::ENOSYS) => Unavailable::NoBpf,
        Some(libc::ENOMEM) => Unavailable::Memory(what),
        Some(libc::EPERM | libc::EACCES) => match getrlimit(Resource::RLIMIT_MEMLOCK) {
            // Kernels that count maps against it say EPERM when it is reached; those with `memory.max` do not.
            Ok((soft, _)) if soft != RLIM_INFINITY && counts_maps_as_locked() => Unavailable::Memory(what),
            _ => Unavailable::Forbidden(what),
        },
        _ => Unavailable::Object(what),
    }
}

/// Before 5.11.
fn counts_maps_as_locked() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) < (5, 11))
}

fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        next = error.source();
    }
    None
}

/// An error and its causes in one line; a cause that the line holds already is not said again.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string().replace('\n', " ");
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string().replace('\n', " ");
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
        next = error.source();
    }
    text
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_fdinfo_and_missing_ones_are_zero() {
        let text =
            "pos:\t0\nprog_type:\t26\nrun_time_ns:\t4200\nrun_cnt:\t21\nrecursion_misses:\t3\nverified_insns:\t9\n";
        assert_eq!(counts(text), ProgramCounts { run_cnt: 21, run_time_ns: 4_200, recursion_misses: 3 });
        assert_eq!(counts("run_cnt_max:\t5\n"), ProgramCounts::default());
    }

    #[test]
    fn an_error_is_told_with_its_causes_once_and_classified_by_errno() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::from_raw_os_error(libc::ENOSYS));
        assert_eq!(chain(&error), error.to_string());
        assert!(matches!(refused(&error), Unavailable::NoBpf));
        assert!(matches!(refused(&Outer(io::Error::from_raw_os_error(libc::ENOMEM))), Unavailable::Memory(_)));
        assert!(matches!(refused(&Outer(io::Error::from_raw_os_error(libc::EINVAL))), Unavailable::Object(_)));
    }

    #[test]
    fn the_object_has_one_digest() {
        assert_eq!(OBJECT_SHA256, sha256(probe_ebpf::OBJECT));
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
