//! What the fuzz targets share: a second reading of HTTP/1, which the tests have too, and objects out of raw bytes.

pub mod objects;
#[path = "../../tests/it/harness/strict.rs"]
pub mod strict;
