//! Where training computes: on the processor, or on a GPU.
//!
//! A [`Device`] is made by [`Device::probe`] alone, which has it compute something first: a GPU that disappeared with an
//! update of its driver is found before a round begins and not hours later. The processor is always there.
//!
//! On the processor the same work gives the same bytes. A GPU promises that nowhere: kernels are chosen by what was fastest a
//! moment ago, and sums are taken in their order.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use burn::tensor::{Tensor, TensorData};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Which device a person asks for: `cpu`, `gpu`, `gpu:1` or `gpu:software`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    #[n(0)]
    Cpu,
    /// A GPU by its number, from 0, in the order in which Vulkan lists them.
    #[n(1)]
    Gpu(#[n(0)] u16),
    /// Vulkan on the processor, where such a driver is installed: to try a build out without a GPU. Never meant by `gpu`.
    #[n(2)]
    Software,
}

impl DeviceChoice {
    /// Whether this is the processor without any driver.
    pub const fn is_cpu(self) -> bool {
        matches!(self, Self::Cpu)
    }
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let unknown = || UnknownDevice(text.to_owned());
        match text {
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu(0)),
            "gpu:software" => Ok(Self::Software),
            _ => text.strip_prefix("gpu:").and_then(|at| at.parse().ok()).map(Self::Gpu).ok_or_else(unknown),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = UnknownDevice;

    fn try_from(text: String) -> Result<Self, UnknownDevice> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.pad("cpu"),
            Self::Gpu(number) => write!(f, "gpu:{number}"),
            Self::Software => f.pad("gpu:software"),
        }
    }
}

/// A word that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device: cpu, gpu, gpu:1 (the second) or gpu:software")]
pub struct UnknownDevice(String);

/// Why a device cannot be used, or stopped being usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum DeviceError {
    /// The program has no GPU support compiled in.
    #[n(0)]
    #[error("this program was built without GPU support (feature wgpu)")]
    NotBuilt,
    /// Vulkan lists no such device.
    #[n(1)]
    #[error("there is no {choice}: Vulkan lists {found} GPUs here")]
    Absent {
        /// What was asked for.
        #[n(0)]
        choice: DeviceChoice,
        /// How many GPUs there are.
        #[n(1)]
        found: u16,
    },
    /// It computes, but not what was asked.
    #[n(2)]
    #[error("the GPU computes wrong numbers")]
    Wrong,
    /// An allocation failed.
    #[n(3)]
    #[error("out of GPU memory")]
    OutOfMemory,
    /// It does not answer any more.
    #[n(4)]
    #[error("the GPU was lost")]
    Lost,
}

/// A device that has just computed.
#[derive(Clone, Debug)]
pub struct Device {
    name: String,
    place: burn::tensor::Device,
    may_fail: bool,
}

impl Device {
    /// The processor.
    pub fn cpu() -> Self {
        Self { name: "cpu".to_owned(), place: burn::tensor::Device::flex(), may_fail: false }
    }

    /// Finds the device and has it compute a small product. After a failure of a GPU the process has to end before
    /// another probe can succeed: drivers do not forget.
    pub fn probe(choice: DeviceChoice) -> Result<Self, DeviceError> {
        if choice.is_cpu() {
            return Ok(Self::cpu());
        }
        guard(|| {
            let place = find(choice)?;
            let device = Self { name: name_of(&place), place, may_fail: true };
            if device.multiplies() { Ok(device) } else { Err(DeviceError::Wrong) }
        })?
    }

    /// How the device calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it computes in the memory of this process.
    pub(crate) fn is_cpu(&self) -> bool {
        !self.may_fail
    }

    pub(crate) fn tracked(&self) -> burn::tensor::Device {
        self.place.clone().autodiff()
    }

    /// Does `work`, which computes on this device. What a failing GPU makes of it becomes an error; on the processor a panic
    /// is a bug and stays one.
    pub(crate) fn guard<R>(&self, work: impl FnOnce() -> R) -> Result<R, DeviceError> {
        if self.may_fail { guard(work) } else { Ok(work()) }
    }

    /// Whether a product of small whole numbers, exact in any order and precision, comes out right.
    fn multiplies(&self) -> bool {
        const SIDE: usize = 48;
        let number = |row: usize, column: usize| ((row * 7 + column * 5) % 9) as f32 - 4.0;
        let numbers: Vec<f32> = (0..SIDE * SIDE).map(|at| number(at / SIDE, at % SIDE)).collect();
        let matrix = Tensor::<2>::from_data(TensorData::new(numbers, [SIDE, SIDE]), &self.place);
        let product = crate::tensors::values(&matrix.clone().matmul(matrix).into_data());
        product.iter().enumerate().all(|(at, &got)| {
            let terms = (0..SIDE).map(|k| number(at / SIDE, k) * number(k, at % SIDE));
            terms.sum::<f32>().to_bits() == got.to_bits()
        })
    }
}

