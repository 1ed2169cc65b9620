//! Rows interleaved in strips, the way products read them: first the first value of every row of a strip, then the
//! second values, and so on, so that a product reads its operands from front to back.

#![allow(unsafe_code)] // kernels of an instruction set are called

use super::Level;

/// Values of every row that are interleaved before the next row's: a strip of 32 rows writes to 8 KiB meanwhile.
const SPAN: usize = 64;

/// Number of values of the strips of so many rows.
pub(in crate::runner) fn strips_len(rows: usize, depth: usize, width: usize) -> usize {
    rows.next_multiple_of(width) * depth
}

/// Interleaves the rows of `depth` values in `rows` in strips of `width`; what the last strip lacks is zero.
///
/// # Panics
/// If `rows` holds no whole number of rows, or `out` is not as long as the strips.
pub(in crate::runner) fn interleave(level: Level, rows: &[f32], depth: usize, width: usize, out: &mut [f32]) {
    assert!(depth > 0 && rows.len().is_multiple_of(depth));
    assert_eq!(out.len(), strips_len(rows.len() / depth, depth, width));
    for (strip, rows) in out.chunks_mut(width * depth).zip(rows.chunks(width * depth)) {
        let done = match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => registers(rows, depth, width, strip),
            _ => 0,
        };
        plain(rows, depth, width, done, strip);
    }
}

/// One strip, from value `from` of every row on.
fn plain(rows: &[f32], depth: usize, width: usize, from: usize, strip: &mut [f32]) {
    let count = rows.len() / depth;
    for from in (from..depth).step_by(SPAN) {
        let to = depth.min(from + SPAN);
        let strip = &mut strip[from * width..to * width];
        for (i, row) in rows.chunks(depth).enumerate() {
            for (group, value) in strip.chunks_exact_mut(width).zip(&row[from..to]) {
                group[i] = *value;
            }
        }
        if count < width {
            strip.chunks_exact_mut(width).for_each(|group| group[count..].fill(0.0));
        }
    }
}

/// One strip, 16 values of 16 rows at a time; tells how many values of every row it took.
#[cfg(target_arch = "x86_64")]
fn registers(rows: &[f32], depth: usize, width: usize, strip: &mut [f32]) -> usize {
    const SIDE: usize = 16;
    const ZEROS: [f32; SIDE] = [0.0; SIDE];
    // A store writes 16 values even where a strip is narrower, so the last values of such a strip are left over.
    let end = if width.is_multiple_of(SIDE) { depth } else { depth.saturating_sub(SIDE) };
    let (end, count) = (end / SIDE * SIDE, rows.len() / depth);
    for k in (0..end).step_by(SIDE) {
        for first in (0..width).step_by(SIDE) {
            let at = |i: usize| {
                if first + i < count {
                    rows[(first + i) * depth + k..][..SIDE].as_ptr()
                } else {
                    ZEROS.as_ptr()
                }
            };
            let out = &mut strip[k * width + first..][..(SIDE - 1) * width + SIDE];
            // SAFETY: the level is available; the slices were just found to hold as many values.
            unsafe { super::avx512::interleave(&std::array::from_fn(at), out.as_mut_ptr(), width) };
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_side_by_side() {
        for (rows, depth, width) in [(7, 100, 4), (25, 100, 12), (40, 64, 32), (12, 16, 12), (3, 33, 32)] {
            let values: Vec<f32> = (0..rows * depth).map(|i| i as f32).collect();
            for level in Level::available() {
                let mut strips = vec![f32::NAN; strips_len(rows, depth, width)];
                interleave(level, &values, depth, width, &mut strips);
                for (at, value) in strips.iter().enumerate() {
                    let (strip, k, i) = (at / (width * depth), at / width % depth, at % width);
                    let row = strip * width + i;
                    assert_eq!(*value, if row < rows { values[row * depth + k] } else { 0.0 });
                }
            }
        }
    }
}
