//! Matrix products by the `gemm` crate, with their bounds checked.

/// A matrix in a slice: element (row, column) lies at row · `row_stride` + column · `column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<T> {
    pub values: T,
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<T> Matrix<T> {
    /// Rows one after another, `stride` apart.
    pub(crate) fn rows(values: T, rows: usize, columns: usize, stride: usize) -> Self {
        Self { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The transpose, of the same memory.
    pub(crate) fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn reach(&self) -> usize {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride + 1
    }
}

/// Whether a product replaces what is there or adds to it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Write {
    Replace,
    Add,
}

/// out = left · right, or out += left · right, on this thread.
pub(crate) fn matmul(out: Matrix<&mut [f32]>, write: Write, left: Matrix<&[f32]>, right: Matrix<&[f32]>) {
    assert!(out.reach() <= out.values.len(), "a product past its output");
    assert!(
        left.reach() <= left.values.len() && right.reach() <= right.values.len(),
        "a product past its operands"
    );
    assert!(
        out.rows == left.rows && left.columns == right.rows && right.columns == out.columns,
        "unequal sizes"
    );
    // SAFETY: every element of the three matrices lies in its slice, and the output is borrowed exclusively.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            left.columns,
            out.values.as_mut_ptr(),
            out.column_stride as isize,
            out.row_stride as isize,
            write == Write::Add,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
