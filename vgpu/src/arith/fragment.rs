//! Fragment layouts: which lane, register and position holds which element of a warp's matrices.
//!
//! All shapes of `mma.sync` but the f16 `m8n8k4` follow one pattern. Lane `l` has a group `g = l / 4` and a
//! place `t = l % 4` in it. A register of A or B holds `p` elements that are neighbours along k; the four
//! lanes of a group make a run of `4p`, a k-block. A has a register per k-block for rows `g`, and one for
//! rows `g + 8`; B one per k-block for column `g`. C and D hold columns `2t` and `2t + 1` of rows `g`, then
//! of rows `g + 8`. Larger matrices (`wmma`) are tiles of 16 rows and 8 columns of that pattern.

/// Element type of A and B.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
    /// `.tf32`: an f32 register whose low 13 bits do not count.
    Tf32,
    /// `.e4m3`
    E4m3,
    /// `.e5m2`
    E5m2,
    /// `.f64`, in 64-bit registers.
    F64,
    /// `.s8`
    S8,
    /// `.u8`
    U8,
    /// `.s4`
    S4,
    /// `.u4`
    U4,
    /// `.b1`
    B1,
}

impl Element {
    /// The type of a PTX modifier (without the dot).
    pub fn parse(name: &str) -> Option<Element> {
        Some(match name {
            "f16" => Element::F16,
            "bf16" => Element::Bf16,
            "tf32" => Element::Tf32,
            "e4m3" => Element::E4m3,
            "e5m2" => Element::E5m2,
            "f64" => Element::F64,
            "s8" => Element::S8,
            "u8" => Element::U8,
            "s4" => Element::S4,
            "u4" => Element::U4,
            "b1" => Element::B1,
            _ => return None,
        })
    }

    /// Bits of one element in a register, and in memory.
    pub const fn bits(self) -> usize {
        match self {
            Element::F64 => 64,
            Element::Tf32 => 32,
            Element::F16 | Element::Bf16 => 16,
            Element::E4m3 | Element::E5m2 | Element::S8 | Element::U8 => 8,
            Element::S4 | Element::U4 => 4,
            Element::B1 => 1,
        }
    }

    /// Elements in one register.
    pub const fn per_register(self) -> usize {
        if self.bits() >= 32 { 1 } else { 32 / self.bits() }
    }
}

/// Element type of C and D.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accumulator {
    /// `.f16`, two in a register.
    F16,
    /// `.f32`
    F32,
    /// `.s32`
    S32,
    /// `.f64`, in 64-bit registers.
    F64,
}

impl Accumulator {
    /// The type of a PTX modifier (without the dot).
    pub fn parse(name: &str) -> Option<Accumulator> {
        Some(match name {
            "f16" => Accumulator::F16,
            "f32" => Accumulator::F32,
            "s32" => Accumulator::S32,
            "f64" => Accumulator::F64,
            _ => return None,
        })
    }

    /// Elements in one register.
    pub const fn per_register(self) -> usize {
        if matches!(self, Accumulator::F16) { 2 } else { 1 }
    }

    /// Bits of one element.
    pub const fn bits(self) -> usize {
        match self {
            Accumulator::F16 => 16,
            Accumulator::F32 | Accumulator::S32 => 32,
            Accumulator::F64 => 64,
        }
    }
}

/// Sizes of a matrix product: A is m x k, B is k x n.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Rows of A, C, D.
    pub m: usize,
    /// Columns of B, C, D.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
}

impl Shape {
    /// The shape of a PTX modifier such as `m16n8k16`.
    pub fn parse(name: &str) -> Option<Shape> {
        let (m, rest) = name.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some(Shape { m: m.parse().ok()?, n: n.parse().ok()?, k: k.parse().ok()? })
    }

    /// k-blocks that one row of A spans.
    const fn blocks(self, per_register: usize) -> usize {
        self.k / (4 * per_register)
    }

    /// Registers of A in a lane.
    pub const fn a_registers(self, element: Element) -> usize {
        self.m / 8 * self.blocks(element.per_register())
    }

    /// Registers of B in a lane.
    pub const fn b_registers(self, element: Element) -> usize {
        self.n / 8 * self.blocks(element.per_register())
    }

    /// Registers of C or D in a lane.
    pub const fn c_registers(self, accumulator: Accumulator) -> usize {
        self.m * self.n / 32 / accumulator.per_register()
    }

    /// Row and column in A of the `i`-th element (register · elements per register + place) of a lane.
    pub const fn a_position(self, element: Element, lane: usize, i: usize) -> (usize, usize) {
        let p = element.per_register();
        let (register, place) = (i / p, i % p);
        let (half, block) = if self.m == 8 { (0, register) } else { (register & 1, register / 2) };
        let (tile, block) = (block / self.blocks(p), block % self.blocks(p));
        (16 * tile + 8 * half + lane / 4, (4 * block + lane % 4) * p + place)
    }

    /// Row and column in B of the `i`-th element of a lane.
    pub const fn b_position(self, element: Element, lane: usize, i: usize) -> (usize, usize) {
        let p = element.per_register();
        let (register, place) = (i / p, i % p);
        let (tile, block) = (register / self.blocks(p), register % self.blocks(p));
        ((4 * block + lane % 4) * p + place, 8 * tile + lane / 4)
    }

