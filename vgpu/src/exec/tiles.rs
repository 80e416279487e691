//! Matrix instructions: products, and the movement of tiles and fragments.

use super::access::{addresses, by_space};
use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::global::{self, Part, check_alignment};
use super::lanes::{LANES, Row, Rows};
use super::race::Kind;
use super::warp::{Warp, read_row, write_row};
use crate::arith::fragment::Element;
use crate::arith::matrix::row_element;
use crate::fault::FaultKind;
use crate::program::code::{FragmentAccess, Matrix, Space, TileAccess};

/// Bytes of a tile's row.
const ROW_BYTES: u32 = 16;

impl BlockState<'_> {
    /// Matrix instructions need all 32 lanes at once.
    pub(crate) fn whole_warp(&self, warp: &Warp, active: u32) -> Step<()> {
        if active == u32::MAX || !self.launch.spec.settings.checks.collectives {
            return Ok(());
        }
        let message = format!("matrix instruction executed by {} of 32 lanes", active.count_ones());
        Err(Finding::new(FaultKind::Collective, message).lanes(warp.index, active))
    }

    pub(crate) fn matrix(&mut self, warp: &Warp, rows: Rows, matrix: &Matrix, active: u32) -> Step<()> {
        self.whole_warp(warp, active)?;
        if matrix.mma.a == Element::F64 {
            let gather = |list: &[Row]| {
                // SAFETY: the decoder gives 64-bit rows for f64 products.
                list.iter().map(|&row| unsafe { rows.load(row) }).collect::<Vec<[u64; LANES]>>()
            };
            let mut d = gather(&matrix.d);
            matrix.mma.execute_f64(&gather(&matrix.a), &gather(&matrix.b), &gather(&matrix.c), &mut d);
            for (&row, values) in matrix.d.iter().zip(d) {
                // SAFETY: as above.
                unsafe { rows.store(row, values) };
            }
            return Ok(());
        }
        // At most 16 registers per operand: the stack is cheaper than the heap here.
        let gather = |list: &[Row]| {
            let mut all = [[0; LANES]; 16];
            for (values, &row) in all.iter_mut().zip(list) {
                *values = read_row(rows, row);
            }
            all
        };
        let mut d = [[0; LANES]; 16];
        let (a, b, c) = (gather(&matrix.a), gather(&matrix.b), gather(&matrix.c));
        let (a, b, c) = (&a[..matrix.a.len()], &b[..matrix.b.len()], &c[..matrix.c.len()]);
        matrix.mma.execute(a, b, c, &mut d);
        for (&row, values) in matrix.d.iter().zip(&d) {
            write_row(rows, row, active, values);
        }
        Ok(())
    }

    /// `ldmatrix` and `stmatrix`: lanes 8i to 8i + 7 give the rows of tile i.
    pub(crate) fn tiles(
        &mut self,
        warp: &mut Warp,
        frame: u32,
        rows: Rows,
        tiles: &TileAccess,
        active: u32,
    ) -> Step<()> {
        self.whole_warp(warp, active)?;
        let addresses = addresses(warp, frame, rows, tiles.base, tiles.offset);
        let givers = (u64::from(u32::MAX) >> (32 - 8 * tiles.rows.len())) as u32;
        by_space(tiles.space, &addresses, givers, |space, addresses, lanes| {
            if space != Space::Shared || lanes != givers {
                let message = "row addresses of a tile are not in shared memory";
                return Err(Finding::new(FaultKind::IllegalAddress, message)
                    .lanes(warp.index, givers & !lanes | lanes));
            }
            self.check_shared(warp.index, addresses, givers, ROW_BYTES)?;
            if tiles.store {
                self.store_tiles(warp.index, rows, tiles, addresses)
            } else {
                self.load_tiles(warp.index, rows, tiles, addresses)
            }
        })
    }

    fn load_tiles(
        &mut self,
        warp: u32,
        rows: Rows,
        tiles: &TileAccess,
        addresses: &[u64; LANES],
    ) -> Step<()> {
        for tile in 0..tiles.rows.len() {
            self.counts.shared_loads.count_tile(addresses, tile, tile == 0);
        }
        // Rows are read for all lanes; the lane that gives the address answers for it.
        for (lane, &address) in addresses[..8 * tiles.rows.len()].iter().enumerate() {
            self.note_shared_read(warp, lane as u32, address as u32, ROW_BYTES, false)?;
        }
        for (tile, &row) in tiles.rows.iter().enumerate() {
            let values = std::array::from_fn(|lane| {
                let half = |half| {
                    let element = row_element(tile, lane, half, tiles.transposed);
                    self.shared.get(addresses[element.lane] as u32 + element.offset as u32, 2) as u32
                };
                half(0) | half(1) << 16
            });
            write_row(rows, row, u32::MAX, &values);
        }
        Ok(())
    }

    fn store_tiles(
        &mut self,
        warp: u32,
        rows: Rows,
        tiles: &TileAccess,
        addresses: &[u64; LANES],
    ) -> Step<()> {
        for tile in 0..tiles.rows.len() {
            self.counts.shared_stores.count_tile(addresses, tile, tile == 0);
        }
        for (lane, &address) in addresses[..8 * tiles.rows.len()].iter().enumerate() {
            let at = address as u32;
            self.note_shared_write(warp, lane as u32, at, ROW_BYTES, (false, false))?;
        }
        for (tile, &row) in tiles.rows.iter().enumerate() {
            let values = read_row(rows, row);
            for (lane, value) in values.into_iter().enumerate() {
                for half in 0..2 {
                    let element = row_element(tile, lane, half, tiles.transposed);
                    let at = addresses[element.lane] as u32 + element.offset as u32;
                    self.shared.set(at, 2, u64::from(value >> (16 * half) & 0xffff));
                }
            }
        }
        Ok(())
    }

    /// `wmma.load` and `wmma.store`, an access per lane and element or word of elements.
    pub(crate) fn fragment(
        &mut self,
        warp: &mut Warp,
        frame: u32,
        rows: Rows,
        access: &FragmentAccess,
        active: u32,
    ) -> Step<()> {
        self.whole_warp(warp, active)?;
        let bases = addresses(warp, frame, rows, access.base, access.offset);
        let fragment = access.fragment;
        let strides = access.stride.map(|row| read_row(rows, row));
        let bits = fragment.element_bits();
        let (unit, per_unit) = if bits < 8 { (1, 8 / bits) } else { (bits as u32 / 8, 1) };
        for (register, &row) in access.values.iter().enumerate() {
            let mut values = self.wide_row(rows, row, bits == 64);
            for place in (0..fragment.per_register()).step_by(per_unit) {
                let at: [u64; LANES] = std::array::from_fn(|lane| {
                    let stride =
                        strides.map_or(fragment.default_stride(access.column_major), |s| s[lane].into());
                    let offset = fragment.offset(lane, register, place, access.column_major, stride);
                    bases[lane].wrapping_add(offset * bits as u64 / 8)
                });
                let shift = place * bits;
                self.fragment_element(warp, access, &at, unit, shift as u32, &mut values)?;
            }
            if !access.store {
                self.set_wide_row(rows, row, bits == 64, &values);
            }
        }
        Ok(())
    }

    fn wide_row(&self, rows: Rows, row: Row, wide: bool) -> [u64; LANES] {
        // SAFETY: the decoder gives 64-bit rows for 64-bit elements.
        if wide { unsafe { rows.load(row) } } else { read_row(rows, row).map(u64::from) }
    }

    fn set_wide_row(&self, rows: Rows, row: Row, wide: bool, values: &[u64; LANES]) {
        if wide {
            // SAFETY: as in `wide_row`.
            unsafe { rows.store(row, *values) }
        } else {
            write_row(rows, row, u32::MAX, &values.map(|value| value as u32));
        }
    }

    fn fragment_element(
        &mut self,
        warp: &Warp,
        access: &FragmentAccess,
        addresses: &[u64; LANES],
        unit: u32,
        shift: u32,
        values: &mut [u64; LANES],
    ) -> Step<()> {
        let mask = u64::MAX >> (64 - unit * 8);
        by_space(access.space, addresses, u32::MAX, |space, addresses, lanes| match space {
            Space::Shared => {
                self.check_shared(warp.index, addresses, lanes, unit)?;
                for lane in lanes_of(lanes) {
                    let at = addresses[lane] as u32;
                    if access.store {
                        let value = values[lane] >> shift & mask;
                        let same = self.shared.get(at, unit) == value;
                        self.note_shared_write(warp.index, lane as u32, at, unit, (false, same))?;
                        self.shared.set(at, unit, value);
                    } else {
                        self.note_shared_read(warp.index, lane as u32, at, unit, false)?;
                        values[lane] = values[lane] & !(mask << shift) | self.shared.get(at, unit) << shift;
                    }
                }
                Ok(())
            }
            Space::Global | Space::Generic => {
                self.fragment_global(warp.index, access, addresses, lanes, unit, shift, values)
            }
            _ => Err(Finding::new(FaultKind::IllegalAddress, "wmma access outside global and shared memory")
                .lanes(warp.index, lanes)),
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn fragment_global(
        &mut self,
        warp: u32,
        access: &FragmentAccess,
        addresses: &[u64; LANES],
        lanes: u32,
        unit: u32,
        shift: u32,
        values: &mut [u64; LANES],
    ) -> Step<()> {
        let mask = u64::MAX >> (64 - unit * 8);
        check_alignment(warp, addresses, lanes, unit)?;
        let traffic =
            if access.store { &mut self.counts.global_stores } else { &mut self.counts.global_loads };
        global::count(traffic, addresses, lanes, unit);
        self.global_parts(warp, addresses, lanes, unit, |part| {
            if !access.store {
                self.check_global_load(warp, &part, addresses, unit, false)?;
            }
            let Part { arena, lanes } = part;
            let accessor = self.accessor(warp, false);
            for lane in lanes_of(lanes) {
                let offset = arena.offset(addresses[lane]);
                if access.store {
                    let value = values[lane] >> shift & mask;
                    let kind = Kind::Write { same: global::read(arena, offset, unit) == value };
                    self.note_global_store(&accessor, arena, offset, unit, lane as u32, kind)?;
                    global::write(arena, offset, unit, value);
                } else {
                    values[lane] =
                        values[lane] & !(mask << shift) | global::read(arena, offset, unit) << shift;
                }
            }
            Ok(())
        })
    }
}
