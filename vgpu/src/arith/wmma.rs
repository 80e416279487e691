//! `wmma.load`, `wmma.store`, `wmma.mma`: fragments whose layout the ISA leaves to the device.
//!
//! This device takes the layouts of `mma.sync`, tile by tile. The f16 operands of `m16n16k16` and `m32n8k16`
//! / `m8n32k16` have more registers than elements; the registers beyond hold copies.

use super::fragment::{Accumulator, Element, Shape};
use super::mma::Mma;

/// The matrix a fragment belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// A, m x k.
    A(Element),
    /// B, k x n.
    B(Element),
    /// C or D, m x n.
    C(Accumulator),
}

/// What `wmma.load` and `wmma.store` move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Shape of the product it is for.
    pub shape: Shape,
    /// Which matrix, of which type.
    pub operand: Operand,
}

impl Fragment {
    /// The fragment, if the ISA has a `wmma` of that shape and type.
    pub fn new(shape: Shape, operand: Operand) -> Option<Fragment> {
        let wide = matches!((shape.m, shape.n, shape.k), (16, 16, 16) | (8, 32, 16) | (32, 8, 16));
        let sizes = (shape.m, shape.n, shape.k);
        let valid = match operand {
            Operand::A(element) | Operand::B(element) => match element {
                Element::F16 | Element::Bf16 | Element::S8 | Element::U8 => wide,
                Element::Tf32 => sizes == (16, 16, 8),
                Element::F64 => sizes == (8, 8, 4),
                Element::S4 | Element::U4 => sizes == (8, 8, 32),
                Element::B1 => sizes == (8, 8, 128),
                Element::E4m3 | Element::E5m2 => false,
            },
            Operand::C(Accumulator::F16) => wide,
            Operand::C(Accumulator::F32) => wide || sizes == (16, 16, 8),
            Operand::C(Accumulator::F64) => sizes == (8, 8, 4),
            Operand::C(Accumulator::S32) => wide || sizes == (8, 8, 32) || sizes == (8, 8, 128),
        };
        valid.then_some(Fragment { shape, operand })
    }

    /// Registers in a lane.
    pub fn registers(self) -> usize {
        match self.operand {
            Operand::A(Element::F16) | Operand::B(Element::F16) => 8,
            _ => self.distinct_registers(),
        }
    }

    fn distinct_registers(self) -> usize {
        match self.operand {
            Operand::A(element) => self.shape.a_registers(element),
            Operand::B(element) => self.shape.b_registers(element),
            Operand::C(accumulator) => self.shape.c_registers(accumulator),
        }
    }

    /// Bits of one element.
    pub fn element_bits(self) -> usize {
        match self.operand {
            Operand::A(element) | Operand::B(element) => element.bits(),
            Operand::C(accumulator) => accumulator.bits(),
        }
    }

    /// Elements in a register.
    pub fn per_register(self) -> usize {
        match self.operand {
            Operand::A(element) | Operand::B(element) => element.per_register(),
            Operand::C(accumulator) => accumulator.per_register(),
        }
    }

    /// Row and column of an element: `place` counts up from the low bits of the register.
    pub fn position(self, lane: usize, register: usize, place: usize) -> (usize, usize) {
        let i = register % self.distinct_registers() * self.per_register() + place;
        match self.operand {
            Operand::A(element) => self.shape.a_position(element, lane, i),
            Operand::B(element) => self.shape.b_position(element, lane, i),
            Operand::C(_) => self.shape.c_position(lane, i),
        }
    }

    /// Offset in elements from the matrix's address, for `.row` (or `.col`: `column_major`) and a stride in
    /// elements between rows (columns).
    pub fn offset(self, lane: usize, register: usize, place: usize, column_major: bool, stride: u64) -> u64 {
        let (row, column) = self.position(lane, register, place);
        let (major, minor) = if column_major { (column, row) } else { (row, column) };
        major as u64 * stride + minor as u64
    }

    /// Elements between rows (columns, if `column_major`) of a matrix without gaps: the default stride.
    pub fn default_stride(self, column_major: bool) -> u64 {
        let (rows, columns) = match self.operand {
            Operand::A(_) => (self.shape.m, self.shape.k),
            Operand::B(_) => (self.shape.k, self.shape.n),
            Operand::C(_) => (self.shape.m, self.shape.n),
        };
        (if column_major { rows } else { columns }) as u64
    }
}

