//! Entry bundles: entries one after the other, each behind its length as a big-endian `u16`.

/// Longest bundle: 256 entries of 65,535 bytes and their lengths.
pub(crate) const MAX_BUNDLE: u64 = 256 * (2 + 65_535);

/// The bytes of a bundle. Entries are at most 65,535 bytes long.
pub(crate) fn encode<'e>(entries: impl IntoIterator<Item = &'e Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).expect("entries are shorter than the ledger's limit");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    bytes
}

/// The first `count` entries of a bundle and the bytes after them, or how many entries could be read.
pub(crate) fn decode(bytes: &[u8], count: u16) -> Result<(Vec<Vec<u8>>, &[u8]), usize> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    for read in 0..usize::from(count) {
        let (length, after) = rest.split_first_chunk::<2>().ok_or(read)?;
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(read)?;
        entries.push(entry.to_vec());
        rest = after;
    }
    Ok((entries, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_that_lie_are_errors() {
        assert_eq!(decode(&[0xff, 0xff, 1, 2], 1), Err(0));
        assert_eq!(decode(&[0, 1, 7, 0], 2), Err(1));
        assert_eq!(decode(&[], 1), Err(0));
        assert_eq!(decode(&[0, 1, 7, 9], 1), Ok((vec![vec![7]], &[9][..])));
    }

    proptest! {
        /// What is encoded decodes, and nothing is left over.
        #[test]
        fn bundles_round_trip(entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let bytes = encode(&entries);
            prop_assert_eq!(decode(&bytes, entries.len() as u16), Ok((entries, &[][..])));
        }

        /// Strangers' bytes never panic.
        #[test]
        fn strange_bundles_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..300), count in 0u16..300) {
            if let Ok((entries, rest)) = decode(&bytes, count) {
                prop_assert_eq!([encode(&entries), rest.to_vec()].concat(), bytes);
            }
        }
    }
}
