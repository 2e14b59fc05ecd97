//! Changes to inputs that are made of lines: blocks by indentation, keys and values, words of the target's language.
//! Beside libFuzzer's own, which know only bytes, these leave a manifest a manifest and a head a head.

use std::borrow::Cow;

/// A changed copy of `input`, at most `len_max` bytes long; the same for the same arguments.
#[must_use]
pub fn lines(input: &[u8], dictionary: &str, len_max: usize, seed: u64) -> Option<Vec<u8>> {
    let mut draw = Draw::new(seed);
    let words = words(dictionary);
    let mut text: Vec<Cow<'_, [u8]>> = input.split_inclusive(|b| *b == b'\n').map(Cow::Borrowed).collect();
    for _ in 0..=draw.below(3) {
        change(&mut text, &words, &mut draw);
    }
    let mut output = text.concat();
    output.truncate(len_max);
    Some(output)
}

fn change(text: &mut Vec<Cow<'_, [u8]>>, words: &[Vec<u8>], draw: &mut Draw) {
    let at = draw.below(text.len());
    let end = block_end(text, at);
    let word = words.get(draw.below(words.len())).map_or(&b""[..], |word| word);
    match draw.below(10) {
        0 => drop(text.drain(at..end)),
        1 => {
            let block = text[at..end].to_vec();
            text.splice(end..end, block);
        }
        2 => {
            let block: Vec<_> = text.drain(at..end).collect();
            let to = draw.below(text.len() + 1);
            let indent = text.get(to).map_or(0, |line| indent(line));
            let shift = indent as isize - block.first().map_or(0, |line| self::indent(line)) as isize;
            let block = block.into_iter().map(|line| Cow::Owned(shifted(&line, shift)));
            text.splice(to..to, block);
        }
        3 => {
            let shift = [-4, -2, 2, 4][draw.below(4)];
            for line in &mut text[at..end] {
                *line = Cow::Owned(shifted(line, shift));
            }
        }
        4 => {
            let other = text.get(draw.below(text.len())).map(|line| value(line).to_vec()).unwrap_or_default();
            edit(text, at, |line| with_value(line, &other));
        }
        5 | 6 => edit(text, at, |line| with_value(line, word)),
        7 => edit(text, at, |line| with_key(line, word)),
        8 => {
            let deeper = 2 * draw.below(3);
            let indent = text.get(at).map_or(0, |line| indent(line)) + deeper;
            let other = &words[draw.below(words.len())];
            let line = [&b" ".repeat(indent), word, b": ", other, b"\n"].concat();
            text.insert((at + 1).min(text.len()), Cow::Owned(line));
        }
        _ => {
            let place = draw.below(text.get(at).map_or(0, |line| line.len()));
            edit(text, at, |line| [&line[..place], word, &line[place..]].concat());
        }
    }
}

fn edit(text: &mut [Cow<'_, [u8]>], at: usize, change: impl FnOnce(&[u8]) -> Vec<u8>) {
    if let Some(line) = text.get_mut(at) {
        *line = Cow::Owned(change(line));
    }
}

/// Behind the line at `at` and those that are indented deeper.
fn block_end(text: &[Cow<'_, [u8]>], at: usize) -> usize {
    let Some(line) = text.get(at) else { return at.min(text.len()) };
    let of = indent(line);
    let deeper = text[at + 1..].iter().take_while(|line| indent(line) > of).count();
    at + 1 + deeper
}

fn indent(line: &[u8]) -> usize {
    line.iter().take_while(|b| matches!(b, b' ' | b'-')).count()
}

fn shifted(line: &[u8], by: isize) -> Vec<u8> {
    match usize::try_from(by) {
        Ok(more) => [&b" ".repeat(more), line].concat(),
        Err(_) => {
            let fewer = by.unsigned_abs().min(line.iter().take_while(|b| **b == b' ').count());
            line[fewer..].to_vec()
        }
    }
}

/// Where the value begins: behind `: `, or behind the dash of an element.
fn value_at(line: &[u8]) -> usize {
    let colon = line.windows(2).position(|two| two == b": ").map(|at| at + 2);
    colon.unwrap_or_else(|| indent(line)).min(line.len())
}

fn value(line: &[u8]) -> &[u8] {
    line[value_at(line)..].trim_ascii_end()
}

fn with_value(line: &[u8], value: &[u8]) -> Vec<u8> {
    [&line[..value_at(line)], value, b"\n"].concat()
}

fn with_key(line: &[u8], key: &[u8]) -> Vec<u8> {
    let from = indent(line);
    let to = line.iter().position(|b| *b == b':').unwrap_or(line.len()).max(from);
    [&line[..from], key, &line[to..]].concat()
}

/// The words of a libFuzzer dictionary: one a line, in quotes, with `\\`, `\"` and `\xNN`.
fn words(dictionary: &str) -> Vec<Vec<u8>> {
    let quoted = dictionary.lines().filter_map(|line| {
        let (_, rest) = line.split_once('"').filter(|_| !line.starts_with('#'))?;
        rest.rsplit_once('"').map(|(word, _)| word)
    });
    quoted.map(unescaped).collect()
}

fn unescaped(word: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(1..3).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, after.first(), hex) {
            (b'\\', Some(b'x'), Some(hex)) => {
                bytes.push(hex);
                rest = &after[3..];
            }
            (b'\\', Some(escaped), _) => {
                bytes.push(*escaped);
                rest = &after[1..];
            }
            _ => bytes.push(*byte),
        }
    }
    bytes
}

/// xorshift64: repeatable, and no crate.
#[derive(Debug)]
pub struct Draw(u64);

impl Draw {
    /// Of any seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `end`, 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_libfuzzer_reads_them() {
        let words = words("# \"no\"\n\"a\"\nname=\"b\\x0a\\\"\\\\\"\n\n");
        assert_eq!(words, [b"a".to_vec(), b"b\n\"\\".to_vec()]);
    }

    #[test]
    fn any_seed_changes_any_text_within_its_bound() {
        for input in [&b""[..], b"\n", b"a", b"a:\n  - b: c\n    d: e\n", b"\xff\xff: \n"] {
            for seed in 0..2_000 {
                let output = lines(input, "\"x\"\n\"y: z\"", 40, seed).expect("text");
                assert!(output.len() <= 40);
                assert_eq!(Some(output), lines(input, "\"x\"\n\"y: z\"", 40, seed));
            }
        }
    }
}
