//! Whether bytes look uniform.

/// Pearson's statistic over the frequencies of bytes: 255 degrees of freedom.
pub(crate) fn chi_square(bytes: &[u8]) -> f64 {
    let mut seen = [0_u32; 256];
    for byte in bytes {
        seen[usize::from(*byte)] += 1;
    }
    let expected = bytes.len() as f64 / 256.0;
    seen.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
}

/// Mean plus eight standard deviations: uniform bytes exceed it in fewer than one of a thousand million runs.
pub(crate) const LIMIT: f64 = 255.0 + 8.0 * 22.6;

/// Whether bytes pass for uniform.
pub(crate) fn is_uniform(bytes: &[u8]) -> bool {
    assert!(bytes.len() > 256 * 100, "{} bytes say too little", bytes.len());
    chi_square(bytes) < LIMIT
}

/// Words as they travel.
pub(crate) fn to_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The words in bytes as they travel.
pub(crate) fn to_words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}
