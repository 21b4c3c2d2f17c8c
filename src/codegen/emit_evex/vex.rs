//! What AVX2 has for the instructions of 512-bit code: the same operation on a half, or with other operands. What has
//! no such form `narrow` writes in several instructions.

use iced_x86::Code;

/// Every lane from the same lane of the operands. Vectors of 512 bits become halves; shorter ones keep their width.
const HALVES: &[(Code, Code)] = &[
    (Code::EVEX_Vmovdqu32_xmm_k1z_xmmm128, Code::VEX_Vmovdqu_xmm_xmmm128),
    (Code::EVEX_Vmovdqu32_ymm_k1z_ymmm256, Code::VEX_Vmovdqu_ymm_ymmm256),
    (Code::EVEX_Vmovdqu32_zmm_k1z_zmmm512, Code::VEX_Vmovdqu_ymm_ymmm256),
    (Code::EVEX_Vmovdqu32_xmmm128_k1z_xmm, Code::VEX_Vmovdqu_xmmm128_xmm),
    (Code::EVEX_Vmovdqu32_ymmm256_k1z_ymm, Code::VEX_Vmovdqu_ymmm256_ymm),
    (Code::EVEX_Vmovdqu32_zmmm512_k1z_zmm, Code::VEX_Vmovdqu_ymmm256_ymm),
    (Code::EVEX_Vpabsb_xmm_k1z_xmmm128, Code::VEX_Vpabsb_xmm_xmmm128),
    (Code::EVEX_Vpabsw_ymm_k1z_ymmm256, Code::VEX_Vpabsw_ymm_ymmm256),
    (Code::EVEX_Vpabsd_zmm_k1z_zmmm512b32, Code::VEX_Vpabsd_ymm_ymmm256),
    (Code::EVEX_Vpaddw_ymm_k1z_ymm_ymmm256, Code::VEX_Vpaddw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpaddw_zmm_k1z_zmm_zmmm512, Code::VEX_Vpaddw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpaddd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpaddq_zmm_k1z_zmm_zmmm512b64, Code::VEX_Vpaddq_ymm_ymm_ymmm256),
    (Code::EVEX_Vpsubw_ymm_k1z_ymm_ymmm256, Code::VEX_Vpsubw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpsubw_zmm_k1z_zmm_zmmm512, Code::VEX_Vpsubw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpsubd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpmullw_ymm_k1z_ymm_ymmm256, Code::VEX_Vpmullw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpmullw_zmm_k1z_zmm_zmmm512, Code::VEX_Vpmullw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpmulld_ymm_ymm_ymmm256),
    (Code::EVEX_Vpmaddwd_zmm_k1z_zmm_zmmm512, Code::VEX_Vpmaddwd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpdpwssd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpdpwssd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpminsb_xmm_k1z_xmm_xmmm128, Code::VEX_Vpminsb_xmm_xmm_xmmm128),
    (Code::EVEX_Vpminub_xmm_k1z_xmm_xmmm128, Code::VEX_Vpminub_xmm_xmm_xmmm128),
    (Code::EVEX_Vpminsw_ymm_k1z_ymm_ymmm256, Code::VEX_Vpminsw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpminsw_zmm_k1z_zmm_zmmm512, Code::VEX_Vpminsw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpminsd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpmaxsb_xmm_k1z_xmm_xmmm128, Code::VEX_Vpmaxsb_xmm_xmm_xmmm128),
    (Code::EVEX_Vpmaxub_xmm_k1z_xmm_xmmm128, Code::VEX_Vpmaxub_xmm_xmm_xmmm128),
    (Code::EVEX_Vpmaxsw_ymm_k1z_ymm_ymmm256, Code::VEX_Vpmaxsw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpmaxsw_zmm_k1z_zmm_zmmm512, Code::VEX_Vpmaxsw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpmaxsd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpandd_xmm_k1z_xmm_xmmm128b32, Code::VEX_Vpand_xmm_xmm_xmmm128),
    (Code::EVEX_Vpandd_ymm_k1z_ymm_ymmm256b32, Code::VEX_Vpand_ymm_ymm_ymmm256),
    (Code::EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpand_ymm_ymm_ymmm256),
    (Code::EVEX_Vpord_xmm_k1z_xmm_xmmm128b32, Code::VEX_Vpor_xmm_xmm_xmmm128),
    (Code::EVEX_Vpord_ymm_k1z_ymm_ymmm256b32, Code::VEX_Vpor_ymm_ymm_ymmm256),
    (Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpor_ymm_ymm_ymmm256),
    (Code::EVEX_Vpxord_xmm_k1z_xmm_xmmm128b32, Code::VEX_Vpxor_xmm_xmm_xmmm128),
    (Code::EVEX_Vpxord_ymm_k1z_ymm_ymmm256b32, Code::VEX_Vpxor_ymm_ymm_ymmm256),
    (Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpxor_ymm_ymm_ymmm256),
    (Code::EVEX_Vpsllw_ymm_k1z_ymmm256_imm8, Code::VEX_Vpsllw_ymm_ymm_imm8),
    (Code::EVEX_Vpsllw_zmm_k1z_zmmm512_imm8, Code::VEX_Vpsllw_ymm_ymm_imm8),
    (Code::EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8, Code::VEX_Vpslld_ymm_ymm_imm8),
    (Code::EVEX_Vpsllq_zmm_k1z_zmmm512b64_imm8, Code::VEX_Vpsllq_ymm_ymm_imm8),
    (Code::EVEX_Vpsllvd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpsllvd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpsrlw_ymm_k1z_ymmm256_imm8, Code::VEX_Vpsrlw_ymm_ymm_imm8),
    (Code::EVEX_Vpsrlw_zmm_k1z_zmmm512_imm8, Code::VEX_Vpsrlw_ymm_ymm_imm8),
    (Code::EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8, Code::VEX_Vpsrld_ymm_ymm_imm8),
    (Code::EVEX_Vpsrlvd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpsrlvd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpsraw_ymm_k1z_ymmm256_imm8, Code::VEX_Vpsraw_ymm_ymm_imm8),
    (Code::EVEX_Vpsraw_zmm_k1z_zmmm512_imm8, Code::VEX_Vpsraw_ymm_ymm_imm8),
    (Code::EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8, Code::VEX_Vpsrad_ymm_ymm_imm8),
    (Code::EVEX_Vpsravd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpsravd_ymm_ymm_ymmm256),
    // Every part of 128 bits from the same part of the operands.
    (Code::EVEX_Vpunpcklbw_xmm_k1z_xmm_xmmm128, Code::VEX_Vpunpcklbw_xmm_xmm_xmmm128),
    (Code::EVEX_Vpunpckhbw_xmm_k1z_xmm_xmmm128, Code::VEX_Vpunpckhbw_xmm_xmm_xmmm128),
    (Code::EVEX_Vpunpcklwd_zmm_k1z_zmm_zmmm512, Code::VEX_Vpunpcklwd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpunpckhwd_zmm_k1z_zmm_zmmm512, Code::VEX_Vpunpckhwd_ymm_ymm_ymmm256),
    (Code::EVEX_Vpackssdw_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpackssdw_ymm_ymm_ymmm256),
    // Parts of vectors of 256 bits.
    (Code::EVEX_Vinserti32x4_ymm_k1z_ymm_xmmm128_imm8, Code::VEX_Vinserti128_ymm_ymm_xmmm128_imm8),
    (Code::EVEX_Vextracti32x4_xmmm128_k1z_ymm_imm8, Code::VEX_Vextracti128_xmmm128_ymm_imm8),
];

