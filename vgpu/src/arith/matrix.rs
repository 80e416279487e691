//! `ldmatrix`, `stmatrix`, `movmatrix`: 8 x 8 matrices of 16-bit elements between rows in memory and
//! fragments.

/// Where an element of a fragment register stands in memory: `lane` is the one whose address operand names
/// the row, `offset` counts bytes from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowElement {
    /// Lane that gives the row's address.
    pub lane: usize,
    /// Byte offset in the 16-byte row.
    pub offset: usize,
}

/// For register `register` (the number of the matrix) of `lane`, its lower (`half` 0) or upper (1) element.
///
/// Rows of matrix i come from lanes 8i to 8i + 7. Lane l holds columns 2(l % 4) and one up of row l / 4; with
/// `.trans`, of the transposed matrix. The same map serves `ldmatrix` and `stmatrix`.
#[inline(always)]
pub const fn row_element(register: usize, lane: usize, half: usize, trans: bool) -> RowElement {
    let (across, along) = (lane / 4, 2 * (lane % 4) + half);
    let (row, column) = if trans { (along, across) } else { (across, along) };
    RowElement { lane: 8 * register + row, offset: 2 * column }
}

/// `movmatrix.trans`: transposes the 8 x 8 matrix that a register holds over the warp.
pub fn transpose(a: &[u32; 32]) -> [u32; 32] {
    std::array::from_fn(|lane| {
        let element = |half: usize| {
            // Element (row, column) of the result is (column, row) of the source.
            let (row, column) = (lane / 4, 2 * (lane % 4) + half);
            a[4 * column + row / 2] >> (16 * (row % 2)) & 0xffff
        };
        element(0) | element(1) << 16
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_spread_over_quads() {
        assert_eq!(row_element(0, 0, 0, false), RowElement { lane: 0, offset: 0 });
        assert_eq!(row_element(0, 5, 1, false), RowElement { lane: 1, offset: 6 });
        assert_eq!(row_element(3, 31, 1, false), RowElement { lane: 31, offset: 14 });
        assert_eq!(row_element(1, 5, 1, true), RowElement { lane: 8 + 3, offset: 2 });
    }

    /// Loading with `.trans` is loading without and transposing the register.
    #[test]
    fn transposed_loads_and_movmatrix_agree() {
        let memory = |row: usize, offset: usize| (row * 8 + offset / 2) as u32 + 100;
        let load = |trans| -> [u32; 32] {
            std::array::from_fn(|lane| {
                let [low, high] = [0, 1].map(|half| row_element(0, lane, half, trans));
                memory(low.lane, low.offset) | memory(high.lane, high.offset) << 16
            })
        };
        assert_eq!(transpose(&load(false)), load(true));
        assert_eq!(transpose(&load(true)), load(false));
        assert_eq!(load(true)[0], 100 | 108 << 16, "column 0, rows 0 and 1");
    }
}
