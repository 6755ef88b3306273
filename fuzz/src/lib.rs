//! What the fuzz targets share: a second reading of HTTP/1, and objects out of raw bytes.

pub mod objects;
pub mod strict;
