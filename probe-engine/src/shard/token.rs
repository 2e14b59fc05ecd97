//! user_data: which flight an operation belongs to.

use std::fmt;

/// What an operation does; travels in its [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// connect(2)
    Connect,
    /// send(2)
    Send,
    /// recv(2)
    Recv,
}

/// 64 bits that travel through the kernel: the flight's place (24 bits), the kind of operation (8) and the
/// flight's generation (32).
///
/// The generation makes a late completion of an earlier flight in the same place recognisable.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    /// Places that a token can name: 0 to this, without it.
    pub const INDEX_END: u32 = 1 << 24;

    /// Names one operation of one flight. `index` is below [`Token::INDEX_END`]; higher bits are cut.
    #[must_use]
    pub const fn new(index: u32, generation: u32, op: Op) -> Self {
        let index = (index & (Self::INDEX_END - 1)) as u64;
        Self(((generation as u64) << 32) | ((op as u64) << 24) | index)
    }

    /// The flight's place.
    #[must_use]
    pub const fn index(self) -> u32 {
        (self.0 as u32) & (Self::INDEX_END - 1)
    }

    /// The flight's generation in that place.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// What the operation does; `None` for a number that [`Token::new`] does not make.
    #[must_use]
    pub const fn op(self) -> Option<Op> {
        match (self.0 >> 24) as u8 {
            0 => Some(Op::Connect),
            1 => Some(Op::Send),
            2 => Some(Op::Recv),
            _ => None,
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of flight {}#{}", self.op(), self.index(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_what_it_was_made_of() {
        for index in [0, 1, 4_095, Token::INDEX_END - 1] {
            for generation in [0, 1, u32::MAX] {
                for op in [Op::Connect, Op::Send, Op::Recv] {
                    let token = Token::new(index, generation, op);
                    assert_eq!(token.index(), index);
                    assert_eq!(token.generation(), generation);
                    assert_eq!(token.op(), Some(op));
                }
            }
        }
    }

    #[test]
    fn a_number_of_no_token_has_no_op() {
        assert_eq!(Token(u64::MAX).op(), None);
    }
}
