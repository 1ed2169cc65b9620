//! The product in plain Rust, which is the definition of what the others compute.

use super::{Arithmetic, BLOCK, Columns, LANES, Native, Operand, join};

/// See [`super::product`].
pub(super) fn product(x: Operand<'_>, w: Operand<'_>, len: usize, out: &mut Columns<'_>) {
    for i in 0..x.rows {
        let row = &x.data[i * x.stride..][..len];
        for j in 0..w.rows {
            out.row(i, j, 1)[0] = dot::<Native>(row, &w.data[j * w.stride..][..len]);
        }
    }
}

/// The dot product of two rows.
#[inline(always)]
fn dot<A: Arithmetic>(x: &[f32], w: &[f32]) -> f32 {
    let mut sum = 0.0;
    for (n, (x, w)) in x.chunks(BLOCK).zip(w.chunks(BLOCK)).enumerate() {
        let mut lanes = [0.0; LANES];
        for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
            for l in 0..LANES {
                lanes[l] = A::fma(x[l], w[l], lanes[l]);
            }
        }
        let part = join(&lanes);
        sum = if n == 0 { part } else { sum + part };
    }
    sum
}
