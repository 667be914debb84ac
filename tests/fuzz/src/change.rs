//! Changes of honest bytes: of bits and ranges, of lengths, of the heads of CBOR items, of numbers in text.

/// Longest input that is made.
const LONGEST: usize = 1 << 16;

/// Numbers that are the same in every run (`SplitMix64`, Steele et al. 2014).
pub struct Draws(u64);

impl Draws {
    /// The numbers of a name.
    pub fn new(name: &str) -> Self {
        Self(fingerprint(name.as_bytes()))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number below `bound`; zero where there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// One of some.
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A range in something of this length, mostly a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let longest = if self.below(4) == 0 { length - start } else { (length - start).min(16) };
        start..start + self.below(longest + 1)
    }
}

/// FNV-1a.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Bytes that lie about lengths or nest without end, for every target.
pub(crate) fn lies() -> Vec<Vec<u8>> {
    let mut lies = vec![Vec::new()];
    for head in [0x5b, 0x7b, 0x9b, 0xbb] {
        for length in [u64::MAX, u64::MAX >> 1, u64::from(u32::MAX), 1 << 24] {
            lies.push([&[head][..], &length.to_be_bytes()].concat());
            // The length of the first field of a type.
            lies.push([&[0xa1, 0x00, head][..], &length.to_be_bytes()].concat());
            lies.push([&[0x82, 0x00, 0x81, head][..], &length.to_be_bytes()].concat());
        }
    }
    for bytes in [&b"["[..], b"{\"a\":", b"a.", b"\x81", b"\x9f", b"\xa1\x00", b"\xd8\x18", b"\x82\x00"] {
        lies.push(bytes.repeat(20_000 / bytes.len()));
    }
    lies.push(vec![0; 1024]);
    lies.push(vec![0xff; 1024]);
    lies
}

