use proptest::prelude::*;

use super::{MOST_BYTES, Rng, RngState};
use crate::devices::mmio::testing::{Buffer, DATA, Driver, readable, writable};

#[test]
fn buffers_are_filled_and_told() {
    let driver = Driver::started(Box::new(Rng));
    let chains = [
        vec![writable(DATA, 64)],
        vec![writable(DATA + 0x1000, 0)],
        vec![writable(DATA + 0x2000, 3), writable(DATA + 0x3000, 5)],
        vec![readable(DATA, 64)],
    ];
    let heads: Vec<u16> = chains.iter().map(|chain| driver.chain(0, chain)).collect();
    driver.device.serve();
    let used: Vec<(u32, u32)> =
        heads.iter().zip([64, 0, 8, 0]).map(|(head, bytes)| ((*head).into(), bytes)).collect();
    assert_eq!(driver.used(0), used);
    assert_ne!(driver.bytes(DATA, 32), driver.bytes(DATA + 32, 32));
    assert_eq!(driver.bytes(DATA + 0x2003, 1), [0]);
}

#[test]
fn a_huge_request_gets_a_bounded_answer() {
    let driver = Driver::started(Box::new(Rng));
    driver.chain(0, &[writable(DATA, 0x8_0000)]);
    driver.device.serve();
    assert_eq!(driver.used(0)[0].1 as usize, MOST_BYTES);
    assert_eq!(driver.bytes(DATA + MOST_BYTES as u64, 64), [0; 64]);
}

#[test]
fn a_saved_device_is_a_device() {
    assert_eq!(Rng::restore(Rng.state()).state(), RngState {});
}

proptest! {
    #[test]
    fn any_chain_is_survived(
        buffers in proptest::collection::vec((any::<u64>(), any::<u32>(), any::<bool>()), 1..16),
        small in any::<bool>(),
    ) {
        let driver = Driver::started(Box::new(Rng));
        let limit = |at: u64, bytes: u32| if small { (DATA + at % 0x1000, bytes % 0x2000) } else { (at, bytes) };
        let chain: Vec<Buffer> = buffers
            .into_iter()
            .map(|(at, bytes, writable)| {
                let (at, bytes) = limit(at, bytes);
                Buffer { at, bytes, writable }
            })
            .collect();
        driver.chain(0, &chain);
        driver.device.serve();
        prop_assert!(driver.used(0).len() == 1 || driver.needs_reset());
    }
}
