//! user_data: which flight an operation belongs to.

/// 64 bits that travel through the kernel: the flight's place, its generation and the kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);