/// One of the seeds, changed in one to four places.
pub(crate) fn changed(seeds: &[Vec<u8>], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = seeds[draws.below(seeds.len())].clone();
    for _ in 0..=draws.below(4) {
        match draws.below(14) {
            0..3 => flip(&mut bytes, draws),
            3 => set(&mut bytes, draws),
            4 => bytes.truncate(draws.below(bytes.len())),
            5 => drop(bytes.drain(draws.range(bytes.len()))),
            6 => {
                let copy = bytes[draws.range(bytes.len())].to_vec();
                let at = draws.below(bytes.len() + 1);
                bytes.splice(at..at, copy);
            }
            7 => {
                let other = &seeds[draws.below(seeds.len())];
                bytes.truncate(draws.below(bytes.len() + 1));
                bytes.extend_from_slice(&other[draws.below(other.len() + 1)..]);
            }
            8 => inflate(&mut bytes, draws),
            9..12 => head(&mut bytes, draws),
            _ => text(&mut bytes, draws),
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

/// Headers stand in front: half of the places are there.
fn place(length: usize, draws: &mut Draws) -> usize {
    if draws.below(2) == 0 { draws.below(length.min(64)) } else { draws.below(length) }
}

fn flip(bytes: &mut [u8], draws: &mut Draws) {
    let place = place(bytes.len(), draws);
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1 << draws.below(8);
    }
}

fn set(bytes: &mut [u8], draws: &mut Draws) {
    let place = place(bytes.len(), draws);
    let value = draws.pick(&[0, 1, 0x17, 0x18, 0x1f, 0x7f, 0x80, 0xf6, 0xf7, 0xfe, 0xff, b'\n', b'/', b'.']);
    if let Some(byte) = bytes.get_mut(place) {
        *byte = value;
    }
}

/// Writes a large number over two, four or eight bytes, in either order.
fn inflate(bytes: &mut [u8], draws: &mut Draws) {
    let width = draws.pick(&[2, 4, 8]);
    let Some(last) = bytes.len().checked_sub(width) else { return };
    let place = place(last + 1, draws);
    let value = draws.pick(&[u64::MAX, u64::MAX >> 1, 1 << 31, 1 << 26, 1 << 20, 0x7fff_ffff, 0xffff, 0]);
    let (big, little) = (value.to_be_bytes(), value.to_le_bytes());
    let written = if draws.below(2) == 0 { &big[8 - width..] } else { &little[..width] };
    bytes[place..place + width].copy_from_slice(written);
}

/// Changes the head of one CBOR item, those inside of byte strings too.
fn head(bytes: &mut Vec<u8>, draws: &mut Draws) {
    let heads = heads(bytes);
    let Some(&Head { at, length, major, argument }) = heads.get(draws.below(heads.len())) else { return };
    let written = match draws.below(8) {
        0 | 1 => encode(major, draws.pick(&[u64::MAX, u64::MAX >> 1, 1 << 32, 1 << 20, 100_000, 256, 24])),
        2 => encode(major, argument.wrapping_add(1)),
        3 => encode(major, argument.wrapping_sub(1)),
        4 => encode(draws.below(8) as u8, argument),
        // The same number, spelt in eight bytes.
        5 => [&[major << 5 | 0x1b][..], &argument.to_be_bytes()].concat(),
        // Without a length.
        6 => vec![major << 5 | 0x1f],
        _ => match draws.below(4) {
            0 => vec![0xf6],
            1 => vec![0xf9, 0x7e, 0x00],
            2 => [&[0xfb][..], &f64::INFINITY.to_be_bytes()].concat(),
            _ => [vec![0x81; draws.pick(&[1, 2, 30, 5_000])], bytes[at..at + length].to_vec()].concat(),
        },
    };
    bytes.splice(at..at + length, written);
}

struct Head {
    at: usize,
    length: usize,
    major: u8,
    argument: u64,
}

/// The heads of all items, in order, as far as the bytes are CBOR.
fn heads(bytes: &[u8]) -> Vec<Head> {
    let mut heads = Vec::new();
    let mut at = 0;
    while let Some(&first) = bytes.get(at) {
        let width = match first & 0x1f {
            0..24 => 0,
            short @ 24..28 => 1 << (short - 24),
            _ => break,
        };
        let Some(number) = bytes.get(at + 1..at + 1 + width) else { break };
        let argument = match width {
            0 => u64::from(first & 0x1f),
            _ => number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let major = first >> 5;
        heads.push(Head { at, length: 1 + width, major, argument });
        at += 1 + width;
        // What lies in a byte string may be an item again; text is none.
        let is_item = major == 2 && matches!(bytes.get(at), Some(0x80..0xbc));
        if matches!(major, 2 | 3) && !is_item {
            let Some(next) = usize::try_from(argument).ok().and_then(|length| at.checked_add(length)) else {
                break;
            };
            at = next;
        }
    }
    heads
}

fn encode(major: u8, argument: u64) -> Vec<u8> {
    let bytes = argument.to_be_bytes();
    let major = major << 5;
    match argument {
        0..24 => vec![major | argument as u8],
        24..=0xff => vec![major | 0x18, bytes[7]],
        0x100..=0xffff => [&[major | 0x19], &bytes[6..]].concat(),
        0x1_0000..=0xffff_ffff => [&[major | 0x1a], &bytes[4..]].concat(),
        _ => [&[major | 0x1b], &bytes[..]].concat(),
    }
}

/// Changes a number or a word of a text, or puts something strange into it.
fn text(bytes: &mut Vec<u8>, draws: &mut Draws) {
    const NUMBERS: [&str; 9] = [
        "0",
        "-1",
        "18446744073709551616",
        "4294967295",
        "99999999999999999999999",
        "1e400",
        "-0.0",
        "nan",
        "inf",
    ];
    const STRANGE: [&str; 9] =
        ["\u{0}", "\u{fe0f}", "ä", "\u{1f980}", "\r\n", "\"", "[[[[", "../", "\u{202e}"];
    let digits: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at].is_ascii_digit()).collect();
    if draws.below(2) == 0 && !digits.is_empty() {
        let start = digits[draws.below(digits.len())];
        let end = start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        bytes.splice(start..end, draws.pick(&NUMBERS).bytes());
    } else {
        let at = draws.below(bytes.len() + 1);
        bytes.splice(at..at, draws.pick(&STRANGE).bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_gives_the_same_inputs() {
        let seeds = [b"\xa2\x00\x07\x01\x61\x61".to_vec(), b"width = 28".to_vec()];
        let inputs = |name: &str| {
            let mut draws = Draws::new(name);
            (0..500).map(|_| changed(&seeds, &mut draws)).collect::<Vec<_>>()
        };
        assert_eq!(inputs("one"), inputs("one"));
        assert_ne!(inputs("one"), inputs("two"));
    }

    #[test]
    fn heads_are_found_also_inside_byte_strings() {
        // {0: 500, 1: "ab", 2: h'8105'}
        let bytes = [0xa3, 0x00, 0x19, 0x01, 0xf4, 0x01, 0x62, b'a', b'b', 0x02, 0x42, 0x81, 0x05];
        let found: Vec<_> = heads(&bytes).iter().map(|head| (head.at, head.major, head.argument)).collect();
        let want =
            [(0, 5, 3), (1, 0, 0), (2, 0, 500), (5, 0, 1), (6, 3, 2), (9, 0, 2), (10, 2, 2), (11, 4, 1)];
        assert_eq!(found[..8], want);
        for head in heads(&bytes) {
            assert_eq!(encode(head.major, head.argument), bytes[head.at..head.at + head.length]);
        }
    }
}
