//! Matrix instructions.

use super::*;

impl<'m> Decoder<'_, 'm> {
    pub(super) fn matrix(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        Err(unsupported(i))
    }
}
