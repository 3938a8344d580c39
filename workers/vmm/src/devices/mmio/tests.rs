use proptest::prelude::*;

use super::testing::{DATA, Driver, NEXT, STARTED, VERSION_1, readable, writable};
use super::*;
use crate::devices::rng::Rng;

fn rng() -> Driver {
    Driver::new(Box::new(Rng))
}

#[test]
fn a_driver_starts_in_the_specification_s_order() {
    let driver = rng();
    assert_eq!([driver.read(0), driver.read(4), driver.read(8)], [0x7472_6976, 2, 4]);
    driver.negotiate(VERSION_1);
    assert_eq!(driver.read(0x70), 11);
    driver.configure(0);
    assert_eq!(driver.read(0x44), 1);
    driver.write(0x70, STARTED);
    assert_eq!(driver.read(0x70), STARTED);
    driver.write(0x70, 0);
    assert_eq!((driver.read(0x70), driver.read(0x44)), (0, 0));
}

#[test]
fn steps_out_of_order_do_nothing() {
    let driver = rng();
    // "driver ok" and features before anything else.
    driver.write(0x70, 4);
    driver.write(0x70, 8);
    assert_eq!(driver.read(0x70), 0);
    // A queue before features.
    driver.write(0x70, 1);
    driver.write(0x70, 3);
    driver.configure(0);
    assert_eq!(driver.read(0x44), 0);
    // Features that were not offered, or the old interface.
    for features in [0, VERSION_1 | 1 << 40] {
        driver.negotiate(features);
        assert_eq!(driver.read(0x70), 3, "{features:#x}");
    }
    // Taking a bit away is no way back.
    driver.negotiate(VERSION_1);
    driver.write(0x70, 1);
    assert_eq!(driver.read(0x70), 11);
}

#[test]
fn queues_with_impossible_sizes_or_places_never_get_ready() {
    let driver = rng();
    driver.negotiate(VERSION_1);
    for size in [0, 3, 17, 32, 0x8000, 0x1_0010, u32::MAX] {
        driver.configure_with(0, size, Driver::places(0));
        assert_eq!(driver.read(0x44), 0, "size {size}");
    }
    let [descriptors, available, used] = Driver::places(0);
    for places in [
        [descriptors + 1, available, used],
        [descriptors, available + 1, used],
        [descriptors, available, used + 2],
        [0x10_0000, available, used],
        [0xf_fff0, available, used],
        [descriptors, u64::MAX - 1, used],
        [descriptors, available, 0xffff_ffff_ffff_fffc],
    ] {
        driver.configure_with(0, 16, places);
        assert_eq!(driver.read(0x44), 0, "{places:x?}");
    }
    // No such queue.
    driver.configure_with(9, 16, Driver::places(0));
    assert_eq!((driver.read(0x44), driver.read(0x34)), (0, 0));
}

#[test]
fn other_widths_and_misplaced_accesses_read_zero() {
    let driver = rng();
    for (offset, width) in
        [(0, 1), (0, 2), (0, 8), (1, 4), (2, 2), (0x50, 4), (0xfc, 4), (0x100, 8), (0xfff, 1)]
    {
        let mut data = vec![0xaa; width];
        driver.device.read(offset, &mut data);
        assert_eq!(data, vec![0; width], "{offset:#x}, {width} bytes");
        driver.device.write(offset, &data);
    }
    assert_eq!(driver.read(0xb0), u32::MAX);
}

#[test]
fn interrupts_are_acknowledged_by_bit() {
    let driver = Driver::started(Box::new(Rng));
    driver.chain(0, &[writable(DATA, 32)]);
    driver.device.serve();
    assert!(driver.interrupted());
    assert_eq!(driver.read(0x60), 1);
    driver.write(0x64, 2);
    assert_eq!(driver.read(0x60), 1);
    driver.write(0x64, 1);
    assert_eq!(driver.read(0x60), 0);
}

#[test]
fn a_guest_that_suppresses_interrupts_by_index_gets_none() {
    const EVENT_IDX: u64 = 1 << 29;
    let driver = rng();
    driver.negotiate(VERSION_1 | EVENT_IDX);
    driver.configure(0);
    driver.write(0x70, STARTED);
    // Wants to hear of the fifth used entry only.
    driver.put(Driver::places(0)[1] + 4 + 2 * 16, &4u16.to_le_bytes());
    for count in 1..=5 {
        driver.chain(0, &[writable(DATA, 8)]);
        driver.device.serve();
        assert_eq!(driver.interrupted(), count == 5, "{count}");
    }
}

