//! Tensors that are described, not computed: views on stored bytes, transposed, sliced, stacked and mapped.
//!
//! A conversion changes little about a tensor besides its encoding: it is transposed, squeezed, stacked with
//! its neighbours or scaled. [`TensorView`] records that, and [`TensorView::read`] yields any range of rows as f32, so
//! that a model of any size passes through a buffer of a few megabytes.

use std::ops::Range;
use std::sync::Arc;

use formats::{Container, Tensor};
use quant::{Encoding, codec, codec_of_levels};

use super::change::{Alteration, Change, Map};
use super::channels::Channels;
use super::source::Source;
use super::tiled;

/// Places of the elements along one dimension of a view, in elements.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Elements so far apart each.
    Even(usize),
    /// Elements so far apart each, but read in groups of `size` that stand in another order in the file.
    Groups { stride: usize, size: usize, order: &'static [usize] },
}

impl Step {
    /// Distance of the `i`-th element from the first one in the file.
    fn at(&self, i: usize) -> usize {
        match self {
            Step::Even(stride) => i * stride,
            Step::Groups { stride, size, order } => (order[i / size] * size + i % size) * stride,
        }
    }
}

/// A strided window on one stored tensor.
#[derive(Clone, Debug, PartialEq)]
struct View {
    source: Source,
    encoding: Encoding,
    /// Index of the first element within the tensor's span.
    start: usize,
    shape: Vec<usize>,
    /// Places of the elements along each dimension.
    steps: Vec<Step>,
}

impl View {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if the elements lie row-major without gaps.
    fn is_contiguous(&self) -> bool {
        let mut next = 1;
        self.shape.iter().zip(&self.steps).rev().all(|(d, s)| {
            let fits = *d == 1 || *s == Step::Even(next);
            next *= d;
            fits
        })
    }

    /// Flat views of all elements: one, or one a row if the rows lie apart.
    fn runs(&self) -> Vec<View> {
        let flat = |start: usize, len: usize, step: &Step| View {
            start,
            shape: vec![len],
            steps: vec![step.clone()],
            ..self.clone()
        };
        let (cols, step) = match (self.shape.last(), self.steps.last()) {
            _ if self.is_contiguous() => return vec![flat(self.start, self.elements(), &Step::Even(1))],
            (Some(d), Some(s)) => (*d, s),
            _ => (1, &Step::Even(1)),
        };
        let rows = self.elements().checked_div(cols).unwrap_or(0);
        (0..rows).map(|row| flat(self.index(row * cols) - step.at(0), cols, step)).collect()
    }

    /// Index in the span of the `i`-th element in row-major order.
    fn index(&self, mut i: usize) -> usize {
        let mut at = self.start;
        for (d, s) in self.shape.iter().zip(&self.steps).rev() {
            at += s.at(i % d);
            i /= d;
        }
        at
    }

    /// Decodes elements `range` in row-major order.
    fn read(&self, container: &Container, range: Range<usize>, out: &mut [f32]) {
        let (container, tensor) = self.source.resolve(container);
        if self.is_contiguous() {
            decode_run(container, tensor, self.start + range.start, out);
        } else if self.encoding.is_plain() && container.tiled(tensor).is_none() {
            let bytes = container.bytes(tensor);
            let size = self.encoding.block_bytes();
            let release = |from: usize, to: usize| {
                container.release(tensor, (from * size) as u64..((to * size) as u64).min(tensor.bytes));
            };
            self.gather(range, out, release, |at, x| {
                decode(container, tensor, &bytes[at * size..(at + 1) * size], x);
            });
        } else {
            let mut all = vec![0.0; tensor.elements() as usize];
            decode_run(container, tensor, 0, &mut all);
            self.gather(range, out, |_, _| (), |at, x| x[0] = all[at]);
        }
    }

