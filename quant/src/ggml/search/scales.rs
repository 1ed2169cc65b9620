//! Scales of scales: `x' = d * code` for the scales (or minima) of the groups of one super-block, codes 0 to `nmax`.

use super::ZERO;
use crate::arch::nearest_int;

/// Finds `d` and the codes: eight trials around `max / nmax`, a least-squares fit weighted by `w`, then up to five
/// passes that improve one code at a time. Negative values wrap, as they do in ggml's bytes.
pub(in crate::ggml) fn search<const N: usize>(x: &[f32; N], w: &[f32; N], nmax: i32) -> (f32, [u8; N]) {
    let mut codes = [0u8; N];
    let max = x.iter().fold(0.0f32, |m, v| if m > *v { m } else { *v });
    if max < ZERO {
        return (0.0, codes);
    }
    let mut inverse = nmax as f32 / max;
    let mut best = 0.0f32;
    let scale = 1.0 / inverse;
    for i in 0..N {
        let diff = x[i] - scale * f32::from(nearest_int(inverse * x[i]) as u8);
        best += w[i] * diff * diff;
    }
    for step in (-4..=4).filter(|step| *step != 0) {
        let trial = (0.1 * step as f32 + nmax as f32) / max;
        let scale = 1.0 / trial;
        let mut error = 0.0f32;
        for i in 0..N {
            let diff = x[i] - scale * nearest_int(trial * x[i]).min(nmax) as f32;
            error += w[i] * diff * diff;
        }
        if error < best {
            best = error;
            inverse = trial;
        }
    }
    let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
    for i in 0..N {
        let l = nearest_int(inverse * x[i]).min(nmax);
        codes[i] = l as u8;
        sum_lx += w[i] * x[i] * l as f32;
        sum_l2 += w[i] * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let old = f32::from(codes[i]);
            let mut new_lx = sum_lx - w[i] * x[i] * old;
            let mut new_l2 = sum_l2 - w[i] * old * old;
            if new_lx > 0.0 && new_l2 > 0.0 {
                let l = nearest_int(x[i] * new_l2 / new_lx).min(nmax);
                if l != i32::from(codes[i]) {
                    new_lx += w[i] * x[i] * l as f32;
                    new_l2 += w[i] * l as f32 * l as f32;
                    if new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2 {
                        codes[i] = l as u8;
                        (sum_lx, sum_l2) = (new_lx, new_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }, codes)
}