/// The names of the GPUs here, in the order of their numbers. Opens each of them.
pub fn gpus() -> Result<Vec<String>, DeviceError> {
    guard(|| Ok(hardware()?.iter().map(name_of).collect()))?
}

#[cfg(feature = "wgpu")]
#[expect(clippy::unnecessary_wraps, reason = "a build without GPU support says so in its place")]
fn hardware() -> Result<Vec<burn::tensor::Device>, DeviceError> {
    use burn::tensor::{Device, DeviceKind, DeviceType};
    let software = Device::wgpu(DeviceKind::Cpu);
    let all = Device::enumerate(DeviceType::Wgpu);
    Ok(all.into_iter().filter(|device| *device != software).collect())
}

#[cfg(not(feature = "wgpu"))]
fn hardware() -> Result<Vec<burn::tensor::Device>, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(feature = "wgpu")]
fn software() -> Option<burn::tensor::Device> {
    use burn::tensor::{Device, DeviceKind, DeviceType};
    let software = Device::wgpu(DeviceKind::Cpu);
    Device::enumerate(DeviceType::Wgpu).into_iter().find(|device| *device == software)
}

#[cfg(not(feature = "wgpu"))]
fn software() -> Option<burn::tensor::Device> {
    None
}

fn find(choice: DeviceChoice) -> Result<burn::tensor::Device, DeviceError> {
    let hardware = hardware()?;
    let found = hardware.len().try_into().unwrap_or(u16::MAX);
    let place = match choice {
        DeviceChoice::Cpu => Some(burn::tensor::Device::flex()),
        DeviceChoice::Gpu(number) => hardware.into_iter().nth(number.into()),
        DeviceChoice::Software => software(),
    };
    place.ok_or(DeviceError::Absent { choice, found })
}

#[cfg(feature = "wgpu")]
fn name_of(place: &burn::tensor::Device) -> String {
    place.identity().map_or_else(|| "GPU".to_owned(), |identity| identity.name)
}

#[cfg(not(feature = "wgpu"))]
fn name_of(place: &burn::tensor::Device) -> String {
    format!("{place:?}")
}

/// burn's backends for GPUs report a failure by a panic where there is no result to hand back.
fn guard<R>(work: impl FnOnce() -> R) -> Result<R, DeviceError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or_default();
        failure(text)
    })
}

/// What a panic of a backend means, by what it says. CubeCL's errors of allocation are `OutOfMemory` and `BufferTooBig`.
fn failure(text: &str) -> DeviceError {
    let text = text.to_lowercase().replace(['_', '-', ' '], "");
    let of_memory = ["outofmemory", "buffertoobig", "outofdevicememory", "outofhostmemory"];
    if of_memory.iter().any(|word| text.contains(word)) {
        DeviceError::OutOfMemory
    } else {
        DeviceError::Lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_in_one_way() {
        for (text, choice) in [
            ("cpu", DeviceChoice::Cpu),
            ("gpu", DeviceChoice::Gpu(0)),
            ("gpu:1", DeviceChoice::Gpu(1)),
            ("gpu:software", DeviceChoice::Software),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for text in ["", "GPU", "gpu:", "gpu:-1", "gpu:65536", "cuda", "gpu:1:2"] {
            let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.contains("gpu:software") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn the_processor_is_always_there_and_multiplies() {
        let device = Device::probe(DeviceChoice::Cpu).unwrap();
        assert_eq!(device.name(), "cpu");
        assert!(device.multiplies());
    }

    #[test]
    fn what_a_backend_panics_with_becomes_a_cause() {
        let cause = |text: &'static str| guard(|| panic!("{text}")).unwrap_err();
        assert_eq!(cause("called on Err: IoError::OutOfMemory { size: 4 }"), DeviceError::OutOfMemory);
        assert_eq!(cause("Io(BufferTooBig { size: 9 })"), DeviceError::OutOfMemory);
        assert_eq!(cause("Out of memory"), DeviceError::OutOfMemory);
        assert_eq!(cause("VK_ERROR_OUT_OF_DEVICE_MEMORY"), DeviceError::OutOfMemory);
        assert_eq!(cause("the device is poisoned"), DeviceError::Lost);
        assert_eq!(guard(|| std::panic::panic_any(7)), Err::<(), _>(DeviceError::Lost));
        assert_eq!(guard(|| 7), Ok(7));
    }

    #[cfg(not(feature = "wgpu"))]
    #[test]
    fn a_build_without_gpu_support_says_so() {
        for choice in [DeviceChoice::Gpu(0), DeviceChoice::Software] {
            assert_eq!(Device::probe(choice).unwrap_err(), DeviceError::NotBuilt);
        }
        assert_eq!(gpus(), Err(DeviceError::NotBuilt));
    }
}
