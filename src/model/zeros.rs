//! Zeros where weights should be: a download whose end never came, a matrix that was never trained.

use std::collections::BTreeMap;

use formats::Tensor;

use super::{Model, ModelTensor, Role};

/// Zero bytes in a row that no training leaves in an embedding or a head.
const LONG_RUN_BYTES: u64 = 64 << 10;
/// Rows of embedding and head at most that tokens without a meaning take in a row, however wide they are.
const MAX_UNUSED_RUN: usize = 16;
/// Rows of a matrix that are looked at without reading all of it.
const PEEKED_ROWS: usize = 16;

/// Kind of zeros in a tensor that are suspicious.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeroRule {
    /// A matrix: every row has weights.
    Matrix,
    /// One row a token: tokens that are never seen may have rows of zeros.
    Tokens,
    /// The factors of a norm: they start as ones, and zeros let nothing through.
    Norm,
    /// Tensor exempt from the rules: other vectors, states and low-rank matrices start as zeros.
    Exempt,
}

impl ZeroRule {
    /// Rule for zeros in a tensor of this role.
    pub fn of(role: Role) -> ZeroRule {
        match role {
            Role::Matrix => ZeroRule::Matrix,
            Role::Embedding | Role::Head => ZeroRule::Tokens,
            Role::LowRank | Role::Vector => ZeroRule::Exempt,
        }
    }

    /// A role in which zeros mean that.
    pub fn role(self) -> Role {
        match self {
            ZeroRule::Matrix => Role::Matrix,
            ZeroRule::Tokens => Role::Embedding,
            ZeroRule::Norm | ZeroRule::Exempt => Role::Vector,
        }
    }

    /// Rules for zeros in every tensor of a model's file, by its number.
    pub fn of_model(model: &Model) -> BTreeMap<usize, ZeroRule> {
        let read = model.tensors.iter().filter(|held| !held.is_unread());
        let is_norm = |name: &str| {
            let part = name.strip_suffix(".weight").and_then(|name| name.rsplit('.').next());
            part.is_some_and(|part| part.starts_with("ln"))
        };
        let rule = |held: &ModelTensor| {
            if is_norm(held.spec.name) { ZeroRule::Norm } else { ZeroRule::of(held.spec.role) }
        };
        read.flat_map(|held| held.values.sources().map(|i| (i, rule(held)))).collect()
    }

    /// Rule for zeros in a tensor of which nothing is known but the name and the shape.
    pub fn of_tensor(tensor: &Tensor) -> ZeroRule {
        const EXEMPT: &[&str] = &["lora", "state", "bias", "norm", "buffer"];
        let name = tensor.name.to_ascii_lowercase();
        let is_matrix = tensor.shape.iter().filter(|d| **d > 1).count() > 1;
        match is_matrix && !EXEMPT.iter().any(|part| name.contains(part)) {
            true if name.contains("emb") || name.contains("head") => ZeroRule::Tokens,
            true => ZeroRule::Matrix,
            false => ZeroRule::Exempt,
        }
    }
}

/// Rows of a tensor that are zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Zeros {
    rows: usize,
    zero: usize,
    /// Rows of zeros in a row: at the start, at the end, and most.
    first: usize,
    last: usize,
    longest: usize,
    /// Bytes that a row takes.
    row_bytes: u64,
    /// The one value that all of it has.
    constant: Option<f32>,
}

impl Zeros {
    /// Looks through whole rows of `cols` values that take `row_bytes` each.
    pub fn of(values: &[f32], cols: usize, row_bytes: u64) -> Zeros {
        let constant = values.first().copied().filter(|v| values.iter().all(|w| w == v));
        let mut zeros = Zeros { row_bytes, constant, ..Zeros::default() };
        for row in values.chunks(cols.max(1)) {
            zeros.rows += 1;
            if row.iter().any(|v| *v != 0.0) {
                zeros.last = 0;
                continue;
            }
            zeros.zero += 1;
            zeros.last += 1;
            zeros.longest = zeros.longest.max(zeros.last);
            if zeros.zero == zeros.rows {
                zeros.first = zeros.zero;
            }
        }
        zeros
    }

    /// Zeros of these rows and the rows that follow.
    pub fn then(self, next: Zeros) -> Zeros {
        if self.rows == 0 {
            return next;
        }
        Zeros {
            rows: self.rows + next.rows,
            zero: self.zero + next.zero,
            first: self.first + if self.first == self.rows { next.first } else { 0 },
            last: next.last + if next.last == next.rows { self.last } else { 0 },
            longest: self.longest.max(next.longest).max(self.last + next.first),
            row_bytes: self.row_bytes,
            constant: self.constant.filter(|_| self.constant == next.constant),
        }
    }