/// Lanes from shorter ones, half as many at a time.
const WIDENINGS: &[(Code, Code)] = &[
    (Code::EVEX_Vpmovsxbw_ymm_k1z_xmmm128, Code::VEX_Vpmovsxbw_ymm_xmmm128),
    (Code::EVEX_Vpmovsxbw_zmm_k1z_ymmm256, Code::VEX_Vpmovsxbw_ymm_xmmm128),
    (Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128, Code::VEX_Vpmovsxbd_ymm_xmmm64),
    (Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256, Code::VEX_Vpmovsxwd_ymm_xmmm128),
    (Code::EVEX_Vpmovsxdq_zmm_k1z_ymmm256, Code::VEX_Vpmovsxdq_ymm_xmmm128),
    (Code::EVEX_Vpmovzxbw_ymm_k1z_xmmm128, Code::VEX_Vpmovzxbw_ymm_xmmm128),
    (Code::EVEX_Vpmovzxbw_zmm_k1z_ymmm256, Code::VEX_Vpmovzxbw_ymm_xmmm128),
    (Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128, Code::VEX_Vpmovzxbd_ymm_xmmm64),
    (Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256, Code::VEX_Vpmovzxwd_ymm_xmmm128),
    (Code::EVEX_Vpmovzxdq_zmm_k1z_ymmm256, Code::VEX_Vpmovzxdq_ymm_xmmm128),
];

