//! The vocabulary of the service: ids, limits, job states, sizes. No I/O.
