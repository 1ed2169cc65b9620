//! Damage, the same every time.

/// A generator of numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end` (0 if `end` is 0).
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.number() % end as u64) as usize }
    }
}

/// Numbers at which programs break.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    16,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    1 << 15,
    0xffff,
    1 << 16,
    1 << 24,
    0x7fff_ffff,
    1 << 31,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Longest input.
const LONGEST: usize = 1 << 16;

/// One of the seeds, damaged in a few places.
pub fn damaged(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let Some(seed) = seeds.get(random.below(seeds.len())) else {
        return Vec::new();
    };
    let mut bytes = seed.clone();
    for _ in 0..1 + random.below(6) {
        damage(random, &mut bytes, seeds);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = random.below(bytes.len() + 1);
    let len = (1 + random.below(16)).min(bytes.len() - at);
    match random.below(10) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 | 2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.number() as u8;
            }
        }
        3 | 4 => {
            let edge = EDGES.get(random.below(EDGES.len())).copied().unwrap_or_default().to_le_bytes();
            let size = [1, 2, 4, 8][random.below(4)];
            for (to, from) in bytes.iter_mut().skip(at).zip(edge.iter().take(size)) {
                *to = *from;
            }
        }
        5 => drop(bytes.drain(at..at + len)),
        6 => {
            let copy: Vec<u8> = bytes.iter().skip(at).take(len).copied().collect();
            let to = random.below(bytes.len() + 1);
            let times = 1 + random.below(8);
            bytes.splice(to..to, copy.repeat(times));
        }
        7 => {
            let new: Vec<u8> = (0..1 + random.below(8)).map(|_| random.number() as u8).collect();
            bytes.splice(at..at, new);
        }
        8 => {
            let other = seeds.get(random.below(seeds.len())).map_or(&[][..], Vec::as_slice);
            let from = random.below(other.len() + 1);
            let take = 1 + random.below(64);
            let piece: Vec<u8> = other.iter().skip(from).take(take).copied().collect();
            let end = if random.below(2) == 0 { at } else { (at + piece.len()).min(bytes.len()) };
            bytes.splice(at..end, piece);
        }
        _ => bytes.truncate(at),
    }
}
