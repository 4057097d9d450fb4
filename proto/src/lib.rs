//! Schemas of the suite and the code generated from them. No logic, no I/O.
//!
//! The documents are the `.proto` files beside this crate; each module below
//! mirrors one package.

/// Descriptors of every schema, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/diptych.binpb"));

macro_rules! package {
    ($name:ident, $package:literal) => {
        #[allow(
            missing_docs,
            clippy::all,
            reason = "generated; the comments are in the schemas"
        )]
        #[allow(clippy::large_enum_variant, unreachable_pub, reason = "generated")]
        pub mod $name {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!($package);
            }
        }
    };
}

package!(dataset, "diptych.dataset.v1");
package!(job, "diptych.job.v1");
package!(promptgen, "diptych.promptgen.v1");
package!(diffusion, "diptych.diffusion.v1");
package!(dialogue, "diptych.dialogue.v1");
package!(trainer, "diptych.trainer.v1");
package!(eval, "diptych.eval.v1");
