//! What people type for sizes, times and the like.

use std::path::PathBuf;

/// Bytes: a number, or one with K, M, G or T (powers of 1024), optionally followed by B or iB.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no size: use a number of bytes, or one with K, M, G or T, for example 512M");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_suffix("iB").or_else(|| unit.strip_suffix('B')).unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    positive(number.checked_shl(shift).filter(|n| n >> shift == number).ok_or_else(wrong)?, wrong)
}

/// Milliseconds: a number of seconds, or one with ms, s, m or h.
pub(crate) fn time(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no time: use seconds, or a number with ms, s, m or h, for example 90s");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1.0,
        "" | "s" => 1000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    // At most a year, so that no sum of times overflows.
    let ms = number * factor;
    if !(0.0..=31_536_000_000.0).contains(&ms) {
        return Err(wrong());
    }
    positive(ms.round() as u64, wrong)
}

/// Thousandths of a cpu, from a decimal number of cpus.
pub(crate) fn cpus(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number of cpus: use for example 2 or 0.5");
    let number: f64 = text.parse().map_err(|_| wrong())?;
    if !(0.0..=1_000_000.0).contains(&number) {
        return Err(wrong());
    }
    positive((number * 1000.0).round() as u64, wrong)
}

/// Zero would mean "the default" further down.
fn positive(number: u64, wrong: impl FnOnce() -> String) -> Result<u64, String> {
    if number == 0 { Err(wrong()) } else { Ok(number) }
}

/// `NAME=VALUE`; a name alone takes this process's own value.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => (text, std::env::var(text).map_err(|_| format!("{text} is not set here: use {text}=VALUE"))?),
    };
    if name.is_empty() {
        return Err("a variable needs a name: use NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), value))
}

/// `FILE:PATH`, with an absolute path in the sandbox behind the last colon.
pub(crate) fn placement(text: &str) -> Result<(PathBuf, String), String> {
    match text.rsplit_once(':') {
        Some((file, path)) if !file.is_empty() && path.starts_with('/') => Ok((file.into(), path.to_owned())),
        _ => Err("use FILE:/PATH, with an absolute path in the sandbox".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [("1", 1), ("4k", 4096), ("512M", 512 << 20), ("1GiB", 1 << 30), ("2TB", 2 << 40)]
        {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for bad in ["", "M", "0", "-1", "1.5G", "1X", "99999999999T", "1 M", "18446744073709551616"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_and_cpus() {
        for (text, want) in
            [("1", 1000), ("1.5s", 1500), ("500ms", 500), ("10m", 600_000), ("24h", 86_400_000)]
        {
            assert_eq!(time(text), Ok(want), "{text}");
        }
        for bad in ["", "s", "0", "-1s", "1d", "nan", "inf", "1e99", "9999999h"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert_eq!((cpus("2"), cpus("0.25")), (Ok(2000), Ok(250)));
        for bad in ["", "0", "-1", "x", "nan", "inf", "1e300"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_and_placements() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(variable("=x").is_err() && variable("BULKHEAD_SURELY_NOT_SET").is_err());
        assert_eq!(placement("a:b:/c"), Ok(("a:b".into(), "/c".into())));
        assert!(placement("a").is_err() && placement(":/c").is_err() && placement("a:c").is_err());
    }
}
