//! The first contents of a program's stack.

use crate::errno::Errno;

/// argv and environment, with a pointer each, at most: Linux's own bound is a quarter of the soft stack limit,
/// and never more than 6 MiB.
const STRINGS_MAX: u64 = 6 << 20;
/// One string, with its NUL: Linux's MAX_ARG_STRLEN.
pub(super) const STRING_MAX: usize = 128 << 10;

/// Strings of a program.
#[derive(Debug, Clone, Default)]
pub struct Strings {
    /// argv.
    pub arguments: Vec<Vec<u8>>,
    /// The environment.
    pub environment: Vec<Vec<u8>>,
}

impl Strings {
    /// Bytes that they take on the stack, pointers included.
    pub fn size(&self) -> u64 {
        let all = self.arguments.iter().chain(&self.environment);
        all.map(|text| text.len() as u64 + 1 + 8).sum()
    }

    /// Whether Linux would take them, with this soft stack limit.
    ///
    /// # Errors
    /// E2BIG.
    pub fn check(&self, stack_limit: u64) -> Result<(), Errno> {
        /// Linux grants this much whatever the stack limit is.
        const LEAST: u64 = 128 << 10;
        let most = (stack_limit / 4).clamp(LEAST, STRINGS_MAX);
        let one_too_long = self.arguments.iter().chain(&self.environment).any(|s| s.len() >= STRING_MAX);
        if one_too_long || self.size() > most { Err(Errno::E2BIG) } else { Ok(()) }
    }
}

/// A stack that is built from its top downwards.
pub(super) struct Builder {
    /// The bytes so far, the last one (highest address) first.
    reversed: Vec<u8>,
    top: u64,
}

impl Builder {
    /// An empty stack that ends at `top`.
    pub(super) fn new(top: u64) -> Self {
        Self { reversed: Vec::new(), top }
    }

    /// Puts bytes below what is there; their address.
    pub(super) fn push(&mut self, bytes: &[u8]) -> u64 {
        self.reversed.extend(bytes.iter().rev());
        self.address()
    }

    /// Puts a string with its NUL.
    pub(super) fn push_string(&mut self, text: &[u8]) -> u64 {
        self.push(&[0]);
        self.push(text)
    }

    /// Moves the pointer down until it is a multiple of `alignment`.
    pub(super) fn align(&mut self, alignment: u64) {
        while !self.address().is_multiple_of(alignment) {
            self.reversed.push(0);
        }
    }

    /// Puts words, the first at the lowest address.
    pub(super) fn push_words(&mut self, words: &[u64]) -> u64 {
        for word in words.iter().rev() {
            self.push(&word.to_ne_bytes());
        }
        self.address()
    }

    /// The stack pointer.
    pub(super) fn address(&self) -> u64 {
        self.top - self.reversed.len() as u64
    }

    /// The bytes from the stack pointer on.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.reversed.reverse();
        self.reversed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_down_and_keeps_order() {
        let mut stack = Builder::new(0x1000);
        let text = stack.push_string(b"hi");
        assert_eq!(text, 0x0ffd);
        stack.align(16);
        let words = stack.push_words(&[1, 2]);
        assert_eq!(words, 0x0fe0);
        let bytes = stack.into_bytes();
        assert_eq!(bytes[..8], 1u64.to_ne_bytes());
        assert_eq!(&bytes[0x1d..], b"hi\0");
    }

    #[test]
    fn too_much_is_refused() {
        let many = Strings { arguments: vec![vec![b'x'; 1000]; 3000], environment: Vec::new() };
        assert_eq!(many.check(8 << 20), Err(Errno::E2BIG));
        assert_eq!(many.check(64 << 20), Ok(()));
        let long = Strings { arguments: vec![vec![b'x'; STRING_MAX]], environment: Vec::new() };
        assert_eq!(long.check(64 << 20), Err(Errno::E2BIG));
    }
}
