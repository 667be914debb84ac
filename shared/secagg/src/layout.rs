//! What stands where in the summed vector.
//!
//! The vector is `[weight | update blocks | saturated per block, clipped | counts]`, every entry one word of
//! the ring `Z_{2^32}`. In the packed ring the blocks of trained parameters stand behind all that, rotated, two lanes
//! of `Z_{2^16}` to a word. The layout is part of the context, so that sites which disagree about it produce
//! masks that do not cancel.

use std::ops::Range;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::ring::Ring;
use crate::rotation::lanes;

/// Words in one chunk: 1 MiB.
pub const CHUNK_WORDS: usize = 1 << 18;
/// Bytes in one chunk.
pub const CHUNK_BYTES: usize = CHUNK_WORDS * 4;
/// Longest vector: 16 GiB of words.
pub const MAX_WORDS: u64 = 1 << 32;
/// Most blocks of a layout.
pub const MAX_BLOCKS: usize = 4096;
/// Exponents of block ranges lie within this distance of zero.
pub const MAX_RANGE_EXPONENT: i16 = 100;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum BlockKind {
    /// Trained parameters, under the clip norm.
    #[n(0)]
    Update,
    /// Normalisation statistics, outside the clip norm, with a range of their own.
    #[n(1)]
    Statistics,
}

/// A run of entries quantised with one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Block {
    /// What it holds.
    #[n(0)]
    pub kind: BlockKind,
    /// Number of entries.
    #[n(1)]
    pub length: u32,
    /// The range is two to this power. Sites read it, never derive it.
    #[n(2)]
    pub range_exponent: i16,
}

impl Block {
    /// The range: the largest magnitude that the quantiser represents.
    pub fn range(&self) -> f64 {
        f64::from(self.range_exponent).exp2()
    }
}

/// The layout of a summed vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    blocks: Vec<Block>,
    counts: u32,
    ring: Ring,
}

/// Why a layout is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLayout {
    /// More blocks than any model has.
    #[error("{0} blocks are more than a layout can have")]
    TooManyBlocks(usize),
    /// An empty block.
    #[error("block {0} is empty")]
    EmptyBlock(usize),
    /// A range outside what a float of 32 bits can hold.
    #[error("the range of block {0} is out of bounds")]
    Range(usize),
    /// Longer than a vector may be.
    #[error("a vector of {0} words is too long")]
    TooLong(u64),
    /// A packed ring without a block of trained parameters.
    #[error("nothing in this vector can be packed")]
    NothingToPack,
}

impl Layout {
    /// A layout of update blocks followed by `counts` exact integers.
    pub fn new(blocks: Vec<Block>, counts: u32) -> Result<Self, InvalidLayout> {
        if blocks.len() > MAX_BLOCKS {
            return Err(InvalidLayout::TooManyBlocks(blocks.len()));
        }
        for (index, block) in blocks.iter().enumerate() {
            if block.length == 0 {
                return Err(InvalidLayout::EmptyBlock(index));
            }
            if block.range_exponent.abs() > MAX_RANGE_EXPONENT {
                return Err(InvalidLayout::Range(index));
            }
        }
        Self { blocks, counts, ring: Ring::Words }.of_bounded_length()
    }

    /// The same vector with its trained parameters summed in `ring`.
    pub fn in_ring(self, ring: Ring) -> Result<Self, InvalidLayout> {
        if ring == Ring::Packed && self.blocks.iter().all(|block| block.kind != BlockKind::Update) {
            return Err(InvalidLayout::NothingToPack);
        }
        Self { ring, ..self }.of_bounded_length()
    }

    fn of_bounded_length(self) -> Result<Self, InvalidLayout> {
        let words = self.words_wide();
        if words > MAX_WORDS { Err(InvalidLayout::TooLong(words)) } else { Ok(self) }
    }

    /// A layout of exact integers only, as an evaluation uses.
    pub fn of_counts(counts: u32) -> Self {
        Self { blocks: Vec::new(), counts, ring: Ring::Words }
    }

    /// Whether blocks of a kind are packed.
    fn packs(&self, kind: BlockKind) -> bool {
        self.ring == Ring::Packed && kind == BlockKind::Update
    }

