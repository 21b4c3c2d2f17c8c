//! Which instruction computes what, by the type of the lanes: 128 bits of bytes, 256 of 16-bit numbers, 512 of 32-bit
//! numbers.

use super::vcode::Width;
use crate::kernel::{Binary, DType, Shift};
use iced_x86::Code;

/// The width of a block of these lanes.
pub(super) fn width(dtype: DType) -> Width {
    match dtype {
        DType::I8 | DType::U8 => Width::X,
        DType::I16 => Width::Y,
        DType::I32 | DType::I64 | DType::Dyadic => Width::Z,
    }
}

/// Picks by the size of the lanes.
fn by_size(dtype: DType, byte: Code, word: Code, double: Code) -> Code {
    match dtype {
        DType::I8 | DType::U8 => byte,
        DType::I16 => word,
        DType::I32 | DType::I64 | DType::Dyadic => double,
    }
}

pub(super) fn load(width: Width) -> Code {
    match width {
        Width::X => Code::EVEX_Vmovdqu32_xmm_k1z_xmmm128,
        Width::Y => Code::EVEX_Vmovdqu32_ymm_k1z_ymmm256,
        Width::Z | Width::Mask => Code::EVEX_Vmovdqu32_zmm_k1z_zmmm512,
    }
}

pub(super) fn store(width: Width) -> Code {
    match width {
        Width::X => Code::EVEX_Vmovdqu32_xmmm128_k1z_xmm,
        Width::Y => Code::EVEX_Vmovdqu32_ymmm256_k1z_ymm,
        Width::Z | Width::Mask => Code::EVEX_Vmovdqu32_zmmm512_k1z_zmm,
    }
}

/// Binary operations that have an instruction on these lanes.
pub(super) fn binary(op: Binary, dtype: DType) -> Option<Code> {
    let unsigned = dtype == DType::U8;
    let narrow = width(dtype) == Width::X;
    Some(match op {
        Binary::Add | Binary::Sub | Binary::Mul if narrow => return None,
        Binary::Div => return None,
        Binary::Add => by_size(
            dtype,
            Code::INVALID,
            Code::EVEX_Vpaddw_ymm_k1z_ymm_ymmm256,
            Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32,
        ),
        Binary::Sub => by_size(
            dtype,
            Code::INVALID,
            Code::EVEX_Vpsubw_ymm_k1z_ymm_ymmm256,
            Code::EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32,
        ),
        Binary::Mul => by_size(
            dtype,
            Code::INVALID,
            Code::EVEX_Vpmullw_ymm_k1z_ymm_ymmm256,
            Code::EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32,
        ),
        Binary::Min if unsigned => Code::EVEX_Vpminub_xmm_k1z_xmm_xmmm128,
        Binary::Min => by_size(
            dtype,
            Code::EVEX_Vpminsb_xmm_k1z_xmm_xmmm128,
            Code::EVEX_Vpminsw_ymm_k1z_ymm_ymmm256,
            Code::EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32,
        ),
        Binary::Max if unsigned => Code::EVEX_Vpmaxub_xmm_k1z_xmm_xmmm128,
        Binary::Max => by_size(
            dtype,
            Code::EVEX_Vpmaxsb_xmm_k1z_xmm_xmmm128,
            Code::EVEX_Vpmaxsw_ymm_k1z_ymm_ymmm256,
            Code::EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32,
        ),
        Binary::And => by_size(
            dtype,
            Code::EVEX_Vpandd_xmm_k1z_xmm_xmmm128b32,
            Code::EVEX_Vpandd_ymm_k1z_ymm_ymmm256b32,
            Code::EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32,
        ),
        Binary::Or => by_size(
            dtype,
            Code::EVEX_Vpord_xmm_k1z_xmm_xmmm128b32,
            Code::EVEX_Vpord_ymm_k1z_ymm_ymmm256b32,
            Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32,
        ),
        Binary::Xor => by_size(
            dtype,
            Code::EVEX_Vpxord_xmm_k1z_xmm_xmmm128b32,
            Code::EVEX_Vpxord_ymm_k1z_ymm_ymmm256b32,
            Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32,
        ),
    })
}

/// Binary operations on 32 numbers of 16 bits.
pub(super) fn binary_words(op: Binary) -> Option<Code> {
    match op {
        Binary::Add => Some(Code::EVEX_Vpaddw_zmm_k1z_zmm_zmmm512),
        Binary::Sub => Some(Code::EVEX_Vpsubw_zmm_k1z_zmm_zmmm512),
        Binary::Mul => Some(Code::EVEX_Vpmullw_zmm_k1z_zmm_zmmm512),
        Binary::Min => Some(Code::EVEX_Vpminsw_zmm_k1z_zmm_zmmm512),
        Binary::Max => Some(Code::EVEX_Vpmaxsw_zmm_k1z_zmm_zmmm512),
        _ => None,
    }
}

/// The same on masks.
pub(super) fn mask_binary(op: Binary) -> Option<Code> {
    match op {
        Binary::And => Some(Code::VEX_Kandw_kr_kr_kr),
        Binary::Or => Some(Code::VEX_Korw_kr_kr_kr),
        Binary::Xor => Some(Code::VEX_Kxorw_kr_kr_kr),
        _ => None,
    }
}

pub(super) fn abs(dtype: DType) -> Code {
    by_size(
        dtype,
        Code::EVEX_Vpabsb_xmm_k1z_xmmm128,
        Code::EVEX_Vpabsw_ymm_k1z_ymmm256,
        Code::EVEX_Vpabsd_zmm_k1z_zmmm512b32,
    )
}

