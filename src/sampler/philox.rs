//! Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
//! (SC 2011).

/// The multiplier of counter words 0 and 1.
pub const MULTIPLIER_0: u32 = 0xD251_1F53;
/// The multiplier of counter words 2 and 3.
pub const MULTIPLIER_1: u32 = 0xCD9E_8D57;
/// What is added to key word 0 after each round (the golden ratio).
pub const WEYL_0: u32 = 0x9E37_79B9;
/// What is added to key word 1 after each round (√3 − 1).
pub const WEYL_1: u32 = 0xBB67_AE85;

/// Four random words from a counter and a key, in ten rounds.
///
/// ```
/// // The published known answer for zeros.
/// let block = multimix::sampler::philox::philox4x32_10([0; 4], [0; 2]);
/// assert_eq!(block, [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
/// ```
#[inline(always)]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let (low_0, high_0) = widening_mul(MULTIPLIER_0, c0);
        let (low_1, high_1) = widening_mul(MULTIPLIER_1, c2);
        (c0, c1, c2, c3) = (high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0);
        k0 = k0.wrapping_add(WEYL_0);
        k1 = k1.wrapping_add(WEYL_1);
    }
    [c0, c1, c2, c3]
}

#[inline(always)]
fn widening_mul(a: u32, b: u32) -> (u32, u32) {
    let product = a as u64 * b as u64;
    (product as u32, (product >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::philox4x32_10;

    /// The known-answer vectors published with Random123.
    #[test]
    fn known_answers() {
        let ones = [0xffff_ffff; 4];
        assert_eq!(philox4x32_10(ones, [0xffff_ffff; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        assert_eq!(
            philox4x32_10(pi, [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }
}
