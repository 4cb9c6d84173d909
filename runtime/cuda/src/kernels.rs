//! All kernels, loaded at once and launched with the arguments that they take.
//!
//! [`Kernels::load`] fetches every function of every module, so that nothing of them is loaded,
//! and takes memory, in the middle of a request.

#![allow(unsafe_code)] // A launch is unsafe, see `Driver`.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use v4_quant::GgmlType;

use crate::args::{self, Args};
use crate::driver::{
    Driver, DriverError, Extent, FunctionId, Image, ModuleId, Signature, StreamId,
};
use crate::owned::Stream;

/// Machine code at an address that suits an ELF file, which a string of bytes need not have.
#[cfg(feature = "cuda")]
#[repr(align(16))]
struct Aligned<const N: usize>([u8; N]);

#[cfg(feature = "cuda")]
macro_rules! cubin {
    ($file:literal) => {{
        const BYTES: &Aligned<{ include_bytes!($file).len() }> = &Aligned(*include_bytes!($file));
        &BYTES.0
    }};
}

/// The machine code that this program contains, once: none without the feature `cuda`.
#[cfg(feature = "cuda")]
pub static IMAGES: &[Image] = include!("../cubin/images.rs");
/// The machine code that this program contains, once: none without the feature `cuda`.
#[cfg(not(feature = "cuda"))]
pub static IMAGES: &[Image] = &[];

/// A kernel on a card, and what it takes.
pub struct Kernel<A> {
    function: FunctionId,
    name: &'static str,
    args: PhantomData<fn(A)>,
}

impl<A: Args> Kernel<A> {
    /// Its name in the source.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Queues it.
    ///
    /// # Errors
    /// See [`Driver::launch`].
    ///
    /// # Safety
    /// Every address in the arguments must be one that the kernel may use as it does with these
    /// arguments and this extent; see [`Driver::launch`].
    pub unsafe fn launch<D: Driver>(
        &self,
        stream: &Stream<D>,
        extent: Extent,
        args: &A,
    ) -> Result<(), DriverError> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.launch_on(&**stream.driver(), stream.id(), extent, args) }
    }

    /// The same with a handle of a stream.
    ///
    /// # Errors
    /// See [`Driver::launch`].
    ///
    /// # Safety
    /// As [`Self::launch`].
    pub unsafe fn launch_on<D: Driver>(
        &self,
        driver: &D,
        stream: StreamId,
        extent: Extent,
        args: &A,
    ) -> Result<(), DriverError> {
        // SAFETY: these are the arguments that the kernel takes; for the rest, the caller's
        // promise is the same.
        unsafe { driver.launch(self.function, extent, &args.bytes(), stream) }
    }
}

impl<A> fmt::Debug for Kernel<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernel").field(&self.name).finish()
    }
}

/// What is known of a kernel without a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The source file, without its ending.
    pub module: &'static str,
    /// Its name and arguments.
    pub signature: Signature,
}

const fn known<A: Args>(module: &'static str, name: &'static str) -> Known {
    assert!(takes(A::KERNELS, name), "a kernel of other arguments");
    let signature = Signature {
        name,
        args_size: size_of::<A>(),
        addresses: A::ADDRESSES,
    };
    Known { module, signature }
}

/// Whether the list has the name. Strings cannot be compared in constants.
const fn takes(kernels: &[&str], name: &str) -> bool {
    let mut k = 0;
    while k < kernels.len() {
        let (one, other) = (kernels[k].as_bytes(), name.as_bytes());
        let mut same = one.len() == other.len();
        let mut i = 0;
        while same && i < one.len() {
            same = one[i] == other[i];
            i += 1;
        }
        if same {
            return true;
        }
        k += 1;
    }
    false
}

