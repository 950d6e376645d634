//! RSA keys that Infineon's TPMs made until 2017, which can be factored from the public key (CVE-2017-15361, "ROCA";
//! Nemec et al., "The Return of Coppersmith's Attack", section 2.2). Their vendor's certificate is genuine, so without
//! this check whoever factors one endorsement key is that gateway, without its TPM.

/// Primes modulo which 65537 makes a small part of all values. The moduli of weak keys lie in that part for each of
/// them; of other moduli, one in 2^27 or fewer does.
const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];
const GENERATOR: u32 = 65537;

/// True for a modulus (big-endian) that has the mark of a weak key.
pub(crate) fn is_weak(modulus: &[u8]) -> bool {
    PRIMES.into_iter().all(|prime| is_power_of_generator(remainder(modulus, prime), prime))
}

fn remainder(modulus: &[u8], prime: u32) -> u32 {
    modulus.iter().fold(0, |rest, &byte| (rest * 256 + u32::from(byte)) % prime)
}

fn is_power_of_generator(value: u32, prime: u32) -> bool {
    let powers = std::iter::successors(Some(1), |power| Some(power * (GENERATOR % prime) % prime));
    // There are fewer than `prime` different powers, after which they repeat.
    powers.zip(0..prime).any(|(power, _)| power == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A power of 65537, big-endian: it has the mark of weak keys, whatever its factors.
    fn power(exponent: u32) -> Vec<u8> {
        let mut digits = vec![1_u8];
        for _ in 0..exponent {
            // Times 65537: shifted by two bytes, plus itself. Little-endian here.
            let mut carry = 0;
            let shifted = [&[0, 0], digits.as_slice()].concat();
            let sum = shifted.iter().enumerate().map(|(at, &high)| {
                let sum = u16::from(high) + u16::from(digits.get(at).copied().unwrap_or(0)) + carry;
                carry = sum >> 8;
                u8::try_from(sum & 0xff).unwrap()
            });
            let sum: Vec<u8> = sum.collect();
            digits = sum;
            if carry > 0 {
                digits.push(1);
            }
        }
        digits.into_iter().rev().collect()
    }

    #[test]
    fn weak_moduli_are_told_by_their_remainders() {
        assert_eq!(power(2), [1, 0, 2, 0, 1]);
        for exponent in [0, 1, 2, 40, 120, 127] {
            let weak = power(exponent);
            assert!(is_weak(&weak), "{exponent}");
            let mut near = weak;
            *near.last_mut().unwrap() ^= 2;
            assert!(!is_weak(&near), "{exponent}");
        }
        // Each prime counts: a multiple of any of them is none.
        for prime in PRIMES {
            assert!(!is_weak(&prime.to_be_bytes()), "{prime}");
        }
    }

    #[test]
    fn ordinary_keys_are_not_weak() {
        for seed in 0..=u8::MAX {
            let modulus: Vec<u8> =
                (0..8_u8).flat_map(|part| edgewarden_names::sha256(&[seed, part])).collect();
            assert!(!is_weak(&modulus), "{seed}");
        }
    }
}