    /// Fills `out` element by element: column by column if neighbours along a row lie further apart than whole rows
    /// do, so that the stored bytes are walked through once, front to back. What lies behind is released on the way:
    /// a transposed matrix of any size takes little memory.
    fn gather(
        &self,
        range: Range<usize>,
        out: &mut [f32],
        release: impl Fn(usize, usize),
        mut element: impl FnMut(usize, &mut [f32]),
    ) {
        const RELEASE_EVERY: usize = 1 << 20; // elements
        let (cols, step) = match (self.shape.last(), self.steps.last()) {
            (Some(d), Some(s)) => (*d, s),
            _ => (1, &Step::Even(0)),
        };
        let (first, last) = (range.start / cols, range.end.div_ceil(cols));
        let rows: Vec<usize> = (first..last).map(|row| self.index(row * cols) - step.at(0)).collect();
        let mut put = |row: usize, col: usize| {
            let i = (first + row) * cols + col;
            if range.contains(&i) {
                let o = i - range.start;
                element(rows[row] + step.at(col), &mut out[o..o + 1]);
            }
        };
        let row_stride = rows.windows(2).map(|w| w[0].abs_diff(w[1])).max().unwrap_or(usize::MAX);
        if cols < 2 || step.at(0).abs_diff(step.at(1)) <= row_stride {
            for row in 0..rows.len() {
                (0..cols).for_each(|col| put(row, col));
            }
            return;
        }
        let base = rows.iter().copied().min().unwrap_or(0);
        let mut released = base;
        for col in 0..cols {
            (0..rows.len()).for_each(|row| put(row, col));
            let at = base + step.at(col);
            if at >= released + RELEASE_EVERY {
                release(released, at);
                released = at;
            }
        }
    }
}

/// Decodes `out.len()` values from element `first` on, which need not be the start of a block.
fn decode_run(container: &Container, tensor: &Tensor, first: usize, out: &mut [f32]) {
    if let Some(tiled) = container.tiled(tensor) {
        return tiled::read(tensor, &tiled, first, out);
    }
    let len = tensor.encoding.block_len();
    let (block, skip) = (first / len, first % len);
    let blocks = (skip + out.len()).div_ceil(len);
    let bytes = container.blocks(tensor, block..block + blocks);
    if skip == 0 && out.len() == blocks * len {
        return decode(container, tensor, &bytes, out);
    }
    let mut whole = vec![0.0; blocks * len];
    decode(container, tensor, &bytes, &mut whole);
    out.copy_from_slice(&whole[skip..skip + out.len()]);
}

fn decode(container: &Container, tensor: &Tensor, bytes: &[u8], out: &mut [f32]) {
    let of_levels = container.codebook(tensor).and_then(|levels| codec_of_levels(tensor.encoding, levels));
    match of_levels.as_deref().or_else(|| codec(tensor.encoding)) {
        Some(codec) => codec.decode(bytes, out),
        // `TensorView::of` takes tensors of encodings that have a codec only.
        None => unreachable!("no codec decodes {}", tensor.encoding),
    }
}

/// A tensor as a function of stored tensors: views stacked along the first dimension, then altered, then padded.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorView {
    shape: Vec<usize>,
    parts: Vec<View>,
    /// Alterations in the order they happen.
    alterations: Vec<Alteration>,
    padding: Option<Padding>,
}

/// Zeros around the values, which lie in the corner of a larger shape where all indices are small.
#[derive(Clone, Debug, PartialEq)]
struct Padding {
    inner: Vec<usize>,
    /// Outer shape, of as many dimensions; the last is that of the padded tensor.
    outer: Vec<usize>,
}

impl Padding {
    /// Number of the row of the values that stands in this row of the padded tensor; `None` for a row of zeros.
    fn row(&self, mut row: usize) -> Option<usize> {
        let (mut number, mut step) = (0, 1);
        for (inner, outer) in self.inner.iter().zip(&self.outer).rev().skip(1) {
            let i = row % outer;
            row /= outer;
            if i >= *inner {
                return None;
            }
            number += i * step;
            step *= inner;
        }
        Some(number)
    }
}

impl TensorView {
    /// Tensor number `tensor` of `container` as it is; `None` if its encoding holds no weights or cannot be
    /// decoded.
    pub fn of(container: &Container, tensor: usize) -> Option<TensorView> {
        TensorView::whole(container, tensor, Source::Own(tensor))
    }

    /// Tensor number `tensor` of `container` as it is, to be read beside tensors of another container.
    pub fn of_other(container: &Arc<Container>, tensor: usize) -> Option<TensorView> {
        TensorView::whole(container, tensor, Source::Other(Arc::clone(container), tensor))
    }

    fn whole(container: &Container, tensor: usize, source: Source) -> Option<TensorView> {
        let t: &Tensor = container.tensors().get(tensor)?;
        codec(t.encoding).filter(|_| t.encoding.is_real())?;
        let steps = match &t.strides {
            Some(strides) => strides.iter().copied().map(Step::Even).collect(),
            None => contiguous(&t.shape),
        };
        let view = View { source, encoding: t.encoding, start: 0, shape: t.shape.clone(), steps };
        Some(TensorView { shape: t.shape.clone(), parts: vec![view], alterations: Vec::new(), padding: None })
    }

