//! Names of the files of a log: C2SP tlog-tiles (`tile/<L>/<N>[.p/<W>]`, `tile/entries/<N>[.p/<W>]`).
//!
//! The `tlog_tiles` crate writes the older names with a tile height in them; these are the present ones.

/// Hashes in a full tile, and entries in a full bundle.
pub const WIDTH: u64 = 256;

/// The file that holds the signed checkpoint.
pub const CHECKPOINT: &str = "checkpoint";

/// A tile of hashes: `width` consecutive hashes of tree level `8 · level`, the first one being number
/// `256 · index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// A tile; levels are 0 to 63, widths 1 to 256.
    pub fn new(level: u8, index: u64, width: u16) -> Option<Self> {
        (level < 64 && (1..=256).contains(&width)).then_some(Self { level, index, width })
    }

    /// Its level.
    pub const fn level(self) -> u8 {
        self.level
    }

    /// Its place within the level.
    pub const fn index(self) -> u64 {
        self.index
    }

    /// Number of hashes in it.
    pub const fn width(self) -> u16 {
        self.width
    }

    /// Name of its file.
    pub fn path(self) -> String {
        format!("tile/{}/{}{}", self.level, number(self.index), suffix(self.width))
    }

    /// The folder of all its partial forms, which may go once the full tile is there.
    pub fn partials(self) -> String {
        format!("tile/{}/{}.p", self.level, number(self.index))
    }
}

/// A bundle of entries: `width` entries, the first one being number `256 · index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bundle {
    index: u64,
    width: u16,
}

impl Bundle {
    /// A bundle; widths are 1 to 256.
    pub fn new(index: u64, width: u16) -> Option<Self> {
        (1..=256).contains(&width).then_some(Self { index, width })
    }

    /// Its place.
    pub const fn index(self) -> u64 {
        self.index
    }

    /// Number of entries in it.
    pub const fn width(self) -> u16 {
        self.width
    }

    /// The bundles of a log of `size` entries: full ones, and a partial one at the end.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        (0..size.div_ceil(WIDTH)).map(move |index| Self { index, width: width_at(size, index) })
    }

    /// Name of its file.
    pub fn path(self) -> String {
        format!("tile/entries/{}{}", number(self.index), suffix(self.width))
    }

    /// The folder of all its partial forms.
    pub fn partials(self) -> String {
        format!("tile/entries/{}.p", number(self.index))
    }
}

/// The tiles that a log gains when it grows from `old` to `new` entries, lower levels first.
pub fn new_tiles(old: u64, new: u64) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for level in 0..8 {
        let (old, new) = (old >> (8 * level), new >> (8 * level));
        if old >= new {
            break;
        }
        for index in old / WIDTH..new.div_ceil(WIDTH) {
            tiles.push(Tile { level, index, width: width_at(new, index) });
        }
    }
    tiles
}

/// What a file of a log holds, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// The signed checkpoint.
    Checkpoint,
    /// A tile of hashes.
    Tile(Tile),
    /// A bundle of entries.
    Bundle(Bundle),
}

impl Named {
    /// Reads a file's name; `None` for a name that no file of a log has.
    pub fn parse(path: &str) -> Option<Self> {
        let named = Self::read(path)?;
        // One file, one name: leading zeroes, missing `x` and empty elements spell another one.
        (named.path() == path).then_some(named)
    }

    /// Name of the file.
    pub fn path(self) -> String {
        match self {
            Self::Checkpoint => CHECKPOINT.to_owned(),
            Self::Tile(tile) => tile.path(),
            Self::Bundle(bundle) => bundle.path(),
        }
    }

    fn read(path: &str) -> Option<Self> {
        if path == CHECKPOINT {
            return Some(Self::Checkpoint);
        }
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (digits, width) = match rest.split_once(".p/") {
            Some((digits, width)) => (digits, width.parse().ok().filter(|&width| width < 256)?),
            None => (rest, 256),
        };
        let mut index = 0_u64;
        for element in digits.split('/') {
            let element: u64 = element.trim_start_matches('x').parse().ok()?;
            index = index.checked_mul(1000)?.checked_add(element)?;
        }
        match kind {
            "entries" => Bundle::new(index, width).map(Self::Bundle),
            level => Tile::new(level.parse().ok()?, index, width).map(Self::Tile),
        }
    }
}

/// Width of the tile or bundle `index` among `count` things; 256 unless it is the last.
fn width_at(count: u64, index: u64) -> u16 {
    u16::try_from((count - index * WIDTH).min(WIDTH)).expect("at most 256")
}

fn suffix(width: u16) -> String {
    if u64::from(width) == WIDTH { String::new() } else { format!(".p/{width}") }
}

/// Groups of three digits, all but the last with an `x` before them, so that no file's name is a folder's.
fn number(index: u64) -> String {
    let mut text = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tile(level: u8, index: u64, width: u16) -> Tile {
        Tile::new(level, index, width).unwrap()
    }

    #[test]
    fn names_are_those_of_the_specification() {
        assert_eq!(tile(0, 1_234_067, 256).path(), "tile/0/x001/x234/067");
        assert_eq!(tile(1, 0, 1).path(), "tile/1/000.p/1");
        assert_eq!(tile(5, 1000, 256).path(), "tile/5/x001/000");
        assert_eq!(Bundle::new(273, 112).unwrap().path(), "tile/entries/273.p/112");
    }

    #[test]
    fn a_tree_of_70000_has_the_tiles_of_the_specification() {
        let tiles = new_tiles(0, 70_000);
        assert_eq!(tiles.iter().filter(|tile| tile.level == 0 && tile.width == 256).count(), 273);
        let others: Vec<_> = tiles.into_iter().filter(|tile| tile.level > 0 || tile.width < 256).collect();
        assert_eq!(others, [tile(0, 273, 112), tile(1, 0, 256), tile(1, 1, 17), tile(2, 0, 1)]);
        assert_eq!(new_tiles(0, 256), [tile(0, 0, 256), tile(1, 0, 1)]);
        assert_eq!(new_tiles(256, 257), [tile(0, 1, 1)]);
        assert_eq!(new_tiles(5, 5), []);
    }

    #[test]
    fn other_spellings_are_no_names() {
        for bad in [
            "",
            "tile",
            "tile/0",
            "tile/0/1",
            "tile/0/0001",
            "tile/00/001",
            "tile/64/001",
            "tile/0/001.p/0",
            "tile/0/001.p/256",
            "tile/0/001.p/01",
            "tile/0/x000/001",
            "tile/0/001/001",
            "tile/0/../001",
            "tile/entries/",
            "tile/data/001",
            "checkpoint/",
            "tile/0/001.p/+5",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Named::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        /// A name tells which file it is.
        #[test]
        fn names_parse_back(level in 0u8..64, index: u64, width in 1u16..=256) {
            let named = Named::Tile(tile(level, index, width));
            prop_assert_eq!(Named::parse(&named.path()), Some(named));
            let named = Named::Bundle(Bundle::new(index, width).unwrap());
            prop_assert_eq!(Named::parse(&named.path()), Some(named));
        }

        /// Names of strangers never panic.
        #[test]
        fn strange_names_are_refused(path in "(tile/)?[0-9a-z/.x+-]{0,40}") {
            if let Some(named) = Named::parse(&path) {
                prop_assert_eq!(named.path(), path);
            }
        }
    }
}