/// Declares the modules, and in each its kernels and what they take.
macro_rules! modules {
    ($($(#[$about:meta])* $module:ident: $Module:ident { $($kernel:ident: $args:ident,)+ })+) => {
        /// All modules of a card. See the module's text.
        #[derive(Debug)]
        pub struct Kernels<D: Driver> {
            $(
                $(#[$about])*
                pub $module: $Module,
            )+
            loaded: Loaded<D>,
        }

        $(
            $(#[$about])*
            #[derive(Debug)]
            pub struct $Module {
                $(
                    #[doc = concat!("`", stringify!($kernel), "`, see its arguments.")]
                    pub $kernel: Kernel<args::$args>,
                )+
            }
        )+

        /// Every kernel, by modules.
        pub const KNOWN: &[Known] = &[
            $($(known::<args::$args>(stringify!($module), stringify!($kernel)),)+)+
        ];

        impl<D: Driver> Kernels<D> {
            /// Loads all modules.
            ///
            /// # Errors
            /// See [`Driver::load`] and [`Driver::function`].
            pub fn load(driver: &Arc<D>) -> Result<Self, DriverError> {
                // Given back if a later module fails.
                let mut loaded = Loaded { driver: Arc::clone(driver), modules: Vec::new() };
                $(
                    let id = loaded.module(stringify!($module))?;
                    let $module = $Module {
                        $($kernel: loaded.kernel(
                            id,
                            known::<args::$args>(stringify!($module), stringify!($kernel)),
                        )?,)+
                    };
                )+
                Ok(Self { $($module,)+ loaded })
            }
        }
    };
}

modules! {
    /// Kernels of `attend.cu`.
    attend: Attention {
        attend_scores: Attend,
        attend_weights: Attend,
        attend_sums: Attend,
        attend_sums_lone: Attend,
    }
    /// Kernels of `cache.cu`.
    cache: Cache {
        push_rows: PushRows,
        read_rows: ReadRows,
        round_index: RoundIndex,
    }
    /// Kernels of `choose.cu`.
    choose: Choice {
        best_token: BestToken,
    }
    /// Kernels of `copy.cu`.
    copy: Copies {
        gather_rows: GatherRows,
        add_to_parts: AddToParts,
    }
    /// Kernels of `decode.cu`.
    decode: Decoder {
        decode: Decode,
    }
    /// Kernels of `embed.cu`.
    embed: EmbedRows {
        embed: Embed,
    }
    /// Kernels of `engram.cu`.
    engram: EngramGate {
        engram: Engram,
    }
    /// Kernels of `experts.cu`.
    experts: Experts {
        route: Route,
        group_pairs: GroupPairs,
        combine: Combine,
    }
    /// Kernels of `functions.cu`.
    functions: Functions {
        map_function: MapFunction,
        angles: Angles,
        inverse_rms_rows: InverseRms,
    }
    /// Kernels of `hyper.cu`.
    hyper: Hyper {
        hc_mix: HcMix,
        hc_first_stream: HcFirstStream,
        hc_collapse: HcCollapse,
        hc_expand: HcExpand,
        hc_head: HcHead,
    }
    /// Kernels of `index.cu`.
    index: Index {
        index_scores: IndexScores,
        index_scores_f32: IndexScores,
        index_blocks: IndexBlocks,
    }
    /// Kernels of `mm_f.cu`.
    mm_f: ManyFloats {
        mm_f32: ProductF32,
        mm_f16: ProductF32,
        mm_bf16: ProductF32,
    }
    /// Kernels of `mmq_i8_iq.cu`.
    mmq_i8_iq: ManyInt8Codebooks {
        mmq_i8_iq1_s: ProductMany,
        mmq_i8_iq1_m: ProductMany,
        mmq_i8_iq2_xxs: ProductMany,
        mmq_i8_iq2_xs: ProductMany,
        mmq_i8_iq2_s: ProductMany,
        mmq_i8_iq3_xxs: ProductMany,
        mmq_i8_iq3_s: ProductMany,
    }
    /// Kernels of `mmq_i8_k.cu`.
    mmq_i8_k: ManyInt8Large {
        mmq_i8_q2_k: ProductMany,
        mmq_i8_q3_k: ProductMany,
        mmq_i8_q4_k: ProductMany,
        mmq_i8_q5_k: ProductMany,
        mmq_i8_q6_k: ProductMany,
        mmq_i8_iq4_xs: ProductMany,
    }
    /// Kernels of `mmq_i8_runs.cu`.
    mmq_i8_runs: ManyInt8Runs {
        mmq_i8_q4_0: ProductMany,
        mmq_i8_q4_1: ProductMany,
        mmq_i8_q5_0: ProductMany,
        mmq_i8_q5_1: ProductMany,
        mmq_i8_q8_0: ProductMany,
        mmq_i8_mxfp4: ProductMany,
        mmq_i8_nvfp4: ProductMany,
        mmq_i8_iq4_nl: ProductMany,
    }
    /// Kernels of `mmv_decoded.cu`.
    mmv_decoded: MmvDecoded {
        mmv_decoded: ProductF32,
    }
    /// Kernels of `mmv_f.cu`.
    mmv_f: MmvFloats {
        mmv_f32_1: ProductF32,
        mmv_f32_8: ProductF32,
        mmv_f16_1: ProductF32,
        mmv_f16_8: ProductF32,
        mmv_bf16_1: ProductF32,
        mmv_bf16_8: ProductF32,
    }
    /// Kernels of `mmv_i8_iq.cu`.
    mmv_i8_iq: MmvInt8Codebooks {
        mmv_i8_iq1_s_1: ProductI8,
        mmv_i8_iq1_s_8: ProductI8,
        mmv_i8_iq1_m_1: ProductI8,
        mmv_i8_iq1_m_8: ProductI8,
        mmv_i8_iq2_xxs_1: ProductI8,
        mmv_i8_iq2_xxs_8: ProductI8,
        mmv_i8_iq2_xs_1: ProductI8,
        mmv_i8_iq2_xs_8: ProductI8,
        mmv_i8_iq2_s_1: ProductI8,
        mmv_i8_iq2_s_8: ProductI8,
        mmv_i8_iq3_xxs_1: ProductI8,
        mmv_i8_iq3_xxs_8: ProductI8,
        mmv_i8_iq3_s_1: ProductI8,
        mmv_i8_iq3_s_8: ProductI8,
    }
    /// Kernels of `mmv_i8_k.cu`.
    mmv_i8_k: MmvInt8Large {
        mmv_i8_q2_k_1: ProductI8,
        mmv_i8_q2_k_8: ProductI8,
        mmv_i8_q3_k_1: ProductI8,
        mmv_i8_q3_k_8: ProductI8,
        mmv_i8_q4_k_1: ProductI8,
        mmv_i8_q4_k_8: ProductI8,
        mmv_i8_q5_k_1: ProductI8,
        mmv_i8_q5_k_8: ProductI8,
        mmv_i8_q6_k_1: ProductI8,
        mmv_i8_q6_k_8: ProductI8,
        mmv_i8_iq4_xs_1: ProductI8,
        mmv_i8_iq4_xs_8: ProductI8,
    }
    /// Kernels of `mmv_i8_runs.cu`.
    mmv_i8_runs: MmvInt8Runs {
        mmv_i8_q4_0_1: ProductI8,
        mmv_i8_q4_0_8: ProductI8,
        mmv_i8_q4_1_1: ProductI8,
        mmv_i8_q4_1_8: ProductI8,
        mmv_i8_q5_0_1: ProductI8,
        mmv_i8_q5_0_8: ProductI8,
        mmv_i8_q5_1_1: ProductI8,
        mmv_i8_q5_1_8: ProductI8,
        mmv_i8_q8_0_1: ProductI8,
        mmv_i8_q8_0_8: ProductI8,
        mmv_i8_mxfp4_1: ProductI8,
        mmv_i8_mxfp4_8: ProductI8,
        mmv_i8_nvfp4_1: ProductI8,
        mmv_i8_nvfp4_8: ProductI8,
        mmv_i8_iq4_nl_1: ProductI8,
        mmv_i8_iq4_nl_8: ProductI8,
    }
    /// Kernels of `ordered.cu`.
    ordered: Ordered {
        order_int8: OrderInt8,
    }
    /// Kernels of `pool.cu`.
    pool: Pooling {
        pool_keep: PoolKeep,
        pool: Pool,
    }
    /// Kernels of `primitives.cu`.
    primitives: Primitives {
        primitive_words: PrimitiveWords,
        primitive_product: PrimitiveProduct,
        primitive_halves: PrimitiveHalves,
    }
    /// Kernels of `rows.cu`.
    rows: Rows {
        add: Add,
        quantise: Quantise,
        rms_norm: RmsNorm,
        rope: Rope,
        swiglu: Swiglu,
    }
    /// Kernels of `select.cu`.
    select: Selection {
        select_part: Select,
        select_best: Select,
    }
}

/// The kernel of that name, out of the modules that are listed.
macro_rules! by_name {
    ($kernels:ident, $name:ident, $($module:ident: $($kernel:ident)+;)+) => {
        match $name {
            $($(stringify!($kernel) => Some(&$kernels.$module.$kernel),)+)+
            _ => None,
        }
    };
}

impl<D: Driver> Kernels<D> {
    /// The kernel for products in int8 with a few rows of activations, see
    /// [`args::mmv_i8`]. `None` if the type has none.
    pub fn few_int8(&self, ty: GgmlType, inputs: usize) -> Option<&Kernel<args::ProductI8>> {
        let name = args::mmv_i8(ty, inputs)?;
        by_name! {
            self, name,
            mmv_i8_iq: mmv_i8_iq1_s_1 mmv_i8_iq1_s_8 mmv_i8_iq1_m_1 mmv_i8_iq1_m_8 mmv_i8_iq2_xxs_1 mmv_i8_iq2_xxs_8 mmv_i8_iq2_xs_1 mmv_i8_iq2_xs_8 mmv_i8_iq2_s_1 mmv_i8_iq2_s_8 mmv_i8_iq3_xxs_1 mmv_i8_iq3_xxs_8 mmv_i8_iq3_s_1 mmv_i8_iq3_s_8;
            mmv_i8_k: mmv_i8_q2_k_1 mmv_i8_q2_k_8 mmv_i8_q3_k_1 mmv_i8_q3_k_8 mmv_i8_q4_k_1 mmv_i8_q4_k_8 mmv_i8_q5_k_1 mmv_i8_q5_k_8 mmv_i8_q6_k_1 mmv_i8_q6_k_8 mmv_i8_iq4_xs_1 mmv_i8_iq4_xs_8;
            mmv_i8_runs: mmv_i8_q4_0_1 mmv_i8_q4_0_8 mmv_i8_q4_1_1 mmv_i8_q4_1_8 mmv_i8_q5_0_1 mmv_i8_q5_0_8 mmv_i8_q5_1_1 mmv_i8_q5_1_8 mmv_i8_q8_0_1 mmv_i8_q8_0_8 mmv_i8_mxfp4_1 mmv_i8_mxfp4_8 mmv_i8_nvfp4_1 mmv_i8_nvfp4_8 mmv_i8_iq4_nl_1 mmv_i8_iq4_nl_8;
        }
    }

    /// The kernel for products in float32 with a few rows of activations, see
    /// [`args::mmv_f`].
    pub fn few_floats(&self, ty: GgmlType, inputs: usize) -> &Kernel<args::ProductF32> {
        let name = args::mmv_f(ty, inputs);
        let found = by_name! {
            self, name,
            mmv_f: mmv_f32_1 mmv_f32_8 mmv_f16_1 mmv_f16_8 mmv_bf16_1 mmv_bf16_8;
        };
        found.unwrap_or(&self.mmv_decoded.mmv_decoded)
    }

    /// The kernel for products in int8 with many rows of activations, see [`args::mmq_i8`].
    /// `None` if the type has none.
    pub fn many_int8(&self, ty: GgmlType) -> Option<&Kernel<args::ProductMany>> {
        let name = args::mmq_i8(ty)?;
        by_name! {
            self, name,
            mmq_i8_iq: mmq_i8_iq1_s mmq_i8_iq1_m mmq_i8_iq2_xxs mmq_i8_iq2_xs mmq_i8_iq2_s mmq_i8_iq3_xxs mmq_i8_iq3_s;
            mmq_i8_k: mmq_i8_q2_k mmq_i8_q3_k mmq_i8_q4_k mmq_i8_q5_k mmq_i8_q6_k mmq_i8_iq4_xs;
            mmq_i8_runs: mmq_i8_q4_0 mmq_i8_q4_1 mmq_i8_q5_0 mmq_i8_q5_1 mmq_i8_q8_0 mmq_i8_mxfp4 mmq_i8_nvfp4 mmq_i8_iq4_nl;
        }
    }

    /// The kernel for products in float32 with many rows of activations, see [`args::mm_f`].
    /// `None` if weights of the type are decoded first.
    pub fn many_floats(&self, ty: GgmlType) -> Option<&Kernel<args::ProductF32>> {
        let name = args::mm_f(ty)?;
        by_name! {
            self, name,
            mm_f: mm_f32 mm_f16 mm_bf16;
        }
    }

    /// The card.
    pub fn driver(&self) -> &Arc<D> {
        &self.loaded.driver
    }
}

/// Modules that are given back at the end.
#[derive(Debug)]
struct Loaded<D: Driver> {
    driver: Arc<D>,
    modules: Vec<ModuleId>,
}

impl<D: Driver> Loaded<D> {
    fn module(&mut self, name: &'static str) -> Result<ModuleId, DriverError> {
        let id = self.driver.load(name, IMAGES)?;
        self.modules.push(id);
        Ok(id)
    }

    fn kernel<A: Args>(&self, module: ModuleId, known: Known) -> Result<Kernel<A>, DriverError> {
        Ok(Kernel {
            function: self.driver.function(module, &known.signature)?,
            name: known.signature.name,
            args: PhantomData,
        })
    }
}

impl<D: Driver> Drop for Loaded<D> {
    fn drop(&mut self) {
        let _ = self.driver.synchronize();
        for module in self.modules.drain(..) {
            // The error could only be that the card is lost.
            let _ = self.driver.unload(module);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_listed_with_what_it_takes() {
        let mut listed: Vec<_> = KNOWN
            .iter()
            .map(|known| (known.signature.name, known.signature.args_size))
            .collect();
        let mut declared = args::sizes();
        listed.sort_unstable();
        declared.sort_unstable();
        assert_eq!(listed, declared);
    }

    #[test]
    fn arguments_become_the_bytes_of_their_struct() {
        let args = args::Add {
            y: 1,
            x: 0x0203,
            count: u64::MAX,
        };
        let mut expected = vec![0; 24];
        expected[0] = 1;
        expected[8..10].copy_from_slice(&[3, 2]);
        expected[16..].fill(255);
        assert_eq!(args.bytes(), expected);
        assert_eq!(<args::Add as args::Field>::ADDRESSES, 0b111);
        assert_eq!(<[args::Add; 2] as args::Field>::ADDRESSES, 0b111_111);
    }
}
