//! Emission in vectors of 256 and 512 bits and in tiles, which Cranelift does not have: leaf functions made with iced-x86.
//!
//! A leaf is plain bytes that enter the same module as Cranelift's code. It follows the System V convention and calls
//! nothing. There are two kinds: contractions, which touch only registers that a call may change and keep their counters
//! in the red zone, and regions of lane code, which have a frame. Contractions in tiles find them configured, by a leaf of
//! its own that a kernel calls as rarely as it can, and another gives them back before it returns. Lane code is written
//! once, for 512 bits, and halved where vectors have 256. Which width and how many registers there are is data of the
//! target ([`Wide`](crate::targets::Wide)); results are those of every other emitter, bit for bit. The emitter knows
//! neither layers nor the host.

mod allocate;
mod asm;
mod codes;
mod contract;
mod crossing;
mod encode;
mod exprs;
mod flags;
mod forms;
mod narrow;
mod outside;
mod random;
mod region;
mod select;
mod shuffle;
mod sums;
mod tile;
mod tiles;
mod twin;
mod uses;
mod vcode;
mod vex;

pub(super) use contract::emit as contract;
pub(super) use region::{Around, Capture, region};
pub(super) use tiles::{Configuration, configure, release};

use super::emit_clif::Listing;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, IntelFormatter};

/// The text of a leaf. It has no CLIF. Behind the return there are only constants.
pub(super) fn listing(bytes: &[u8]) -> Listing {
    let mut formatter = IntelFormatter::new();
    let mut asm = String::new();
    for instruction in &mut Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE) {
        asm.push_str("  ");
        formatter.format(&instruction, &mut asm);
        asm.push('\n');
        if instruction.flow_control() == FlowControl::Return {
            break;
        }
    }
    Listing { clif: String::new(), asm }
}
