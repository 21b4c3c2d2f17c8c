//! Dyadic numbers: the one soft-float of the project.
//!
//! Whatever is one number per tensor or channel (scales, statistics, learning rates) is a [`Dyadic`] `m·2^e`. The
//! interpreter, emitted code and the compiler's constants all call this implementation, so that they agree bit for bit.
//!
//! Every result is canonical: zero is `(0, 0)`, otherwise 2^30 ≤ |m| < 2^31 and -1054 ≤ e ≤ 993. Magnitudes
//! of 2^1024 and above saturate to the largest number, those below 2^-1024 become zero; so every dyadic is exactly an
//! f64. Results are rounded to nearest with ties away from zero; `log2` and `exp2` state their own bound. Any
//! bit pattern is accepted as an operand (it is normalized first) and nothing panics.
//!
//! Ties-away rounding looks only at the highest dropped bit of the magnitude, so a quotient or root that was
//! truncated some bits further down still rounds correctly.

use core::cmp::Ordering;

/// Bits of a mantissa.
const BITS: u32 = 31;
/// Largest exponent: |x| < 2^1024.
const E_MAX: i64 = 1024 - BITS as i64;
/// Smallest exponent: |x| ≥ 2^-1024.
const E_MIN: i64 = -1023 - BITS as i64;
/// [`Dyadic::to_fixed`] saturates at this magnitude.
const FIXED_MAX: i128 = 1 << 62;

/// The number `m·2^e`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Dyadic {
    /// Mantissa.
    pub m: i32,
    /// Exponent.
    pub e: i32,
}

impl Dyadic {
    /// Zero.
    pub const ZERO: Dyadic = Dyadic { m: 0, e: 0 };
    /// One.
    pub const ONE: Dyadic = Dyadic { m: 1 << 30, e: -30 };
    /// The largest number, where overflow saturates.
    pub const MAX: Dyadic = Dyadic { m: i32::MAX, e: E_MAX as i32 };

    /// The canonical form of `m·2^e`.
    pub const fn new(m: i32, e: i32) -> Dyadic {
        round_64(m < 0, m.unsigned_abs() as u64, e as i64)
    }

    /// `x`, rounded to 31 bits.
    pub const fn from_i64(x: i64) -> Dyadic {
        round_64(x < 0, x.unsigned_abs(), 0)
    }

    /// `x`, rounded to 31 bits.
    pub const fn from_i128(x: i128) -> Dyadic {
        round(x < 0, x.unsigned_abs(), 0)
    }

    /// As one word: `m` in the low half, `e` in the high half. The layout of dyadic buffers and of arguments.
    pub const fn pack(self) -> u64 {
        self.m as u32 as u64 | (self.e as u32 as u64) << 32
    }

    /// The number in a word made by [`Dyadic::pack`]; any word gives a canonical number.
    pub const fn unpack(word: u64) -> Dyadic {
        Dyadic::new(word as u32 as i32, (word >> 32) as u32 as i32)
    }

    /// This number in canonical form.
    const fn normal(self) -> Dyadic {
        let canonical =
            self.m.unsigned_abs() >> (BITS - 1) == 1 && E_MIN as i32 <= self.e && self.e <= E_MAX as i32;
        if canonical { self } else { Dyadic::new(self.m, self.e) }
    }

    /// The magnitude of the mantissa.
    const fn magnitude(self) -> u64 {
        self.m.unsigned_abs() as u64
    }