    /// The shape, slowest dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of a row: the last dimension, 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.elements().checked_div(self.cols()).unwrap_or(0)
    }

    /// The encoding of the stored elements, if all parts have the same.
    pub fn encoding(&self) -> Option<Encoding> {
        let first = self.parts.first()?.encoding;
        self.parts.iter().all(|p| p.encoding == first).then_some(first)
    }

    /// True if these are the same stored elements in the same order, whatever is done to them on their way out.
    pub fn is_same_view(&self, other: &TensorView) -> bool {
        self.shape == other.shape && self.parts == other.parts && self.padding == other.padding
    }

    /// View of all elements in another shape. `None` if the counts differ, for changed rows, or if padded ones would be
    /// cut.
    pub fn reshaped(&self, shape: &[usize]) -> Option<TensorView> {
        if shape == self.shape {
            return Some(self.clone());
        }
        if shape.iter().product::<usize>() != self.elements() || self.is_changed() {
            return None;
        }
        if self.padding.is_some() {
            let whole_rows = shape.last() == self.shape.last();
            return whole_rows.then(|| TensorView { shape: shape.to_vec(), ..self.clone() });
        }
        let whole = match self.parts.as_slice() {
            [view] => restep(view, shape).map(|steps| View { shape: shape.to_vec(), steps, ..view.clone() }),
            _ => None,
        };
        // Stacked parts, and rows that lie apart, are read one after the other, whatever the shape.
        let parts = whole.map_or_else(|| self.parts.iter().flat_map(View::runs).collect(), |view| vec![view]);
        Some(TensorView { shape: shape.to_vec(), parts, ..self.clone() })
    }

    /// The view that these values are, unless they are stacked, changed row by row, or padded.
    fn view(&self) -> Option<&View> {
        match self.parts.as_slice() {
            [view] if self.padding.is_none() && !self.is_changed() => Some(view),
            _ => None,
        }
    }

    /// The alterations with every rescaling of channels as `of` makes it; `None` if it cannot.
    fn altered(&self, of: impl Fn(&Channels) -> Option<Channels>) -> Option<Vec<Alteration>> {
        let one = |alteration: &Alteration| match alteration {
            Alteration::Channels(channels) => of(channels).map(Alteration::Channels),
            other => Some(other.clone()),
        };
        self.alterations.iter().map(one).collect()
    }

    /// The last two dimensions swapped. `None` below two dimensions, or for stacked, changed or padded rows.
    pub fn transposed(&self) -> Option<TensorView> {
        let view = self.view()?;
        let n = view.shape.len();
        if n < 2 {
            return None;
        }
        let matrix = [view.shape[n - 2], view.shape[n - 1]];
        let alterations = self.altered(|channels| channels.transposed(matrix))?;
        let mut view = view.clone();
        view.shape.swap(n - 2, n - 1);
        view.steps.swap(n - 2, n - 1);
        Some(TensorView { shape: view.shape.clone(), parts: vec![view], alterations, padding: None })
    }

    /// Slice `k` along the first dimension, which is dropped. `None` if there is none, for stacked, changed or
    /// padded rows, or where that dimension is rescaled.
    pub fn slice(&self, k: usize) -> Option<TensorView> {
        let view = self.view()?;
        if k >= *view.shape.first()? {
            return None;
        }
        let view = View {
            start: view.start + view.steps[0].at(k),
            shape: view.shape[1..].to_vec(),
            steps: view.steps[1..].to_vec(),
            ..view.clone()
        };
        let alterations = self.altered(|channels| channels.repeating_in(view.elements()))?;
        Some(TensorView { shape: view.shape.clone(), parts: vec![view], alterations, padding: None })
    }

    /// The first `rows` along the first dimension. `None` if there are not as many, or for stacked or padded values.
    pub fn first_rows(&self, rows: usize) -> Option<TensorView> {
        let mut view = self.view()?.clone();
        let all = view.shape.first_mut()?;
        if rows > *all {
            return None;
        }
        *all = rows;
        Some(TensorView { shape: view.shape.clone(), parts: vec![view], ..self.clone() })
    }

    /// Every element `times` times along a new last dimension. `None` for stacked or padded values.
    pub fn repeated(&self, times: usize) -> Option<TensorView> {
        let mut view = self.view()?.clone();
        view.shape.push(times);
        view.steps.push(Step::Even(0));
        let alterations = self.altered(|channels| Some(channels.repeated(times)))?;
        Some(TensorView { shape: view.shape.clone(), parts: vec![view], alterations, padding: None })
    }

    /// Zeros behind the last element of every dimension until the shape is `shape`. `None` if it has another number of
    /// dimensions or a smaller one, or if the values are padded already.
    pub fn padded(&self, shape: &[usize]) -> Option<TensorView> {
        let grows = shape.iter().zip(&self.shape).all(|(outer, inner)| outer >= inner);
        if shape.len() != self.shape.len() || !grows || self.padding.is_some() {
            return None;
        }
        let padding = Padding { inner: self.shape.clone(), outer: shape.to_vec() };
        let padding = (padding.inner != padding.outer).then_some(padding);
        Some(TensorView { shape: shape.to_vec(), padding, ..self.clone() })
    }

    /// Dimension `dim` cut into as many equal groups as `order` has entries: group `i` becomes group `order[i]`
    /// of these. `None` if it cannot be cut so, or for stacked, rescaled or padded values. `order` names each group
    /// once.
    pub fn regrouped(&self, dim: usize, order: &'static [usize]) -> Option<TensorView> {
        let view = self.view()?;
        let (len, step) = (*view.shape.get(dim)?, view.steps.get(dim)?);
        let Step::Even(stride) = *step else { return None };
        if !len.is_multiple_of(order.len()) || order.iter().any(|k| *k >= order.len()) {
            return None;
        }
        let mut view = view.clone();
        view.steps[dim] = Step::Groups { stride, size: len / order.len(), order };
        Some(TensorView { parts: vec![view], alterations: self.altered(|_| None)?, ..self.clone() })
    }

    /// Tensors of one shape stacked along a new first dimension. `None` if their shapes or maps differ, or for changed
    /// or padded rows.
    pub fn stacked(items: &[TensorView]) -> Option<TensorView> {
        let first = items.first()?;
        let fits = |i: &TensorView| {
            i.shape == first.shape
                && i.alterations == first.alterations
                && i.padding.is_none()
                && !i.is_changed()
        };
        if !items.iter().all(fits) {
            return None;
        }
        first.altered(|channels| channels.repeating_in(first.elements()))?;
        let shape = std::iter::once(items.len()).chain(first.shape.iter().copied()).collect();
        let parts = items.iter().flat_map(|i| i.parts.iter().cloned()).collect();
        Some(TensorView { shape, parts, ..first.clone() })
    }

    /// Every value changed by `map`, behind all alterations that there are; zeros of the padding stay zeros. What undoes
    /// the one before leaves the values as they were.
    #[must_use]
    pub fn mapped(mut self, map: Map) -> TensorView {
        match self.alterations.last() {
            Some(Alteration::Map(last)) if map.undoes(*last) => drop(self.alterations.pop()),
            _ => self.alterations.push(Alteration::Map(map)),
        }
        self
    }

    /// Every row changed by `change`, behind all alterations that there are. (Zeros of a padding are not changed.)
    #[must_use]
    pub fn changed(&self, change: Arc<dyn Change>) -> TensorView {
        let mut all = self.clone();
        all.alterations.push(Alteration::Rows(change));
        all
    }

    /// Every value multiplied by the factor of its index along dimension `dim`, behind all alterations that there are.
    /// `None` if there is no such dimension, if there are not as many factors, or for padded values.
    pub fn rescaled(&self, dim: usize, factors: Arc<[f32]>) -> Option<TensorView> {
        if self.shape.get(dim) != Some(&factors.len()) || self.padding.is_some() {
            return None;
        }
        let step = self.shape[dim + 1..].iter().product();
        let mut all = self.clone();
        all.alterations.push(Alteration::Channels(Channels::new(factors, step)));
        Some(all)
    }

    /// True if adapters change the rows.
    pub fn is_changed(&self) -> bool {
        self.alterations.iter().any(|a| matches!(a, Alteration::Rows(_)))
    }

    /// True if values are computed from those that are stored, or there are some that are not stored.
    pub fn is_altered(&self) -> bool {
        !self.alterations.is_empty() || self.padding.is_some()
    }

    /// Values that [`read`](TensorView::read) keeps in memory besides those it gives.
    pub fn scratch_values(&self) -> usize {
        self.alterations.iter().map(Alteration::scratch_values).max().unwrap_or(0)
    }

    /// Reads rows `rows` as f32 into `out`.
    ///
    /// # Panics
    /// If `out` is not exactly as long as the rows, or the rows do not exist.
    pub fn read(&self, container: &Container, rows: Range<usize>, out: &mut [f32]) {
        let cols = self.cols();
        let (start, end) = (rows.start * cols, rows.end * cols);
        assert!(end <= self.elements() && out.len() == end - start, "rows {rows:?} of {:?}", self.shape);
        let Some(padding) = &self.padding else { return self.read_values(container, start..end, out) };
        let inner = padding.inner.last().copied().unwrap_or(1);
        for (row, out) in rows.zip(out.chunks_mut(cols.max(1))) {
            let zeros = match padding.row(row) {
                Some(row) => {
                    self.read_values(container, row * inner..(row + 1) * inner, &mut out[..inner]);
                    &mut out[inner..]
                }
                None => out,
            };
            zeros.fill(0.0);
        }
    }

    /// Reads elements `range` of the values without padding.
    fn read_values(&self, container: &Container, range: Range<usize>, out: &mut [f32]) {
        let (start, end) = (range.start, range.end);
        let mut base = 0;
        for part in &self.parts {
            let n = part.elements();
            let (from, to) = (start.max(base), end.min(base + n));
            if from < to {
                part.read(container, from - base..to - base, &mut out[from - start..to - start]);
            }
            base += n;
        }
        let cols = match &self.padding {
            Some(padding) => padding.inner.last().copied().unwrap_or(1),
            None => self.cols(),
        };
        for alteration in &self.alterations {
            alteration.apply(start, cols.max(1), out);
        }
    }

    /// The stored bytes of rows `rows`, if they can be copied as they are: the elements lie without gaps,
    /// start at a block, and no value is changed.
    pub fn stored<'a>(&'a self, container: &'a Container, rows: Range<usize>) -> Option<&'a [u8]> {
        let view = self.view()?;
        let (container, tensor) = view.source.resolve(container);
        let there = tensor.split.is_none() && container.tiled(tensor).is_none();
        if !self.alterations.is_empty() || !view.is_contiguous() || !there {
            return None;
        }
        let (len, size) = (view.encoding.block_len(), view.encoding.block_bytes());
        let (first, last) = (view.start + rows.start * self.cols(), view.start + rows.end * self.cols());
        if !first.is_multiple_of(len) || !last.is_multiple_of(len) {
            return None;
        }
        container.bytes(tensor).get(first / len * size..last / len * size)
    }

    /// Lets go of the pages that rows `rows` were read from (see [`formats::Mapped::release`]).
    pub fn release(&self, container: &Container, rows: Range<usize>) {
        for part in &self.parts {
            let (container, tensor) = part.source.resolve(container);
            let (len, size) = (part.encoding.block_len(), part.encoding.block_bytes());
            if self.parts.len() == 1 && self.padding.is_none() && part.is_contiguous() {
                let at = |row: usize| ((part.start + row * self.cols()) / len * size) as u64;
                let end = (tensor.elements() as usize / len * size) as u64;
                container.release(tensor, at(rows.start)..at(rows.end).min(end));
            } else {
                container.release(tensor, 0..tensor.bytes);
            }
        }
    }

    /// The first stored tensor that this one is made of, and the file that holds it.
    pub fn origin<'a>(&'a self, container: &'a Container) -> Option<(&'a Container, &'a Tensor)> {
        self.parts.first().map(|part| part.source.resolve(container))
    }

    /// Numbers of the container's tensors that this one is made of.
    pub fn sources(&self) -> impl Iterator<Item = usize> + '_ {
        self.parts.iter().filter_map(|p| match p.source {
            Source::Own(i) => Some(i),
            Source::Other(..) => None,
        })
    }
}

/// The steps of a shape whose elements lie row-major without gaps.
fn contiguous(shape: &[usize]) -> Vec<Step> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides.into_iter().map(Step::Even).collect()
}

/// The steps of a view's elements in another shape: possible if they lie without gaps, or if the shapes
/// differ in dimensions of one only.
fn restep(view: &View, shape: &[usize]) -> Option<Vec<Step>> {
    if view.is_contiguous() {
        return Some(contiguous(shape));
    }
    let mut long = view.shape.iter().zip(&view.steps).filter(|(d, _)| **d != 1);
    let mut steps = Vec::new();
    for d in shape {
        steps.push(if *d == 1 {
            Step::Even(0)
        } else {
            let (dim, step) = long.next()?;
            (dim == d).then(|| step.clone())?
        });
    }
    Some(steps)
}
