//! Products on other devices, through candle: graphics cards where the program was built for them, and candle's own
//! kernels on the processor, which are a second opinion about ours.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use quant::Encoding;

use super::matrix::Matrix;
use super::weight::{Values, Weight};
use crate::error::{Error, Result};

/// Arithmetic of the products of matrices.
#[derive(Clone, Debug, Default)]
pub enum Arithmetic {
    /// Products in f32 by this program's own kernels, whose results are the same to the last bit on all processors.
    #[default]
    Exact,
    /// Products on the processor's matrix unit, if it has one ([`Arithmetic::is_exact`]): values are split into two of
    /// bf16 each, so the results are no longer the same on every machine, nor to the last bits those of f32.
    Fast,
    /// Products in f32 by candle.
    Candle(Device),
}

impl Arithmetic {
    /// True if the results are those of [`Arithmetic::Exact`] on this machine.
    pub fn is_exact(&self) -> bool {
        match self {
            Arithmetic::Exact => true,
            Arithmetic::Fast => !super::weight::fast_available(),
            Arithmetic::Candle(_) => false,
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arithmetic::Fast if !self.is_exact() => f.write_str("bf16 (AMX)"),
            Arithmetic::Fast => f.write_str("f32 (this processor has no AMX for --fast)"),
            Arithmetic::Exact => f.write_str("f32"),
            Arithmetic::Candle(device) => write!(f, "f32 by candle ({:?})", device.location()),
        }
    }
}

impl FromStr for Arithmetic {
    type Err = String;

    /// The name of a device: `cpu`, `candle`, `cuda`, `cuda:1`, or `metal`.
    fn from_str(name: &str) -> std::result::Result<Arithmetic, String> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        let number =
            || number.parse().map_err(|_| format!("{name:?} has no number of a device behind the colon"));
        let device = match kind {
            "cpu" => return Ok(Arithmetic::Exact),
            "candle" => Ok(Device::Cpu),
            "cuda" => Device::new_cuda(number()?),
            "metal" => Device::new_metal(number()?),
            _ => return Err("the devices are cpu, candle, cuda, cuda:N and metal".to_owned()),
        };
        // The first line says what is wrong; a backtrace may follow.
        device.map(Arithmetic::Candle).map_err(|e| {
            let e = e.to_string();
            let what = e.lines().next().unwrap_or_default();
            format!("{what}; the program must be built for it: --features {kind}")
        })
    }
}

/// A tensor's spec and block.
type Key = (&'static str, usize);

/// A device and what lies on it.
#[derive(Debug)]
pub(super) struct Products {
    device: Device,
    /// Matrices that stay on a graphics card, as stored.
    kept: Mutex<HashMap<Key, Tensor>>,
    /// First failure.
    failure: Mutex<Option<String>>,
}

impl Products {
    /// Products by candle on `device`.
    pub fn new(device: Device) -> Products {
        Products { device, kept: Mutex::default(), failure: Mutex::default() }
    }

    /// The product, or NaN if the device fails: then [`Products::check`] says so.
    pub fn multiply(&self, weight: &Weight<'_>, x: &Matrix, out: &mut Matrix) {
        if let Err(error) = self.product(weight, x, out) {
            out.data.fill(f32::NAN);
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| error.to_string());
        }
    }

    /// True if all products so far were computed.
    ///
    /// # Errors
    /// [`Error::Resources`] with what candle says, most often that the device has too little memory.
    pub fn check(&self) -> Result<()> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => Ok(()),
            Some(what) => Err(Error::Resources {
                what: format!("the device cannot compute: {}", what.lines().next().unwrap_or_default()),
                help: "leave --device away to compute on the processor".to_owned(),
            }),
        }
    }

    fn product(&self, weight: &Weight<'_>, x: &Matrix, out: &mut Matrix) -> candle_core::Result<()> {
        let w = self.matrix(weight)?.to_dtype(DType::F32)?;
        let x = Tensor::from_slice(&x.data, (x.rows, x.cols), &self.device)?;
        let product = x.matmul(&w.t()?)?.flatten_all()?.to_vec1::<f32>()?;
        out.data.copy_from_slice(&product);
        Ok(())
    }

    /// The matrix on the device, in its stored type if candle has it.
    fn matrix(&self, weight: &Weight<'_>) -> candle_core::Result<Tensor> {
        let key = weight.key.filter(|_| !self.device.is_cpu());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tensor) = key.and_then(|key| kept.get(&key)) {
            return Ok(tensor.clone());
        }
        let shape = (weight.rows(), weight.cols());
        let stored = match weight.values {
            Values::Stored { container, values, .. } => {
                let kind = match values.encoding() {
                    Some(Encoding::F16) => Some(DType::F16),
                    Some(Encoding::BF16) => Some(DType::BF16),
                    _ => None,
                };
                kind.zip(values.stored(container, 0..values.rows()))
            }
            _ => None,
        };
        let tensor = match stored {
            Some((kind, bytes)) => Tensor::from_raw_buffer(bytes, kind, &[shape.0, shape.1], &self.device)?,
            None => weight.with_rows(0..shape.0, |values| Tensor::from_slice(values, shape, &self.device))?,
        };
        if let Some(key) = key {
            kept.insert(key, tensor.clone());
        }
        Ok(tensor)
    }
}