    /// `self + other`.
    #[allow(
        clippy::should_implement_trait,
        reason = "explicit names mirror the operations of kernel programs"
    )]
    pub const fn add(self, other: Dyadic) -> Dyadic {
        let (a, b) = (self.normal(), other.normal());
        if a.m == 0 {
            return b;
        }
        if b.m == 0 {
            return a;
        }
        let (big, small) = if a.e >= b.e { (a, b) } else { (b, a) };
        let distance = big.e - small.e;
        if distance > 64 {
            return big; // the smaller number is below 2^-33 of the larger one's last place
        }
        if distance <= 32 {
            // Below 2^63, and the sum below 2^64 in size.
            let sum = ((big.m as i64) << distance) + small.m as i64;
            return round_64(sum < 0, sum.unsigned_abs(), small.e as i64);
        }
        let sum = ((big.m as i128) << distance) + small.m as i128;
        round(sum < 0, sum.unsigned_abs(), small.e as i64)
    }

    /// `self − other`.
    #[allow(
        clippy::should_implement_trait,
        reason = "explicit names mirror the operations of kernel programs"
    )]
    pub const fn sub(self, other: Dyadic) -> Dyadic {
        self.add(other.neg())
    }

    /// `self · other`.
    #[allow(
        clippy::should_implement_trait,
        reason = "explicit names mirror the operations of kernel programs"
    )]
    pub const fn mul(self, other: Dyadic) -> Dyadic {
        let (a, b) = (self.normal(), other.normal());
        round_64((a.m < 0) != (b.m < 0), a.magnitude() * b.magnitude(), a.e as i64 + b.e as i64)
    }

    /// `self / other`; division by zero gives zero.
    #[allow(
        clippy::should_implement_trait,
        reason = "explicit names mirror the operations of kernel programs"
    )]
    pub const fn div(self, other: Dyadic) -> Dyadic {
        let (a, b) = (self.normal(), other.normal());
        if b.m == 0 {
            return Dyadic::ZERO;
        }
        // At least 32 bits, one more than is kept.
        let quotient = (a.magnitude() << 33) / b.magnitude();
        round_64((a.m < 0) != (b.m < 0), quotient, a.e as i64 - b.e as i64 - 33)
    }

    /// √x; negative numbers give zero.
    pub const fn sqrt(self) -> Dyadic {
        let x = self.normal();
        if x.m <= 0 {
            return Dyadic::ZERO;
        }
        // The root of 2^62 to 2^64: 32 bits, one more than is kept.
        let shift = if x.e % 2 == 0 { 32 } else { 33 };
        let root = (x.magnitude() << shift).isqrt();
        round_64(false, root, (x.e as i64 - shift) / 2)
    }

    /// 1/√x; numbers that are not positive give zero.
    pub const fn rsqrt(self) -> Dyadic {
        let x = self.normal();
        if x.m <= 0 {
            return Dyadic::ZERO;
        }
        // The root of 2^62 to 2^64, as above; the upper end, of a power of two, is one bit too long.
        let shift = if x.e % 2 == 0 { 94 } else { 93 };
        let square = (1u128 << shift) / x.magnitude() as u128;
        let root = if square >> 64 == 1 { 1 << 32 } else { (square as u64).isqrt() };
        round_64(false, root, (-(x.e as i64) - shift) / 2)
    }

    /// log₂ x; numbers that are not positive give zero. Powers of two are exact; otherwise the error is at most 2^-28
    /// of the result.
    ///
    /// Squares the mantissa 60 times; each square that reaches two contributes one binary digit.
    pub const fn log2(self) -> Dyadic {
        const DIGITS: u32 = 60;
        let x = self.normal();
        if x.m <= 0 {
            return Dyadic::ZERO;
        }
        let mut f = (x.m as u64) << 33; // 1 ≤ f < 2 in Q63
        let mut digits = 0i128;
        let mut turn = 0;
        while turn < DIGITS {
            let square = f as u128 * f as u128; // Q126
            let two = (square >> 127) as u32;
            f = (square >> (63 + two)) as u64;
            digits = digits << 1 | two as i128;
            turn += 1;
        }
        let log = ((x.e as i128 + 30) << DIGITS) + digits;
        round(log < 0, log.unsigned_abs(), -(DIGITS as i64))
    }

    /// 2^x, saturating. The error is at most 2^-28 of the result; whole x are exact.
    ///
    /// The product of 2^(2^-k) over the binary digits of the fraction.
    pub const fn exp2(self) -> Dyadic {
        let x = self.normal();
        if x.m == 0 {
            return Dyadic::ONE;
        }
        if x.exponent() > 12 {
            return if x.m < 0 { Dyadic::ZERO } else { Dyadic::MAX };
        }
        let fixed = x.to_fixed(ROOTS.len() as i64);
        let (whole, fraction) = (fixed >> ROOTS.len(), fixed & ((1 << ROOTS.len()) - 1));
        let mut product = 1u128 << 62;
        let mut k = 0;
        while k < ROOTS.len() {
            if fraction >> (ROOTS.len() - 1 - k) & 1 == 1 {
                product = (product * ROOTS[k]) >> 62;
            }
            k += 1;
        }
        round(false, product, whole - 62)
    }

    /// |x|.
    pub const fn abs(self) -> Dyadic {
        round_64(false, self.magnitude(), self.e as i64)
    }

    /// −x.
    #[allow(
        clippy::should_implement_trait,
        reason = "explicit names mirror the operations of kernel programs"
    )]
    pub const fn neg(self) -> Dyadic {
        round_64(self.m > 0, self.magnitude(), self.e as i64)
    }

    /// The smaller number.
    pub fn min(self, other: Dyadic) -> Dyadic {
        let (a, b) = (self.normal(), other.normal());
        if b < a { b } else { a }
    }

    /// The larger number.
    pub fn max(self, other: Dyadic) -> Dyadic {
        let (a, b) = (self.normal(), other.normal());
        if a < b { b } else { a }
    }

    /// `round(x·2^k)`, saturated to ±2^62.
    pub const fn to_fixed(self, k: i64) -> i64 {
        let x = self.normal();
        let shift = (x.e as i64).saturating_add(k);
        let magnitude = if shift >= 0 {
            (x.magnitude() as i128) << if shift < 64 { shift } else { 64 }
        } else if shift >= -(BITS as i64) {
            (x.magnitude() as i128 + (1 << (-shift - 1))) >> -shift
        } else {
            0
        };
        let magnitude = if magnitude < FIXED_MAX { magnitude as i64 } else { FIXED_MAX as i64 };
        if x.m < 0 { -magnitude } else { magnitude }
    }

    /// `x·2^k`.
    pub const fn scale(self, k: i64) -> Dyadic {
        round_64(self.m < 0, self.magnitude(), (self.e as i64).saturating_add(k))
    }

    /// The smallest r with |x| < 2^r, in -1023..=1024; zero gives -1024.
    pub const fn exponent(self) -> i64 {
        let x = self.normal();
        if x.m == 0 { -1024 } else { x.e as i64 + BITS as i64 }
    }

    /// `a·b − c·d`, exact in 128 bits, then rounded to 31 bits.
    pub const fn diff_of_products(a: i64, b: i64, c: i64, d: i64) -> Dyadic {
        // |a·b| ≤ 2^126, and only a positive product reaches 2^126: the difference stays below 2^127.
        Dyadic::from_i128(a as i128 * b as i128 - c as i128 * d as i128)
    }
}

