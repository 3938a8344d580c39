//! What x86-64 wants before a kernel runs: processor features, registers, the table of processors and interrupts.

pub mod cpuid;
pub mod mp_table;
pub mod registers;

/// The most processors of one guest; the MP table's page and the interrupt controller bear more, jobs need no more.
pub const MOST_VCPUS: u8 = 8;
