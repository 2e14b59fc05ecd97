//! Where the running kernel keeps the fields that the kernel program reads: [`probe_ebpf::Offsets`] from BTF.
//!
//! Rust programs carry no relocations, and `aya` does not tell member offsets, so this walks BTF itself (format:
//! Documentation/bpf/btf.rst of the kernel). The bytes are the kernel's, several megabytes, and are dropped after use.
//!
//! **Invariant:** no input panics or loops: every offset is checked, and every walk has a bound of its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use probe_ebpf::Offsets;

use crate::limits::BTF_BYTES_MAX;

/// Where the kernel shows its own types.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Anonymous structs and unions inside each other that a search follows. Deeper: not found.
const DEPTH_MAX: u32 = 8;
/// Members that one search looks at. More: not found.
const MEMBERS_MAX: u32 = 65_536;
/// Typedefs and qualifiers in a row that are followed. More: the type's size counts as unknown.
const ALIASES_MAX: u32 = 32;

/// Why the offsets are not known.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// It cannot be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Longer than [`BTF_BYTES_MAX`].
    #[error("the kernel's BTF is longer than {BTF_BYTES_MAX} bytes")]
    TooLong,
    /// Magic, version or header length.
    #[error("not BTF: {0}")]
    NotBtf(&'static str),
    /// The magic number reads backwards.
    #[error("BTF of another byte order than this machine's")]
    OtherByteOrder,
    /// A section, a type or a member lies outside the bytes.
    #[error("BTF ends in the middle of {0}")]
    Truncated(&'static str),
    /// Its length is not known, so nothing after it can be found.
    #[error("BTF type {id} is of kind {kind}, which is newer than this program")]
    UnknownKind {
        /// Number of the type.
        id: u32,
        /// `BTF_KIND_*`
        kind: u32,
    },
    /// See the message.
    #[error("the kernel has no struct {0}")]
    NoStruct(&'static str),
    /// See the message.
    #[error("struct {container} has no member {member} (the kernel is older than {since}, or built without it)")]
    NoMember {
        /// The struct searched.
        container: &'static str,
        /// The kernel's name of the member.
        member: &'static str,
        /// The first kernel that has all that is needed.
        since: &'static str,
    },
    /// The kernel changed it: reading it as before would be wrong.
    #[error("{container}.{member} is not what this program knows: {found}")]
    Layout {
        /// The struct searched.
        container: &'static str,
        /// The member.
        member: &'static str,
        /// What it is.
        found: String,
    },
}

/// The first kernel with every member, and with SO_NETNS_COOKIE.
const SINCE: &str = "5.14";

/// Reads the offsets from a BTF file, [`BTF_PATH`] as a rule.
///
/// # Errors
/// See [`OffsetsError`]; `Read` with `NotFound` where the kernel has no BTF or /sys is not mounted.
pub fn read(path: &Path) -> Result<Offsets, OffsetsError> {
    let failed = |source| OffsetsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    // One allocation instead of a row of doublings; a lie only costs those.
    bytes.reserve_exact(usize::try_from(file.metadata().map_err(failed)?.len().min(BTF_BYTES_MAX)).unwrap_or(0) + 1);
    file.take(BTF_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > BTF_BYTES_MAX {
        return Err(OffsetsError::TooLong);
    }
    find(&bytes)
}

/// The offsets, from the bytes of a BTF blob.
///
/// # Errors
/// See [`OffsetsError`].
pub fn find(bytes: &[u8]) -> Result<Offsets, OffsetsError> {
    let btf = Btf::parse(bytes)?;
    // The program reads all of these from the pointer to the socket that it is given.
    btf.at_start("sock", "__sk_common")?;
    btf.at_start("inet_sock", "sk")?;
    let ipv6_only = btf.bit("sock_common", "skc_ipv6only")?;
    let of_common = |member, bytes| btf.field("sock_common", &[member], bytes);
    Ok(Offsets {
        skc_net: btf.field("sock_common", &["skc_net", "net"], size_of::<usize>() as u32)?,
        net_inum: btf.field("net", &["ns", "inum"], 4)?,
        net_cookie: btf.field("net", &["net_cookie"], 8)?,
        skc_num: of_common("skc_num", 2)?,
        skc_dport: of_common("skc_dport", 2)?,
        skc_family: of_common("skc_family", 2)?,
        skc_rcv_saddr: of_common("skc_rcv_saddr", 4)?,
        skc_daddr: of_common("skc_daddr", 4)?,
        skc_v6_rcv_saddr: of_common("skc_v6_rcv_saddr", 16)?,
        skc_v6_daddr: of_common("skc_v6_daddr", 16)?,
        skc_cookie: of_common("skc_cookie", 8)?,
        inet_sport: btf.field("inet_sock", &["inet_sport"], 2)?,
        sk_protocol: btf.field("sock", &["sk_protocol"], 2)?,
        skc_ipv6only: ipv6_only / 8,
        skc_ipv6only_shift: ipv6_only % 8,
    })
}

/// `BTF_KIND_*` that this walk needs by name.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

const MAGIC: u16 = 0xEB9F;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

/// One `struct btf_type`.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    /// Members, of a struct or union
    len: u32,
    /// Member offsets hold bit field sizes
    kind_flag: bool,
    /// Its size in bytes, or the type it refers to
    size_or_type: u32,
    /// Where its members begin in the type section
    body: usize,
}

/// One `struct btf_member`; offset in bits, `bits` 0 where it is no bit field.
#[derive(Clone, Copy)]
struct Member {
    name: u32,
    type_id: u32,
    offset: u32,
    bits: u32,
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `types`; index = id - 1 (0 is void).
    index: Vec<u32>,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, OffsetsError> {
        let header = bytes.get(..HEADER_BYTES).ok_or(OffsetsError::Truncated("its header"))?;
        let magic = u16::from_ne_bytes([header[0], header[1]]);
        if magic == MAGIC.swap_bytes() {
            return Err(OffsetsError::OtherByteOrder);
        }
        if magic != MAGIC {
            return Err(OffsetsError::NotBtf("another magic number"));
        }
        if header[2] != 1 {
            return Err(OffsetsError::NotBtf("another version"));
        }
        let header_len = word(header, 4)? as usize;
        if header_len < HEADER_BYTES {
            return Err(OffsetsError::NotBtf("its header is too short"));
        }
        let rest = bytes.get(header_len..).ok_or(OffsetsError::Truncated("its header"))?;
        let section = |at: usize| -> Result<&'a [u8], OffsetsError> {
            let (start, len) = (word(header, at)? as usize, word(header, at + 4)? as usize);
            let end = start.checked_add(len).ok_or(OffsetsError::Truncated("a section"))?;
            rest.get(start..end).ok_or(OffsetsError::Truncated("a section"))
        };
        let mut btf = Self { types: section(8)?, strings: section(16)?, index: Vec::new() };
        btf.number()?;
        Ok(btf)
    }

    /// Types stand one after the other, each as long as its kind says.
    fn number(&mut self) -> Result<(), OffsetsError> {
        let mut at = 0;
        while at < self.types.len() {
            let of = self.type_at(at)?;
            let len = of.len as usize;
            let body = match of.kind {
                // INT, VAR, DECL_TAG
                kind::INT | 14 | 17 => 4,
                // PTR, FWD, aliases, FUNC, FLOAT
                kind::PTR | 7..=12 | 16 | kind::TYPE_TAG => 0,
                // ARRAY
                3 => 12,
                // FUNC_PROTO
                kind::ENUM | 13 => 8 * len,
                // DATASEC
                kind::STRUCT | kind::UNION | 15 | kind::ENUM64 => 12 * len,
                kind => return Err(OffsetsError::UnknownKind { id: self.index.len() as u32 + 1, kind }),
            };
            if self.types.len() - of.body < body {
                return Err(OffsetsError::Truncated("a type"));
            }
            self.index.push(at as u32);
            at = of.body + body;
        }
        Ok(())
    }

    fn type_at(&self, at: usize) -> Result<Type, OffsetsError> {
        let bytes = self.types.get(at..).and_then(|rest| rest.get(..TYPE_BYTES));
        let bytes = bytes.ok_or(OffsetsError::Truncated("a type"))?;
        let info = word(bytes, 4)?;
        Ok(Type {
            name: word(bytes, 0)?,
            kind: info >> 24 & 0x1f,
            len: info & 0xffff,
            kind_flag: info >> 31 == 1,
            size_or_type: word(bytes, 8)?,
            body: at + TYPE_BYTES,
        })
    }

    /// The type behind typedefs and qualifiers; `None` = void, no such type, or too many of them.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..ALIASES_MAX {
            let at = *self.index.get(id.checked_sub(1)? as usize)?;
            let of = self.type_at(at as usize).ok()?;
            match of.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => id = of.size_or_type,
                _ => return Some(of),
            }
        }
        None
    }

    fn size(&self, id: u32) -> Option<u32> {
        let of = self.resolve(id)?;
        match of.kind {
            kind::PTR => Some(size_of::<usize>() as u32),
            kind::INT | kind::ENUM | kind::ENUM64 | kind::STRUCT | kind::UNION => Some(of.size_or_type),
            _ => None,
        }
    }

    fn is_named(&self, name_at: u32, name: &str) -> bool {
        let rest = self.strings.get(name_at as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn is_anonymous(&self, name_at: u32) -> bool {
        self.strings.get(name_at as usize) == Some(&0)
    }

    fn find_struct(&self, name: &'static str) -> Result<Type, OffsetsError> {
        for at in &self.index {
            let of = self.type_at(*at as usize)?;
            if of.kind == kind::STRUCT && of.len > 0 && self.is_named(of.name, name) {
                return Ok(of);
            }
        }
        Err(OffsetsError::NoStruct(name))
    }

    fn member_at(&self, of: Type, index: u32) -> Result<Member, OffsetsError> {
        let at = of.body + index as usize * MEMBER_BYTES;
        let bytes = self.types.get(at..).and_then(|rest| rest.get(..MEMBER_BYTES));
        let bytes = bytes.ok_or(OffsetsError::Truncated("a member"))?;
        let offset = word(bytes, 8)?;
        let (offset, bits) = if of.kind_flag { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
        Ok(Member { name: word(bytes, 0)?, type_id: word(bytes, 4)?, offset, bits })
    }

    /// The member of this name, in the type or in the anonymous structs and unions in it; its offset counts from the
    /// type's start.
    fn find_member(&self, of: Type, name: &str, depth: u32, budget: &mut u32) -> Result<Option<Member>, OffsetsError> {
        for index in 0..of.len {
            let Some(left) = budget.checked_sub(1) else { return Ok(None) };
            *budget = left;
            let member = self.member_at(of, index)?;
            if self.is_named(member.name, name) {
                return Ok(Some(member));
            }
            if !self.is_anonymous(member.name) || depth == 0 {
                continue;
            }
            let Some(inner) = self.resolve(member.type_id).filter(is_compound) else { continue };
            if let Some(found) = self.find_member(inner, name, depth - 1, budget)? {
                let offset = found.offset.checked_add(member.offset).ok_or(OffsetsError::Truncated("a member"))?;
                return Ok(Some(Member { offset, ..found }));
            }
        }
        Ok(None)
    }

    fn member(&self, container: &'static str, of: Type, member: &'static str) -> Result<Member, OffsetsError> {
        self.find_member(of, member, DEPTH_MAX, &mut { MEMBERS_MAX })?.ok_or(OffsetsError::NoMember {
            container,
            member,
            since: SINCE,
        })
    }

    /// Offset in bytes of a member, or of a member of a member; it must have this size.
    fn field(&self, container: &'static str, path: &[&'static str], bytes: u32) -> Result<u32, OffsetsError> {
        let mut of = self.find_struct(container)?;
        let mut offset = 0_u32;
        let last = path.len() - 1;
        for (step, &member) in path.iter().enumerate() {
            let found = self.member(container, of, member)?;
            let layout = |found: String| OffsetsError::Layout { container, member, found };
            if found.bits != 0 || found.offset % 8 != 0 {
                return Err(layout(format!("a bit field of {} bits at bit {}", found.bits, found.offset)));
            }
            offset = offset.checked_add(found.offset / 8).ok_or(OffsetsError::Truncated("a member"))?;
            if step < last {
                of = self
                    .resolve(found.type_id)
                    .filter(is_compound)
                    .ok_or_else(|| layout("neither struct nor union".into()))?;
            } else if self.size(found.type_id) != Some(bytes) {
                return Err(layout(match self.size(found.type_id) {
                    Some(size) => format!("{size} bytes long instead of {bytes}"),
                    None => format!("of no known size instead of {bytes} bytes"),
                }));
            }
        }
        Ok(offset)
    }

    /// Place of a bit field of one bit, in bits from the struct's start.
    fn bit(&self, container: &'static str, member: &'static str) -> Result<u32, OffsetsError> {
        let found = self.member(container, self.find_struct(container)?, member)?;
        if found.bits != 1 {
            let found = format!("a field of {} bits instead of a bit", found.bits);
            return Err(OffsetsError::Layout { container, member, found });
        }
        Ok(found.offset)
    }

    fn at_start(&self, container: &'static str, member: &'static str) -> Result<(), OffsetsError> {
        let found = self.member(container, self.find_struct(container)?, member)?;
        if found.offset != 0 {
            let found = format!("{} bits behind its start", found.offset);
            return Err(OffsetsError::Layout { container, member, found });
        }
        Ok(())
    }
}

fn is_compound(of: &Type) -> bool {
    matches!(of.kind, kind::STRUCT | kind::UNION)
}

fn word(bytes: &[u8], at: usize) -> Result<u32, OffsetsError> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map(|word| u32::from_ne_bytes(*word)).ok_or(OffsetsError::Truncated("a word"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes BTF: the strings as they come, types numbered from 1.
    #[derive(Default)]
    struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
        len: u32,
    }

    /// name, type, offset in bits, bits of a bit field
    type M = (&'static str, u32, u32, u32);

    impl Writer {
        fn new() -> Self {
            Self { strings: vec![0], ..Self::default() }
        }

        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(name.bytes().chain([0]));
            at
        }

        fn plain(&mut self, kind: u32, name: &str, size_or_type: u32, body: &[u32]) -> u32 {
            let name = self.name(name);
            for word in [name, kind << 24, size_or_type].iter().chain(body) {
                self.types.extend(word.to_ne_bytes());
            }
            self.len += 1;
            self.len
        }

        fn compound(&mut self, kind: u32, name: &str, size: u32, members: &[M]) -> u32 {
            let name = self.name(name);
            let info = 1 << 31 | kind << 24 | members.len() as u32;
            let mut words = vec![name, info, size];
            for &(member, type_id, offset, bits) in members {
                let member = self.name(member);
                words.extend([member, type_id, offset | bits << 24]);
            }
            self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            self.len += 1;
            self.len
        }

        fn finish(&self) -> Vec<u8> {
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            let mut bytes = [MAGIC.to_ne_bytes(), [1, 0]].concat();
            for word in [24, 0, types, types, strings] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(&self.types);
            bytes.extend(&self.strings);
            bytes
        }
    }

    /// A kernel of our own; `change` may alter members of `sock_common`.
    fn kernel(change: impl FnOnce(&mut Vec<M>)) -> Vec<u8> {
        let mut w = Writer::new();
        let u8_ = w.plain(kind::INT, "unsigned char", 1, &[8]);
        let u16_ = w.plain(kind::INT, "unsigned short", 2, &[16]);
        let be16 = w.plain(kind::TYPEDEF, "__be16", u16_, &[]);
        let u32_ = w.plain(kind::INT, "unsigned int", 4, &[32]);
        let u64_ = w.plain(kind::INT, "unsigned long", 8, &[64]);
        let in6 = w.compound(kind::STRUCT, "in6_addr", 16, &[("s6", u64_, 0, 0)]);
        let ns = w.compound(kind::STRUCT, "ns_common", 24, &[("ops", u64_, 0, 0), ("inum", u32_, 128, 0)]);
        let net = w.compound(kind::STRUCT, "net", 200, &[("ns", ns, 64, 0), ("net_cookie", u64_, 640, 0)]);
        let pointer = w.plain(kind::PTR, "", net, &[]);
        let possible = w.compound(kind::STRUCT, "", 8, &[("net", pointer, 0, 0)]);
        let possible_t = w.plain(kind::TYPEDEF, "possible_net_t", possible, &[]);
        let pair = w.compound(kind::STRUCT, "", 8, &[("skc_daddr", u32_, 0, 0), ("skc_rcv_saddr", u32_, 32, 0)]);
        let addresses = w.compound(kind::UNION, "", 8, &[("skc_addrpair", u64_, 0, 0), ("", pair, 0, 0)]);
        let ports = w.compound(kind::STRUCT, "", 4, &[("skc_dport", be16, 0, 0), ("skc_num", u16_, 16, 0)]);
        let mut common = vec![
            ("", addresses, 0, 0),
            ("", ports, 64, 0),
            ("skc_family", u16_, 128, 0),
            ("skc_reuse", u8_, 144, 4),
            ("skc_ipv6only", u8_, 149, 1),
            ("skc_net", possible_t, 192, 0),
            ("skc_v6_daddr", in6, 256, 0),
            ("skc_v6_rcv_saddr", in6, 384, 0),
            ("skc_cookie", u64_, 512, 0),
        ];
        change(&mut common);
        let common = w.compound(kind::STRUCT, "sock_common", 80, &common);
        let sock =
            w.compound(kind::STRUCT, "sock", 100, &[("__sk_common", common, 0, 0), ("sk_protocol", u16_, 720, 0)]);
        w.compound(kind::STRUCT, "inet_sock", 120, &[("sk", sock, 0, 0), ("inet_sport", be16, 800, 0)]);
        w.finish()
    }

    #[test]
    fn members_are_found_through_anonymous_structs_unions_typedefs_and_bit_fields() {
        let expected = Offsets {
            skc_net: 24,
            net_inum: 24,
            net_cookie: 80,
            skc_num: 10,
            skc_dport: 8,
            skc_family: 16,
            skc_rcv_saddr: 4,
            skc_daddr: 0,
            skc_v6_rcv_saddr: 48,
            skc_v6_daddr: 32,
            skc_cookie: 64,
            inet_sport: 100,
            sk_protocol: 90,
            skc_ipv6only: 18,
            skc_ipv6only_shift: 5,
        };
        assert_eq!(find(&kernel(|_| {})).expect("offsets"), expected);
    }

    #[test]
    fn what_is_missing_or_changed_is_named() {
        let without = kernel(|members| members.retain(|m| m.0 != "skc_cookie"));
        assert_eq!(
            find(&without).expect_err("no cookie").to_string(),
            "struct sock_common has no member skc_cookie (the kernel is older than 5.14, or built without it)"
        );
        let short = kernel(|members| members[8].1 = 1);
        assert_eq!(
            find(&short).expect_err("short").to_string(),
            "sock_common.skc_cookie is not what this program knows: 1 bytes long instead of 8"
        );
        let wide = kernel(|members| members[4].3 = 2);
        assert!(find(&wide).expect_err("two bits").to_string().contains("a field of 2 bits instead of a bit"));
        let bits = kernel(|members| members[2].3 = 3);
        assert!(find(&bits).expect_err("a bit field").to_string().contains("a bit field of 3 bits at bit 128"));
    }

    #[test]
    fn other_byte_orders_versions_and_kinds_are_refused_by_name() {
        let good = kernel(|_| {});
        let mut swapped = good.clone();
        swapped.swap(0, 1);
        assert!(matches!(find(&swapped), Err(OffsetsError::OtherByteOrder)));
        let mut version = good.clone();
        version[2] = 2;
        assert!(matches!(find(&version), Err(OffsetsError::NotBtf("another version"))));
        let mut kind = good.clone();
        kind[24..][..8].copy_from_slice(&[0, 31 << 24].map(u32::to_ne_bytes).concat());
        assert!(matches!(find(&kind), Err(OffsetsError::UnknownKind { id: 1, kind: 31 })));
        assert!(matches!(find(b"\x7fELF, or anything else that is long enough"), Err(OffsetsError::NotBtf(_))));
        assert!(matches!(find(&[]), Err(OffsetsError::Truncated("its header"))));
        assert!(matches!(find(&Writer::new().finish()), Err(OffsetsError::NoStruct("sock"))));
    }

    #[test]
    fn structs_and_typedefs_that_contain_themselves_end_the_search() {
        let mut w = Writer::new();
        let own = w.len + 1;
        w.compound(kind::STRUCT, "sock", 8, &[("", own, 0, 0), ("", own, 0, 0), ("", own, 0, 0), ("", own, 8, 0)]);
        assert!(matches!(find(&w.finish()), Err(OffsetsError::NoMember { member: "__sk_common", .. })));
        let mut w = Writer::new();
        let own = w.plain(kind::TYPEDEF, "loop", 1, &[]);
        w.compound(kind::STRUCT, "sock", 8, &[("", own, 0, 0), ("__sk_common", own, 0, 0)]);
        assert!(matches!(find(&w.finish()), Err(OffsetsError::NoStruct("inet_sock"))));
    }

    #[test]
    fn a_missing_file_and_an_endless_one_are_errors() {
        let missing = read(Path::new("/nonexistent/vmlinux")).expect_err("no file").to_string();
        assert!(missing.starts_with("reading /nonexistent/vmlinux: No such file"), "{missing}");
        assert!(matches!(read(Path::new("/dev/zero")), Err(OffsetsError::TooLong)));
    }

    #[test]
    fn the_running_kernel_has_them_all_where_it_has_btf() {
        if !Path::new(BTF_PATH).exists() {
            eprintln!("SKIPPED the_running_kernel_has_them_all_where_it_has_btf: no {BTF_PATH}");
            return;
        }
        let found = read(Path::new(BTF_PATH)).expect("offsets");
        // What `struct sock_common` has begun with since 3.x: two addresses, a hash, two ports, the family.
        assert_eq!(
            (found.skc_daddr, found.skc_rcv_saddr, found.skc_dport, found.skc_num, found.skc_family),
            (0, 4, 12, 14, 16)
        );
        assert!(found.inet_sport > found.sk_protocol && found.skc_ipv6only_shift < 8, "{found:?}");
        assert!(found.net_cookie != found.net_inum && found.skc_net.is_multiple_of(8), "{found:?}");
    }

    proptest! {
        #[test]
        fn no_truncation_and_no_mutation_panics_or_loops(
            cut in 0_usize..2_000,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        ) {
            let mut bytes = kernel(|_| {});
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let keep = bytes.len().saturating_sub(cut.saturating_sub(200));
            let _ = find(&bytes[..keep]);
        }

        #[test]
        fn no_bytes_behind_a_good_header_panic_or_loop(rest in prop::collection::vec(any::<u8>(), 0..600), types in 0_u32..600) {
            let mut bytes = [MAGIC.to_ne_bytes(), [1, 0]].concat();
            for word in [24, 0, types, types / 2, types / 2] {
                bytes.extend(u32::to_ne_bytes(word));
            }
            bytes.extend(rest);
            let _ = find(&bytes);
        }
    }
}