/// Shifts by a constant; 16 and 32 bits.
pub(super) fn shift_by_constant(shift: Shift, dtype: DType) -> Code {
    let word = dtype == DType::I16;
    match shift {
        Shift::Left if word => Code::EVEX_Vpsllw_ymm_k1z_ymmm256_imm8,
        Shift::Left => Code::EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8,
        Shift::RightLogical if word => Code::EVEX_Vpsrlw_ymm_k1z_ymmm256_imm8,
        Shift::RightLogical => Code::EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8,
        Shift::Right | Shift::RightRound if word => Code::EVEX_Vpsraw_ymm_k1z_ymmm256_imm8,
        Shift::Right | Shift::RightRound => Code::EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8,
    }
}

/// Shifts of 32 numbers of 16 bits by a constant.
pub(super) fn shift_words(shift: Shift) -> Code {
    match shift {
        Shift::Left => Code::EVEX_Vpsllw_zmm_k1z_zmmm512_imm8,
        Shift::RightLogical => Code::EVEX_Vpsrlw_zmm_k1z_zmmm512_imm8,
        Shift::Right | Shift::RightRound => Code::EVEX_Vpsraw_zmm_k1z_zmmm512_imm8,
    }
}

/// Shifts by what each lane of another vector says; 16 and 32 bits. All its lanes must be the same, so that other vectors
/// can shift by one count.
pub(super) fn shift_by_lanes(shift: Shift, dtype: DType) -> Code {
    let word = dtype == DType::I16;
    match shift {
        Shift::Left if word => Code::EVEX_Vpsllvw_ymm_k1z_ymm_ymmm256,
        Shift::Left => Code::EVEX_Vpsllvd_zmm_k1z_zmm_zmmm512b32,
        Shift::RightLogical if word => Code::EVEX_Vpsrlvw_ymm_k1z_ymm_ymmm256,
        Shift::RightLogical => Code::EVEX_Vpsrlvd_zmm_k1z_zmm_zmmm512b32,
        Shift::Right | Shift::RightRound if word => Code::EVEX_Vpsravw_ymm_k1z_ymm_ymmm256,
        Shift::Right | Shift::RightRound => Code::EVEX_Vpsravd_zmm_k1z_zmm_zmmm512b32,
    }
}

/// Compares by an immediate: 0 equal, 1 less, 2 less or equal.
pub(super) fn compare(dtype: DType) -> Code {
    match dtype {
        DType::U8 => Code::EVEX_Vpcmpub_kr_k1_xmm_xmmm128_imm8,
        _ => by_size(
            dtype,
            Code::EVEX_Vpcmpb_kr_k1_xmm_xmmm128_imm8,
            Code::EVEX_Vpcmpw_kr_k1_ymm_ymmm256_imm8,
            Code::EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8,
        ),
    }
}

/// Lanes 0 or −1 of a mask.
pub(super) fn mask_to_lanes(dtype: DType) -> Code {
    by_size(dtype, Code::EVEX_Vpmovm2b_xmm_kr, Code::EVEX_Vpmovm2w_ymm_kr, Code::EVEX_Vpmovm2d_zmm_kr)
}

/// The mask of the lanes' signs.
pub(super) fn lanes_to_mask(dtype: DType) -> Code {
    by_size(dtype, Code::EVEX_Vpmovb2m_kr_xmm, Code::EVEX_Vpmovw2m_kr_ymm, Code::EVEX_Vpmovd2m_kr_zmm)
}

/// Copies the lanes of a mask.
pub(super) fn masked_copy(dtype: DType) -> Code {
    by_size(
        dtype,
        Code::EVEX_Vmovdqu8_xmm_k1z_xmmm128,
        Code::EVEX_Vmovdqu16_ymm_k1z_ymmm256,
        Code::EVEX_Vmovdqa32_zmm_k1z_zmmm512,
    )
}

/// By a mask the second operand, else the first.
pub(super) fn blend(dtype: DType) -> Code {
    by_size(
        dtype,
        Code::EVEX_Vpblendmb_xmm_k1z_xmm_xmmm128,
        Code::EVEX_Vpblendmw_ymm_k1z_ymm_ymmm256,
        Code::EVEX_Vpblendmd_zmm_k1z_zmm_zmmm512b32,
    )
}

/// One number of memory in all lanes.
pub(super) fn broadcast(dtype: DType) -> Code {
    by_size(
        dtype,
        Code::EVEX_Vpbroadcastb_xmm_k1z_xmmm8,
        Code::EVEX_Vpbroadcastw_ymm_k1z_xmmm16,
        Code::EVEX_Vpbroadcastd_zmm_k1z_xmmm32,
    )
}

/// Widens lanes, also from memory.
pub(super) fn widen(from: DType, to: DType) -> Option<Code> {
    Some(match (from, to) {
        (DType::I8, DType::I16) => Code::EVEX_Vpmovsxbw_ymm_k1z_xmmm128,
        (DType::U8, DType::I16) => Code::EVEX_Vpmovzxbw_ymm_k1z_xmmm128,
        (DType::I8, DType::I32) => Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128,
        (DType::U8, DType::I32) => Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128,
        (DType::I16, DType::I32) => Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256,
        _ => return None,
    })
}

/// Narrows lanes with saturation of signed numbers; to U8 the operand must not be negative.
pub(super) fn narrow(from: DType, to: DType) -> Option<Code> {
    Some(match (from, to) {
        (DType::I32, DType::I16) => Code::EVEX_Vpmovsdw_ymmm256_k1z_zmm,
        (DType::I32, DType::I8) => Code::EVEX_Vpmovsdb_xmmm128_k1z_zmm,
        (DType::I16, DType::I8) => Code::EVEX_Vpmovswb_xmmm128_k1z_ymm,
        (DType::I16, DType::U8) => Code::EVEX_Vpmovuswb_xmmm128_k1z_ymm,
        _ => return None,
    })
}
