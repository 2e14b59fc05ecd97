//! The records as bytes: what a global is set to, what a ring buffer or a mapped place holds. Native byte order, since
//! both sides run on one machine; no unsafe.

use crate::{Connect, Identity, ListenerEvent, Offsets};

impl Offsets {
    /// As the program's global holds it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let fields = [
            self.skc_net,
            self.net_inum,
            self.net_cookie,
            self.skc_num,
            self.skc_dport,
            self.skc_family,
            self.skc_rcv_saddr,
            self.skc_daddr,
            self.skc_v6_rcv_saddr,
            self.skc_v6_daddr,
            self.skc_cookie,
            self.inet_sport,
            self.sk_protocol,
            self.skc_ipv6only,
            self.skc_ipv6only_shift,
        ];
        let mut bytes = [0; size_of::<Self>()];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

impl Identity {
    /// As the program's global holds it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut writer = Writer { bytes: [0; size_of::<Self>()], at: 0 };
        writer.put(&self.pidns_dev.to_ne_bytes());
        writer.put(&self.pidns_ino.to_ne_bytes());
        writer.put(&self.tgid.to_ne_bytes());
        writer.bytes
    }
}

impl ListenerEvent {
    /// A record of the ring buffer; `None` = of another size.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let mut reader = Reader(bytes);
        Some(Self {
            time_ns: reader.u64()?,
            socket_cookie: reader.u64()?,
            netns_cookie: reader.u64()?,
            address: reader.take()?,
            netns_inode: u32::from_ne_bytes(reader.take()?),
            port: reader.u16()?,
            family: reader.u16()?,
            opened: u8::from_ne_bytes(reader.take()?),
            ipv6_only: u8::from_ne_bytes(reader.take()?),
            padding: reader.take()?,
        })
    }

    /// As the program submits it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut writer = Writer { bytes: [0; size_of::<Self>()], at: 0 };
        for word in [self.time_ns, self.socket_cookie, self.netns_cookie] {
            writer.put(&word.to_ne_bytes());
        }
        writer.put(&self.address);
        writer.put(&self.netns_inode.to_ne_bytes());
        writer.put(&self.port.to_ne_bytes());
        writer.put(&self.family.to_ne_bytes());
        writer.put(&[self.opened, self.ipv6_only]);
        writer.put(&self.padding);
        writer.bytes
    }
}

impl Connect {
    /// A place of the mapped array; `None` = of another size.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let mut reader = Reader(bytes);
        Some(Self {
            socket_cookie: reader.u64()?,
            started_ns: reader.u64()?,
            established_ns: reader.u64()?,
            child_ns: reader.u64()?,
            child_netns_cookie: reader.u64()?,
            child_remote: reader.take()?,
            child_port: reader.u16()?,
            child_family: reader.u16()?,
            local_port: reader.u16()?,
            padding: reader.u16()?,
        })
    }

    /// As the program writes it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut writer = Writer { bytes: [0; size_of::<Self>()], at: 0 };
        for word in [self.socket_cookie, self.started_ns, self.established_ns, self.child_ns, self.child_netns_cookie] {
            writer.put(&word.to_ne_bytes());
        }
        writer.put(&self.child_remote);
        for half in [self.child_port, self.child_family, self.local_port, self.padding] {
            writer.put(&half.to_ne_bytes());
        }
        writer.bytes
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }
}

struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    /// What does not fit is left away; the tests below show that nothing is.
    fn put(&mut self, field: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(self.at).zip(field) {
            *place = *byte;
        }
        self.at += field.len();
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn a_listener_event_survives_the_way_through_bytes_and_lies_as_the_program_lays_it() {
        let event = ListenerEvent {
            time_ns: 0x0102_0304_0506_0708,
            socket_cookie: 9,
            netns_cookie: 10,
            address: core::array::from_fn(|i| 100 + i as u8),
            netns_inode: 11,
            port: 12,
            family: 13,
            opened: 1,
            ipv6_only: 1,
            padding: [0; 6],
        };
        let bytes = event.to_bytes();
        assert_eq!(ListenerEvent::from_bytes(&bytes), Some(event));
        assert_eq!(bytes[offset_of!(ListenerEvent, address)..][..16], event.address);
        assert_eq!(bytes[offset_of!(ListenerEvent, port)..][..2], 12_u16.to_ne_bytes());
        assert_eq!(bytes[offset_of!(ListenerEvent, opened)], 1);
        assert_eq!(ListenerEvent::from_bytes(&bytes[1..]), None);
        assert_eq!(ListenerEvent::from_bytes(&[0; 57]), None);
    }

    #[test]
    fn a_connect_survives_the_way_through_bytes_and_lies_as_the_program_lays_it() {
        let connect = Connect {
            socket_cookie: 1,
            started_ns: 2,
            established_ns: 3,
            child_ns: 4,
            child_netns_cookie: 5,
            child_remote: core::array::from_fn(|i| 50 + i as u8),
            child_port: 6,
            child_family: 7,
            local_port: 8,
            padding: 0,
        };
        let bytes = connect.to_bytes();
        assert_eq!(Connect::from_bytes(&bytes), Some(connect));
        assert_eq!(bytes[offset_of!(Connect, child_remote)..][..16], connect.child_remote);
        assert_eq!(bytes[offset_of!(Connect, local_port)..][..2], 8_u16.to_ne_bytes());
        assert_eq!(Connect::from_bytes(&bytes[..63]), None);
    }

    #[test]
    fn globals_lie_as_the_program_reads_them() {
        let offsets = Offsets { skc_net: 1, sk_protocol: 2, skc_ipv6only_shift: 3, ..Offsets::default() }.to_bytes();
        assert_eq!(offsets[offset_of!(Offsets, sk_protocol)..][..4], 2_u32.to_ne_bytes());
        assert_eq!(offsets[offset_of!(Offsets, skc_ipv6only_shift)..][..4], 3_u32.to_ne_bytes());
        let identity = Identity { pidns_dev: 1, pidns_ino: 2, tgid: 3, padding: 0 }.to_bytes();
        assert_eq!(identity[offset_of!(Identity, pidns_ino)..][..8], 2_u64.to_ne_bytes());
        assert_eq!(identity[offset_of!(Identity, tgid)..][..4], 3_u32.to_ne_bytes());
    }
}