/// The `wmma.mma` of those types, if the ISA has it. Execute it with the first registers of each fragment:
/// the copies beyond do not count.
pub fn product(shape: Shape, a: Element, b: Element, c: Accumulator, d: Accumulator) -> Option<Mma> {
    let fragments = [Operand::A(a), Operand::B(b), Operand::C(c), Operand::C(d)];
    let fits = fragments.into_iter().all(|operand| Fragment::new(shape, operand).is_some());
    let signless = |element| match element {
        Element::U8 => Element::S8,
        Element::U4 => Element::S4,
        other => other,
    };
    let accumulates = match a {
        Element::F16 => {
            matches!((c, d), (Accumulator::F16 | Accumulator::F32, Accumulator::F16 | Accumulator::F32))
        }
        Element::Bf16 | Element::Tf32 => (c, d) == (Accumulator::F32, Accumulator::F32),
        Element::F64 => (c, d) == (Accumulator::F64, Accumulator::F64),
        _ => (c, d) == (Accumulator::S32, Accumulator::S32),
    };
    (fits && accumulates && signless(a) == signless(b)).then(|| Mma::unchecked(shape, a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_counts_of_the_isa() {
        let count = |m, n, k, operand| Fragment::new(Shape { m, n, k }, operand).map(Fragment::registers);
        use Element::{B1, Bf16, F16, S4, S8, Tf32, U8};
        for (m, n, bf16_a, bf16_b, s8_a, s8_b) in
            [(16, 16, 4, 4, 2, 2), (8, 32, 2, 8, 1, 4), (32, 8, 8, 2, 4, 1)]
        {
            assert_eq!(count(m, n, 16, Operand::A(F16)), Some(8));
            assert_eq!(count(m, n, 16, Operand::B(F16)), Some(8));
            assert_eq!(count(m, n, 16, Operand::A(Bf16)), Some(bf16_a));
            assert_eq!(count(m, n, 16, Operand::B(Bf16)), Some(bf16_b));
            assert_eq!(count(m, n, 16, Operand::A(S8)), Some(s8_a));
            assert_eq!(count(m, n, 16, Operand::B(U8)), Some(s8_b));
            assert_eq!(count(m, n, 16, Operand::C(Accumulator::F16)), Some(4));
            assert_eq!(count(m, n, 16, Operand::C(Accumulator::F32)), Some(8));
            assert_eq!(count(m, n, 16, Operand::C(Accumulator::S32)), Some(8));
        }
        assert_eq!(count(16, 16, 8, Operand::A(Tf32)), Some(4));
        assert_eq!(count(16, 16, 8, Operand::C(Accumulator::F32)), Some(8));
        assert_eq!(count(8, 8, 4, Operand::A(Element::F64)), Some(1));
        assert_eq!(count(8, 8, 4, Operand::C(Accumulator::F64)), Some(2));
        assert_eq!(count(8, 8, 32, Operand::B(S4)), Some(1));
        assert_eq!(count(8, 8, 128, Operand::A(B1)), Some(1));
        assert_eq!(count(8, 8, 128, Operand::C(Accumulator::S32)), Some(2));
        assert_eq!(count(16, 8, 16, Operand::A(F16)), None);
    }

    #[test]
    fn offsets_follow_the_memory_layout() {
        let shape = Shape { m: 16, n: 16, k: 16 };
        let b = Fragment::new(shape, Operand::B(Element::F16)).unwrap();
        // Lane 5: group 1, place 1; its first element is row 2 of column 1.
        assert_eq!(b.position(5, 0, 0), (2, 1));
        assert_eq!((b.offset(5, 0, 0, false, 40), b.offset(5, 0, 0, true, 40)), (81, 42));
        assert_eq!(b.position(5, 7, 1), (2 + 8 + 1, 1 + 8), "four distinct registers, then copies");
        assert_eq!(b.position(5, 3, 0), b.position(5, 7, 0));
        assert_eq!((b.default_stride(false), b.default_stride(true)), (16, 16));
    }

    #[test]
    fn mixed_products_are_refused() {
        let shape = Shape { m: 16, n: 16, k: 16 };
        use Accumulator::{F16 as H, F32, S32};
        assert!(product(shape, Element::F16, Element::F16, H, F32).is_some());
        assert!(product(shape, Element::S8, Element::U8, S32, S32).is_some());
        assert!(product(shape, Element::F16, Element::Bf16, F32, F32).is_none());
        assert!(product(shape, Element::Bf16, Element::Bf16, H, F32).is_none());
        assert!(product(shape, Element::S8, Element::S8, F32, F32).is_none());
    }
}
