//! The CMOS clock, ports 0x70 and 0x71. Left unanswered, the kernel takes 0xff for "update in progress" and polls 140,000
//! times; answered, the guest also starts with the right date.

mod device;
mod state;
#[cfg(test)]
mod tests;

pub use device::Cmos;
pub use state::CmosState;
