//! Kubernetes quantities: `100m`, `1.5`, `64Mi`, `1e3`.

use super::tree::{Node, Value};

/// An exact amount, in billionths. Kubernetes rounds anything finer up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nano: i128,
}

const NANO: i128 = 1_000_000_000;

impl Quantity {
    pub fn of(node: &Node) -> Option<Self> {
        match &node.value {
            Value::Integer(number) => Some(Self { nano: i128::from(*number) * NANO }),
            Value::Float(text) | Value::Text(text) => Self::parse(text),
            _ => None,
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')));
        let (number, suffix) = text.split_at(split.unwrap_or(text.len()));
        let (multiplier, divisor) = suffix_factor(suffix)?;
        let (negative, digits) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty()
            || !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit())
            || whole.len() + fraction.len() > 30
        {
            return None;
        }
        let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(divisor)?;
        let scaled = mantissa.checked_mul(multiplier)?.checked_mul(NANO)?;
        let nano = scaled.div_euclid(scale) + i128::from(scaled.rem_euclid(scale) != 0);
        Some(Self { nano: if negative { -nano } else { nano } })
    }

    /// Rounded up, as Kubernetes does.
    pub fn units(self) -> i128 {
        self.in_parts_of(NANO)
    }

    /// Thousandths, rounded up.
    pub fn milli(self) -> i128 {
        self.in_parts_of(NANO / 1000)
    }

    /// How many times `divisor` fits, rounded up (`resourceFieldRef.divisor`).
    pub fn divided_by(self, divisor: Self) -> i128 {
        self.in_parts_of(divisor.nano.max(1))
    }

    pub fn from_units(units: i128) -> Self {
        Self { nano: units.saturating_mul(NANO) }
    }

    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    fn in_parts_of(self, part: i128) -> i128 {
        self.nano.div_euclid(part) + i128::from(self.nano.rem_euclid(part) != 0)
    }
}

/// Bytes in the largest binary unit that is exact: `64Mi`.
pub fn render_bytes(bytes: u64) -> String {
    for (unit, shift) in [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// CPUs: `2`, `250m`.
pub fn render_milli(milli: u64) -> String {
    if milli.is_multiple_of(1000) { (milli / 1000).to_string() } else { format!("{milli}m") }
}

/// What a suffix multiplies by and divides by.
fn suffix_factor(suffix: &str) -> Option<(i128, i128)> {
    let factor = match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (1_000 * NANO, 1),
        "P" => (1_000_000 * NANO, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent.unsigned_abs() > 18 {
                return None;
            }
            if exponent >= 0 { (power, 1) } else { (1, power) }
        }
    };
    Some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact_and_round_up() {
        for (text, units, milli) in [
            ("100m", 1, 100),
            ("1", 1, 1000),
            ("1.5", 2, 1500),
            (".5", 1, 500),
            ("64Mi", 64 << 20, 64_000 << 20),
            ("0.1Gi", 107_374_183, 107_374_182_400),
            ("1k", 1000, 1_000_000),
            ("1e3", 1000, 1_000_000),
            ("1E3", 1000, 1_000_000),
            ("15E-1", 2, 1500),
            ("1E", 1_000_000_000_000_000_000, 1_000_000_000_000_000_000_000),
            ("1n", 1, 1),
            ("-1", -1, -1000),
            ("0", 0, 0),
        ] {
            let quantity = Quantity::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((quantity.units(), quantity.milli()), (units, milli), "{text}");
        }
    }

    #[test]
    fn nonsense_is_no_quantity() {
        for text in ["", "m", "1x", "1 Gi", "1.2.3", "Gi", "1e", "1e99", "--1", "1-", "."] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn rendering_keeps_the_amount() {
        for (bytes, text) in [(0, "0"), (1, "1"), (64 << 20, "64Mi"), (1536, "1536"), (3 << 30, "3Gi")] {
            assert_eq!(render_bytes(bytes), text);
        }
        assert_eq!((render_milli(250), render_milli(2000)), ("250m".into(), "2".into()));
    }
}