    fn words_wide(&self) -> u64 {
        // Pieces have an even number of lanes.
        let of = |block: &Block| {
            let length = block.length as usize;
            if self.packs(block.kind) { lanes(length) as u64 / 2 } else { length as u64 }
        };
        let updates: u64 = self.blocks.iter().map(of).sum();
        1 + updates + self.own_counts() as u64 + u64::from(self.counts)
    }

    /// Saturated entries per block and the clipped flag, where there are blocks.
    fn own_counts(&self) -> usize {
        if self.blocks.is_empty() { 0 } else { self.blocks.len() + 1 }
    }

    /// The blocks in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// How the trained parameters are summed.
    pub const fn ring(&self) -> Ring {
        self.ring
    }

    /// Entries of all blocks together: the length of an update, shape `[params]`.
    pub fn entries(&self) -> usize {
        self.blocks.iter().map(|block| block.length as usize).sum()
    }

    /// Words in `Z_{2^32}`, which come first; the rest are pairs of lanes.
    pub fn exact_words(&self) -> usize {
        self.counts().end
    }

    /// Words in the vector.
    pub fn words(&self) -> usize {
        usize::try_from(self.words_wide()).expect("a vector that fits memory has a length that fits usize")
    }

    /// Chunks in the vector; the last may be shorter.
    pub fn chunks(&self) -> usize {
        self.words().div_ceil(CHUNK_WORDS)
    }

    /// Bytes of chunk `index`, if there is one.
    pub fn chunk_bytes(&self, index: usize) -> Option<usize> {
        let start = index.checked_mul(CHUNK_WORDS)?;
        let left = self.words().checked_sub(start)?;
        (left > 0).then(|| left.min(CHUNK_WORDS) * 4)
    }

    /// Where the weight stands.
    pub const fn weight(&self) -> usize {
        0
    }

    /// Where the entries stand that have a word each: those of all blocks, or of the blocks that are not packed.
    pub fn update(&self) -> Range<usize> {
        let alone = self.blocks.iter().filter(|block| !self.packs(block.kind));
        let length: usize = alone.map(|block| block.length as usize).sum();
        1..1 + length
    }

    /// Where the saturated entries of each block are counted. Empty without blocks.
    pub fn saturated(&self) -> Range<usize> {
        let start = self.update().end;
        start..start + self.blocks.len()
    }

    /// Where clipped updates are counted. None without blocks.
    pub fn clipped(&self) -> Option<usize> {
        (!self.blocks.is_empty()).then(|| self.saturated().end)
    }

    /// Where the caller's exact integers stand.
    pub fn counts(&self) -> Range<usize> {
        let start = self.update().end + self.own_counts();
        start..start + self.counts as usize
    }

    /// Whether `other` differs at most in ranges, which alone change between attempts of one study.
    pub fn same_shape(&self, other: &Self) -> bool {
        self.counts == other.counts
            && self.ring == other.ring
            && self.blocks.len() == other.blocks.len()
            && self
                .blocks
                .iter()
                .zip(&other.blocks)
                .all(|(mine, theirs)| (mine.kind, mine.length) == (theirs.kind, theirs.length))
    }
}

impl<C> Encode<C> for Layout {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let packed = self.ring == Ring::Packed;
        e.array(if packed { 3 } else { 2 })?;
        self.blocks.encode(e, ctx)?;
        e.u32(self.counts)?;
        if packed { e.u8(self.ring.bits())?.ok() } else { Ok(()) }
    }
}