/// Numbers that are not negative where they lose their sign.
const PACKINGS: &[(Code, Code)] = &[
    (Code::EVEX_Vpmovsdw_ymmm256_k1z_zmm, Code::VEX_Vpackssdw_ymm_ymm_ymmm256),
    (Code::EVEX_Vpmovswb_ymmm256_k1z_zmm, Code::VEX_Vpacksswb_ymm_ymm_ymmm256),
    (Code::EVEX_Vpmovuswb_ymmm256_k1z_zmm, Code::VEX_Vpackuswb_ymm_ymm_ymmm256),
];

const COUNTS: &[(Code, Code)] = &[
    (Code::EVEX_Vpsllvw_ymm_k1z_ymm_ymmm256, Code::VEX_Vpsllw_ymm_ymm_xmmm128),
    (Code::EVEX_Vpsrlvw_ymm_k1z_ymm_ymmm256, Code::VEX_Vpsrlw_ymm_ymm_xmmm128),
    (Code::EVEX_Vpsravw_ymm_k1z_ymm_ymmm256, Code::VEX_Vpsraw_ymm_ymm_xmmm128),
];

const BROADCASTS: &[(Code, Code)] = &[
    (Code::EVEX_Vpbroadcastb_xmm_k1z_xmmm8, Code::VEX_Vpbroadcastb_ymm_xmmm8),
    (Code::EVEX_Vpbroadcastw_ymm_k1z_xmmm16, Code::VEX_Vpbroadcastw_ymm_xmmm16),
    (Code::EVEX_Vpbroadcastd_zmm_k1z_xmmm32, Code::VEX_Vpbroadcastd_ymm_xmmm32),
    (Code::EVEX_Vpbroadcastd_zmm_k1z_r32, Code::VEX_Vpbroadcastd_ymm_xmmm32),
];

/// What becomes of an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// The same on each half.
    Halves(Code),
    /// One of half as many lanes, for each half.
    Widening(Code),
    /// A packing of both halves, with their quarters in turns.
    Packing(Code),
    /// A shift by one count in a vector of 128 bits: the counts are the same in all lanes.
    Count(Code),
    /// One number of memory, or of a register, in all lanes of a half.
    Broadcast(Code),
}

pub(super) fn form(code: Code) -> Option<Form> {
    let find = |table: &[(Code, Code)]| table.iter().find(|row| row.0 == code).map(|row| row.1);
    find(HALVES)
        .map(Form::Halves)
        .or_else(|| find(WIDENINGS).map(Form::Widening))
        .or_else(|| find(PACKINGS).map(Form::Packing))
        .or_else(|| find(COUNTS).map(Form::Count))
        .or_else(|| find(BROADCASTS).map(Form::Broadcast))
}

/// The bytes that a widening reads.
pub(super) fn source(widening: Code) -> i64 {
    match widening {
        Code::VEX_Vpmovsxbd_ymm_xmmm64 | Code::VEX_Vpmovzxbd_ymm_xmmm64 => 8,
        _ => 16,
    }
}
