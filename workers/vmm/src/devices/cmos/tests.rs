use super::*;

fn read(seconds: u64, index: u8) -> u8 {
    let mut clock = Cmos::default();
    clock.select(index);
    clock.read_at(seconds)
}

#[test]
fn a_leap_day_is_shown_in_bcd() {
    // date -u -d '2024-02-29 23:58:07' +%s
    let at = 1_709_251_087;
    let shown: Vec<u8> = [0, 2, 4, 6, 7, 8, 9, 0x32].map(|index| read(at, index)).to_vec();
    assert_eq!(shown, [0x07, 0x58, 0x23, 0x05, 0x29, 0x02, 0x24, 0x20]);
}

#[test]
fn every_register_answers_at_any_time() {
    for index in 0..=255 {
        for at in [0, 951_782_400, u64::from(u32::MAX), 253_402_300_799] {
            let _any = read(at, index);
        }
    }
}

#[test]
fn a_saved_clock_shows_the_same_register() {
    let mut clock = Cmos::default();
    clock.select(0x87);
    assert_eq!(Cmos::restore(clock.state()).state(), CmosState { index: 7 });
    assert_eq!(Cmos::restore(CmosState { index: 0xff }).state(), CmosState { index: 0x7f });
}
