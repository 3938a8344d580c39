use crate::UserSpec;

/// Bytes of /etc/passwd or /etc/group that are worth reading; more is no accounts file of an image.
pub const MAX_ACCOUNTS_BYTES: usize = 1 << 20;

/// Most supplementary groups of a user, as Linux has it.
const MAX_GROUPS: usize = 65_536;

/// A user of an image, by numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, in the order of the image's file.
    pub groups: Vec<u32>,
    /// Home directory; `/` where the image knows none.
    pub home: String,
}

/// Why an image has no such user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No line of /etc/passwd has the name.
    #[error("the image's /etc/passwd has no user {0:?}; give a number instead")]
    User(String),
    /// No line of /etc/group has the name.
    #[error("the image's /etc/group has no group {0:?}; give a number instead")]
    Group(String),
}

impl UserSpec {
    /// Looks the user up in the image's own /etc/passwd and /etc/group (empty where the image has none), as Docker does:
    /// an empty spec is root; a name or a number that has a line takes its group and home directory from it; a number
    /// without a line is in group 0; with a group of its own after `:` it has no supplementary groups.
    ///
    /// # Errors
    /// [`UserError`] for a name that has no line.
    pub fn resolve(&self, passwd: &[u8], group: &[u8]) -> Result<ResolvedUser, UserError> {
        let (user, own_group) = match self.0.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (self.0.as_str(), None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let by_name = accounts(passwd).find(|account| account.name == user.as_bytes());
        let number = number(user.as_bytes());
        let account = by_name.or_else(|| accounts(passwd).find(|account| Some(account.uid) == number));
        let mut resolved = match (&account, number) {
            (Some(account), _) => ResolvedUser {
                uid: account.uid,
                gid: account.gid,
                groups: Vec::new(),
                home: account.home.to_owned(),
            },
            (None, Some(uid)) => ResolvedUser { uid, gid: 0, groups: Vec::new(), home: "/".to_owned() },
            (None, None) => return Err(UserError::User(user.to_owned())),
        };
        match (own_group, account) {
            (Some(name), _) => resolved.gid = find_group(group, name)?,
            (None, Some(account)) => resolved.groups = groups_of(group, account.name),
            (None, None) => {}
        }
        Ok(resolved)
    }
}

struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The well-formed lines of /etc/passwd: `name:password:uid:gid:comment:home:shell`.
fn accounts(passwd: &[u8]) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).and_then(|home| std::str::from_utf8(home).ok());
        let home = home.filter(|home| home.starts_with('/') && !home.contains('\0')).unwrap_or("/");
        Some(Account { name, uid: number(uid)?, gid: number(gid)?, home })
    })
}

/// The well-formed lines of /etc/group: `name:password:gid:member,member`.
fn groups(group: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, number(gid)?, fields.next().unwrap_or(&[])))
    })
}

fn find_group(group: &[u8], name: &str) -> Result<u32, UserError> {
    let found = groups(group).find(|(other, _, _)| *other == name.as_bytes()).map(|(_, gid, _)| gid);
    found.or_else(|| number(name.as_bytes())).ok_or_else(|| UserError::Group(name.to_owned()))
}

fn groups_of(group: &[u8], user: &[u8]) -> Vec<u32> {
    let has = |members: &[u8]| members.split(|byte| *byte == b',').any(|member| member == user);
    groups(group).filter(|(_, _, members)| has(members)).map(|(_, gid, _)| gid).take(MAX_GROUPS).collect()
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file[..file.len().min(MAX_ACCOUNTS_BYTES)].split(|byte| *byte == b'\n')
}

/// A decimal id; 2^32 - 1 means "no id" to the kernel.
fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nbroken\napp:x:1000:1001:,,,:/home/app:/bin/sh\n\
        123:x:7:8::relative:\nbad:x:x:0::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nvideo:x:44:app\n";

    fn resolve(spec: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        UserSpec(spec.into()).resolve(PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(resolve(""), Ok((0, 0, vec![10], "/root".into())));
        assert_eq!(resolve("app"), Ok((1000, 1001, vec![10, 44], "/home/app".into())));
        assert_eq!(resolve("1000"), Ok((1000, 1001, vec![10, 44], "/home/app".into())));
        assert_eq!(resolve("app:wheel"), Ok((1000, 10, vec![], "/home/app".into())));
        assert_eq!(resolve("app:99"), Ok((1000, 99, vec![], "/home/app".into())));
        assert_eq!(resolve("55:66"), Ok((55, 66, vec![], "/".into())));
        assert_eq!(resolve("55"), Ok((55, 0, vec![], "/".into())));
        // A name of digits is a name first.
        assert_eq!(resolve("123"), Ok((7, 8, vec![], "/".into())));
        assert_eq!(resolve("app:"), resolve("app"));
    }

    #[test]
    fn what_is_not_there_is_told() {
        assert_eq!(resolve("nobody"), Err(UserError::User("nobody".into())));
        assert_eq!(resolve("bad"), Err(UserError::User("bad".into())));
        assert_eq!(resolve("4294967295"), Err(UserError::User("4294967295".into())));
        assert_eq!(resolve("app:none"), Err(UserError::Group("none".into())));
        assert_eq!(resolve("-1"), Err(UserError::User("-1".into())));
        let none = UserSpec(String::new()).resolve(b"", b"").map(|user| (user.uid, user.gid, user.home));
        assert_eq!(none, Ok((0, 0, "/".into())));
    }
}
