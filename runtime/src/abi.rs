//! The functions that generated code may call: one list.
//!
//! Every function takes and returns 64-bit integers; a dyadic travels packed ([`Dyadic::pack`]). They are pure and
//! accept any bits. Generated code calls nothing else.

#![allow(unsafe_code, reason = "exported names are what generated code links to")]

use crate::fixed::{Dyadic, bit_length, div_round};
use crate::random::hash_key;

/// A name that generated code may call, its address, and its number of arguments.
pub type Symbol = (&'static str, *const u8, usize);

fn dyadic(word: i64) -> Dyadic {
    Dyadic::unpack(word as u64)
}

fn word(x: Dyadic) -> i64 {
    x.pack() as i64
}

/// Defines the exported functions and the list of them.
macro_rules! exports {
    ($n:literal: $($(#[$doc:meta])+ $name:ident($($arg:ident),+) = $body:expr;)+) => {
        $(
            $(#[$doc])+
            // SAFETY: the prefix `fqt_` belongs to this library, so no other definition has this name.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: i64),+) -> i64 {
                $body
            }
        )+

        /// Everything that generated code may call.
        pub fn symbols() -> [Symbol; $n] {
            [$((stringify!($name), $name as *const u8, [$(stringify!($arg)),+].len())),+]
        }
    };
}

exports! { 22:
    /// `a + b` of dyadics.
    fqt_dyadic_add(a, b) = word(dyadic(a).add(dyadic(b)));
    /// `a − b` of dyadics.
    fqt_dyadic_sub(a, b) = word(dyadic(a).sub(dyadic(b)));
    /// `a · b` of dyadics.
    fqt_dyadic_mul(a, b) = word(dyadic(a).mul(dyadic(b)));
    /// `a / b` of dyadics; division by zero gives zero.
    fqt_dyadic_div(a, b) = word(dyadic(a).div(dyadic(b)));
    /// The smaller dyadic.
    fqt_dyadic_min(a, b) = word(dyadic(a).min(dyadic(b)));
    /// The larger dyadic.
    fqt_dyadic_max(a, b) = word(dyadic(a).max(dyadic(b)));
    /// |x| of a dyadic.
    fqt_dyadic_abs(x) = word(dyadic(x).abs());
    /// √x of a dyadic; negative gives zero.
    fqt_dyadic_sqrt(x) = word(dyadic(x).sqrt());
    /// 1/√x of a dyadic; not positive gives zero.
    fqt_dyadic_rsqrt(x) = word(dyadic(x).rsqrt());
    /// log₂ x of a dyadic; not positive gives zero.
    fqt_dyadic_log2(x) = word(dyadic(x).log2());
    /// 2^x of a dyadic, saturating.
    fqt_dyadic_exp2(x) = word(dyadic(x).exp2());
    /// 1 if a < b, else 0.
    fqt_dyadic_lt(a, b) = (dyadic(a) < dyadic(b)) as i64;
    /// 1 if a ≤ b, else 0.
    fqt_dyadic_le(a, b) = (dyadic(a) <= dyadic(b)) as i64;
    /// 1 if a = b, else 0.
    fqt_dyadic_eq(a, b) = (dyadic(a) == dyadic(b)) as i64;
    /// The dyadic of an integer.
    fqt_dyadic_from_int(x) = word(Dyadic::from_i64(x));
    /// `round(x·2^k)` of a dyadic, saturated to ±2^62.
    fqt_dyadic_to_fixed(x, k) = dyadic(x).to_fixed(k);
    /// `x·2^k` of a dyadic.
    fqt_dyadic_scale(x, k) = word(dyadic(x).scale(k));
    /// The smallest r with |x| < 2^r of a dyadic; zero gives -1024.
    fqt_dyadic_exponent(x) = dyadic(x).exponent();
    /// `a·b − c·d` of integers as a dyadic.
    fqt_diff_of_products(a, b, c, d) = word(Dyadic::diff_of_products(a, b, c, d));
    /// `a / b` of integers to nearest, ties away; b ≤ 0 gives zero.
    fqt_div_round(a, b) = div_round(a, b);
    /// The smallest r with |x| < 2^r of an integer.
    fqt_bit_length(x) = bit_length(x);
    /// The key of a random stream.
    fqt_hash_key(seed, step, tensor) = hash_key(seed as u64, step as u64, tensor as u64) as i64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_distinct_and_callable_by_address() {
        let symbols = symbols();
        for (i, (name, address, _)) in symbols.iter().enumerate() {
            assert!(name.starts_with("fqt_") && !address.is_null());
            assert!(symbols[..i].iter().all(|(other, _, _)| other != name));
        }
        let call2 = |name: &str, a: i64, b: i64| {
            let &(_, address, arity) = symbols.iter().find(|s| s.0 == name).unwrap();
            assert_eq!(arity, 2);
            // SAFETY: the list pairs this address with a function of two arguments.
            let f = unsafe { std::mem::transmute::<*const u8, extern "C" fn(i64, i64) -> i64>(address) };
            f(a, b)
        };
        let [three, four] = [3, 4].map(|x| fqt_dyadic_from_int(x));
        assert_eq!(call2("fqt_dyadic_add", three, four), fqt_dyadic_from_int(7));
        assert_eq!(call2("fqt_dyadic_sub", three, four), fqt_dyadic_from_int(-1));
        assert_eq!(call2("fqt_dyadic_lt", three, four), 1);
        assert_eq!(call2("fqt_dyadic_le", four, three), 0);
        assert_eq!(call2("fqt_dyadic_to_fixed", fqt_dyadic_scale(three, -3), 3), 3);
        assert_eq!(call2("fqt_div_round", 7, 2), 4);
        assert_eq!(
            fqt_dyadic_eq(1, fqt_dyadic_from_int(1)),
            1,
            "an operand that is not canonical compares by value"
        );
    }
}