    /// Zeros of a tensor whose rows are not stored one after the other.
    pub fn without_rows(self) -> Zeros {
        Zeros { zero: 0, first: 0, last: 0, longest: 0, ..self }
    }

    /// Rows of tokens that were never seen, if they are such.
    pub fn unused_rows(&self, kind: ZeroRule) -> usize {
        if kind == ZeroRule::Tokens { self.zero } else { 0 }
    }

    /// Suspicion about them in a tensor of that name, if any.
    pub fn suspicion(&self, name: &str, kind: ZeroRule) -> Option<String> {
        let (rows, zero, longest) = (self.rows, self.zero, self.longest);
        let bytes = self.row_bytes * longest as u64;
        match (kind, self.constant) {
            (ZeroRule::Exempt, _) => None,
            _ if rows == 0 => None,
            (_, Some(0.0)) => Some(format!("{name} is all zeros")),
            (_, Some(value)) if rows > 1 => Some(format!("{name} holds nothing but the value {value}")),
            (ZeroRule::Tokens, _) if bytes >= LONG_RUN_BYTES && longest > MAX_UNUSED_RUN => {
                Some(format!("{name}: {longest} rows one after the other, {bytes} bytes, are zeros"))
            }
            (ZeroRule::Matrix, _) if zero > 0 => Some(match bytes >= LONG_RUN_BYTES {
                true => format!(
                    "{name}: {zero} of {rows} rows are zeros, {longest} of them ({bytes} bytes) one after the other"
                ),
                false => format!("{name}: {zero} of {rows} rows are zeros"),
            }),
            _ => None,
        }
    }
}

/// Suspicions about the zeros of a model's matrices from a few of their rows; whole matrices of zeros, and ends of
/// files that never came, are found.
pub fn peek(model: &Model) -> Vec<String> {
    let mut found = Vec::new();
    // Rows that are not stored as such cost the whole matrix each.
    let has_rows = |held: &&ModelTensor| {
        held.spec.role.is_large() && held.values.stored(&model.container, 0..1).is_some()
    };
    for held in model.tensors.iter().filter(has_rows) {
        let (rows, cols) = (held.values.rows(), held.values.cols());
        let looked = rows.min(PEEKED_ROWS);
        let mut row = vec![0.0; cols];
        let is_zero = |i: usize| {
            // Evenly, the first and the last among them.
            let at = i * (rows - 1) / (looked - 1).max(1);
            held.values.read(&model.container, at..at + 1, &mut row);
            row.iter().all(|v| *v == 0.0)
        };
        let zero = (0..looked).map(is_zero).filter(|zero| *zero).count();
        let odd = if ZeroRule::of(held.spec.role) == ZeroRule::Tokens { looked / 4 } else { 0 };
        if zero > odd {
            found.push(format!("{}: {zero} of the {looked} rows that were looked at are zeros", held.name()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pattern: &str) -> Zeros {
        let values: Vec<f32> = pattern.bytes().flat_map(|b| [0.0, f32::from(b - b'0')]).collect();
        Zeros::of(&values, 2, 1 << 14)
    }

    #[test]
    fn rows_are_counted_however_they_are_cut() {
        for pattern in ["1001", "0000", "0100010", "1", "0", "10", "01", "0000001", "111001"] {
            let whole = rows(pattern);
            for cut in 0..=pattern.len() {
                let joined = rows(&pattern[..cut]).then(rows(&pattern[cut..]));
                let joined = if cut == pattern.len() { rows(pattern) } else { joined };
                assert_eq!(joined, whole, "{pattern} cut at {cut}");
            }
        }
        let zeros = rows("0100010");
        assert_eq!((zeros.rows, zeros.zero, zeros.longest), (7, 5, 3));
    }

    #[test]
    fn zeros_are_suspicious_where_weights_should_be() {
        let said = |pattern: &str, kind| rows(pattern).suspicion("x", kind).unwrap_or_default();
        assert_eq!(said("0000", ZeroRule::Matrix), "x is all zeros");
        assert_eq!(said("0000", ZeroRule::Tokens), "x is all zeros");
        assert_eq!(said("1101", ZeroRule::Matrix), "x: 1 of 4 rows are zeros");
        assert!(said("1000011", ZeroRule::Matrix).contains("4 of them (65536 bytes)"));
        assert_eq!(said("1100", ZeroRule::Tokens), "");
        assert!(said("10000000000000000001", ZeroRule::Tokens).contains("18 rows one after the other"));
        assert_eq!(said("0000", ZeroRule::Exempt), "");
        let constant = Zeros::of(&[0.5; 8], 2, 4);
        assert_eq!(constant.suspicion("x", ZeroRule::Matrix).unwrap(), "x holds nothing but the value 0.5");
    }
}
