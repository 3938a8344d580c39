//! Bounded functions for the fuzz targets; tests run them too.
