//! Greatest and least values.

use alloc::vec::Vec;
use core::cmp::Ordering;

use super::Written;
use crate::clock::Stamp;
use crate::value::{Value, ValueRef};

/// The written values that may still be the extreme one.
///
/// A later creation takes away what is older, so the winner alone would not do: a lesser value stays as long as
/// it is newer than every better one. Invariant: by rising stamp, each value worse than the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Front(pub(super) Vec<(Stamp, Value)>);

impl Front {
    pub(super) fn greatest(&self) -> Option<Stamp> {
        self.0.last().map(|(stamp, _)| *stamp)
    }

    pub(super) fn stamps(&self) -> Vec<Stamp> {
        self.0.iter().map(|(stamp, _)| *stamp).collect()
    }

    pub(super) fn retain(&mut self, keeps: &dyn Fn(Stamp) -> bool) {
        self.0.retain(|(stamp, _)| keeps(*stamp));
    }

    pub(super) fn join(&mut self, other: &Self, wants_greatest: bool) {
        for (stamp, value) in &other.0 {
            self.add(*stamp, value.clone(), wants_greatest);
        }
    }

    pub(super) fn add(&mut self, stamp: Stamp, value: Value, wants_greatest: bool) {
        let is_as_good = |a: &Value, b: &Value| better(a.as_ref(), b.as_ref(), wants_greatest).is_ge();
        let at = self.0.partition_point(|(held, _)| *held < stamp);
        if self.0.get(at).is_some_and(|(_, newer)| is_as_good(newer, &value)) {
            return;
        }
        let older = self.0.get(..at).unwrap_or_default();
        let spent = older.iter().rev().take_while(|(_, held)| is_as_good(&value, held)).count();
        let same = usize::from(self.0.get(at).is_some_and(|(held, _)| *held == stamp));
        let from = at.saturating_sub(spent);
        self.0.splice(from..at.saturating_add(same), [(stamp, value)]);
    }

    pub(super) fn extreme(&self, start: ValueRef<'_>, wants_greatest: bool) -> Value {
        let mut best = start;
        for (_, value) in &self.0 {
            if better(value.as_ref(), best, wants_greatest).is_gt() {
                best = value.as_ref();
            }
        }
        best.to_owned_value()
    }

    pub(super) fn write(
        &mut self,
        visible: &Value,
        value: ValueRef<'_>,
        stamp: Stamp,
        wants_greatest: bool,
    ) -> Written {
        if better(value, visible.as_ref(), wants_greatest).is_le() {
            return Written::PutBack;
        }
        self.add(stamp, value.to_owned_value(), wants_greatest);
        Written::Changed
    }

    pub(super) fn restamp(&mut self, unsent: &dyn Fn(Stamp) -> bool, to: &dyn Fn(Stamp) -> Stamp) {
        for (stamp, _) in &mut self.0 {
            if unsent(*stamp) {
                *stamp = to(*stamp);
            }
        }
        self.0.sort_by_key(|(stamp, _)| *stamp);
    }
}

/// Whether a value is further out than another. NULL is no value, so anything is.
fn better(a: ValueRef<'_>, b: ValueRef<'_>, wants_greatest: bool) -> Ordering {
    match (a, b) {
        (ValueRef::Null, ValueRef::Null) => Ordering::Equal,
        (ValueRef::Null, _) => Ordering::Less,
        (_, ValueRef::Null) => Ordering::Greater,
        (a, b) if wants_greatest => compare(a, b),
        (a, b) => compare(b, a),
    }
}