    /// Row and column in C or D of the `i`-th element of a lane.
    pub const fn c_position(self, lane: usize, i: usize) -> (usize, usize) {
        let per_tile = if self.m == 8 { 2 } else { 4 };
        let (tile, place) = (i / per_tile, i % per_tile);
        let (row_tile, column_tile) = (tile / (self.n / 8), tile % (self.n / 8));
        (16 * row_tile + 8 * (place / 2) + lane / 4, 8 * column_tile + 2 * (lane % 4) + place % 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [(usize, usize, usize, Element); 21] = [
        (16, 8, 8, Element::F16),
        (16, 8, 16, Element::F16),
        (16, 8, 16, Element::Bf16),
        (16, 8, 4, Element::Tf32),
        (16, 8, 8, Element::Tf32),
        (16, 8, 32, Element::E4m3),
        (8, 8, 4, Element::F64),
        (16, 8, 4, Element::F64),
        (16, 8, 16, Element::F64),
        (8, 8, 16, Element::S8),
        (16, 8, 16, Element::S8),
        (16, 8, 32, Element::U8),
        (8, 8, 32, Element::S4),
        (16, 8, 64, Element::U4),
        (8, 8, 128, Element::B1),
        (16, 8, 256, Element::B1),
        (16, 16, 16, Element::F16),
        (8, 32, 16, Element::F16),
        (32, 8, 16, Element::Bf16),
        (16, 16, 8, Element::Tf32),
        (32, 8, 16, Element::S8),
    ];

    /// Every element of every matrix is held exactly once.
    #[test]
    fn layouts_are_bijections() {
        for (m, n, k, element) in SHAPES {
            let shape = Shape { m, n, k };
            let per = element.per_register();
            type Position<'a> = &'a dyn Fn(usize, usize) -> (usize, usize);
            let cases: [(usize, usize, usize, Position); 3] = [
                (m, k, shape.a_registers(element) * per, &|lane, i| shape.a_position(element, lane, i)),
                (k, n, shape.b_registers(element) * per, &|lane, i| shape.b_position(element, lane, i)),
                (m, n, shape.c_registers(Accumulator::F32), &|lane, i| shape.c_position(lane, i)),
            ];
            for (rows, columns, count, position) in cases {
                let mut seen = vec![false; rows * columns];
                for lane in 0..32 {
                    for i in 0..count {
                        let (row, column) = position(lane, i);
                        assert!(row < rows && column < columns, "{shape:?} {element:?}");
                        assert!(!std::mem::replace(&mut seen[row * columns + column], true));
                    }
                }
                assert!(seen.into_iter().all(|s| s), "{shape:?} {element:?}");
            }
        }
    }

    /// The formulas of the ISA's fragment sections, written out.
    #[test]
    fn formulas_of_the_isa() {
        for lane in 0..32 {
            let (group, thread) = (lane >> 2, lane % 4);
            let m16n8k16 = Shape { m: 16, n: 8, k: 16 };
            for i in 0..8 {
                let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
                let column = thread * 2 + (i & 1) + if i < 4 { 0 } else { 8 };
                assert_eq!(m16n8k16.a_position(Element::F16, lane, i), (row, column));
                let (row, column) = (if i % 2 == 0 { group } else { group + 8 }, thread + i / 2 * 4);
                assert_eq!(m16n8k16.a_position(Element::F64, lane, i), (row, column));
                let (row, column) = (if i < 4 { group } else { group + 8 }, thread * 4 + (i & 3));
                assert_eq!(m16n8k16.a_position(Element::S8, lane, i), (row, column));
            }
            for i in 0..4 {
                let row = thread * 2 + (i & 1) + if i < 2 { 0 } else { 8 };
                assert_eq!(m16n8k16.b_position(Element::F16, lane, i), (row, group));
                assert_eq!(m16n8k16.c_position(lane, i), (group + i / 2 * 8, thread * 2 + (i & 1)));
                let m16n8k8 = Shape { k: 8, ..m16n8k16 };
                let (row, column) = (group + i % 2 * 8, thread + i / 2 * 4);
                assert_eq!(m16n8k8.a_position(Element::Tf32, lane, i), (row, column));
            }
            let m16n8k32 = Shape { k: 32, ..m16n8k16 };
            for i in 0..16 {
                let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
                let column = thread * 4 + (i & 3) + if i < 8 { 0 } else { 16 };
                assert_eq!(m16n8k32.a_position(Element::U8, lane, i), (row, column));
            }
            for i in 0..8 {
                let row = thread * 4 + (i & 3) + if i < 4 { 0 } else { 16 };
                assert_eq!(m16n8k32.b_position(Element::E5m2, lane, i), (row, group));
            }
            let m16n8k64 = Shape { k: 64, ..m16n8k16 };
            for i in 0..32 {
                let row = if i < 8 || (16..24).contains(&i) { group } else { group + 8 };
                let column = thread * 8 + (i & 7) + if i < 16 { 0 } else { 32 };
                assert_eq!(m16n8k64.a_position(Element::S4, lane, i), (row, column));
            }
        }
    }

    #[test]
    fn shapes_parse() {
        assert_eq!(Shape::parse("m16n8k256"), Some(Shape { m: 16, n: 8, k: 256 }));
        assert_eq!(Shape::parse("m8n8"), None);
        assert_eq!(Shape::parse("mxnxk"), None);
    }
}