impl<'b, C> Decode<'b, C> for Layout {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let parts = d.array()?;
        if parts != Some(2) && parts != Some(3) {
            return Err(decode::Error::message("a layout has two parts, and a third where it is packed"));
        }
        let blocks = Vec::<Block>::decode(d, ctx)?;
        let counts = d.u32()?;
        let mut layout = Self::new(blocks, counts);
        if parts == Some(3) {
            if d.u8()? != Ring::Packed.bits() {
                return Err(decode::Error::message("only the packed ring is named in a layout"));
            }
            layout = layout.and_then(|layout| layout.in_ring(Ring::Packed));
        }
        layout.map_err(|error| decode::Error::message(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::canonical::Canonical;

    fn block(kind: BlockKind, length: u32) -> Block {
        Block { kind, length, range_exponent: 3 }
    }

    #[test]
    fn parts_follow_each_other_without_gap() {
        let layout =
            Layout::new(vec![block(BlockKind::Update, 7), block(BlockKind::Statistics, 4)], 5).unwrap();
        assert_eq!(layout.update(), 1..12);
        assert_eq!(layout.saturated(), 12..14);
        assert_eq!(layout.clipped(), Some(14));
        assert_eq!(layout.counts(), 15..20);
        assert_eq!(layout.words(), 20);
        let counts = Layout::of_counts(5);
        assert_eq!((counts.counts(), counts.words(), counts.clipped()), (1..6, 6, None));
    }

    #[test]
    fn only_ranges_may_differ_in_layouts_of_one_shape() {
        let layout = |blocks: &[Block], counts| Layout::new(blocks.to_vec(), counts).unwrap();
        let (update, statistics) = (block(BlockKind::Update, 7), block(BlockKind::Statistics, 7));
        let it = layout(&[update], 5);
        assert!(it.same_shape(&layout(&[Block { range_exponent: 9, ..update }], 5)));
        for other in [
            layout(&[statistics], 5),
            layout(&[block(BlockKind::Update, 8)], 5),
            layout(&[update, update], 5),
            layout(&[update], 6),
        ] {
            assert!(!it.same_shape(&other) && !other.same_shape(&it), "{other:?}");
        }
    }

    #[test]
    fn chunks_cover_the_vector() {
        let layout = Layout::new(vec![block(BlockKind::Update, CHUNK_WORDS as u32)], 0).unwrap();
        assert_eq!(layout.chunks(), 2);
        let bytes: usize = (0..layout.chunks()).map(|index| layout.chunk_bytes(index).unwrap()).sum();
        assert_eq!(bytes, layout.words() * 4);
        assert_eq!(layout.chunk_bytes(2), None);
        assert_eq!(layout.chunk_bytes(usize::MAX), None);
    }

    #[test]
    fn decoding_refuses_what_the_constructor_refuses() {
        let good = Layout::new(vec![block(BlockKind::Update, 7)], 5).unwrap();
        assert_eq!(Layout::from_canonical(&good.to_canonical()), Ok(good.clone()));
        let bare = |blocks| Layout { blocks, counts: 0, ring: Ring::Words };
        let empty = bare(vec![block(BlockKind::Update, 0)]);
        assert!(Layout::from_canonical(&empty.to_canonical()).is_err());
        let wild = Block { range_exponent: 101, ..block(BlockKind::Update, 1) };
        assert!(Layout::from_canonical(&bare(vec![wild]).to_canonical()).is_err());
        let many = bare(vec![block(BlockKind::Update, 1); MAX_BLOCKS + 1]);
        assert!(Layout::from_canonical(&many.to_canonical()).is_err());
        let long = bare(vec![block(BlockKind::Update, u32::MAX); 2]);
        assert!(Layout::from_canonical(&long.to_canonical()).is_err());
    }

    #[test]
    fn packed_blocks_stand_behind_the_exact_words() {
        let blocks = vec![
            block(BlockKind::Update, 300),
            block(BlockKind::Statistics, 4),
            block(BlockKind::Update, 1 << 15),
        ];
        let words = Layout::new(blocks, 5).unwrap();
        let layout = words.clone().in_ring(Ring::Packed).unwrap();
        assert_eq!((layout.update(), layout.saturated(), layout.clipped()), (1..5, 5..8, Some(8)));
        assert_eq!((layout.counts(), layout.exact_words(), layout.entries()), (9..14, 14, 304 + (1 << 15)));
        assert_eq!(layout.words(), 14 + 512 / 2 + (1 << 15) / 2);
        assert!(!layout.same_shape(&words), "rings are part of the shape");
        assert_eq!(Layout::from_canonical(&layout.to_canonical()), Ok(layout.clone()));
        assert_eq!(words.exact_words(), words.words());
        // Only the packed ring is named, and only where there is something to pack.
        let mut other = layout.to_canonical();
        *other.last_mut().unwrap() = 15;
        assert!(Layout::from_canonical(&other).is_err());
        let idle = Layout::new(vec![block(BlockKind::Statistics, 4)], 5).unwrap();
        assert_eq!(idle.in_ring(Ring::Packed), Err(InvalidLayout::NothingToPack));
        assert_eq!(Layout::of_counts(5).in_ring(Ring::Packed), Err(InvalidLayout::NothingToPack));
    }
}