/// By value; canonical numbers that compare equal are identical.
impl Ord for Dyadic {
    fn cmp(&self, other: &Dyadic) -> Ordering {
        let key = |x: &Dyadic| {
            let x = x.normal();
            let sign = x.m.signum() as i64;
            (sign, sign * x.exponent(), x.m)
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Dyadic {
    fn partial_cmp(&self, other: &Dyadic) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `a / b` to nearest, ties away from zero; a divisor that is not positive gives zero.
pub const fn div_round(a: i64, b: i64) -> i64 {
    if b <= 0 {
        return 0;
    }
    let (n, d) = (a.unsigned_abs(), b as u64);
    let (quotient, rest) = (n / d, n % d);
    let magnitude = quotient + (rest >= d - rest) as u64;
    if a < 0 { (magnitude as i64).wrapping_neg() } else { magnitude as i64 }
}

/// The smallest r with |x| < 2^r.
pub const fn bit_length(x: i64) -> i64 {
    64 - x.unsigned_abs().leading_zeros() as i64
}

/// `±magnitude·2^e`, rounded to nearest with ties away from zero, in canonical form.
const fn round(negative: bool, magnitude: u128, e: i64) -> Dyadic {
    // What lies below the highest 64 bits is below the bit that decides.
    let drop = 64 - magnitude.leading_zeros() as i64;
    if drop <= 0 {
        return round_64(negative, magnitude as u64, e);
    }
    round_64(negative, (magnitude >> drop) as u64, e.saturating_add(drop))
}

/// The same of 64 bits: what nearly all operations need, at a fraction of the time.
const fn round_64(negative: bool, magnitude: u64, e: i64) -> Dyadic {
    if magnitude == 0 {
        return Dyadic::ZERO;
    }
    let drop = (64 - BITS as i64) - magnitude.leading_zeros() as i64;
    let mut m =
        if drop <= 0 { magnitude << -drop } else { (magnitude >> drop) + (magnitude >> (drop - 1) & 1) };
    let mut e = e.saturating_add(drop);
    if m == 1 << BITS {
        m >>= 1;
        e = e.saturating_add(1);
    }
    if e < E_MIN {
        return Dyadic::ZERO;
    }
    if e > E_MAX {
        (m, e) = (i32::MAX as u64, E_MAX);
    }
    Dyadic { m: if negative { -(m as i32) } else { m as i32 }, e: e as i32 }
}

/// `2^(2^-(k+1))` in Q62, each the square root of the one before, truncated.
const ROOTS: [u128; 40] = {
    let mut roots = [0; 40];
    let mut last = 2u128 << 62;
    let mut k = 0;
    while k < roots.len() {
        last = (last << 62).isqrt();
        roots[k] = last;
        k += 1;
    }
    roots
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix64;

    const CASES: u64 = 4000;

    /// A stream of numbers that differ in size: canonical, exponents within ±`spread`.
    fn samples(salt: u64, spread: i64) -> impl Iterator<Item = Dyadic> {
        (0..CASES).map(move |i| {
            let r = mix64(salt << 32 | i);
            let e = (r >> 40) as i64 % (2 * spread + 1) - spread;
            match r % 16 {
                0 => Dyadic::ZERO,
                1 => Dyadic::from_i64(((r >> 8) as i32 % 5) as i64).scale(e),
                _ => Dyadic::new(r as u32 as i32, e as i32),
            }
        })
    }

    /// Any bit pattern.
    fn patterns(salt: u64) -> impl Iterator<Item = Dyadic> {
        let edges =
            [0, 1, -1, 2, i32::MAX, i32::MIN, i32::MIN + 1, 1 << 30, -(1 << 30), 993, 994, -1054, -1055];
        let n = edges.len() as u64;
        (0..n * n).map(move |i| Dyadic { m: edges[(i / n) as usize], e: edges[(i % n) as usize] }).chain(
            (0..CASES).map(move |i| {
                let r = mix64(salt << 32 | i);
                Dyadic { m: r as i32, e: (r >> 32) as i32 >> (r % 3 * 10) }
            }),
        )
    }

    fn f64_of(x: Dyadic) -> f64 {
        let half = x.e / 2;
        x.m as f64 * 2f64.powi(half) * 2f64.powi(x.e - half)
    }

    /// Rounds an f64 to 31 bits, ties away: works on the bits, independently of `round`.
    fn from_f64(x: f64) -> Dyadic {
        if x == 0.0 {
            return Dyadic::ZERO;
        }
        let bits = x.abs().to_bits();
        let (exponent, fraction) = ((bits >> 52) as i64, bits & ((1 << 52) - 1));
        assert!(exponent > 0, "subnormal");
        let mut m = (fraction | 1 << 52) + (1 << 21);
        m >>= 22;
        let mut e = exponent - 1075 + 22;
        if m == 1 << 31 {
            m = 1 << 30;
            e += 1;
        }
        let m = m as i32;
        Dyadic { m: if x < 0.0 { -m } else { m }, e: e as i32 }
    }

    fn is_canonical(x: Dyadic) -> bool {
        match x.m {
            0 => x.e == 0,
            m => m.unsigned_abs() >> 30 == 1 && (-1054..=993).contains(&x.e),
        }
    }

    #[test]
    fn any_bit_pattern_gives_a_canonical_result() {
        let unary: [fn(Dyadic) -> Dyadic; 7] =
            [Dyadic::sqrt, Dyadic::rsqrt, Dyadic::log2, Dyadic::exp2, Dyadic::abs, Dyadic::neg, |x| {
                Dyadic::unpack(x.pack())
            }];
        let binary: [fn(Dyadic, Dyadic) -> Dyadic; 6] =
            [Dyadic::add, Dyadic::sub, Dyadic::mul, Dyadic::div, Dyadic::min, Dyadic::max];
        for (a, b) in patterns(1).zip(patterns(2).collect::<Vec<_>>().into_iter().rev()) {
            for f in unary {
                assert!(is_canonical(f(a)), "{a:?}");
                assert_eq!(f(a), f(Dyadic::new(a.m, a.e)), "{a:?}");
            }
            for f in binary {
                assert!(is_canonical(f(a, b)), "{a:?} {b:?}");
                assert_eq!(f(a, b), f(Dyadic::new(a.m, a.e), Dyadic::new(b.m, b.e)));
            }
            for k in [0, 31, -31, 62, i64::MAX, i64::MIN, b.e as i64] {
                assert!(is_canonical(a.scale(k)));
                assert!(a.to_fixed(k).unsigned_abs() <= 1 << 62);
                assert_eq!(a.to_fixed(k), Dyadic::new(a.m, a.e).to_fixed(k));
            }
            assert!((-1024..=1024).contains(&a.exponent()));
        }
    }

    #[test]
    fn sums_and_products_are_rounded_exact_results() {
        for (a, b) in samples(3, 10).zip(samples(4, 10)) {
            // Exact: shifted to one exponent, the numbers have at most 31 + 61 bits.
            let low = a.e.min(b.e);
            let sum = ((a.m as i128) << (a.e - low)) + ((b.m as i128) << (b.e - low));
            assert_eq!(a.add(b), Dyadic::from_i128(sum).scale(low as i64));
            assert_eq!(a.sub(b), a.add(b.neg()));
            let product = a.m as i128 * b.m as i128;
            assert_eq!(a.mul(b), Dyadic::from_i128(product).scale(a.e as i64 + b.e as i64));
            assert_eq!(a.cmp(&b), f64_of(a).partial_cmp(&f64_of(b)).unwrap());
            assert_eq!(f64_of(a.min(b)), f64_of(a).min(f64_of(b)));
            assert_eq!(f64_of(a.max(b)), f64_of(a).max(f64_of(b)));
            assert_eq!(f64_of(a.abs()), f64_of(a).abs());
        }
    }

    #[test]
    fn nearby_sums_agree_with_f64() {
        // Within 20 binary places, an f64 holds the sum of two 31-bit numbers exactly.
        for (a, b) in samples(5, 10).zip(samples(6, 10)) {
            if a.m != 0 && b.m != 0 && a.e.abs_diff(b.e) <= 20 {
                assert_eq!(a.add(b), from_f64(f64_of(a) + f64_of(b)), "{a:?} + {b:?}");
                assert_eq!(a.sub(b), from_f64(f64_of(a) - f64_of(b)), "{a:?} - {b:?}");
            }
        }
    }

    #[test]
    fn quotients_and_roots_are_correctly_rounded() {
        // A result of 31 bits is the nearest one if half its last place to either side encloses the exact value.
        let half = |x: Dyadic| (2 * x.m as i128 - 1, 2 * x.m as i128 + 1);
        for (a, b) in samples(7, 400).zip(samples(8, 400)) {
            if b.m == 0 {
                assert_eq!(a.div(b), Dyadic::ZERO);
                continue;
            }
            let q = a.div(b);
            let (low, high) = half(q.abs());
            // low/2·b ≤ a·2^(a.e − b.e − q.e) ≤ high/2·b, by magnitudes
            let exact = if a.m == 0 { 0 } else { (a.m as i128).abs() << (a.e - b.e - q.e + 1) };
            let b_m = (b.m as i128).abs();
            assert!(low * b_m <= exact && exact <= high * b_m, "{a:?} / {b:?}");
            assert_eq!(q.m.signum(), a.m.signum() * b.m.signum());
            let x = b.abs();
            let root = x.sqrt();
            let (low, high) = half(root);
            // (low/2)² ≤ m·2^(x.e − 2·root.e) ≤ (high/2)²
            let exact = (x.m as i128) << (x.e - 2 * root.e + 2);
            assert!(low * low <= exact && exact <= high * high, "sqrt {x:?}");
            let inverse = x.rsqrt();
            let (low, high) = half(inverse);
            // (low/2)²·m ≤ 2^(-x.e − 2·inverse.e) ≤ (high/2)²·m; the right-hand side is near 2^92.
            let exact = 1i128 << (2 - x.e - 2 * inverse.e);
            assert!(low * low * x.m as i128 <= exact && exact <= high * high * x.m as i128, "rsqrt {x:?}");
            assert_eq!((x.neg().sqrt(), x.neg().rsqrt()), (Dyadic::ZERO, Dyadic::ZERO));
        }
        assert_eq!(Dyadic::from_i64(1).div(Dyadic::from_i64(3)), Dyadic { m: 1431655765, e: -32 });
        assert_eq!(Dyadic::from_i64(144).sqrt(), Dyadic::from_i64(12));
        assert_eq!(Dyadic::from_i64(16).rsqrt(), Dyadic::ONE.scale(-2));
    }

    #[test]
    fn logarithms_and_powers_stay_within_their_bound() {
        let bound = 2f64.powi(-28);
        let near_one =
            (0..200).flat_map(|i| [Dyadic::new((1 << 30) + i, -30), Dyadic::new(i32::MAX - i, -31)]);
        for x in samples(9, 900).map(Dyadic::abs).chain(near_one) {
            if x.m == 0 {
                continue;
            }
            let y = f64_of(x);
            let exact =
                if (0.5..2.0).contains(&y) { (y - 1.0).ln_1p() / std::f64::consts::LN_2 } else { y.log2() };
            assert!((f64_of(x.log2()) - exact).abs() <= bound * exact.abs(), "log2 {x:?}");
            assert_eq!(x.neg().log2(), Dyadic::ZERO);
        }
        for x in samples(10, 20).map(|x| x.scale(-31)) {
            let exact = f64_of(x).exp2();
            if exact.is_normal() && exact < 2f64.powi(1023) {
                assert!((f64_of(x.exp2()) - exact).abs() <= bound * exact, "exp2 {x:?}");
            }
        }
        for k in -1023..1024 {
            assert_eq!(Dyadic::ONE.scale(k).log2(), Dyadic::from_i64(k));
            assert_eq!(Dyadic::from_i64(k).exp2(), Dyadic::ONE.scale(k));
        }
        assert_eq!(Dyadic::from_i64(1025).exp2(), Dyadic::MAX);
        assert_eq!(Dyadic::from_i64(-1025).exp2(), Dyadic::ZERO);
        assert_eq!(Dyadic::MAX.exp2(), Dyadic::MAX);
        assert_eq!(Dyadic::MAX.neg().exp2(), Dyadic::ZERO);
    }

    #[test]
    fn fixed_point_rounds_ties_away_and_saturates() {
        let half = Dyadic::ONE.scale(-1);
        assert_eq!(half.to_fixed(0), 1);
        assert_eq!(half.neg().to_fixed(0), -1);
        assert_eq!(Dyadic::from_i64(5).to_fixed(-1), 3);
        assert_eq!(Dyadic::from_i64(5).to_fixed(-3), 1);
        assert_eq!(Dyadic::from_i64(3).to_fixed(-3), 0);
        assert_eq!(Dyadic::from_i64(7).to_fixed(60), 1 << 62);
        assert_eq!(Dyadic::from_i64(-7).to_fixed(60), -1 << 62);
        for x in samples(11, 50) {
            for k in [-20, 0, 13, 28] {
                let exact = (f64_of(x) * 2f64.powi(k)).round(); // f64's round also takes ties away from zero
                let limit = 2f64.powi(62);
                assert_eq!(x.to_fixed(k as i64) as f64, exact.clamp(-limit, limit), "{x:?} {k}");
            }
            let r = x.exponent() as i32;
            if x.m != 0 {
                assert!(f64_of(x).abs() < 2f64.powi(r) && f64_of(x).abs() >= 2f64.powi(r - 1));
            }
        }
        assert_eq!(Dyadic::ZERO.exponent(), -1024);
    }

    #[test]
    fn integers_convert_exactly_or_to_the_nearest() {
        for i in 0..CASES {
            let x = mix64(i) as i64 >> (i % 64);
            let d = Dyadic::from_i64(x);
            assert_eq!(d, Dyadic::from_i128(x as i128));
            assert_eq!(d.exponent().max(0), {
                // Rounding may carry into the next power of two.
                let bits = bit_length(x);
                if d.abs() == Dyadic::ONE.scale(bits) && x != 0 { bits + 1 } else { bits }
            });
            let error = (d.m as i128) * (1i128 << d.e.max(0)) - ((x as i128) << (-d.e).max(0));
            assert!(error.unsigned_abs() <= (1u128 << d.e.max(0)) >> 1);
        }
        assert_eq!(Dyadic::from_i64(i64::MIN), Dyadic { m: -(1 << 30), e: 33 });
        assert_eq!(Dyadic::from_i128(i128::MIN), Dyadic { m: -(1 << 30), e: 97 });
        assert_eq!(
            Dyadic::from_i64((1 << 31) + 1),
            Dyadic { m: (1 << 30) + 1, e: 1 },
            "a tie goes away from zero"
        );
        assert_eq!(Dyadic::from_i64(-(1 << 31) - 1), Dyadic { m: -(1 << 30) - 1, e: 1 });
    }

    #[test]
    fn differences_of_products_do_not_cancel() {
        let n = 3_037_000_500i64;
        assert_eq!(Dyadic::diff_of_products(n, n, n - 1, n + 1), Dyadic::ONE);
        let (lo, hi) = (i64::MIN, i64::MAX);
        assert_eq!(Dyadic::diff_of_products(lo, lo, lo, hi), Dyadic::ONE.scale(127));
        for i in 0..CASES {
            let [a, b, c, d] = [1, 2, 3, 4].map(|s| mix64(s << 40 | i) as i64 >> (mix64(i + s) % 60));
            let exact = (a as i128) * (b as i128) - (c as i128) * (d as i128);
            assert_eq!(Dyadic::diff_of_products(a, b, c, d), Dyadic::from_i128(exact));
        }
    }

    #[test]
    fn integer_division_rounds_to_nearest() {
        assert_eq!([div_round(7, 2), div_round(-7, 2), div_round(6, 4), div_round(5, 4)], [4, -4, 2, 1]);
        assert_eq!(
            [div_round(5, 0), div_round(5, -1), div_round(i64::MIN, 1), div_round(i64::MAX, i64::MAX)],
            [0, 0, i64::MIN, 1]
        );
        for i in 0..CASES {
            let (a, b) = (mix64(i) as i64 >> (i % 50), (mix64(!i) >> (1 + i % 60)) as i64);
            let q = div_round(a, b);
            let error = 2 * (q as i128 * b as i128 - a as i128);
            assert!(
                b == 0 || error.abs() < b as i128 || (error.abs() == b as i128 && (error > 0) == (a > 0))
            );
        }
        assert_eq!([bit_length(0), bit_length(1), bit_length(-4), bit_length(i64::MIN)], [0, 1, 3, 64]);
    }
}