/// The order of SQLite: numbers by size, then text by bytes, then bytes; of equal numbers, by kind. Total.
fn compare(a: ValueRef<'_>, b: ValueRef<'_>) -> Ordering {
    let rank = |value: ValueRef<'_>| match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 1,
        ValueRef::Text(_) | ValueRef::RawText(_) => 2,
        ValueRef::Blob(_) => 3,
        ValueRef::TimestampTz(_) | ValueRef::Timestamp(_) | ValueRef::Date(_) | ValueRef::Time(_) => 4,
        ValueRef::Boolean(_)
        | ValueRef::Numeric(_)
        | ValueRef::Uuid(_)
        | ValueRef::Json(_)
        | ValueRef::Jsonb(_)
        | ValueRef::Other { .. } => 5,
    };
    let bytes = |value: ValueRef<'_>| match value {
        ValueRef::Text(text) => Some(text.as_bytes().to_vec()),
        ValueRef::RawText(bytes) => Some(bytes.to_vec()),
        _other => None,
    };
    let by_size = match (a, b) {
        (ValueRef::Integer(a), ValueRef::Integer(b)) => a.cmp(&b),
        (ValueRef::Real(a), ValueRef::Real(b)) => compare_reals(a, b),
        (ValueRef::Integer(a), ValueRef::Real(b)) => compare_mixed(a, b),
        (ValueRef::Real(a), ValueRef::Integer(b)) => compare_mixed(b, a).reverse(),
        (ValueRef::TimestampTz(a), ValueRef::TimestampTz(b))
        | (ValueRef::Timestamp(a), ValueRef::Timestamp(b))
        | (ValueRef::Time(a), ValueRef::Time(b)) => a.cmp(&b),
        (ValueRef::Date(a), ValueRef::Date(b)) => a.cmp(&b),
        (a, b) => rank(a).cmp(&rank(b)).then_with(|| bytes(a).cmp(&bytes(b))),
    };
    by_size.then_with(|| a.cmp_encoded(&b))
}

/// Numbers by size, both zeros alike; a NaN is beyond all numbers of its sign.
fn compare_reals(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.total_cmp(&b))
}

/// Compares exactly: a real of 2^53 or more holds integers that `i64` has between.
fn compare_mixed(integer: i64, real: f64) -> Ordering {
    // 2^63, the first real beyond all integers.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if real.is_nan() {
        return if real.is_sign_negative() { Ordering::Greater } else { Ordering::Less };
    }
    if real >= BEYOND {
        return Ordering::Less;
    }
    if real < -BEYOND {
        return Ordering::Greater;
    }
    let (whole, is_above) = whole_part(real);
    integer.cmp(&whole).then(if is_above { Ordering::Less } else { Ordering::Equal })
}

/// The greatest integer not above a real within the range of `i64`, and whether the real is above it.
fn whole_part(real: f64) -> (i64, bool) {
    let bits = real.to_bits();
    let exponent = (bits >> 52) & 0x7ff;
    let mantissa = bits & ((1 << 52) - 1) | 1 << 52;
    // 1075 is the exponent at which the last bit of the mantissa is worth one.
    let (magnitude, has_rest) = match (exponent, exponent.checked_sub(1_075)) {
        (0, _) => (0, bits << 1 != 0),
        (_, Some(up)) => (u128::from(mantissa) << up.min(64), false),
        (_, None) => {
            let down = 1_075_u64.saturating_sub(exponent).min(64);
            let whole = u128::from(mantissa) >> down;
            (whole, whole << down != u128::from(mantissa))
        }
    };
    let magnitude = i128::try_from(magnitude).unwrap_or(i128::MAX);
    let whole = match (real.is_sign_negative(), has_rest) {
        (false, _) => magnitude,
        (true, false) => magnitude.saturating_neg(),
        (true, true) => magnitude.saturating_neg().saturating_sub(1),
    };
    (i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX }), has_rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_order_as_in_sqlite_and_totally() {
        let ascending = [
            ValueRef::Real(f64::NEG_INFINITY),
            ValueRef::Real(-9.3e18),
            ValueRef::Integer(i64::MIN),
            ValueRef::Real(-1.5),
            ValueRef::Integer(-1),
            ValueRef::Real(-0.5),
            ValueRef::Integer(0),
            ValueRef::Real(0.0),
            ValueRef::Real(1e-300),
            ValueRef::Real(0.5),
            ValueRef::Integer(1),
            ValueRef::Real(1.0),
            ValueRef::Real(1.5),
            ValueRef::Real(9_007_199_254_740_992.0),
            ValueRef::Integer(9_007_199_254_740_993),
            ValueRef::Integer(i64::MAX),
            ValueRef::Real(9_223_372_036_854_775_808.0),
            ValueRef::Real(f64::INFINITY),
            ValueRef::Text("a"),
            ValueRef::RawText(b"a\xff"),
            ValueRef::Text("b"),
            ValueRef::Blob(b""),
        ];
        for (at, a) in ascending.iter().enumerate() {
            for (other, b) in ascending.iter().enumerate() {
                assert_eq!(compare(*a, *b), at.cmp(&other), "{a:?} {b:?}");
            }
        }
    }
}