/// Chains that no driver makes: the device asks for a reset, says why, serves nothing, and works after the reset.
#[test]
fn broken_chains_stop_the_device_until_its_reset() {
    type Break = fn(&Driver);
    let cases: [(&str, Broken, Break); 8] = [
        ("a chain of itself", Broken::Chain, |driver| {
            driver.descriptor(0, 0, writable(DATA, 8), NEXT, 0);
            driver.offer(0, 0);
        }),
        ("a ring of two", Broken::Chain, |driver| {
            driver.descriptor(0, 0, writable(DATA, 8), NEXT, 1);
            driver.descriptor(0, 1, writable(DATA, 8), NEXT, 0);
            driver.offer(0, 0);
        }),
        ("a next beyond the table", Broken::Chain, |driver| {
            driver.descriptor(0, 0, writable(DATA, 8), NEXT, 4711);
            driver.offer(0, 0);
        }),
        ("a head beyond the table", Broken::Chain, |driver| driver.offer(0, 99)),
        ("outside of memory", Broken::OutOfMemory, |driver| {
            driver.chain(0, &[writable(0xf_ffff, 2)]);
        }),
        ("around the end of the address space", Broken::OutOfMemory, |driver| {
            driver.chain(0, &[writable(u64::MAX - 3, u32::MAX)]);
        }),
        ("readable after writable", Broken::Chain, |driver| {
            driver.chain(0, &[writable(DATA, 8), readable(DATA, 8)]);
        }),
        ("more available than there is", Broken::Ring, |driver| {
            driver.put(Driver::places(0)[1] + 2, &1000u16.to_le_bytes());
        }),
    ];
    for (name, why, break_it) in cases {
        let driver = Driver::started(Box::new(Rng));
        break_it(&driver);
        driver.device.serve();
        assert_eq!(driver.device.broken(), Some(why), "{name}");
        assert!(driver.needs_reset() && driver.interrupted(), "{name}");
        assert_eq!(driver.read(0x60), 2, "{name}");
        let used = driver.used(0).len();
        driver.device.serve();
        assert_eq!(driver.used(0).len(), used, "{name}: served while broken");

        for place in Driver::places(0) {
            driver.put(place, &[0; 0x200]);
        }
        driver.negotiate(VERSION_1);
        driver.configure(0);
        driver.write(0x70, STARTED);
        driver.chain(0, &[writable(DATA, 8)]);
        driver.device.serve();
        assert_eq!((driver.used(0).len(), driver.device.broken()), (1, None), "{name}");
    }
}

#[test]
fn indirect_tables_are_bounded_too() {
    const INDIRECT: u16 = 4;
    let driver = Driver::started(Box::new(Rng));
    // 4096 descriptors, each the next of the last.
    for index in 0..4096u64 {
        let at = DATA + 16 * index;
        driver.put(at, &DATA.to_le_bytes());
        driver.put(at + 8, &1u32.to_le_bytes());
        driver.put(at + 12, &(NEXT | 2).to_le_bytes());
        driver.put(at + 14, &((index + 1) as u16 % 4096).to_le_bytes());
    }
    driver.descriptor(0, 0, readable(DATA, 4096 * 16), INDIRECT, 0);
    driver.offer(0, 0);
    driver.device.serve();
    assert_eq!(driver.device.broken(), Some(Broken::Chain));
}

#[test]
fn a_restored_device_goes_on_where_it_was() {
    let driver = Driver::started(Box::new(Rng));
    driver.chain(0, &[writable(DATA, 8)]);
    driver.device.serve();
    driver.chain(0, &[writable(DATA + 64, 8)]);
    let (state, device) = driver.device.state();
    assert_eq!((state.status, state.interrupt_status, device), (STARTED, 1, DeviceState::Rng(Rng.state())));
    let text = serde_json::to_string(&state).expect("a state is text");
    let state: MmioState = serde_json::from_str(&text).expect("and comes back");
    let restored = driver.restored(Box::new(Rng), state.clone()).expect("its own state");
    restored.serve();
    assert_eq!(driver.used(0).len(), 2);
    assert_eq!(restored.state().0.queues[0].next_used, 2);
    let mut elsewhere = state.clone();
    elsewhere.queues[0].used = 1 << 40;
    assert!(driver.restored(Box::new(Rng), elsewhere).is_none());
    let mut foreign = state;
    foreign.queues.clear();
    assert!(driver.restored(Box::new(Rng), foreign).is_none());
}

proptest! {
    #[test]
    fn any_register_traffic_is_survived(
        accesses in proptest::collection::vec(
            (any::<bool>(), prop_oneof![0u64..0x120, Just(0x70), Just(0x44)], 0usize..9, prop_oneof![any::<u32>(), 0u32..16]),
            0..400,
        ),
    ) {
        let driver = rng();
        for (write, offset, width, value) in accesses {
            let mut data = [value.to_le_bytes(), value.to_le_bytes()].concat();
            data.truncate(width);
            if write { driver.device.write(offset, &data) } else { driver.device.read(offset, &mut data) }
            driver.device.serve();
        }
        // Whatever happened, a reset brings it back.
        driver.negotiate(VERSION_1);
        prop_assert_eq!(driver.read(0x70), 11);
    }
}
