//! Everything that can be wrong with bytes from outside. Holds positions and sizes, never row values.

use thiserror::Error;

/// Why bytes are not a payload, frame, message, key or site that this crate reads.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A site id of another length than 16 bytes.
    #[error("site id is {found} bytes, wanted 16")]
    SiteIdLength {
        /// Bytes found.
        found: usize,
    },
    /// A site id that is not 32 hexadecimal digits.
    #[error("site id is {found} characters, wanted 32 hexadecimal digits")]
    SiteIdText {
        /// Characters found.
        found: usize,
    },
    /// The bytes end inside the named part.
    #[error("{part} ends early: found {found} bytes, wanted {wanted}")]
    Truncated {
        /// What was being read.
        part: &'static str,
        /// Bytes that were there.
        found: usize,
        /// Bytes that were needed.
        wanted: usize,
    },
    /// A frame that does not begin with the magic bytes.
    #[error("frame begins with {found:02x?}, wanted \"CSY1\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A frame with flags that this release does not know.
    #[error("frame has flags {found:#04x}, known are {known:#04x}")]
    Flags {
        /// Flags found.
        found: u8,
        /// Flags that this release reads.
        known: u8,
    },
    /// A frame whose bytes were changed on the way.
    #[error("checksum is {found:08x}, the frame says {wanted:08x}")]
    Checksum {
        /// CRC-32C of the bytes.
        found: u32,
        /// CRC-32C that the frame carries.
        wanted: u32,
    },
    /// Something larger than its limit.
    #[error("{part} is {size}, limit is {size_max}")]
    TooLarge {
        /// What was measured.
        part: &'static str,
        /// Size found.
        size: u64,
        /// Greatest size allowed.
        size_max: u64,
    },
    /// A body that could not be expanded.
    #[error("body cannot be expanded: wrong compressed bytes")]
    Compressed,
    /// A compressed body in a build without the `zstd` feature.
    #[error("body is compressed and this build reads no zstd")]
    CompressionMissing,
    /// Bytes that the FlatBuffers verifier refuses.
    #[error("payload is not a valid FlatBuffer of this schema")]
    Verifier,
    /// A payload whose parts do not fit each other.
    #[error("payload {part}: found {found}, wanted {wanted}")]
    Structure {
        /// Which part.
        part: &'static str,
        /// Number found.
        found: u64,
        /// Number wanted, or the limit.
        wanted: u64,
    },
    /// A number that stands for nothing known to this release.
    #[error("unknown {what} {code}")]
    UnknownCode {
        /// What the number stands for.
        what: &'static str,
        /// The number.
        code: u64,
    },
    /// Text that is not UTF-8.
    #[error("{part} is not UTF-8")]
    Utf8 {
        /// Which text.
        part: &'static str,
    },
}
